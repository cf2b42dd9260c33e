"""Bill runs: one billing of a legal entity's contracts for a month, from its start to its approval.

The invoices of a run are drafted by `billing.drafting`, in chunks and by any number of workers, and issued by
`billing.issuing`. Locks are taken in the order legal entity, run, approval request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Count, Q, Sum
from django.urls import reverse

from accounts import approvals, audit
from accounts.access import Actor, Permission
from accounts.models import ApprovalRequest, LegalEntity
from accounts.periods import Period, billing_period, local_date, month_period
from billing import late_usage, nudges, unbilled
from billing.draft_rows import as_range
from billing.drafting import draft_chunk
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
from billing.late_usage import BilledContract
from billing.models import BillRun, BillRunItem, Invoice, InvoiceLine, UnbilledUsage
from pricing.charges import ContractTerms, service_period
from pricing.models import Contract

__all__ = [
    "RunProgress",
    "cancel_bill_run",
    "draft_chunk",
    "progress",
    "redo_bill_run",
    "retry_parked",
    "run_content",
    "start_bill_run",
    "submit_bill_run",
]

APPROVAL_KIND: Final = "bill_run"
Status = BillRun.Status
State = BillRunItem.State

_OPEN = (Status.DRAFT, Status.IN_REVIEW)
_CONTRACTS_A_WORKER: Final = 500

_ADD_ITEMS = """
    INSERT INTO billing_billrunitem (run_id, contract_id, period, state, reason, usage_watermark)
    SELECT %s, contract_id, period, 'pending', '', ''
    FROM unnest(%s::bigint[], %s::tstzrange[]) AS wanted (contract_id, period)
    ON CONFLICT ON CONSTRAINT contract_is_billed_once_per_run DO NOTHING
"""

# In numbers and seconds, so that neither a session's time zone nor its date style changes the hash.
_CONTENT = """
    SELECT invoice.id, invoice.customer_id, invoice.currency, invoice.net_amount, invoice.tax_amount,
           invoice.total_amount, encode(sha256(convert_to(string_agg(concat_ws('|',
               line.position, line.kind, line.product_id, line.price_id,
               extract(epoch FROM lower(line.service_period)), extract(epoch FROM upper(line.service_period)),
               line.quantity, line.exact_amount, line.amount, encode(line.usage_digest, 'hex')
           ), E'\\n' ORDER BY line.position), 'UTF8')), 'hex')
    FROM billing_invoice invoice
    JOIN billing_invoiceline line ON line.invoice_id = invoice.id
    WHERE invoice.bill_run_id = %s AND invoice.status <> 'void'
    GROUP BY invoice.id
    ORDER BY invoice.id
"""

_DELETE_DRAFTS = (
    """
    DELETE FROM billing_invoiceline line USING billing_invoice invoice
    WHERE invoice.id = line.invoice_id AND invoice.bill_run_id = %s
    """,
    "DELETE FROM billing_invoice WHERE bill_run_id = %s",
    "DELETE FROM billing_unbilledusage WHERE run_id = %s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrencyTotal:
    """What the live invoices of a run add up to in one currency."""

    currency: str
    invoices: int
    net: Decimal
    tax: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run is: its contracts by state, its invoices by status, and what they add up to by currency."""

    contracts: int
    pending: int
    done: int
    empty: int
    parked: int
    invoices: dict[str, int]
    with_issue_problem: int
    totals: list[CurrencyTotal]

    @property
    def settled(self) -> int:
        """How many contracts are worked on: drafted, empty or parked."""
        return self.contracts - self.pending


@transaction.atomic
def start_bill_run(*, legal_entity_id: int, month: date, actor: Actor, at: datetime) -> BillRun:
    """Begin to bill every billing period of the legal entity that starts in the month of `month` (local time).

    Asking again returns the run that there is; while that is a draft, contracts signed since are added to it. Drafting
    is done by the workers, or by calling `draft_chunk` until nothing waits. Contracts that have ended take part where
    usage of theirs came late.

    Raises: PermissionMissing, PeriodNotOver, NoContractsInMonth, OtherRunOpen.
    """
    actor.require(Permission.RUN_BILLING)
    entity = LegalEntity.objects.select_for_update(no_key=True).get(pk=legal_entity_id)
    first_day = month.replace(day=1)
    live = BillRun.objects.filter(legal_entity=entity, kind=BillRun.Kind.REGULAR).exclude(status=Status.CANCELLED)
    # Locked, for the run that is found could be submitted or cancelled before its items are added.
    run = live.filter(month=first_day).select_for_update(no_key=True, of=("self",)).first()
    if run is not None and run.status != Status.DRAFT:
        return run
    periods, ended = _periods(entity, first_day)
    if run is None:
        _require_over(entity, first_day, periods, at=at)
        if not periods and not ended:
            raise NoContractsInMonth
        other = live.filter(status__in=_OPEN).first()
        if other is not None:
            message = f"The run of {other.month:%B %Y} is not approved yet; finish or cancel it first."
            raise OtherRunOpen(message)
        run = BillRun.objects.create(legal_entity=entity, month=first_day, created_by_id=actor.user_id, created_at=at)
        audit.record(
            actor=actor, verb="bill_run.started", subject=run, at=at, data={"contracts": len(periods) + len(ended)}
        )

    _add_items(run, periods, ended, at=at)
    unbilled.list_usage_without_contract(run=run, entity=entity)
    return run


@transaction.atomic
def redo_bill_run(*, run_id: int, reason: str, actor: Actor, at: datetime) -> BillRun:
    """Throw the drafts away and draft every contract anew; a pending approval is voided.

    Raises: PermissionMissing, BillRunUnknown, BillRunNotDraft.
    """
    actor.require(Permission.RUN_BILLING)
    run = _take_back_to_draft(run_id, reason=reason, actor=actor, at=at)
    entity = LegalEntity.objects.get(pk=run.legal_entity_id)

    with connection.cursor() as cursor:
        for statement in _DELETE_DRAFTS:
            cursor.execute(statement, [run.pk])
    run.items.exclude(state=State.PENDING).update(state=State.PENDING, reason="", usage_watermark="", finished_at=None)
    _add_items(run, *_periods(entity, run.month), at=at)
    unbilled.list_usage_without_contract(run=run, entity=entity)
    audit.record(actor=actor, verb="bill_run.redone", subject=run, at=at, reason=reason)
    return run


@transaction.atomic
def retry_parked(*, run_id: int, actor: Actor, at: datetime) -> int:
    """Draft the parked contracts again and return how many; a pending approval is voided if there are any.

    Raises: PermissionMissing, BillRunUnknown, BillRunNotDraft.
    """
    actor.require(Permission.RUN_BILLING)
    parked = BillRunItem.objects.filter(run_id=run_id, state=State.PARKED)
    if not parked.exists():
        _require_draft(_lock(run_id), or_in_review=True)
        return 0
    run = _take_back_to_draft(run_id, reason="Parked contracts are billed again.", actor=actor, at=at)

    UnbilledUsage.objects.filter(run=run, reason=UnbilledUsage.Reason.PARKED).delete()
    count = parked.update(state=State.PENDING, reason="", finished_at=None)
    audit.record(actor=actor, verb="bill_run.parked_retried", subject=run, at=at, data={"contracts": count})
    nudges.nudge(nudges.DRAFT_RUN, run_id=run.pk)
    return count


@transaction.atomic
def submit_bill_run(*, run_id: int, reason: str = "", actor: Actor, at: datetime) -> BillRun:
    """Ask for the approval of every invoice of the run as it is now; from here on they stand still.

    Parked contracts are left out and listed; the run of the next month catches up on them. Submitting twice changes
    nothing.

    Raises: PermissionMissing, BillRunUnknown, BillRunNotDraft, BillRunUnfinished, BillRunEmpty, ApprovalNeedsAPerson.
    """
    actor.require(Permission.RUN_BILLING)
    run = _lock(run_id)
    if run.status == Status.IN_REVIEW:
        return run
    _require_draft(run)
    now = progress(run.pk)
    if now.pending:
        message = f"{now.pending} of {now.contracts} contracts are not worked on yet."
        raise BillRunUnfinished(message)
    if not now.totals:
        raise BillRunEmpty

    unbilled.list_usage_without_contract(run=run, entity=run.legal_entity)
    run.invoices.filter(status=Invoice.Status.DRAFT).update(status=Invoice.Status.IN_REVIEW)
    run.status = Status.IN_REVIEW
    run.save(update_fields=["status"])
    largest = max(now.totals, key=lambda each: each.total)
    run.approval = approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=run.pk,
        title=f"Invoices of {run.legal_entity.name}, {run.month:%B %Y}"[:254],
        summary=_summary(run, now),
        amount=largest.total,
        currency=largest.currency,
        reason=reason,
        actor=actor,
        at=at,
    )
    run.save(update_fields=["approval"])
    audit.record(actor=actor, verb="bill_run.submitted", subject=run, at=at, reason=reason)
    return run


@transaction.atomic
def cancel_bill_run(*, run_id: int, reason: str, actor: Actor, at: datetime) -> BillRun:
    """Void every invoice of a run of which none is issued; its month can be billed anew. Twice changes nothing.

    Raises: PermissionMissing, BillRunUnknown, BillRunPartlyIssued.
    """
    actor.require(Permission.RUN_BILLING)
    run = _lock(run_id)
    if run.status == Status.CANCELLED:
        return run
    if run.status == Status.ISSUED or run.invoices.filter(status=Invoice.Status.ISSUED).exists():
        raise BillRunPartlyIssued
    if run.status == Status.IN_REVIEW:
        run = _take_back_to_draft(run_id, reason=reason, actor=actor, at=at)

    voided = run.invoices.exclude(status=Invoice.Status.VOID).update(status=Invoice.Status.VOID)
    run.status = Status.CANCELLED
    run.save(update_fields=["status"])
    audit.record(
        actor=actor, verb="bill_run.cancelled", subject=run, at=at, reason=reason, data={"invoices_voided": voided}
    )
    return run


def progress(run_id: int) -> RunProgress:
    """How far a run is, in two queries."""
    states = dict(
        BillRunItem.objects.filter(run_id=run_id).order_by().values_list("state").annotate(number=Count("pk"))
    )
    invoices: dict[str, int] = {}
    totals: dict[str, CurrencyTotal] = {}
    problems = 0
    rows = (
        Invoice.objects.filter(bill_run_id=run_id)
        .order_by()
        .values_list("status", "currency")
        .annotate(
            number=Count("pk"),
            net=Sum("net_amount"),
            tax=Sum("tax_amount"),
            total=Sum("total_amount"),
            problems=Count("pk", filter=Q(status=Invoice.Status.APPROVED) & ~Q(issue_problem="")),
        )
    )
    for status, currency, number, net, tax, total, with_problem in rows:
        invoices[status] = invoices.get(status, 0) + number
        problems += with_problem
        if status != Invoice.Status.VOID:
            before = totals.get(currency)
            totals[currency] = CurrencyTotal(
                currency=currency,
                invoices=number + (before.invoices if before else 0),
                net=net + (before.net if before else 0),
                tax=tax + (before.tax if before else 0),
                total=total + (before.total if before else 0),
            )
    return RunProgress(
        contracts=sum(states.values()),
        pending=states.get(State.PENDING, 0),
        done=states.get(State.DONE, 0),
        empty=states.get(State.EMPTY, 0),
        parked=states.get(State.PARKED, 0),
        invoices=invoices,
        with_issue_problem=problems,
        totals=sorted(totals.values(), key=lambda each: each.currency),
    )


def run_content(run_id: int) -> dict[str, object]:
    """Everything that the approval of a run covers: each invoice, its amounts and a hash over its lines."""
    run = BillRun.objects.select_related("legal_entity").get(pk=run_id)
    with connection.cursor() as cursor:
        cursor.execute(_CONTENT, [run_id])
        invoices = [
            {
                "id": pk,
                "customer": customer_id,
                "currency": currency,
                "net": net,
                "tax": tax,
                "total": total,
                "lines_sha256": lines,
            }
            for pk, customer_id, currency, net, tax, total, lines in cursor.fetchall()
        ]
    return {"legal_entity": run.legal_entity.code, "month": run.month, "kind": run.kind, "invoices": invoices}


def _lock(run_id: int) -> BillRun:
    run = BillRun.objects.select_for_update(no_key=True, of=("self",)).filter(pk=run_id).first()
    if run is None:
        raise BillRunUnknown
    return run


def _require_draft(run: BillRun, *, or_in_review: bool = False) -> None:
    if run.status == Status.DRAFT or (or_in_review and run.status == Status.IN_REVIEW):
        return
    message = f"The run is {run.get_status_display().lower()}; only a draft can be changed."
    raise BillRunNotDraft(message)


def _take_back_to_draft(run_id: int, *, reason: str, actor: Actor, at: datetime) -> BillRun:
    """Lock the run, void the approval that is asked for, if any, and return the run as the draft it then is."""
    run = _lock(run_id)
    if run.status == Status.IN_REVIEW:
        approvals.void_pending(kind=APPROVAL_KIND, subject_id=run.pk, reason=reason, actor=actor, at=at)
        run.refresh_from_db()
    _require_draft(run)
    return run


def _periods(entity: LegalEntity, month: date) -> tuple[list[tuple[int, Period]], list[tuple[int, Period]]]:
    """Each contract with the billing period of it that starts in the month and that it covers at least in part.

    And apart from these, each that has ended and of which an earlier period has to be looked at again: nobody else
    would bill the usage that came late for its last month.
    """
    periods, ended = [], {}
    contracts = Contract.objects.filter(customer__legal_entity=entity).order_by("pk")
    for pk, customer_id, currency, starts_on, ends_on, anchor_day in contracts.values_list(
        "pk", "customer_id", "currency", "starts_on", "ends_on", "anchor_day"
    ):
        terms = ContractTerms(currency, starts_on, ends_on, anchor_day, entity.time_zone)
        period = billing_period(anchor_day, month.year, month.month, entity.time_zone)
        if service_period(terms, period) is not None:
            periods.append((pk, period))
        elif ends_on is not None:
            ended[pk] = BilledContract(pk, customer_id, terms), period
    late = late_usage.periods_to_read_again(
        legal_entity_id=entity.pk, month=month, contracts=[contract for contract, _ in ended.values()]
    )
    return periods, [(pk, ended[pk][1]) for pk in sorted({each.contract_id for each in late})]


def _require_over(entity: LegalEntity, month: date, periods: Sequence[tuple[int, Period]], *, at: datetime) -> None:
    """A run begins once the last of its billing periods is over, so that none is left to no run at all.

    Raises: PeriodNotOver.
    """
    ends = [month_period(month.year, month.month, entity.time_zone).end, *(period.end for _, period in periods)]
    if max(ends) > at:
        over_on = local_date(max(ends), entity.time_zone)
        message = f"{month:%B %Y} can be billed from {over_on.isoformat()} on, when its last billing period is over."
        raise PeriodNotOver(message)


def _add_items(
    run: BillRun, periods: Sequence[tuple[int, Period]], ended: Sequence[tuple[int, Period]], *, at: datetime
) -> None:
    """Add work items, and tell as many workers as they are worth.

    A contract that was signed since the run began, and whose period is not over yet, is left to the next run.
    """
    over = [(contract_id, period) for contract_id, period in periods if period.end <= at] + list(ended)
    nudges.nudge(nudges.DRAFT_RUN, times=1 + len(over) // _CONTRACTS_A_WORKER, run_id=run.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD_ITEMS,
            [run.pk, [contract_id for contract_id, _ in over], [as_range(period) for _, period in over]],
        )


def _summary(run: BillRun, now: RunProgress) -> dict[str, Any]:
    lines = InvoiceLine.objects.filter(invoice__bill_run=run)
    return {
        "legal_entity": run.legal_entity.name,
        "month": f"{run.month:%Y-%m}",
        "invoices": sum(each.invoices for each in now.totals),
        "totals": _totals_as_text(now.totals),
        "contracts_with_nothing_to_bill": now.empty,
        "contracts_parked": now.parked,
        "lines_of_late_usage": lines.filter(kind=InvoiceLine.Kind.LATE_USAGE).count(),
        "series_not_billed": run.unbilled_usage.exclude(reason__in=UnbilledUsage.TAKEN_OFF).count(),
    }


def _totals_as_text(totals: Iterable[CurrencyTotal]) -> dict[str, dict[str, str]]:
    return {each.currency: {"net": str(each.net), "tax": str(each.tax), "total": str(each.total)} for each in totals}


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    """Approve the run, and with it every invoice in review."""
    run = _lock(subject_id)
    if run.status != Status.IN_REVIEW:
        raise BillRunNotDraft
    run.status = Status.APPROVED
    run.approval = request
    run.approved_at = at
    run.save(update_fields=["status", "approval", "approved_at"])
    run.invoices.filter(status=Invoice.Status.IN_REVIEW).update(status=Invoice.Status.APPROVED)
    audit.record(actor=actor, verb="bill_run.approved", subject=run, at=at)


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    """Make the run a draft again, after a rejection, a withdrawal or a change."""
    run = _lock(subject_id)
    if run.status != Status.IN_REVIEW:
        return
    run.invoices.filter(status=Invoice.Status.IN_REVIEW).update(status=Invoice.Status.DRAFT)
    run.status = Status.DRAFT
    run.approval = None
    run.save(update_fields=["status", "approval"])
    audit.record(
        actor=actor, verb="bill_run.returned", subject=run, at=at, reason=f"Request {request.get_status_display()}"
    )


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Bill run",
        permission=Permission.APPROVE_INVOICES,
        content=run_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda run_id: reverse("billing:run", args=[run_id]),
        lock=_lock,
    )
)
