"""pdf: invoices of one page as PDF/A-3b, written one after the other on one core."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from statistics import median
from time import process_time

import pikepdf

from billing.pdf import (
    DocumentBank,
    DocumentGroup,
    DocumentLine,
    DocumentParty,
    DocumentPeriod,
    DocumentTax,
    InvoiceDocumentData,
    render_invoice_pdf,
)
from pricing.money import round_to_minor, tax_amount, total

RUNS = 7
DOCUMENTS = 12
BUDGET = 12

PERIOD = DocumentPeriod(first_on=date(2024, 9, 1), last_on=date(2024, 9, 30))


def run() -> Iterator[dict[str, object]]:
    """Measure documents a second of processor time: a usual invoice, and beside it the most that fits on a page.

    The fonts, styles and logo are those kept in a worker that has made a document before; each document is another.
    """
    usual = _measure(lines_per_group=2)
    full = _measure(lines_per_group=5)
    yield {
        "name": "pdf",
        "value": round(median(usual), 1),
        "unit": "documents/s/core",
        "budget": BUDGET,
        "lines": 4,
        "runs": [round(value, 1) for value in usual],
        "full_page": {"lines": 10, "value": round(median(full), 1), "runs": [round(value, 1) for value in full]},
    }


def _measure(*, lines_per_group: int) -> list[float]:
    documents = [_invoice(serial, lines_per_group=lines_per_group) for serial in range(DOCUMENTS)]
    with pikepdf.open(io.BytesIO(render_invoice_pdf(documents[0]))) as pdf:
        assert len(pdf.pages) == 1, "the budget is for documents of one page"
    rates = []
    for _ in range(RUNS):
        start = process_time()
        for document in documents:
            render_invoice_pdf(document)
        rates.append(DOCUMENTS / (process_time() - start))
    return rates


def _invoice(serial: int, *, lines_per_group: int) -> InvoiceDocumentData:
    groups = tuple(
        _group(name, unit, Decimal(unit_price), serial=serial, count=lines_per_group)
        for name, unit, unit_price in (("Compute", "GPU-hours", "3.90"), ("Storage", "GB-months", "0.021"))
    )
    net = total(group.subtotal for group in groups)
    tax = DocumentTax(name="USt.", rate=Decimal(19), base=net, amount=tax_amount(net, Decimal(19), "EUR"))
    return InvoiceDocumentData(
        number=f"RE-2024-{serial:06}",
        issued_on=date(2024, 10, 1),
        due_on=date(2024, 10, 31),
        period=PERIOD,
        time_zone="Europe/Berlin",
        currency="EUR",
        locale="de_DE",
        seller=DocumentParty(
            name="Nimbus Cloud GmbH",
            address_line1="Speicherstraße 12",
            postal_code="20457",
            city="Hamburg",
            country="DE",
            tax_id="DE301234567",
            registration="Amtsgericht Hamburg, HRB 123456",
        ),
        buyer=DocumentParty(
            name=f"Kunde {serial} GmbH",
            address_line1=f"Industriestraße {serial}",
            postal_code="80331",
            city="München",
            country="DE",
            tax_id="DE811234567",
        ),
        groups=groups,
        net=net,
        taxes=(tax,),
        total=total((net, tax.amount)),
        customer_number=f"C-{serial:05}",
        payment_terms="Zahlbar innerhalb von 30 Tagen ohne Abzug.",
        bank=DocumentBank(name="Beispielbank Hamburg", account="DE89370400440532013000", code="COBADEFFXXX"),
    )


def _group(name: str, unit: str, unit_price: Decimal, *, serial: int, count: int) -> DocumentGroup:
    lines = tuple(
        _line(f"{name} {number}", unit, unit_price, quantity=Decimal(serial * 37 + number) + Decimal("0.25"))
        for number in range(1, count + 1)
    )
    return DocumentGroup(name=name, lines=lines, subtotal=total(line.amount for line in lines))


def _line(description: str, unit: str, unit_price: Decimal, *, quantity: Decimal) -> DocumentLine:
    return DocumentLine(
        description=f"{description}, on demand",
        detail="eu-central-1",
        period=PERIOD,
        quantity=quantity,
        unit=unit,
        unit_price=unit_price,
        amount=round_to_minor(quantity * unit_price, "EUR"),
    )
