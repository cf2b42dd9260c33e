"""What the invoice page shows: lines in groups, the papers and mails that came of it, its posting, its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import groupby
from typing import Any

from django.db.models import QuerySet

from accounts.models import Contact
from accounts.postal import Address
from billing.models import Invoice, InvoiceDelivery, InvoiceDocument, InvoiceLine, JournalEntry
from billing.steps import Step, steps_to
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


@dataclass(frozen=True, slots=True)
class Party:
    """Who sells or buys, with the address in lines, and a word on where it comes from."""

    name: str
    address: str
    note: str


def parties_of(invoice: Invoice) -> list[tuple[str, Party]]:
    """Return seller and buyer as printed: what was copied when it was issued, or what would be copied now."""
    entity, customer = invoice.legal_entity, invoice.customer
    seller = invoice.seller or {name: getattr(entity, name) for name in (*_PRINTED, "registration")}
    buyer = invoice.buyer or {name: getattr(customer, name) for name in (*_PRINTED, "code", "purchase_order")}
    when = "as printed" if invoice.seller else "as of now; copied when it is issued"
    order = f"order {buyer['purchase_order']}" if buyer["purchase_order"] else ""
    return [
        ("From", Party(seller["name"], _address(seller), _joined(seller["tax_id"], seller["registration"], when))),
        ("To", Party(buyer["name"], _address(buyer), _joined(buyer["code"], buyer["tax_id"], order, when))),
    ]


_PRINTED = ("name", "tax_id", *(column.name for column in fields(Address)))


def _address(party: Mapping[str, Any]) -> str:
    """Write an address in lines; its form on paper is the document's own matter."""
    town = " ".join(part for part in (party["postal_code"], party["city"], party["region"]) if part)
    return "\n".join(part for part in (party["address_line1"], party["address_line2"], town, party["country"]) if part)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def recipients_of(invoice: Invoice) -> list[Contact]:
    """Return who would get the invoice by mail if it were sent now."""
    return list(invoice.customer.contacts.filter(receives_invoices=True).order_by("name", "pk"))


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


_ORDER = (Invoice.Status.DRAFT, Invoice.Status.IN_REVIEW, Invoice.Status.APPROVED, Invoice.Status.ISSUED)


def steps_of(invoice: Invoice) -> list[Step]:
    """Return the steps of an invoice's life with where it stands; a void one has none."""
    if invoice.status == Invoice.Status.VOID:
        return []
    return steps_to(
        _ORDER,
        now=invoice.status,
        labels={status: str(status.label) for status in _ORDER},
        at={
            Invoice.Status.DRAFT: invoice.created_at,
            Invoice.Status.IN_REVIEW: invoice.bill_run.approval.requested_at if invoice.bill_run.approval else None,
            Invoice.Status.APPROVED: invoice.bill_run.approved_at,
            Invoice.Status.ISSUED: invoice.issued_at,
        },
    )
