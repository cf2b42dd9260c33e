"""Approvals under threads that really commit: what only a lock, a constraint or a durable transaction can hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from accounts import approvals, customers, policies
from accounts.access import Actor, Permission, Role
from accounts.errors import ApprovalNotPending, ApprovalSubjectChanged, CountinghouseError
from accounts.models import ApprovalDecision, ApprovalRequest, Customer
from tests import make_accounts as make
from tests.accounts.conftest import NOON, Effects, at_the_same_moment

pytestmark = pytest.mark.django_db(transaction=True)

LATER = NOON + timedelta(hours=1)


@pytest.fixture
def acme(transactional_db: None) -> Customer:
    return make.customer(name="Acme")


def approve(request: ApprovalRequest, actor: Actor) -> Callable[[], object]:
    return lambda: approvals.decide(request_id=request.pk, outcome="approve", actor=actor, at=LATER)


def test_two_approvers_at_the_same_moment_carry_the_act_out_once(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
    effects: Effects,
) -> None:
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))
    first, second = make.actor(Role.PRICING_APPROVER), make.actor(Role.PRICING_APPROVER)

    answers = at_the_same_moment(approve(request, first), approve(request, second))

    assert effects.approved == [acme.pk]
    assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [ApprovalNotPending]
    assert ApprovalDecision.objects.count() == 1


def test_the_two_approvals_that_a_policy_asks_for_may_come_at_the_same_moment(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
    effects: Effects,
) -> None:
    policies.set_approval_policy(
        kind="customer_terms",
        from_amount=Decimal(0),
        permission=Permission.APPROVE_PRICES,
        approvals_required=2,
        reason="Four eyes are too few.",
        actor=make.actor(Role.ADMINISTRATOR),
        at=NOON,
    )
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))
    first, second = make.actor(Role.PRICING_APPROVER), make.actor(Role.PRICING_APPROVER)

    answers = at_the_same_moment(approve(request, first), approve(request, second))

    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert effects.approved == [acme.pk]
    request.refresh_from_db()
    assert request.status == "approved"


def test_one_person_clicking_twice_at_the_same_moment_decides_once(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
    effects: Effects,
) -> None:
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))
    approver = make.actor(Role.PRICING_APPROVER)

    answers = at_the_same_moment(approve(request, approver), approve(request, approver))

    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert effects.approved == [acme.pk]
    assert ApprovalDecision.objects.count() == 1


def test_two_people_asking_at_the_same_moment_make_one_request(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
) -> None:
    one, other = make.actor(Role.PRODUCT_MANAGER), make.actor(Role.PRODUCT_MANAGER)

    answers = at_the_same_moment(lambda: submit(acme, actor=one), lambda: submit(acme, actor=other))

    assert len([answer for answer in answers if isinstance(answer, ApprovalRequest)]) == 1
    assert ApprovalRequest.objects.count() == 1


def test_withdrawal_and_approval_at_the_same_moment_leave_one_outcome(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
    effects: Effects,
) -> None:
    requester, approver = make.actor(Role.PRODUCT_MANAGER), make.actor(Role.PRICING_APPROVER)
    request = submit(acme, actor=requester)

    at_the_same_moment(
        approve(request, approver),
        lambda: approvals.withdraw(request_id=request.pk, reason="Not yet.", actor=requester, at=LATER),
    )

    request.refresh_from_db()
    outcomes = {"approved": ([acme.pk], []), "withdrawn": ([], ["withdrawn"])}
    assert (effects.approved, effects.refused) == outcomes[request.status]


def test_the_voiding_of_a_changed_subject_survives_the_error_it_raises(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
) -> None:
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))
    customers.change_customer(
        customer_id=acme.pk,
        details=customers.CustomerDetails(name="Acme", payment_terms_days=90),
        reason="They asked for it.",
        actor=make.actor(Role.FINANCE_ANALYST),
        at=NOON,
    )

    with pytest.raises(ApprovalSubjectChanged):
        approve(request, make.actor(Role.PRICING_APPROVER))()

    request.refresh_from_db()
    assert request.status == "voided"


def test_deciding_inside_another_transaction_is_refused_since_it_could_undo_the_voiding(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
) -> None:
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))

    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        approve(request, make.actor(Role.PRICING_APPROVER))()


def test_an_act_that_fails_leaves_the_request_pending(
    acme: Customer,
    submit: Callable[..., ApprovalRequest],
    effects: Effects,
) -> None:
    request = submit(acme, actor=make.actor(Role.PRODUCT_MANAGER))
    effects.refuse_to_act = True

    with pytest.raises(CountinghouseError):
        approve(request, make.actor(Role.PRICING_APPROVER))()

    request.refresh_from_db()
    assert request.status == "pending"
    assert ApprovalDecision.objects.count() == 0
