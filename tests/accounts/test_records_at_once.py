"""Two who open, invite or set the same at the same moment: one of them does, the other is told so by name."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from accounts import contacts, customers, legal_entities, policies, staff
from accounts.access import Actor, Permission, Role
from accounts.constraints import named
from accounts.customers import CustomerDetails
from accounts.errors import (
    CustomerCodeTaken,
    DetailsInvalid,
    LegalEntityCodeTaken,
    StaffEmailTaken,
)
from accounts.legal_entities import LegalEntityDetails
from accounts.models import ApprovalPolicy, Contact, Customer, LegalEntity, User
from tests import make_accounts as make
from tests.accounts.conftest import NOON, Effects, at_the_same_moment

pytestmark = pytest.mark.django_db(transaction=True)
HOUSE = Actor.system("tests")


def errors(answers: list[object]) -> set[type]:
    return {type(answer) for answer in answers if isinstance(answer, Exception)}


def test_one_customer_number_is_opened_once() -> None:
    entity = make.legal_entity()

    def open_acme() -> Customer:
        return customers.open_customer(
            legal_entity_id=entity.pk,
            code="C-1",
            details=CustomerDetails(name="Acme"),
            actor=HOUSE,
            at=NOON,
        )

    answers = at_the_same_moment(*[open_acme] * 4)

    assert errors(answers) <= {CustomerCodeTaken}
    assert (Customer.objects.count(), Customer.history.count()) == (1, 1)


def test_one_company_is_opened_once() -> None:
    def open_stratus() -> LegalEntity:
        return legal_entities.open_legal_entity(
            code="stratus",
            currency="EUR",
            time_zone="Europe/Berlin",
            details=LegalEntityDetails(name="Stratus", email="b@stratus.example"),
            actor=HOUSE,
            at=NOON,
        )

    answers = at_the_same_moment(*[open_stratus] * 4)

    assert errors(answers) <= {LegalEntityCodeTaken}
    assert (LegalEntity.objects.count(), LegalEntity.history.count()) == (1, 1)


def test_one_person_is_invited_once() -> None:
    make.staff()

    def invite() -> User:
        return staff.invite_staff(
            email="ada@house.example",
            name="Ada",
            roles=[Role.SUPPORT],
            actor=HOUSE,
            at=NOON,
        )

    answers = at_the_same_moment(*[invite] * 4)

    assert errors(answers) <= {StaffEmailTaken}
    assert User.objects.filter(email="ada@house.example").count() == 1


def test_one_policy_is_set_for_an_amount(effects: Effects) -> None:
    def set_policy() -> ApprovalPolicy:
        return policies.set_approval_policy(
            kind="customer_terms",
            from_amount=Decimal(1000),
            permission=Permission.APPROVE_PRICES,
            approvals_required=2,
            reason="Large ones.",
            actor=HOUSE,
            at=NOON,
        )

    answers = at_the_same_moment(*[set_policy] * 4)

    assert errors(answers) <= {DetailsInvalid}
    assert ApprovalPolicy.objects.count() == 1


def test_one_contact_is_added_once() -> None:
    acme = make.customer()

    def add() -> Contact:
        return contacts.add_contact(customer_id=acme.pk, name="Ada", email="a@b.example", actor=HOUSE, at=NOON)

    answers = at_the_same_moment(*[add] * 4)

    assert errors(answers) == set()
    assert Contact.objects.count() == 1


def test_two_customers_are_not_put_above_each_other() -> None:
    acme, beta, gamma = (make.customer(name=name) for name in ("Acme", "Beta", "Gamma"))

    def put_below(child: Customer, parent: Customer) -> Callable[[], Customer]:
        details = CustomerDetails(name=child.name, parent_id=parent.pk)
        return lambda: customers.change_customer(
            customer_id=child.pk, details=details, reason="Group.", actor=HOUSE, at=NOON
        )

    answers = at_the_same_moment(put_below(acme, beta), put_below(beta, gamma), put_below(gamma, acme))

    assert errors(answers) == {DetailsInvalid}
    assert Customer.objects.filter(parent__isnull=False).count() == 2


def test_another_constraint_than_the_one_named_passes_through() -> None:
    with pytest.raises(Exception, match="user_email_is_in_lower_case"), named("user_email_is_unique", StaffEmailTaken):
        User.objects.create(email="Ada@House.example", name="Ada")
