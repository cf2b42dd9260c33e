"""What the invoice page shows: lines in groups, the papers and mails that came of it, its posting, its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from django.db.models import QuerySet

from billing.models import Invoice, InvoiceDelivery, InvoiceDocument, InvoiceLine, JournalEntry
from pricing.money import total


@dataclass(frozen=True, slots=True)
class LineGroup:
    """The lines of one product group, with their sum in the invoice's currency."""

    name: str
    lines: list[InvoiceLine]
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Papers:
    """What came of an invoice: its PDF, its mails (the newest first), its journal entries."""

    document: InvoiceDocument | None
    mails: list[InvoiceDelivery]
    entries: list[JournalEntry]


def invoices() -> QuerySet[Invoice]:
    """Return invoices with what the head of their page shows."""
    return Invoice.objects.select_related(
        "customer",
        "legal_entity",
        "contract__price_book",
        "bill_run__approval",
        "series",
    )


def line_groups(invoice: Invoice) -> list[LineGroup]:
    """Return an invoice's lines by product group, in the order in which they are printed."""
    lines = invoice.lines.select_related("price__version", "product").order_by("position")
    groups = []
    for name, found in groupby(lines, key=lambda line: line.group):
        of_group = list(found)
        groups.append(LineGroup(name, of_group, total(line.amount for line in of_group)))
    return groups


def papers_of(invoice: Invoice) -> Papers:
    """Return an invoice's document (without its content), mails and journal entries."""
    return Papers(
        document=InvoiceDocument.objects.filter(invoice=invoice).defer("content").first(),
        mails=list(invoice.deliveries.select_related("requested_by").order_by("-id")),
        entries=list(invoice.journal_entries.prefetch_related("lines__account").order_by("id")),
    )


def bill_before(invoice: Invoice) -> Invoice | None:
    """Return the customer's bill before this one in the same currency."""
    earlier = Invoice.objects.filter(
        customer_id=invoice.customer_id,
        currency=invoice.currency,
        period__fully_lt=invoice.period,
    )
    return earlier.exclude(status=Invoice.Status.VOID).order_by("-period", "-id").first()


def line_before(line: InvoiceLine) -> InvoiceLine | None:
    """Return what the customer was billed of the same product for the period before."""
    earlier = InvoiceLine.objects.filter(
        invoice__customer_id=line.invoice.customer_id,
        product_id=line.product_id,
        currency=line.currency,
        service_period__fully_lt=line.service_period,
    )
    live = earlier.exclude(invoice__status=Invoice.Status.VOID).select_related("invoice", "price__version")
    return live.order_by("-service_period", "-id").first()


@dataclass(frozen=True, slots=True)
class InvoiceStep:
    """A step of an invoice's life: done, now or still to come."""

    label: str
    state: str
    note: str


_ORDER = (Invoice.Status.DRAFT, Invoice.Status.IN_REVIEW, Invoice.Status.APPROVED, Invoice.Status.ISSUED)


def steps_of(invoice: Invoice) -> list[InvoiceStep]:
    """Return the steps of an invoice's life with where it stands; a void one has none."""
    if invoice.status == Invoice.Status.VOID:
        return []
    now = _ORDER.index(Invoice.Status(invoice.status))
    stamps = {
        Invoice.Status.DRAFT: invoice.created_at,
        Invoice.Status.IN_REVIEW: invoice.bill_run.approval and invoice.bill_run.approval.requested_at,
        Invoice.Status.APPROVED: invoice.bill_run.approved_at,
        Invoice.Status.ISSUED: invoice.issued_at,
    }
    steps = []
    for position, status in enumerate(_ORDER):
        finished = position < now or (position == now and status == Invoice.Status.ISSUED)
        stamp = stamps.get(status)
        note = f"{stamp:%-d %b %Y, %H:%M} UTC" if stamp else ""
        steps.append(InvoiceStep(str(status.label), "done" if finished else "now" if position == now else "next", note))
    return steps
