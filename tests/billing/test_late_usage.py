"""Usage that comes after its month was billed: on the next invoice, once, to the cent; amounts by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from billing import bill_runs
from billing.models import BillRunItem, InvoiceLine, UnbilledUsage
from metering import rollups
from pricing.contracts import end_contract, sign_contract
from tests import make_billing as make
from tests import make_pricing

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)


def test_a_contract_parked_until_after_its_run_is_caught_up_on_by_the_next() -> None:
    shop = make.shop()
    book = make_pricing.price_book()
    parked = make.subscriber(shop, name="Parked Ltd", book=book)
    make.use(shop, parked, "7", on=make.OCT_10)
    make.use(shop, make.subscriber(shop), "7", on=make.OCT_10)
    make.issued_run(shop)
    make_pricing.approved_version(book=book, prices={shop.product: make.GRADUATED})
    make.use(shop, parked, "1", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    invoice = make.invoice_of(parked, make.NOVEMBER)
    assert make.amounts(invoice) == [
        ("usage", Decimal(1), Decimal("0.50")),
        ("late_usage", Decimal(7), Decimal("3.50")),
    ]
    assert sum(UnbilledUsage.objects.values_list("event_count", flat=True)) == 0


def test_late_usage_is_billed_to_the_cent_on_the_next_invoice() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "90.01", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "20.02", on=make.OCT_10)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    october, november = make.invoice_of(customer), make.invoice_of(customer, make.NOVEMBER)
    # 90.01 x 0.50 = 45.005, billed as 45.01; all of 110.03 is 100 x 0.50 + 10.03 x 0.30 = 53.009, so 8.00 is left
    assert make.amounts(october) == [("usage", Decimal("90.01"), Decimal("45.01"))]
    assert make.amounts(november) == [
        ("usage", Decimal(1), Decimal("0.50")),
        ("late_usage", Decimal("20.02"), Decimal("8.00")),
    ]
    late = november.lines.get(kind="late_usage")
    assert late.service_period == october.lines.get().service_period
    assert (late.quantity_before, late.event_count) == (Decimal("90.01"), 1)
    assert late.steps[-1] == {
        "kind": "billed_before",
        "quantity": "90.01",
        "billed_amount": "45.01",
        "amount": "-45.01",
    }


def test_late_usage_is_billed_once_however_often_it_is_looked_for() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "4", on=make.OCT_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    make.drafted_run(shop, make.DECEMBER, at=datetime(2027, 1, 2, tzinfo=UTC))

    assert make.item_of(customer, make.DECEMBER).state == BillRunItem.State.EMPTY
    assert sum(InvoiceLine.objects.values_list("amount", flat=True)) == Decimal("7.00")
    assert sum(InvoiceLine.objects.values_list("event_count", flat=True)) == 2


def test_late_usage_of_a_month_that_was_empty_is_found() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    quiet = make.subscriber(shop, name="Quiet Ltd")
    make.issued_run(shop)
    make.use(shop, quiet, "4", on=make.OCT_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(quiet, make.NOVEMBER)) == [("late_usage", Decimal(4), Decimal("2.00"))]


def test_only_customers_with_late_usage_are_read_again() -> None:
    shop = make.shop()
    steady = make.subscriber(shop)
    make.use(shop, steady, "1", on=make.OCT_10)
    make.issued_run(shop)
    rollups.fold(limit=1000)
    make.use(shop, steady, "2", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(steady, make.NOVEMBER)) == [("usage", Decimal(2), Decimal("1.00"))]


def test_late_usage_is_billed_at_the_prices_that_the_period_was_billed_at() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1.00"})
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make_pricing.approved_version(
        book=shop.book,
        prices={shop.product: {"model": "per_unit", "unit_price": "2.00"}},
        effective_from=datetime(2026, 10, 1, tzinfo=UTC),
        at=make.NOV_3,
    )
    make.use(shop, customer, "1", on=make.OCT_10)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(1), Decimal("2.00")),
        ("late_usage", Decimal(1), Decimal("1.00")),
    ]


def test_a_month_billed_anew_bills_only_what_a_later_run_did_not() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    october = make.approved_run(shop)
    make.use(shop, customer, "5", on=make.OCT_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    bill_runs.cancel_bill_run(run_id=october.pk, reason="Wrong", actor=shop.analyst, at=make.DEC_2)

    make.issued_run(shop, at=make.DEC_3)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [("late_usage", Decimal(5), Decimal("2.50"))]
    assert make.amounts(make.invoice_of(customer)) == [("usage", Decimal(10), Decimal("5.00"))]


def test_a_total_below_zero_is_parked() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "-4", on=make.OCT_10)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    reason = make.item_of(customer, make.NOVEMBER).reason
    assert reason == "The lines add up to -1.50 EUR; an invoice cannot pay money out. (InvoiceTotalNegative)"
    assert UnbilledUsage.objects.get().quantity == 1


def test_usage_that_was_taken_back_late_lowers_the_next_invoice() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "-4", on=make.OCT_10)
    make.use(shop, customer, "20", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(20), Decimal("10.00")),
        ("late_usage", Decimal(-4), Decimal("-2.00")),
    ]


def test_late_usage_of_a_contract_that_has_ended_is_billed_by_the_next_run() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    gone = make.subscriber(shop, name="Gone Ltd", ends_on=date(2026, 10, 20))
    make.use(shop, gone, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, gone, "4", on=make.OCT_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    make.drafted_run(shop, make.DECEMBER, at=datetime(2027, 1, 2, tzinfo=UTC))

    assert make.amounts(make.invoice_of(gone, make.NOVEMBER)) == [("late_usage", Decimal(4), Decimal("2.00"))]
    assert not BillRunItem.objects.filter(contract__customer=gone, run__month=make.DECEMBER).exists()


def test_a_contract_that_ended_and_was_parked_in_its_last_month_is_caught_up_on() -> None:
    shop = make.shop()
    book = make_pricing.price_book()
    parked = make.subscriber(shop, name="Parked Ltd", book=book, ends_on=date(2026, 11, 1))
    make.use(shop, parked, "7", on=make.OCT_10)
    make.use(shop, make.subscriber(shop), "7", on=make.OCT_10)
    make.issued_run(shop)
    make_pricing.approved_version(book=book, prices={shop.product: make.GRADUATED})

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(parked, make.NOVEMBER)) == [("late_usage", Decimal(7), Decimal("3.50"))]


def test_days_that_a_contract_covers_only_since_it_was_prolonged_are_billed_by_the_next_run() -> None:
    shop = make.shop()
    customer = make.subscriber(shop, ends_on=date(2026, 10, 20))
    make.use(shop, customer, "10", on=make.OCT_10)
    make.use(shop, customer, "6", on=datetime(2026, 10, 25, tzinfo=UTC))
    make.issued_run(shop)
    end_contract(
        contract_id=customer.contracts.get().pk,
        ends_on=date(2027, 3, 1),
        reason="Goes on",
        actor=make_pricing.SYSTEM,
        at=make.NOV_3,
    )

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer)) == [("usage", Decimal(10), Decimal("5.00"))]
    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [("late_usage", Decimal(6), Decimal("3.00"))]


def test_late_usage_of_a_customer_without_a_contract_is_listed_by_the_next_run() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    make.use(shop, make.subscriber(shop, name="Steady Ltd"), "1", on=make.NOV_10)
    gone = make.subscriber(shop, name="Gone Ltd", ends_on=date(2026, 9, 1))
    make.use(shop, gone, "2", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, gone, "3", on=make.OCT_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    listed = UnbilledUsage.objects.order_by("pk").values_list("run__month", "customer", "quantity", "reason")
    assert list(listed) == [
        (make.OCTOBER, gone.pk, Decimal(2), "no_contract"),
        (make.NOVEMBER, gone.pk, Decimal(3), "no_contract"),
    ]


def test_usage_that_a_contract_signed_since_covers_is_billed_and_comes_off_the_list() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    customer = make.subscriber(shop, name="Late Ltd", ends_on=date(2026, 9, 1))
    make.use(shop, customer, "2", on=datetime(2026, 10, 2, 12, tzinfo=UTC))
    make.use(shop, customer, "4", on=make.OCT_10)
    make.issued_run(shop)
    sign_contract(
        customer_id=customer.pk,
        price_book_id=shop.book.pk,
        starts_on=date(2026, 10, 5),
        actor=make_pricing.SYSTEM,
        at=make.NOV_3,
    )

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [("late_usage", Decimal(4), Decimal("2.00"))]
    listed = UnbilledUsage.objects.filter(customer=customer).order_by("quantity").values_list("quantity", "reason")
    assert list(listed) == [
        (Decimal(-6), "under_contract"),
        (Decimal(2), "no_contract"),
        (Decimal(6), "no_contract"),
    ]
