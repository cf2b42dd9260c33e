"""The PDF of an issued invoice: what it prints, taken from frozen facts only, and its making, once.

Each document waits as a row until a worker makes it; a failed attempt is kept with its reason and tried again later.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from babel.dates import format_date
from django.db import transaction
from django.db.models import QuerySet

from accounts.periods import local_date
from billing import nudges
from billing.customer_texts import CustomerTexts, customer_texts
from billing.errors import DocumentNotMade, InvoiceNotIssued, InvoiceUnknown
from billing.models import Invoice, InvoiceDocument, InvoiceLine
from billing.pdf import render_invoice_pdf
from billing.pdf_data import (
    DocumentBank,
    DocumentGroup,
    DocumentLine,
    DocumentParty,
    DocumentPeriod,
    DocumentTax,
    DocumentTier,
    InvoiceDocumentData,
)
from pricing.money import format_amount, format_quantity, format_unit_price, total
from pricing.rating import StepKind

logger = logging.getLogger(__name__)

_BEING_MADE: Final = "An attempt to make it has begun, and has not ended."
_LONGEST_DELAY: Final = timedelta(hours=6)
_PARTY: Final = ("name", "address_line1", "address_line2", "postal_code", "city", "region", "country", "tax_id")

Step = Mapping[str, Any]


def make_due_documents(*, limit: int, at: datetime) -> int:
    """Make up to `limit` documents that are due and return how many were taken up; none: nothing is due.

    Each is made by one worker alone, and then never again. A worker that dies over one leaves it to a later attempt,
    and the others to whoever comes next.
    """
    taken_up = 0
    while taken_up < limit and _make_next(at):
        taken_up += 1
    return taken_up


def document_data(invoice_id: int) -> InvoiceDocumentData:
    """What the document of an issued invoice prints; the same for ever, as it is taken from frozen facts only.

    Raises: InvoiceUnknown, InvoiceNotIssued.
    """
    invoice = Invoice.objects.filter(pk=invoice_id).first()
    if invoice is None:
        raise InvoiceUnknown
    if invoice.status != Invoice.Status.ISSUED:
        raise InvoiceNotIssued
    assert invoice.number is not None
    assert invoice.issued_on is not None
    assert invoice.due_on is not None
    seller: dict[str, Any] = invoice.seller or {}
    buyer: dict[str, Any] = invoice.buyer or {}
    locale = str(buyer["locale"])
    return InvoiceDocumentData(
        number=invoice.number,
        issued_on=invoice.issued_on,
        due_on=invoice.due_on,
        period=_days(invoice.period, invoice.time_zone),
        time_zone=invoice.time_zone,
        currency=invoice.currency,
        locale=locale,
        seller=DocumentParty(
            registration=seller["registration"],
            email=seller["email"],
            **{name: seller[name] for name in _PARTY},
        ),
        buyer=DocumentParty(**{name: buyer[name] for name in _PARTY}),
        groups=_groups(invoice, locale),
        net=invoice.net_amount,
        taxes=(
            DocumentTax(
                name=invoice.tax_name,
                rate=invoice.tax_rate,
                base=invoice.net_amount,
                amount=invoice.tax_amount,
                note=invoice.tax_note,
            ),
        ),
        total=invoice.total_amount,
        customer_number=buyer["code"],
        purchase_order=buyer["purchase_order"],
        payment_terms=_payment_terms(invoice.due_on, buyer),
        bank=DocumentBank(name=seller["bank_name"], account=seller["bank_account"], code=seller["bank_code"]),
        synthetic=bool(seller["is_synthetic"]),
    )


def document_content(invoice_id: int) -> bytes:
    """The PDF of an invoice, as it was made.

    Raises: DocumentNotMade.
    """
    document = InvoiceDocument.objects.filter(invoice_id=invoice_id, state=InvoiceDocument.State.MADE).first()
    if document is None or document.content is None:
        raise DocumentNotMade
    return bytes(document.content)


def _make_next(at: datetime) -> bool:
    """Make one document. The attempt is counted before, for a fault may take the whole process with it."""
    document = _claim_next(at)
    if document is None:
        return False
    try:
        content = render_invoice_pdf(document_data(document.invoice_id))
    except Exception as error:  # one invoice that cannot be rendered must not keep the others from their customers
        logger.exception("the document of invoice %s could not be made", document.invoice_id)
        _still_pending(document).update(last_error=f"{error} ({type(error).__name__})")
    else:
        _keep(document, content, at)
    return True


@transaction.atomic
def _claim_next(at: datetime) -> InvoiceDocument | None:
    """Take the next document that is due; until it is due again, which is a minute at least, no other worker does."""
    due = InvoiceDocument.objects.filter(state=InvoiceDocument.State.PENDING, next_attempt_at__lte=at)
    document = (
        due.select_for_update(skip_locked=True, no_key=True).defer("content").order_by("next_attempt_at", "pk").first()
    )
    if document is not None:
        document.attempts += 1
        document.next_attempt_at = at + delay_after(document.attempts)
        document.last_error = document.last_error or _BEING_MADE
        document.save(update_fields=["attempts", "next_attempt_at", "last_error"])
    return document


@transaction.atomic
def _keep(document: InvoiceDocument, content: bytes, at: datetime) -> None:
    """Keep what was made; the first that comes is kept, should another worker have made it, too."""
    made = _still_pending(document).update(
        state=InvoiceDocument.State.MADE,
        content=content,
        sha256=hashlib.sha256(content).digest(),
        made_at=at,
        last_error="",
    )
    if made:
        nudges.nudge(nudges.DELIVER_INVOICES)


def _still_pending(document: InvoiceDocument) -> QuerySet[InvoiceDocument]:
    return InvoiceDocument.objects.filter(pk=document.pk, state=InvoiceDocument.State.PENDING)


def delay_after(attempts: int) -> timedelta:
    """How long to wait after so many attempts: 1, 2, 4 ... minutes, at most 6 hours."""
    return min(timedelta(minutes=2 ** min(attempts - 1, 10)), _LONGEST_DELAY)


def _days(period: Any, time_zone: str) -> DocumentPeriod:
    return DocumentPeriod(
        first_on=local_date(period.lower, time_zone),
        last_on=local_date(period.upper - timedelta(microseconds=1), time_zone),
    )


def _payment_terms(due_on: date, buyer: Mapping[str, Any]) -> str:
    texts = customer_texts(buyer["locale"])
    return texts.payable_within.format(
        days=buyer["payment_terms_days"], due_on=format_date(due_on, "medium", locale=_babel(buyer["locale"]))
    )


def _babel(locale: str) -> str:
    return locale.replace("-", "_")


def _groups(invoice: Invoice, locale: str) -> tuple[DocumentGroup, ...]:
    lines: dict[str, list[InvoiceLine]] = {}
    for line in invoice.lines.order_by("position"):
        lines.setdefault(line.group, []).append(line)
    return tuple(
        DocumentGroup(
            name=name,
            lines=tuple(_line(line, invoice.time_zone, locale) for line in of_group),
            subtotal=total(line.amount for line in of_group),
        )
        for name, of_group in lines.items()
    )


def _line(line: InvoiceLine, time_zone: str, locale: str) -> DocumentLine:
    steps: Sequence[Step] = line.steps
    tiers = tuple(_tier(step) for step in steps if step["kind"] == StepKind.TIER)
    return DocumentLine(
        description=line.description,
        period=_days(line.service_period, time_zone),
        quantity=line.quantity,
        unit=line.unit,
        unit_price=_unit_price(steps),
        amount=line.amount,
        detail=" · ".join(_remarks(line, steps, locale)),
        tiers=tiers,
    )


def _unit_price(steps: Iterable[Step]) -> Decimal | None:
    """The one price by which quantity times price is the amount; None where more than that made it."""
    steps = list(steps)
    if len(steps) != 1:
        return None
    only = steps[0]
    if only["kind"] == StepKind.PER_UNIT:
        return Decimal(only["unit_price"])
    return Decimal(only["flat_amount"]) if only["kind"] == StepKind.FLAT else None


def _tier(step: Step) -> DocumentTier:
    return DocumentTier(
        above=Decimal(step["from"]),
        up_to=None if step["up_to"] is None else Decimal(step["up_to"]),
        quantity=Decimal(step["quantity"]),
        unit_price=None if step["unit_price"] is None else Decimal(step["unit_price"]),
        amount=Decimal(step["amount"]),
        flat_amount=Decimal(step["flat_amount"] or 0),
    )


def _remarks(line: InvoiceLine, steps: Sequence[Step], locale: str) -> list[str]:
    """What the customer has to know to check the amount, besides quantity, price and tiers."""
    texts = customer_texts(locale)
    remarks = [texts.late_usage] if line.kind == InvoiceLine.Kind.LATE_USAGE else []
    if len(steps) > 1:
        remarks += [remark for step in steps if (remark := _remark(step, texts, line.currency, locale))]
    return remarks


def _remark(step: Step, texts: CustomerTexts, currency: str, locale: str) -> str:
    def price(name: str) -> str:
        return format_unit_price(Decimal(step[name]), currency, locale)

    def quantity() -> str:
        return format_quantity(Decimal(step["quantity"]), locale)

    write: Callable[[], str] | None = {
        StepKind.PER_UNIT.value: lambda: f"{quantity()} × {price('unit_price')}",
        StepKind.FLAT.value: lambda: price("flat_amount"),
        StepKind.ALLOWANCE.value: lambda: texts.included.format(quantity=quantity()),
        StepKind.PRORATION.value: lambda: texts.share_of_period.format(days=step["days"], of_days=step["of_days"]),
        StepKind.BILLED_BEFORE.value: lambda: texts.billed_before.format(
            amount=format_amount(Decimal(step["billed_amount"]), currency, locale)
        ),
        StepKind.MINIMUM.value: lambda: texts.minimum.format(amount=price("minimum_amount")),
        StepKind.MAXIMUM.value: lambda: texts.maximum.format(amount=price("maximum_amount")),
    }.get(step["kind"])
    return "" if write is None else write()
