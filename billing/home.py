"""What waits for a person when they come in: work by their permissions, key figures, charts, what happened last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.db.models import Count, Max, Q, QuerySet, Sum
from django.urls import reverse

from accounts import inbox
from accounts.access import Actor, Permission
from accounts.charts import Chart, chart
from accounts.models import AuditEntry, Customer
from billing.models import BillRun, BillRunItem, Invoice, InvoiceDelivery, InvoiceDocument
from metering.models import QuarantinedEvent, UsageBatch
from pricing.models import PriceBookVersion
from pricing.money import ZERO
from pricing.price_texts import amount_text

MONTHS_SHOWN = 12
# A document or a mail that is this late is worth a look; until then the workers are at it.
PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Task:
    """Something that waits for the reader: how many of what, where, and whether it is a fault."""

    title: str
    count: int
    note: str
    url: str
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A key figure."""

    label: str
    value: str
    note: str
    url: str = ""


def tasks(actor: Actor, *, at: datetime) -> list[Task]:
    """Return what waits for this person, only what there is some of."""
    found = [*_approvals(actor), *_pricing(actor), *_runs(actor), *_usage(actor), *_sending(actor, at)]
    return [task for task in found if task.count]


def _approvals(actor: Actor) -> Iterator[Task]:
    waiting = inbox.waiting_for(actor).count()
    yield Task("Approvals to decide", waiting, "somebody waits for your word", reverse("accounts:inbox"))


def _pricing(actor: Actor) -> Iterator[Task]:
    if actor.may(Permission.EDIT_PRICES):
        drafts = PriceBookVersion.objects.filter(status=PriceBookVersion.Status.DRAFT)
        newest = drafts.order_by("-created_at").first()
        url = reverse("pricing:version", args=[newest.pk]) if newest else ""
        yield Task("Price drafts to submit", drafts.count(), "not in force until approved", url)


def _runs(actor: Actor) -> Iterator[Task]:
    if actor.may(Permission.RUN_BILLING):
        drafts = BillRun.objects.filter(status=BillRun.Status.DRAFT)
        yield Task("Bill runs to submit", drafts.count(), "drafted, not asked for yet", _run_url(drafts))
        parked = BillRunItem.objects.filter(state=BillRunItem.State.PARKED, run__status=BillRun.Status.DRAFT)
        yield Task("Customers parked", parked.count(), "could not be billed; see why", _run_url(drafts), is_fault=True)
    if actor.may(Permission.ISSUE_INVOICES):
        approved = BillRun.objects.filter(status=BillRun.Status.APPROVED)
        yield Task("Bill runs to issue", approved.count(), "approved, without numbers yet", _run_url(approved))
    if actor.may(Permission.VIEW_INVOICES):
        stuck = Invoice.objects.filter(status=Invoice.Status.APPROVED).exclude(issue_problem="")
        run_id = stuck.values_list("bill_run_id", flat=True).first()
        url = reverse("billing:run", args=[run_id]) if run_id else ""
        yield Task("Invoices that could not be issued", stuck.count(), "each says why", url, is_fault=True)


def _run_url(runs: QuerySet[BillRun]) -> str:
    newest = runs.first()
    return reverse("billing:run", args=[newest.pk]) if newest else reverse("billing:runs")


def _usage(actor: Actor) -> Iterator[Task]:
    if actor.may(Permission.VIEW_USAGE):
        waiting = QuarantinedEvent.objects.filter(status=QuarantinedEvent.Status.OPEN).count()
        yield Task("Events in quarantine", waiting, "not counted until mended", reverse("metering:quarantine"))


def _sending(actor: Actor, at: datetime) -> Iterator[Task]:
    if actor.may(Permission.SEND_INVOICES) or actor.may(Permission.RUN_BILLING):
        health = reverse("billing:health")
        failed = InvoiceDelivery.objects.filter(state=InvoiceDelivery.State.FAILED).count()
        yield Task("Mails that failed", failed, "send them again when mended", health, is_fault=True)
        late = Q(document__isnull=True) | Q(document__state=InvoiceDocument.State.PENDING)
        missing = Invoice.objects.filter(late, status=Invoice.Status.ISSUED, issued_at__lt=at - PATIENCE).count()
        yield Task("Invoices without a PDF", missing, "issued, document still missing", health, is_fault=True)


def figures(actor: Actor) -> list[Figure]:
    """Return the key figures that this person may see."""
    found: list[Figure] = []
    if actor.may(Permission.VIEW_INVOICES):
        found += _billed_figures()
    if actor.may(Permission.VIEW_CUSTOMERS):
        active = Customer.objects.filter(is_active=True).count()
        found.append(Figure("Customers", f"{active:,}", "active", reverse("admin:accounts_customer_changelist")))
    if actor.may(Permission.VIEW_USAGE):
        found.append(_usage_figure())
    return found


def _billed_figures() -> list[Figure]:
    issued = Invoice.objects.filter(status=Invoice.Status.ISSUED)
    month: date | None = issued.aggregate(last=Max("bill_run__month"))["last"]
    if month is None:
        return [Figure("Invoiced", "–", "nothing issued yet", reverse("billing:invoices"))]
    rows = issued.filter(bill_run__month=month).order_by().values_list("currency")
    sums = rows.annotate(total=Sum("total_amount"), n=Count("id")).order_by("currency")
    url = f"{reverse('billing:invoices')}?tab=issued&month={month:%Y-%m}"
    return [
        Figure(f"Invoiced for {month:%B %Y}", amount_text(total, currency), f"{count:,} invoices, tax included", url)
        for currency, total, count in sums
    ]


def _usage_figure() -> Figure:
    sums = UsageBatch.objects.aggregate(events=Sum("accepted"), last=Max("received_at"))
    last: datetime | None = sums["last"]
    note = f"last load {last:%-d %b %Y, %H:%M} UTC" if last else "nothing loaded yet"
    return Figure("Events counted", f"{sums['events'] or 0:,}", note, reverse("metering:batches"))


def invoiced_by_month() -> list[Chart]:
    """Chart what was issued, before tax, by the month that it bills; one chart for each currency."""
    rows = (
        Invoice.objects.filter(status=Invoice.Status.ISSUED)
        .order_by()
        .values_list("currency", "bill_run__month", "legal_entity__name")
        .annotate(net=Sum("net_amount"))
        .order_by("currency", "bill_run__month")
    )
    by_currency: dict[str, dict[str, dict[date, Decimal]]] = {}
    for currency, month, entity, net in rows:
        by_currency.setdefault(currency, {}).setdefault(entity, {})[month] = net
    return [_months_chart(currency, by_entity) for currency, by_entity in by_currency.items()]


def _months_chart(currency: str, by_entity: dict[str, dict[date, Decimal]]) -> Chart:
    months = sorted({month for by_month in by_entity.values() for month in by_month})[-MONTHS_SHOWN:]
    return chart(
        labels=[f"{month:%b %Y}" for month in months],
        series={entity: [by_month.get(month, ZERO) for month in months] for entity, by_month in by_entity.items()},
        write=lambda _name, value: amount_text(value, currency),
        unit=currency,
    )


def activity(actor: Actor, *, limit: int = 12) -> list[AuditEntry]:
    """Return what happened last: everything for who may see the audit log, else what this person did."""
    entries = AuditEntry.objects.order_by("-id")
    if not actor.may(Permission.VIEW_AUDIT):
        entries = entries.filter(actor_id=actor.user_id)
    return list(entries[:limit])
