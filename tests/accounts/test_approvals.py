from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from accounts import approvals, customers, policies, staff
from accounts.access import Actor, Permission, Role
from accounts.errors import (
    ApprovalAlreadyDecided,
    ApprovalAlreadyPending,
    ApprovalKindUnknown,
    ApprovalNeedsAPerson,
    ApprovalNotPending,
    ApprovalOfAnother,
    ApprovalOfOwnRequest,
    ApprovalSubjectChanged,
    ApprovalUnknown,
    PermissionMissing,
    ReasonMissing,
)
from accounts.models import ApprovalRequest, AuditEntry, Customer
from tests import make_accounts as make
from tests.accounts.conftest import NOON, Effects

pytestmark = pytest.mark.django_db

Submit = Callable[..., ApprovalRequest]
LATER = NOON + timedelta(hours=1)


def verbs() -> list[str]:
    return list(AuditEntry.objects.filter(verb__startswith="approval.").order_by("id").values_list("verb", flat=True))


def require_two_approvals(administrator: Actor, *, from_amount: str = "0") -> None:
    policies.set_approval_policy(
        kind="customer_terms",
        from_amount=Decimal(from_amount),
        permission=Permission.APPROVE_PRICES,
        approvals_required=2,
        reason="Four eyes are too few.",
        actor=administrator,
        at=NOON,
    )


def test_a_request_covers_the_exact_content_and_waits(acme: Customer, product_manager: Actor, submit: Submit) -> None:
    request = submit(acme, actor=product_manager)

    assert request.status == "pending"
    assert request.requested_by_id == product_manager.user_id
    assert (request.permission, request.approvals_required) == ("approve_prices", 1)
    assert len(bytes(request.content_hash)) == 32
    assert verbs() == ["approval.requested"]


def test_asking_twice_for_the_same_is_one_request(acme: Customer, product_manager: Actor, submit: Submit) -> None:
    first = submit(acme, actor=product_manager)

    second = submit(acme, actor=product_manager)

    assert first == second
    assert ApprovalRequest.objects.count() == 1


def test_another_person_cannot_ask_beside_a_pending_request(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
) -> None:
    submit(acme, actor=product_manager)

    with pytest.raises(ApprovalAlreadyPending):
        submit(acme, actor=approver)


def test_jobs_do_not_ask_for_approval(acme: Customer, submit: Submit) -> None:
    with pytest.raises(ApprovalNeedsAPerson):
        submit(acme, actor=Actor.system())


def test_an_unknown_kind_is_refused(acme: Customer, product_manager: Actor) -> None:
    with pytest.raises(ApprovalKindUnknown):
        approvals.request_approval(
            kind="no_such_kind",
            subject_id=acme.pk,
            title="",
            summary={},
            actor=product_manager,
            at=NOON,
        )


def test_a_second_person_approves_and_the_act_is_carried_out(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    request = submit(acme, actor=product_manager)

    decided = approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    assert decided.status == "approved"
    assert decided.closed_at == LATER
    assert effects.approved == [acme.pk]
    assert verbs() == ["approval.requested", "approval.given", "approval.approved"]


def test_approving_twice_carries_the_act_out_once(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    request = submit(acme, actor=product_manager)

    approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)
    again = approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    assert again.status == "approved"
    assert effects.approved == [acme.pk]
    assert request.decisions.count() == 1


def test_the_requester_cannot_decide_even_with_the_permission(acme: Customer, approver: Actor, submit: Submit) -> None:
    request = submit(acme, actor=approver)

    with pytest.raises(ApprovalOfOwnRequest):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)


def test_deciding_needs_the_permission_of_the_request(
    acme: Customer,
    product_manager: Actor,
    controller: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)

    with pytest.raises(PermissionMissing, match="Approve price book versions"):
        approvals.decide(request_id=request.pk, outcome="approve", actor=controller, at=LATER)


def test_a_deactivated_user_cannot_decide_with_rights_from_before(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    administrator: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)
    assert approver.user_id is not None
    staff.deactivate_staff(user_id=approver.user_id, reason="Left the company.", actor=administrator, at=NOON)

    with pytest.raises(PermissionMissing):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)


def test_a_person_who_lost_the_role_cannot_decide_with_rights_from_before(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    administrator: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)
    assert approver.user_id is not None
    staff.change_roles(
        user_id=approver.user_id,
        roles=[Role.SUPPORT],
        reason="Moved to support.",
        actor=administrator,
        at=NOON,
    )

    with pytest.raises(PermissionMissing):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)


def test_the_house_itself_never_decides(acme: Customer, product_manager: Actor, submit: Submit) -> None:
    request = submit(acme, actor=product_manager)

    with pytest.raises(ApprovalNeedsAPerson):
        approvals.decide(request_id=request.pk, outcome="approve", actor=Actor.system(), at=LATER)


def test_one_rejection_closes_the_request_and_frees_the_subject(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    request = submit(acme, actor=product_manager)

    rejected = approvals.decide(
        request_id=request.pk,
        outcome="reject",
        comment="Ninety days are too long.",
        actor=approver,
        at=LATER,
    )

    assert rejected.status == "rejected"
    assert effects.refused == ["rejected"]
    assert AuditEntry.objects.get(verb="approval.rejected").reason == "Ninety days are too long."


def test_a_rejection_says_why(acme: Customer, product_manager: Actor, approver: Actor, submit: Submit) -> None:
    request = submit(acme, actor=product_manager)

    with pytest.raises(ReasonMissing):
        approvals.decide(request_id=request.pk, outcome="reject", comment="  ", actor=approver, at=LATER)


def test_nobody_takes_their_word_back(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    administrator: Actor,
    submit: Submit,
) -> None:
    require_two_approvals(administrator)
    request = submit(acme, actor=product_manager)
    approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    with pytest.raises(ApprovalAlreadyDecided):
        approvals.decide(request_id=request.pk, outcome="reject", comment="No.", actor=approver, at=LATER)


def test_a_closed_request_takes_no_decisions(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)
    approvals.withdraw(request_id=request.pk, reason="Not yet.", actor=product_manager, at=NOON)

    with pytest.raises(ApprovalNotPending, match="withdrawn"):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)


def test_an_unknown_request_is_refused(approver: Actor) -> None:
    with pytest.raises(ApprovalUnknown):
        approvals.decide(request_id=make.UNKNOWN_ID, outcome="approve", actor=approver, at=LATER)


def test_two_approvals_are_two_people(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    administrator: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    require_two_approvals(administrator)
    request = submit(acme, actor=product_manager)

    after_one = approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)
    assert (after_one.status, effects.approved) == ("pending", [])
    after_same = approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)
    assert (after_same.status, effects.approved) == ("pending", [])
    second = make.actor(Role.PRICING_APPROVER)
    after_two = approvals.decide(request_id=request.pk, outcome="approve", actor=second, at=LATER)

    assert (after_two.status, effects.approved) == ("approved", [acme.pk])


@pytest.mark.parametrize(
    ("amount", "approvals_required"),
    [(None, 1), ("9999.99", 1), ("10000", 2), ("-10000", 2), ("5000000", 2)],
    ids=["no amount", "below", "at the threshold", "a credit counts by its size", "above"],
)
def test_the_policy_is_chosen_by_amount(
    acme: Customer,
    product_manager: Actor,
    administrator: Actor,
    submit: Submit,
    amount: str | None,
    approvals_required: int,
) -> None:
    require_two_approvals(administrator, from_amount="10000")

    request = submit(acme, actor=product_manager, amount=amount)

    assert request.approvals_required == approvals_required


def test_a_later_policy_does_not_change_a_pending_request(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    administrator: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)
    require_two_approvals(administrator)

    decided = approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    assert decided.status == "approved"


def test_only_the_requester_withdraws(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    request = submit(acme, actor=product_manager)

    with pytest.raises(ApprovalOfAnother):
        approvals.withdraw(request_id=request.pk, reason="", actor=approver, at=LATER)
    withdrawn = approvals.withdraw(request_id=request.pk, reason="Not yet.", actor=product_manager, at=LATER)
    approvals.withdraw(request_id=request.pk, reason="Not yet.", actor=product_manager, at=LATER)

    assert withdrawn.status == "withdrawn"
    assert effects.refused == ["withdrawn"]


def test_what_is_decided_cannot_be_withdrawn(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    submit: Submit,
) -> None:
    request = submit(acme, actor=product_manager)
    approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    with pytest.raises(ApprovalNotPending, match="approved"):
        approvals.withdraw(request_id=request.pk, reason="", actor=product_manager, at=LATER)


def test_the_verb_that_changes_a_subject_voids_what_is_pending(
    acme: Customer,
    product_manager: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    submit(acme, actor=product_manager)

    voided = approvals.void_pending(
        kind="customer_terms",
        subject_id=acme.pk,
        reason="Cancelled.",
        actor=product_manager,
        at=LATER,
    )
    nothing = approvals.void_pending(
        kind="customer_terms",
        subject_id=acme.pk,
        reason="Cancelled.",
        actor=product_manager,
        at=LATER,
    )

    assert voided is not None
    assert voided.status == "voided"
    assert effects.refused == ["voided"]
    assert nothing is None


def test_a_changed_subject_voids_the_request_for_good(
    acme: Customer,
    product_manager: Actor,
    approver: Actor,
    analyst: Actor,
    submit: Submit,
    effects: Effects,
) -> None:
    request = submit(acme, actor=product_manager)
    customers.change_customer(
        customer_id=acme.pk,
        details=customers.CustomerDetails(name="Acme", payment_terms_days=90),
        reason="They asked for it.",
        actor=analyst,
        at=NOON,
    )

    with pytest.raises(ApprovalSubjectChanged):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=LATER)

    request.refresh_from_db()
    assert request.status == "voided"
    assert effects.refused == ["voided"]
    assert effects.approved == []
    assert request.decisions.count() == 0
