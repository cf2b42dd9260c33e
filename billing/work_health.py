"""How the machinery is doing: what waits in each queue of work, since when, and what failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min, Q, QuerySet

from billing.models import BillRunItem, Invoice, InvoiceDelivery, InvoiceDocument
from metering.models import (
    MeterBackfill,
    QuarantineClearance,
    QuarantinedEvent,
    UsageBackfill,
    UsageBatch,
    UsageCorrection,
    UsageDelta,
    UsageFile,
)

FAILURES_SHOWN = 50


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """One kind of work: how much of it waits, since when (None: nothing waits), and a word on what it is."""

    name: str
    waiting: int
    since: datetime | None
    note: str
    page: str = ""


def queues() -> list[WorkQueue]:
    """Return every kind of work that the workers do, with what waits of it."""
    usage = [_folding(), _files(), _corrections(), _usage_backfills(), _backfills(), _clearances(), _quarantine()]
    return [*usage, _drafting(), _issuing(), _documents(), _mails()]


def _folding() -> WorkQueue:
    deltas = UsageDelta.objects.order_by("batch_id")
    waiting = deltas.count()
    oldest = deltas.values_list("batch_id", flat=True).first()
    since = UsageBatch.objects.filter(pk=oldest).values_list("received_at", flat=True).first() if oldest else None
    return WorkQueue("Usage to fold into hours", waiting, since, "counted already; folding makes reads fast")


def _drafting() -> WorkQueue:
    items = BillRunItem.objects.filter(state=BillRunItem.State.PENDING)
    found = items.aggregate(n=Count("id"), since=Min("run__created_at"))
    return WorkQueue("Invoices to draft", found["n"], found["since"], "contracts of bill runs")


def _issuing() -> WorkQueue:
    ready = Invoice.objects.filter(
        status=Invoice.Status.APPROVED,
        issue_problem="",
        bill_run__issuing_started_at__isnull=False,
    )
    found = ready.aggregate(n=Count("id"), since=Min("bill_run__issuing_started_at"))
    return WorkQueue("Invoices to issue", found["n"], found["since"], "approved, issuing has begun")


def _documents() -> WorkQueue:
    found = InvoiceDocument.objects.filter(state=InvoiceDocument.State.PENDING).aggregate(
        n=Count("id"),
        since=Min("invoice__issued_at"),
    )
    return WorkQueue("PDFs to make", found["n"], found["since"], "of issued invoices")


def _mails() -> WorkQueue:
    found = InvoiceDelivery.objects.filter(state=InvoiceDelivery.State.WAITING).aggregate(
        n=Count("id"),
        since=Min("created_at"),
    )
    return WorkQueue("Mails to send", found["n"], found["since"], "with their PDF")


def _quarantine() -> WorkQueue:
    found = QuarantinedEvent.objects.filter(status=QuarantinedEvent.Status.OPEN).aggregate(
        n=Count("id"),
        since=Min("first_seen_at"),
    )
    return WorkQueue("Events in quarantine", found["n"], found["since"], "wait for a person", "metering:quarantine")


def _files() -> WorkQueue:
    found = UsageFile.objects.filter(state=UsageFile.State.LOADING).aggregate(n=Count("id"), since=Min("started_at"))
    return WorkQueue("Usage files to load", found["n"], found["since"], "being loaded", "metering:files")


def _corrections() -> WorkQueue:
    approved = UsageCorrection.objects.filter(status=UsageCorrection.Status.APPROVED)
    found = approved.aggregate(n=Count("id"), since=Min("approved_at"))
    return WorkQueue("Corrections to apply", found["n"], found["since"], "approved or small", "metering:corrections")


def _usage_backfills() -> WorkQueue:
    closing = Q(status=UsageBackfill.Status.CLOSING)
    reverting = Q(status=UsageBackfill.Status.REVERTING)
    found = UsageBackfill.objects.filter(closing | reverting).aggregate(
        n=Count("id"), since=Min("closing_at", filter=closing), reverted_since=Min("reverting_at", filter=reverting)
    )
    since = min((each for each in (found["since"], found["reverted_since"]) if each), default=None)
    return WorkQueue("Backfills of usage", found["n"], since, "being closed or reverted", "metering:usage-backfills")


def _backfills() -> WorkQueue:
    running = MeterBackfill.objects.filter(status=MeterBackfill.Status.RUNNING)
    found = running.aggregate(n=Count("id"), since=Min("requested_at"))
    return WorkQueue("Back-fills of meters", found["n"], found["since"], "counting earlier events", "metering:meters")


def _clearances() -> WorkQueue:
    running = QuarantineClearance.objects.filter(state=QuarantineClearance.State.RUNNING)
    found = running.aggregate(n=Count("id"), since=Min("created_at"))
    note = "releasing or discarding by rule"
    return WorkQueue("Decisions on the quarantine", found["n"], found["since"], note, "metering:quarantine-rule")


def last_load() -> datetime | None:
    """Return when usage last came in."""
    last: datetime | None = UsageBatch.objects.aggregate(last=Max("received_at"))["last"]
    return last


def failed_mails() -> QuerySet[InvoiceDelivery]:
    """Return mails that failed for good, the newest first."""
    failed = InvoiceDelivery.objects.filter(state=InvoiceDelivery.State.FAILED)
    return failed.select_related("invoice__customer").order_by("-id")


def documents_with_errors() -> QuerySet[InvoiceDocument]:
    """Return documents that could not be made so far, with their last error."""
    pending = InvoiceDocument.objects.filter(state=InvoiceDocument.State.PENDING).exclude(last_error="")
    return pending.select_related("invoice__customer").defer("content").order_by("-id")
