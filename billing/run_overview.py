"""What the bill run pages show: runs with their totals, one run with what stands out in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.db.models import Count, Q, QuerySet, Sum

from accounts.periods import month_period
from billing.bill_runs import RunProgress
from billing.invoice_list import CurrencyTotal, ranked_by_change, totals, with_bill_before
from billing.models import BillRun, BillRunItem, Invoice, UnbilledUsage
from billing.steps import Step, steps_to
from metering.completeness.findings import Finding, findings, settled_until
from metering.models import Meter, QuarantinedEvent, UsageSeries

Status = BillRun.Status
_ORDER = (Status.DRAFT, Status.IN_REVIEW, Status.APPROVED, Status.ISSUED)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the list of runs."""

    run: BillRun
    totals: list[CurrencyTotal]
    parked: int


@dataclass(frozen=True, slots=True)
class UnbilledRow:
    """Usage of a run that nothing bills, with what it is a usage of."""

    usage: UnbilledUsage
    meter: str
    unit: str
    dimensions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Work:
    """What the workers do for a run at the moment: how much of how much, in percent too (rounded down)."""

    is_going_on: bool
    title: str
    done: int
    of: int
    percent: int


def work_of(run: BillRun, progress: RunProgress) -> Work:
    """Tell whether a run is being drafted or issued, and how far it is."""
    if run.status == Status.DRAFT:
        return _work("Drafting invoices", progress.settled, progress.contracts, is_going_on=progress.pending > 0)
    issued = progress.invoices.get(Invoice.Status.ISSUED, 0)
    to_issue = progress.invoices.get(Invoice.Status.APPROVED, 0)
    waiting = to_issue - progress.with_issue_problem
    issuing = run.status == Status.APPROVED and run.issuing_started_at is not None and waiting > 0
    return _work("Issuing invoices", issued, issued + to_issue, is_going_on=issuing)


def _work(title: str, done: int, of: int, *, is_going_on: bool) -> Work:
    return Work(is_going_on, title, done, of, done * 100 // of if of else 100)


def csv_row(invoice: Invoice) -> list[object]:
    """Lay out one invoice of `invoices_of` for a CSV file; amounts are plain decimals."""
    return [
        invoice.customer.code,
        invoice.customer.name,
        invoice.status,
        invoice.number or "",
        invoice.currency,
        invoice.net_amount,
        invoice.tax_amount,
        invoice.total_amount,
        getattr(invoice, "before_total", None),
        getattr(invoice, "difference", None),
    ]


def runs() -> QuerySet[BillRun]:
    """Return every run, the newest month first."""
    counted = BillRun.objects.annotate(parked=Count("items", filter=Q(items__state=BillRunItem.State.PARKED)))
    return counted.select_related("legal_entity", "created_by").order_by("-month", "legal_entity__name", "-id")


def run_rows(found: list[BillRun]) -> list[RunRow]:
    """Add each run's totals per currency, with one query for all of them."""
    sums: dict[int, list[CurrencyTotal]] = {run.pk: [] for run in found}
    rows = (
        Invoice.objects.filter(bill_run__in=sums)
        .exclude(status=Invoice.Status.VOID)
        .order_by()
        .values("bill_run_id", "currency")
        .annotate(invoices=Count("id"), net=Sum("net_amount"), tax=Sum("tax_amount"), total=Sum("total_amount"))
        .order_by("currency")
    )
    for row in rows:
        total = CurrencyTotal(row["currency"], row["invoices"], row["net"], row["tax"], row["total"])
        sums[row["bill_run_id"]].append(total)
    return [RunRow(run, sums[run.pk], getattr(run, "parked", 0)) for run in found]


def invoices_of(run: BillRun) -> QuerySet[Invoice]:
    """Return a run's invoices: those that most need a look first."""
    kept = run.invoices.select_related("customer")
    if run.status != Status.CANCELLED:
        kept = kept.exclude(status=Invoice.Status.VOID)
    return ranked_by_change(with_bill_before(kept))


def totals_of(run: BillRun) -> list[CurrencyTotal]:
    """Add a run's invoices up, currency by currency."""
    return totals(run.invoices.exclude(status=Invoice.Status.VOID))


def parked_items(run: BillRun) -> QuerySet[BillRunItem]:
    """Return the contracts of a run that could not be billed, each with its reason."""
    return run.items.filter(state=BillRunItem.State.PARKED).select_related("contract__customer").order_by("id")


def problem_invoices(run: BillRun) -> QuerySet[Invoice]:
    """Return the invoices of a run that could not be issued, each with its problem."""
    return run.invoices.exclude(issue_problem="").exclude(status=Invoice.Status.ISSUED).select_related("customer")


def unbilled(run: BillRun) -> QuerySet[UnbilledUsage]:
    """Return usage of a run's periods that no line bills."""
    return run.unbilled_usage.select_related("customer").order_by("reason", "customer__name", "id")


def unbilled_rows(found: list[UnbilledUsage]) -> list[UnbilledRow]:
    """Say of what each unbilled usage is one, with two queries for all of them."""
    series = UsageSeries.objects.in_bulk([usage.series_id for usage in found])
    meters = Meter.objects.in_bulk([each.meter_id for each in series.values()])
    rows = []
    for usage in found:
        of = series.get(usage.series_id)
        meter = meters.get(of.meter_id) if of else None
        name, unit = (meter.name, meter.unit) if meter else ("unknown", "")
        rows.append(UnbilledRow(usage, name, unit, of.dimensions if of else {}))
    return rows


def unbilled_counts(run: BillRun) -> list[tuple[str, int]]:
    """Return how much of a run's usage is unbilled for each reason, in rows of the list."""
    rows = run.unbilled_usage.order_by().values_list("reason").annotate(n=Count("id")).order_by("-n")
    return [(str(UnbilledUsage.Reason(reason).label), n) for reason, n in rows]


@dataclass(frozen=True, slots=True)
class UsageToLookAt:
    """What is odd about the usage that a run bills, the open findings first, and over which UTC days to see it."""

    found: list[Finding]
    first_day: date
    last_day: date

    @property
    def open(self) -> list[Finding]:
        """What nobody has acknowledged."""
        return [each for each in self.found if each.is_open]


class Waiting(NamedTuple):
    """How many events of `[start, end)` wait in quarantine."""

    events: int
    start: datetime
    end: datetime


def usage_to_look_at(run: BillRun, *, at: datetime) -> UsageToLookAt:
    """Return what is odd about the usage of a run's month and customers; reads hours of three months."""
    month = month_period(run.month.year, run.month.month, run.legal_entity.time_zone)
    customers = list(run.items.values_list("contract__customer_id", flat=True).distinct())
    found = findings(month.start, min(month.end, settled_until(at)), customers)
    last = month.end - timedelta(microseconds=1)
    return UsageToLookAt(found, month.start.date(), last.date())


def waiting_in_quarantine(run: BillRun) -> Waiting:
    """Return how many events of a run's month wait in quarantine, whosoever they are; one query."""
    month = month_period(run.month.year, run.month.month, run.legal_entity.time_zone)
    waiting = QuarantinedEvent.objects.filter(
        status=QuarantinedEvent.Status.OPEN, time__gte=month.start, time__lt=month.end
    )
    return Waiting(waiting.count(), month.start, month.end)


def steps_of(run: BillRun) -> list[Step]:
    """Return the steps of a run's life with where it stands; a cancelled run has none."""
    if run.status == Status.CANCELLED:
        return []
    return steps_to(
        _ORDER,
        now=run.status,
        labels={status: str(status.label) for status in _ORDER},
        at={
            Status.DRAFT: run.created_at,
            Status.IN_REVIEW: run.approval.requested_at if run.approval else None,
            Status.APPROVED: run.approved_at,
            Status.ISSUED: run.issued_at,
        },
    )


def net_by_group(run: BillRun) -> list[tuple[str, str, Decimal]]:
    """Return what a run bills of each product group, before tax: group, currency, amount; the largest first."""
    rows = (
        run.invoices.exclude(status=Invoice.Status.VOID)
        .order_by()
        .values_list("lines__group", "lines__currency")
        .annotate(amount=Sum("lines__amount"))
        .filter(amount__isnull=False)
        .order_by("lines__currency", "-amount")
    )
    return [(group, currency, amount) for group, currency, amount in rows]
