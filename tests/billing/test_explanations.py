"""From a line down to the events, and back to the same cent."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from billing import ladder
from billing.errors import InvoiceUnknown
from billing.explanations import UsageNow, explain_line
from billing.models import InvoiceLine
from metering import rollups
from pricing.contracts import end_contract
from tests import make_billing as make
from tests import make_pricing

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)


def test_a_line_is_explained_down_to_its_events() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "100", on=make.OCT_10, sku="eu")
    make.use(shop, customer, "50.5", on=make.OCT_10, sku="us")
    make.issued_run(shop)

    why = explain_line(make.invoice_of(customer).lines.get().pk)

    assert [(step["quantity"], step["unit_price"], step["amount"]) for step in why.steps] == [
        ("100", "0.5", "50"),
        ("50.5", "0.3", "15.15"),
    ]
    assert why.version.book == shop.book
    assert why.approval is not None
    assert [decision.decided_by_id != why.approval.requested_by_id for decision in why.decisions] == [True]
    assert [(part.dimensions, part.quantity, part.event_count) for part in why.series] == [
        ({"sku": "eu"}, Decimal(100), 1),
        ({"sku": "us"}, Decimal("50.5"), 1),
    ]
    assert [(row.label, row.values) for row in ladder.usage_by_day(why.line, why.series).rows] == [
        ("10 Oct", ("150.5 GPU-hour",))
    ]
    assert [event.data["sku"] for event in why.events] in (["eu", "us"], ["us", "eu"])


def test_the_same_cent_and_the_same_usage_come_out_again() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "150.5", on=make.OCT_10)
    make.issued_run(shop)
    rollups.fold(limit=1000)

    why = explain_line(make.invoice_of(customer).lines.get().pk)

    assert (why.rerating.exact, why.rerating.amount, why.rerating.is_same) == (Decimal("65.15"), Decimal("65.15"), True)
    assert (why.rereading.outcome, why.rereading.quantity) == (UsageNow.SAME, Decimal("150.5"))


@committing
def test_later_usage_is_told_and_the_line_still_comes_out_the_same() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "90", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "20", on=make.OCT_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    first = explain_line(make.invoice_of(customer).lines.get().pk)
    late = explain_line(make.invoice_of(customer, make.NOVEMBER).lines.get().pk)

    assert first.rereading.outcome == UsageNow.LATER_USAGE
    assert (first.rereading.later_quantity, first.rereading.later_events) == (Decimal(20), 1)
    assert first.rerating.is_same
    assert first.other_lines == [late.line]
    # 110 cost 100 x 0.50 + 10 x 0.30 = 53.00, of which 45.00 were billed
    assert (late.rereading.outcome, late.rerating.amount, late.rerating.is_same) == (
        UsageNow.SAME,
        Decimal("8.00"),
        True,
    )


def test_lines_of_a_month_with_two_prices_come_out_the_same() -> None:
    shop = make.shop()
    make_pricing.approved_version(
        book=shop.book,
        prices={
            shop.product: {
                "model": "graduated",
                "tiers": [{"up_to": "100", "unit_price": "0.7"}, {"up_to": None, "unit_price": "0.333"}],
            }
        },
        effective_from=datetime(2026, 10, 15, 8, tzinfo=UTC),
    )
    customer = make.subscriber(shop)
    make.use(shop, customer, "80", on=make.OCT_10)
    make.use(shop, customer, "70", on=datetime(2026, 10, 20, tzinfo=UTC))
    make.issued_run(shop)

    lines = [explain_line(line.pk) for line in make.invoice_of(customer).lines.all()]

    assert [why.rerating.is_same for why in lines] == [True, True]


def test_a_fee_for_a_part_of_the_month_comes_out_the_same_after_the_contract_was_ended() -> None:
    shop = make.shop(approved=False)
    fee = make_pricing.product(name="Platform", group="Fees")
    make_pricing.approved_version(book=shop.book, prices={fee: {"model": "flat", "amount": "99.00"}})
    customer = make.subscriber(shop, starts_on=date(2026, 10, 22))
    make.issued_run(shop)
    end_contract(
        contract_id=customer.contracts.get().pk,
        ends_on=date(2026, 10, 25),
        reason="Gone",
        actor=shop.analyst,
        at=make.NOV_3,
    )

    why = explain_line(make.invoice_of(customer).lines.get().pk)

    assert why.rerating.is_same
    assert why.rereading.outcome == UsageNow.NONE
    assert why.events == []


def test_a_line_that_was_forged_does_not_come_out_the_same() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    line = make.invoice_of(customer).lines.get()
    make_pricing.tamper("UPDATE billing_invoiceline SET exact_amount = 99, amount = 99 WHERE id = %s", line.pk)
    make_pricing.tamper("UPDATE usage_delta SET sum = sum + 1 WHERE customer_id = %s", customer.pk)

    why = explain_line(line.pk)

    assert not why.rerating.is_same
    assert why.rerating.amount == Decimal("5.00")
    assert why.rereading.outcome in (UsageNow.DIFFERENT, UsageNow.LATER_USAGE)


def test_a_line_that_does_not_exist_is_unknown() -> None:
    with pytest.raises(InvoiceUnknown):
        explain_line(InvoiceLine.objects.count() + 1)
