"""Starting, submitting, approving, redoing and cancelling runs."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalNeedsAPerson, ApprovalOfOwnRequest, ApprovalSubjectChanged, PermissionMissing
from accounts.models import ApprovalRequest, AuditEntry
from billing import bill_runs
from billing.errors import (
    BillRunEmpty,
    BillRunNotDraft,
    BillRunPartlyIssued,
    BillRunUnfinished,
    BillRunUnknown,
    NoContractsInMonth,
    OtherRunOpen,
    PeriodNotOver,
)
from billing.models import BillRun, BillRunItem, Invoice
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db


def start(shop: make.Shop, month: date = make.OCTOBER, *, at: datetime = make.NOV_2) -> BillRun:
    return bill_runs.start_bill_run(legal_entity_id=shop.entity.pk, month=month, actor=shop.analyst, at=at)


def test_a_run_waits_for_every_contract_of_the_month() -> None:
    shop = make.shop()
    make.subscriber(shop)
    make.subscriber(shop, starts_on=date(2026, 10, 31))
    make.subscriber(shop, ends_on=date(2026, 10, 2))
    make.subscriber(shop, starts_on=date(2026, 11, 1))
    make.subscriber(shop, ends_on=date(2026, 10, 1))

    run = start(shop)

    assert run.status == BillRun.Status.DRAFT
    assert bill_runs.progress(run.pk).pending == 3


def test_starting_twice_is_one_run() -> None:
    shop = make.shop()
    make.subscriber(shop)

    first, second = start(shop), start(shop, date(2026, 10, 17))

    assert first == second
    assert BillRunItem.objects.count() == 1


def test_a_contract_signed_since_is_added_to_the_draft() -> None:
    shop = make.shop()
    make.subscriber(shop)
    run = start(shop)
    make.subscriber(shop)

    start(shop)

    assert bill_runs.progress(run.pk).pending == 2


@pytest.mark.parametrize(
    "at",
    [datetime(2026, 10, 31, 22, 59, tzinfo=UTC), datetime(2026, 9, 1, tzinfo=UTC)],
    ids=["its last minute in Berlin", "before it began"],
)
def test_a_month_that_is_not_over_is_refused(at: datetime) -> None:
    shop = make.shop()
    make.subscriber(shop)

    with pytest.raises(PeriodNotOver, match="from 2026-11-01 on"):
        start(shop, at=at)

    assert not BillRun.objects.exists()


def test_a_month_is_over_at_local_midnight() -> None:
    shop = make.shop()
    make.subscriber(shop)

    run = start(shop, at=datetime(2026, 10, 31, 23, 0, tzinfo=UTC))

    assert run.month == make.OCTOBER


def test_a_month_waits_for_the_billing_period_that_ends_last() -> None:
    shop = make.shop()
    make.subscriber(shop, anchor_day=15)

    with pytest.raises(PeriodNotOver, match="from 2026-11-15 on"):
        start(shop)


def test_a_contract_signed_since_whose_period_is_not_over_is_left_to_the_next_run() -> None:
    shop = make.shop()
    make.subscriber(shop)
    run = start(shop)
    make.subscriber(shop, starts_on=date(2026, 10, 20), anchor_day=15)

    start(shop)
    bill_runs.redo_bill_run(run_id=run.pk, reason="Again", actor=shop.analyst, at=make.NOV_2)

    assert bill_runs.progress(run.pk).contracts == 1


def test_a_month_without_contracts_is_refused() -> None:
    shop = make.shop()

    with pytest.raises(NoContractsInMonth):
        start(shop)


def test_another_open_run_of_the_legal_entity_is_refused() -> None:
    shop = make.shop()
    make.subscriber(shop)
    start(shop)

    with pytest.raises(OtherRunOpen, match="October 2026"):
        start(shop, make.NOVEMBER, at=make.DEC_2)


def test_starting_needs_the_permission() -> None:
    shop = make.shop()
    support = make_accounts.actor(Role.SUPPORT)

    with pytest.raises(PermissionMissing):
        bill_runs.start_bill_run(legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=support, at=make.NOV_2)


def test_a_run_is_submitted_approved_by_another_and_its_invoices_with_it() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "100", on=make.OCT_10)

    run = make.submitted_run(shop)

    request = ApprovalRequest.objects.get(kind=bill_runs.APPROVAL_KIND)
    assert run.status == BillRun.Status.IN_REVIEW
    assert make.invoice_of(customer).status == Invoice.Status.IN_REVIEW
    assert (request.amount, request.currency) == (Decimal("59.50"), "EUR")  # 100 x 0.50 and 19 %
    assert request.summary["totals"] == {"EUR": {"net": "50.00", "tax": "9.50", "total": "59.50"}}

    make.approve(shop, run)

    run.refresh_from_db()
    assert run.status == BillRun.Status.APPROVED
    assert run.approved_at == make.NOV_2
    assert make.invoice_of(customer).status == Invoice.Status.APPROVED
    assert AuditEntry.objects.filter(verb="bill_run.approved", actor_id=shop.controller.user_id).count() == 1


def test_submitting_twice_asks_once() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)

    first = make.submitted_run(shop)
    second = bill_runs.submit_bill_run(run_id=first.pk, actor=shop.analyst, at=make.NOV_3)

    assert first.approval_id == second.approval_id


def test_nobody_approves_the_run_that_they_submitted() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.drafted_run(shop)
    run = bill_runs.submit_bill_run(run_id=run.pk, actor=shop.controller, at=make.NOV_2)

    with pytest.raises(ApprovalOfOwnRequest):
        make.approve(shop, run)


def test_a_rejected_run_is_a_draft_again() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    run = make.submitted_run(shop)
    assert run.approval_id is not None

    approvals.decide(
        request_id=run.approval_id, outcome="reject", comment="Not yet", actor=shop.controller, at=make.NOV_2
    )

    run.refresh_from_db()
    assert BillRun.objects.filter(pk=run.pk, status="draft", approval__isnull=True).exists()
    assert make.invoice_of(customer).status == Invoice.Status.DRAFT


def test_a_run_that_is_not_worked_on_yet_is_not_submitted() -> None:
    shop = make.shop()
    make.subscriber(shop)
    run = start(shop)

    with pytest.raises(BillRunUnfinished, match="1 of 1"):
        bill_runs.submit_bill_run(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)


def test_a_run_without_any_invoice_is_not_submitted() -> None:
    shop = make.shop()
    make.subscriber(shop)

    with pytest.raises(BillRunEmpty):
        make.submitted_run(shop)


def test_the_house_itself_submits_nothing() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.drafted_run(shop)

    with pytest.raises(ApprovalNeedsAPerson):
        bill_runs.submit_bill_run(run_id=run.pk, actor=Actor.system("tests"), at=make.NOV_2)


def test_a_redone_run_bills_what_came_since_and_voids_what_was_asked() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    run = make.submitted_run(shop)
    make.use(shop, customer, "5", on=make.OCT_10)

    bill_runs.redo_bill_run(run_id=run.pk, reason="Late meter", actor=shop.analyst, at=make.NOV_3)

    assert ApprovalRequest.objects.get(kind=bill_runs.APPROVAL_KIND).status == ApprovalRequest.Status.VOIDED
    assert not Invoice.objects.exists()
    assert bill_runs.draft_chunk(run_id=run.pk, limit=10, at=make.NOV_3) == 1
    assert make.invoice_of(customer).net_amount == Decimal("7.50")
    assert bill_runs.draft_chunk(run_id=run.pk, limit=10, at=make.NOV_3) == 0


def test_an_approved_run_is_not_redone() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.approved_run(shop)

    with pytest.raises(BillRunNotDraft, match="approved"):
        bill_runs.redo_bill_run(run_id=run.pk, reason="No", actor=shop.analyst, at=make.NOV_3)


def test_drafting_leaves_a_submitted_run_alone() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.submitted_run(shop)

    assert bill_runs.draft_chunk(run_id=run.pk, limit=10, at=make.NOV_2) == 0


def test_an_approval_does_not_cover_what_changed_since() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    run = make.submitted_run(shop)
    invoice = make.invoice_of(customer)
    make_pricing.tamper(
        "UPDATE billing_invoiceline SET amount = 99, exact_amount = 99 WHERE invoice_id = %s", invoice.pk
    )

    with pytest.raises(ApprovalSubjectChanged):
        make.approve(shop, run)

    run.refresh_from_db()
    assert run.status == BillRun.Status.DRAFT


def test_a_cancelled_run_voids_its_invoices_and_the_month_can_be_billed_anew() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    run = make.approved_run(shop)

    bill_runs.cancel_bill_run(run_id=run.pk, reason="Wrong prices", actor=shop.analyst, at=make.NOV_3)
    bill_runs.cancel_bill_run(run_id=run.pk, reason="Twice", actor=shop.analyst, at=make.NOV_3)
    again = make.approved_run(shop, at=make.NOV_3)

    assert Invoice.objects.get(bill_run=run).status == Invoice.Status.VOID
    assert again != run
    assert make.invoice_of(customer).net_amount == Decimal("5.00")
    assert AuditEntry.objects.filter(verb="bill_run.cancelled").count() == 1


def test_cancelling_a_submitted_run_voids_what_was_asked() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.submitted_run(shop)

    cancelled = bill_runs.cancel_bill_run(run_id=run.pk, reason="No", actor=shop.analyst, at=make.NOV_2)

    assert cancelled.status == BillRun.Status.CANCELLED
    assert ApprovalRequest.objects.get(kind=bill_runs.APPROVAL_KIND).status == ApprovalRequest.Status.VOIDED


def test_an_issued_run_is_not_cancelled() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.issued_run(shop)

    with pytest.raises(BillRunPartlyIssued):
        bill_runs.cancel_bill_run(run_id=run.pk, reason="No", actor=shop.analyst, at=make.NOV_3)


@pytest.mark.parametrize("verb", [bill_runs.redo_bill_run, bill_runs.cancel_bill_run, bill_runs.submit_bill_run])
def test_a_run_that_does_not_exist_is_unknown(verb: object) -> None:
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)

    with pytest.raises(BillRunUnknown):
        verb(run_id=0, reason="", actor=analyst, at=make.NOV_2)  # type: ignore[operator]


@pytest.mark.parametrize("verb", [bill_runs.redo_bill_run, bill_runs.cancel_bill_run, bill_runs.submit_bill_run])
def test_runs_are_changed_only_with_the_permission(verb: object) -> None:
    auditor = make_accounts.actor(Role.AUDITOR)

    with pytest.raises(PermissionMissing):
        verb(run_id=0, reason="", actor=auditor, at=make.NOV_2)  # type: ignore[operator]
