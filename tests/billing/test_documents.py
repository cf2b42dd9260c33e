"""The PDF of an invoice: made once, from frozen facts, and tried again when it cannot be made."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from decimal import Decimal
from io import BytesIO

import pikepdf
import pytest

from accounts.models import Customer
from billing import documents
from billing.errors import DocumentNotMade, InvoiceNotIssued, InvoiceUnknown
from billing.models import InvoiceDocument
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db


def test_a_document_is_made_once_and_kept_with_its_hash() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "100", on=make.OCT_10)
    make.issued_run(shop)

    assert documents.make_due_documents(limit=10, at=make.NOV_2) == 1
    assert documents.make_due_documents(limit=10, at=make.NOV_3) == 0

    document = InvoiceDocument.objects.get()
    content = documents.document_content(make.invoice_of(customer).pk)
    assert document.made_at == make.NOV_2
    assert bytes(document.sha256 or b"") == hashlib.sha256(content).digest()
    with pikepdf.open(BytesIO(content)) as pdf:
        assert len(pdf.pages) == 1


def test_a_document_prints_what_was_frozen() -> None:
    shop = make.shop()
    customer = make.subscriber(shop, name="Acme Robotics Ltd", locale="de_DE")
    make.use(shop, customer, "150.5", on=make.OCT_10)
    make.issued_run(shop)

    data = documents.document_data(make.invoice_of(customer).pk)

    assert (data.period.first_on, data.period.last_on) == (date(2026, 10, 1), date(2026, 10, 31))
    assert (data.buyer.name, data.buyer.city, data.seller.name) == (
        "Acme Robotics Ltd",
        "Dublin",
        "Stratus Compute GmbH",
    )
    assert (data.net, data.taxes[0].amount, data.total) == (Decimal("65.15"), Decimal("12.38"), Decimal("77.53"))
    assert data.payment_terms == "Zahlbar innerhalb von 30 Tagen, bis zum 02.12.2026."
    [group] = data.groups
    [line] = group.lines
    assert (group.name, group.subtotal, line.unit_price) == ("Compute", Decimal("65.15"), None)
    assert [(tier.above, tier.up_to, tier.quantity, tier.amount) for tier in line.tiers] == [
        (Decimal(0), Decimal(100), Decimal(100), Decimal(50)),
        (Decimal(100), None, Decimal("50.5"), Decimal("15.15")),
    ]


@pytest.mark.parametrize(
    ("price", "quantity", "unit_price", "detail"),
    [
        ({"model": "per_unit", "unit_price": "0.25"}, "8", "0.25", ""),
        (
            {"model": "per_unit", "unit_price": "2", "included_quantity": "5", "maximum_amount": "4"},
            "8",
            None,
            "5 included · 3 × €2.00 · capped at €4.00",
        ),
        (
            {"model": "per_unit", "unit_price": "1", "minimum_amount": "9"},
            "8",
            None,
            "8 × €1.00 · minimum charge €9.00",
        ),
    ],
    ids=["one price", "allowance and cap", "minimum"],
)
def test_a_line_says_what_made_its_amount(
    price: dict[str, object], quantity: str, unit_price: str | None, detail: str
) -> None:
    shop = make.shop(price=price)
    customer = make.subscriber(shop)
    make.use(shop, customer, quantity, on=make.OCT_10)
    make.issued_run(shop)

    line = documents.document_data(make.invoice_of(customer).pk).groups[0].lines[0]

    assert line.unit_price == (None if unit_price is None else Decimal(unit_price))
    assert line.detail == detail


def test_a_fee_for_a_part_of_the_month_says_so() -> None:
    shop = make.shop(approved=False)
    fee = make_pricing.product(name="Platform", group="Fees", unit="month")
    make_pricing.approved_version(book=shop.book, prices={fee: {"model": "flat", "amount": "99.00"}})
    customer = make.subscriber(shop, starts_on=date(2026, 10, 22))
    make.issued_run(shop)

    line = documents.document_data(make.invoice_of(customer).pk).groups[0].lines[0]

    assert line.detail == "€99.00 · 10 of 31 days"
    assert line.period.first_on == date(2026, 10, 22)


def test_only_an_issued_invoice_has_a_document() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    make.approved_run(shop)

    with pytest.raises(InvoiceNotIssued):
        documents.document_data(make.invoice_of(customer).pk)
    with pytest.raises(InvoiceUnknown):
        documents.document_data(0)
    with pytest.raises(DocumentNotMade):
        documents.document_content(make.invoice_of(customer).pk)


def test_a_document_that_cannot_be_made_says_why_and_is_tried_again_later() -> None:
    shop = make.shop()
    broken, sound = make.subscriber(shop), make.subscriber(shop)
    Customer.objects.filter(pk=broken.pk).update(locale="xx_XX")
    for customer in (broken, sound):
        make.use(shop, customer, "1", on=make.OCT_10)
    make.issued_run(shop)

    assert documents.make_due_documents(limit=10, at=make.NOV_2) == 2

    failed = InvoiceDocument.objects.get(invoice__customer=broken)
    assert (failed.state, failed.attempts) == ("pending", 1)
    assert "xx_XX" in failed.last_error
    assert failed.next_attempt_at == make.NOV_2 + timedelta(minutes=1)
    assert InvoiceDocument.objects.get(invoice__customer=sound).state == "made"


def test_attempts_come_ever_less_often() -> None:
    delays = [documents.delay_after(attempts).total_seconds() / 60 for attempts in (1, 2, 3, 9, 40)]

    assert delays == [1, 2, 4, 256, 360]


def test_a_synthetic_seller_is_marked() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    type(shop.entity).objects.filter(pk=shop.entity.pk).update(is_synthetic=True)
    make.issued_run(shop)

    assert documents.document_data(make.invoice_of(customer).pk).synthetic


def test_a_later_change_of_the_seller_changes_no_document() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)
    make.issued_run(shop)
    before = documents.document_data(make.invoice_of(customer).pk)
    type(shop.entity).objects.filter(pk=shop.entity.pk).update(name="Renamed GmbH", city=make_accounts.DUBLIN.city)

    assert documents.document_data(make.invoice_of(customer).pk) == before
