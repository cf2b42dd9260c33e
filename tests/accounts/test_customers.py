from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from accounts import customers
from accounts.access import Actor
from accounts.customers import CustomerDetails, NewCustomer
from accounts.errors import (
    CustomerCodeTaken,
    CustomerUnknown,
    DetailsInvalid,
    LegalEntityUnknown,
    PermissionMissing,
    ReasonMissing,
)
from accounts.models import AuditEntry, Customer, LegalEntity
from accounts.postal import Address
from accounts.request_context import request_context
from tests import make_accounts as make
from tests.accounts.conftest import NOON

pytestmark = pytest.mark.django_db

ACME = CustomerDetails(name="Acme", address=make.DUBLIN, tax_id="IE1234567T", payment_terms_days=14, locale="en_IE")
WHY = "They wrote to us."


@pytest.fixture
def entity() -> LegalEntity:
    return make.legal_entity(currency="EUR")


def open_acme(entity: LegalEntity, actor: Actor, **changes: Any) -> Customer:
    arguments: dict[str, Any] = {
        "legal_entity_id": entity.pk,
        "code": "C-1",
        "details": ACME,
        "actor": actor,
        "at": NOON,
    }
    return customers.open_customer(**(arguments | changes))


def test_a_customer_is_opened_with_its_history_and_an_audit_entry(entity: LegalEntity, analyst: Actor) -> None:
    with request_context("req-7"):
        customer = open_acme(entity, analyst)

    customer.refresh_from_db()
    first = customer.history.get()
    assert (customer.code, customer.currency, customer.city, customer.created_at) == ("C-1", "EUR", "Dublin", NOON)
    assert (first.history_user_id, first.history_date, first.request_id) == (analyst.user_id, NOON, "req-7")
    entry = AuditEntry.objects.get(verb="customer.opened", subject_id=str(customer.pk))
    assert (entry.actor_id, entry.actor_label, entry.request_id) == (analyst.user_id, analyst.label, "req-7")


def test_opening_twice_returns_the_customer_opened_first(entity: LegalEntity, analyst: Actor) -> None:
    first = open_acme(entity, analyst)

    second = open_acme(entity, analyst)

    assert first == second
    assert AuditEntry.objects.filter(verb="customer.opened").count() == 1


@pytest.mark.parametrize("difference", [{"details": replace(ACME, name="Other")}, {"currency": "USD"}])
def test_a_customer_number_belongs_to_one_customer(
    entity: LegalEntity,
    analyst: Actor,
    difference: dict[str, Any],
) -> None:
    open_acme(entity, analyst)

    with pytest.raises(CustomerCodeTaken, match="Acme"):
        open_acme(entity, analyst, **difference)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("code", {"code": " "}),
        ("currency", {"currency": "euro"}),
        ("country", {"details": replace(ACME, address=Address(country="Ireland"))}),
        ("locale", {"details": replace(ACME, locale="klingon")}),
        ("name", {"details": replace(ACME, name="")}),
        ("tax_treatment", {"details": replace(ACME, tax_treatment="none")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_details_are_named_by_field(
    entity: LegalEntity,
    analyst: Actor,
    field: str,
    changes: dict[str, Any],
) -> None:
    with pytest.raises(DetailsInvalid) as refusal:
        open_acme(entity, analyst, **changes)

    assert list(refusal.value.fields) == [field]


def test_opening_needs_a_legal_entity_a_known_parent_and_the_permission(
    entity: LegalEntity,
    analyst: Actor,
    product_manager: Actor,
) -> None:
    with pytest.raises(LegalEntityUnknown):
        open_acme(entity, analyst, legal_entity_id=make.UNKNOWN_ID)
    with pytest.raises(CustomerUnknown, match="parent"):
        open_acme(entity, analyst, details=replace(ACME, parent_id=make.UNKNOWN_ID))
    with pytest.raises(PermissionMissing):
        open_acme(entity, product_manager)

    assert not Customer.objects.exists()


def test_many_customers_are_opened_at_once_or_none(entity: LegalEntity, analyst: Actor) -> None:
    good = [NewCustomer(code=f"C-{n}", details=replace(ACME, name=f"Customer {n}")) for n in range(3)]
    bad = NewCustomer(code="C-9", details=replace(ACME, locale="klingon"))

    with pytest.raises(DetailsInvalid):
        customers.open_customers(legal_entity_id=entity.pk, customers=[*good, bad], actor=analyst, at=NOON)
    assert not Customer.objects.exists()
    opened = customers.open_customers(legal_entity_id=entity.pk, customers=good, actor=analyst, at=NOON)

    assert [customer.name for customer in opened] == ["Customer 0", "Customer 1", "Customer 2"]
    assert all(customer.history.get().history_user_id == analyst.user_id for customer in opened)
    assert AuditEntry.objects.filter(verb="customer.opened").count() == 3


def test_opening_many_again_adds_only_the_new(entity: LegalEntity, analyst: Actor) -> None:
    acme = open_acme(entity, analyst)
    new = NewCustomer(code="C-2", details=replace(ACME, name="Beta"))

    opened = customers.open_customers(
        legal_entity_id=entity.pk,
        customers=[new, NewCustomer(code="C-1", details=ACME)],
        actor=analyst,
        at=NOON,
    )

    assert [customer.name for customer in opened] == ["Beta", "Acme"]
    assert opened[1].pk == acme.pk
    assert Customer.objects.count() == 2


def test_opening_takes_as_many_queries_for_fifty_as_for_one(
    entity: LegalEntity,
    analyst: Actor,
    django_assert_num_queries: Any,
) -> None:
    def several(start: int, number: int) -> list[NewCustomer]:
        return [NewCustomer(code=f"N-{n}", details=replace(ACME, name=f"N {n}")) for n in range(start, start + number)]

    for start, number in ((0, 1), (100, 50)):
        with django_assert_num_queries(9):
            customers.open_customers(
                legal_entity_id=entity.pk,
                customers=several(start, number),
                actor=analyst,
                at=NOON,
            )


def test_a_change_keeps_before_and_after_and_why(acme: Customer, analyst: Actor) -> None:
    later = NOON + timedelta(days=1)
    bonn = Address(address_line1="Am Markt 1", postal_code="53111", city="Bonn", country="DE")

    changed = customers.change_address(customer_id=acme.pk, address=bonn, reason=WHY, actor=analyst, at=later)

    assert changed.city == "Bonn"
    latest = changed.history.latest()
    assert (latest.history_change_reason, latest.history_date, latest.city) == (WHY, later, "Bonn")
    entry = AuditEntry.objects.get(verb="customer.changed")
    assert entry.reason == WHY
    assert entry.data["changes"]["city"] == {"before": "Dublin", "after": "Bonn"}


def test_changing_nothing_writes_nothing(acme: Customer, analyst: Actor) -> None:
    customers.change_address(customer_id=acme.pk, address=make.DUBLIN, reason=WHY, actor=analyst, at=NOON)

    assert acme.history.count() == 1
    assert not AuditEntry.objects.filter(verb="customer.changed").exists()


def test_details_change_together(acme: Customer, analyst: Actor) -> None:
    details = CustomerDetails(name="Acme SE", address=make.BERLIN, payment_terms_days=60, purchase_order="PO 4711")

    customers.change_customer(customer_id=acme.pk, details=details, reason=WHY, actor=analyst, at=NOON)

    acme.refresh_from_db()
    assert (acme.name, acme.city, acme.payment_terms_days, acme.purchase_order) == ("Acme SE", "Berlin", 60, "PO 4711")


def test_a_change_needs_a_reason_a_customer_and_the_permission(
    acme: Customer,
    analyst: Actor,
    product_manager: Actor,
) -> None:
    with pytest.raises(ReasonMissing):
        customers.change_customer(customer_id=acme.pk, details=ACME, reason=" ", actor=analyst, at=NOON)
    with pytest.raises(CustomerUnknown):
        customers.change_customer(customer_id=make.UNKNOWN_ID, details=ACME, reason=WHY, actor=analyst, at=NOON)
    with pytest.raises(PermissionMissing):
        customers.change_customer(customer_id=acme.pk, details=ACME, reason=WHY, actor=product_manager, at=NOON)
    with pytest.raises(DetailsInvalid):
        customers.change_address(
            customer_id=acme.pk,
            address=Address(country="??"),
            reason=WHY,
            actor=analyst,
            at=NOON,
        )


def test_no_customer_stands_above_itself(acme: Customer, analyst: Actor) -> None:
    child = make.customer(name="Child")
    under_acme = CustomerDetails(name="Child", parent_id=acme.pk)
    customers.change_customer(customer_id=child.pk, details=under_acme, reason=WHY, actor=analyst, at=NOON)

    with pytest.raises(DetailsInvalid, match="above itself"):
        customers.change_customer(
            customer_id=acme.pk,
            details=CustomerDetails(name="Acme", parent_id=child.pk),
            reason=WHY,
            actor=analyst,
            at=NOON,
        )


def test_a_customer_is_deactivated_and_taken_back(acme: Customer, analyst: Actor) -> None:
    for _ in range(2):
        customers.deactivate_customer(customer_id=acme.pk, reason="Insolvent.", actor=analyst, at=NOON)
    acme.refresh_from_db()
    assert not acme.is_active
    back = customers.reactivate_customer(customer_id=acme.pk, reason="Solvent again.", actor=analyst, at=NOON)

    assert back.is_active
    assert AuditEntry.objects.filter(verb="customer.deactivated").count() == 1
    assert acme.history.count() == 3
