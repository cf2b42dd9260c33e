"""What waits for a person when they come in: work by their permissions, charts, what happened last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby

from django.db.models import Q, QuerySet, Sum
from django.urls import reverse

from accounts import audit_search, inbox
from accounts.access import Actor, Permission
from accounts.charts import Chart, chart
from accounts.models import AuditEntry
from billing.models import BillRun, BillRunItem, Invoice, InvoiceDelivery, InvoiceDocument
from metering.models import QuarantinedEvent, UsageCorrection, UsageFile
from pricing.models import PriceBookVersion
from pricing.money import ZERO
from pricing.price_texts import amount_text

MONTHS_SHOWN = 12
# Enough to see past a month of mails.
ENTRIES_READ = 400
# A document or a mail that is this late is worth a look; until then the workers are at it.
PATIENCE = timedelta(minutes=5)
# A file that failed is mended by then, or never: what was mended is another file.
_FAILED_LATELY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Task:
    """Something that waits for the reader: how many of what, where, and whether it is a fault."""

    title: str
    count: int
    note: str
    url: str
    is_fault: bool = False


def tasks(actor: Actor, *, at: datetime) -> list[Task]:
    """Return what waits for this person, only what there is some of."""
    found = [*_approvals(actor), *_pricing(actor), *_runs(actor), *_usage(actor, at), *_sending(actor, at)]
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
        in_review = PriceBookVersion.objects.filter(status=PriceBookVersion.Status.IN_REVIEW)
        first = in_review.order_by("id").first()
        url = reverse("pricing:version", args=[first.pk]) if first else ""
        yield Task("Price versions in review", in_review.count(), "they wait for an approver", url)


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


def _usage(actor: Actor, at: datetime) -> Iterator[Task]:
    if actor.may(Permission.RELEASE_QUARANTINE) or actor.may(Permission.EDIT_METERS):
        waiting = QuarantinedEvent.objects.filter(status=QuarantinedEvent.Status.OPEN).count()
        yield Task("Events in quarantine", waiting, "not counted until mended", reverse("metering:quarantine"))
    if actor.may(Permission.LOAD_USAGE):
        files = UsageFile.objects.filter(state=UsageFile.State.FAILED, finished_at__gt=at - _FAILED_LATELY).count()
        yield Task("Files that failed", files, "usage of the last week", reverse("metering:files"), is_fault=True)
        ready = UsageFile.objects.filter(state=UsageFile.State.WAITING).count()
        yield Task("Files to start", ready, "sent, not loaded yet", reverse("metering:files"))
    if actor.may(Permission.CORRECT_USAGE):
        drafts = UsageCorrection.objects.filter(status="draft", requested_by_id=actor.user_id).count()
        page = f"{reverse('metering:corrections')}?status=draft"
        yield Task("Corrections to finish", drafts, "your drafts: submit or drop them", page)


def _sending(actor: Actor, at: datetime) -> Iterator[Task]:
    if actor.may(Permission.SEND_INVOICES) or actor.may(Permission.RUN_BILLING):
        health = reverse("billing:health")
        failed = InvoiceDelivery.objects.filter(state=InvoiceDelivery.State.FAILED).count()
        yield Task("Mails that failed", failed, "send them again when mended", health, is_fault=True)
        late = Q(document__isnull=True) | Q(document__state=InvoiceDocument.State.PENDING)
        missing = Invoice.objects.filter(late, status=Invoice.Status.ISSUED, issued_at__lt=at - PATIENCE).count()
        yield Task("Invoices without a PDF", missing, "issued, document still missing", health, is_fault=True)


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


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody did, and how many times more in the same go."""

    entry: AuditEntry
    more: int


def activity(actor: Actor, *, limit: int = 8) -> list[Act]:
    """Return what happened last: everything for who may see the audit log, else what this person did.

    What one actor did many times in a minute is told once; that somebody came in is for the audit log alone.
    """
    entries = audit_search.with_names(AuditEntry.objects.exclude(verb="sign_in.succeeded").order_by("-id"))
    if not actor.may(Permission.VIEW_AUDIT):
        entries = entries.filter(actor_id=actor.user_id)
    acts: list[Act] = []
    for _, same in groupby(entries[:ENTRIES_READ], key=lambda entry: (entry.verb, entry.actor_label, _minute(entry))):
        first, *others = same
        acts.append(Act(first, len(others)))
    return acts[:limit]


def _minute(entry: AuditEntry) -> datetime:
    return entry.at.replace(second=0, microsecond=0)
