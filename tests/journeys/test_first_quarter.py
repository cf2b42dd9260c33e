"""The first quarter of a customer's life here: usage, late usage, a price change, approvals, invoices, the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
import time_machine
from django.contrib.auth.models import Group
from django.core.management import call_command

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalOfOwnRequest
from accounts.models import Customer, User
from billing import delivery, documents, ledger
from billing.explanations import UsageNow, explain_line
from billing.models import BillRun, Invoice, InvoiceDelivery, InvoiceDocument
from metering import rollups
from pricing import price_books
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = [pytest.mark.journey, pytest.mark.django_db(transaction=True)]

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
FEB_2, MAR_2, APR_2 = (datetime(2026, month, 2, 8, tzinfo=UTC) for month in (2, 3, 4))
FEB_15 = datetime(2026, 2, 14, 23, tzinfo=UTC)  # midnight in Berlin


def january(day: int, hour: int = 12) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)


def february(day: int) -> datetime:
    return datetime(2026, 2, day, 12, tzinfo=UTC)


def march(day: int) -> datetime:
    return datetime(2026, 3, day, 12, tzinfo=UTC)


def raise_prices(shop: make.Shop) -> None:
    """From 15 February on each hour costs a cent more; proposed by one person and approved by another."""
    manager, approver = make_accounts.actor(Role.PRODUCT_MANAGER), make_accounts.actor(Role.PRICING_APPROVER)
    at = datetime(2026, 1, 20, 9, tzinfo=UTC)
    draft = price_books.open_draft(book_id=shop.book.pk, actor=manager, at=at)
    dearer = {
        "model": "graduated",
        "tiers": [{"up_to": "100", "unit_price": "0.51"}, {"up_to": None, "unit_price": "0.31"}],
    }
    price_books.set_price(version_id=draft.pk, product_id=shop.product.pk, spec=dearer, actor=manager, at=at)
    version = price_books.submit_version(
        version_id=draft.pk, effective_from=FEB_15, reason="Power got dearer", actor=manager, at=at
    )
    request = make_pricing.approval_of(version)
    with pytest.raises(ApprovalOfOwnRequest):
        approvals.decide(
            request_id=request.pk,
            outcome="approve",
            actor=Actor.of(_with(Role.PRICING_APPROVER, manager)),
            at=at,
        )
    approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=at)


def _with(role: Role, actor: Actor) -> User:
    """The same person with one more role."""
    user = User.objects.get(email=actor.label)
    user.groups.add(Group.objects.get(name=role))
    return User.objects.get(email=actor.label)


def lines(customer: Customer, month: date) -> list[tuple[str, Decimal, Decimal]]:
    invoice = make.invoice_of(customer, month)
    return [(line.kind, line.quantity, line.amount) for line in invoice.lines.order_by("position")]


def send_out(at: datetime) -> None:
    while documents.make_due_documents(limit=10, at=at):
        pass
    while delivery.deliver_due(limit=10, at=at):
        pass


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    """Contracts and histories are stamped by the clock; the quarter begins in December."""
    with time_machine.travel(datetime(2025, 12, 15, tzinfo=UTC), tick=True):
        yield


def test_the_first_quarter() -> None:
    shop = make.shop()
    acme = make.subscriber(shop, name="Acme Robotics Ltd", email="ap@acme.example")
    borealis = make.subscriber(shop, name="Borealis GmbH", email="ap@borealis.example", starts_on=date(2026, 2, 10))

    # January: Acme uses 110.03 hours, of which 20.02 are reported only in February. A price change is agreed.
    make.use(shop, acme, "60", on=january(5))
    make.use(shop, acme, "30.01", on=january(31, 22))
    raise_prices(shop)
    make.issued_run(shop, JANUARY, at=FEB_2)
    send_out(FEB_2)
    rollups.fold(limit=10_000)

    # 90.01 x 0.50 = 45.005
    assert lines(acme, JANUARY) == [("usage", Decimal("90.01"), Decimal("45.01"))]
    first = make.invoice_of(acme, JANUARY)
    assert (first.tax_amount, first.total_amount) == (Decimal("8.55"), Decimal("53.56"))
    assert (first.issued_on, first.due_on) == (date(2026, 2, 2), date(2026, 3, 4))

    # February: the rest of January, the price change in mid-month, and Borealis joins on the 10th.
    make.use(shop, acme, "20.02", on=january(20))
    make.use(shop, acme, "80", on=february(3))
    make.use(shop, acme, "40", on=february(20))
    make.use(shop, borealis, "10", on=february(12))
    make.issued_run(shop, FEBRUARY, at=MAR_2)
    send_out(MAR_2)
    rollups.fold(limit=10_000)

    assert lines(acme, FEBRUARY) == [
        ("usage", Decimal(80), Decimal("40.00")),  # 80 x 0.50
        ("usage", Decimal(40), Decimal("16.40")),  # 20 x 0.51 + 20 x 0.31, for 80 of the 100 are used up
        ("late_usage", Decimal("20.02"), Decimal("8.00")),  # 100 x 0.50 + 10.03 x 0.30 = 53.009, less 45.01
    ]
    assert lines(borealis, FEBRUARY) == [("usage", Decimal(10), Decimal("5.00"))]

    # March: Acme is quiet; late usage of Borealis for February, at the prices of those days.
    make.use(shop, borealis, "2", on=february(13))
    make.use(shop, borealis, "200", on=march(9))
    run = make.issued_run(shop, MARCH, at=APR_2)
    send_out(APR_2)

    assert lines(borealis, MARCH) == [
        ("usage", Decimal(200), Decimal("82.00")),  # 100 x 0.51 + 100 x 0.31
        ("late_usage", Decimal(2), Decimal("1.00")),
    ]
    assert not Invoice.objects.filter(customer=acme, bill_run=run).exists()

    # The quarter: numbers without a gap, everything sent, the ledger balanced, every line explained, every rule kept.
    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2, 3, 4]
    assert set(BillRun.objects.values_list("status", flat=True)) == {BillRun.Status.ISSUED}
    assert InvoiceDocument.objects.filter(state="made").count() == 4
    assert InvoiceDelivery.objects.filter(state="sent").count() == 4
    owed = {
        acme: Decimal("53.56") + Decimal("76.64"),  # 64.40 and 19 %: 12.236
        borealis: Decimal("5.95") + Decimal("98.77"),  # 83.00 and 19 %
    }
    for customer, amount in owed.items():
        assert ledger.receivable_of(customer_id=customer.pk, currency="EUR") == amount
    assert sum(each.balance for each in ledger.balances(legal_entity_id=shop.entity.pk)) == 0
    for invoice in Invoice.objects.all():
        for line in invoice.lines.all():
            why = explain_line(line.pk)
            assert why.rerating.is_same
            assert why.rereading.outcome in (UsageNow.SAME, UsageNow.LATER_USAGE)
    call_command("check_invariants")
