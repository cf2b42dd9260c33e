"""What invoices hold: prices in time, fees, tax, parked contracts, unbilled and late usage; amounts by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor
from accounts.models import Customer
from billing import bill_runs
from billing.models import BillRunItem, Invoice, InvoiceLine, UnbilledUsage
from metering import rollups
from metering.meters import define_meter
from metering.models import Meter
from metering.usage import UsageWindow, series_totals
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db
# What came late is told by the transaction that brought it, so these need transactions of their own.
committing = pytest.mark.django_db(transaction=True)

PENNY = {"model": "per_unit", "unit_price": "0.004"}
SEP_20 = datetime(2026, 9, 20, 12, tzinfo=UTC)


def item_of(customer: Customer, month: date = make.OCTOBER) -> BillRunItem:
    return BillRunItem.objects.exclude(run__status="cancelled").get(
        contract__customer=customer, run__month=month
    )


def amounts(invoice: Invoice) -> list[tuple[str, Decimal, Decimal]]:
    return [(line.kind, line.quantity, line.amount) for line in invoice.lines.order_by("position")]


def test_usage_is_rated_tier_by_tier_and_taxed_once() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "100.25", on=make.OCT_10)
    make.use(shop, customer, "50.25", on=make.OCT_10)

    make.drafted_run(shop)

    invoice = make.invoice_of(customer)
    line = invoice.lines.get()
    # 100 x 0.50 + 50.5 x 0.30 = 65.15; 19 % of it is 12.3785
    assert (line.quantity, line.exact_amount, line.amount) == (Decimal("150.5"), Decimal("65.15"), Decimal("65.15"))
    assert (invoice.net_amount, invoice.tax_amount, invoice.total_amount) == (
        Decimal("65.15"),
        Decimal("12.38"),
        Decimal("77.53"),
    )
    assert [(step["quantity"], step["amount"]) for step in line.steps] == [("100", "50"), ("50.5", "15.15")]
    assert line.event_count == 2
    assert (line.description, line.group, line.unit) == ("H100 hours", "Compute", "GPU-hour")
    assert line.price.version.book == shop.book


def test_a_line_is_rounded_once_and_the_total_is_the_sum_of_rounded_lines() -> None:
    shop = make.shop(price=PENNY, tax_rate="0")
    customer = make.subscriber(shop)
    for _ in range(3):
        make.use(shop, customer, "0.5", on=make.OCT_10)

    make.drafted_run(shop)

    line = make.invoice_of(customer).lines.get()
    assert (line.exact_amount, line.amount) == (Decimal("0.0060"), Decimal("0.01"))


def test_usage_belongs_to_the_month_of_the_local_time_zone() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=datetime(2026, 9, 30, 21, 59, tzinfo=UTC))  # still September in Berlin
    make.use(shop, customer, "2", on=datetime(2026, 9, 30, 22, 0, tzinfo=UTC))
    make.use(shop, customer, "4", on=datetime(2026, 10, 31, 22, 59, tzinfo=UTC))
    make.use(shop, customer, "8", on=datetime(2026, 10, 31, 23, 0, tzinfo=UTC))  # November already

    make.drafted_run(shop)

    assert make.invoice_of(customer).lines.get().quantity == 6


def test_a_price_change_in_mid_month_cuts_the_line_and_tiers_go_on() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    dearer = {"model": "graduated", "tiers": [{"up_to": "100", "unit_price": "0.60"}, {"up_to": None, "unit_price": "0.40"}]}
    make_pricing.approved_version(
        book=shop.book, prices={shop.product: dearer}, effective_from=datetime(2026, 10, 15, 22, tzinfo=UTC)
    )
    make.use(shop, customer, "80", on=make.OCT_10)
    make.use(shop, customer, "50", on=datetime(2026, 10, 20, tzinfo=UTC))

    make.drafted_run(shop)

    # 80 x 0.50 = 40.00; then 20 x 0.60 + 30 x 0.40 = 24.00
    assert amounts(make.invoice_of(customer)) == [
        ("usage", Decimal(80), Decimal("40.00")),
        ("usage", Decimal(50), Decimal("24.00")),
    ]


def test_a_fee_is_due_without_usage_and_for_its_share_of_the_days() -> None:
    shop = make.shop(approved=False)
    fee = make_pricing.product(name="Platform", group="Fees", unit="month")
    make_pricing.approved_version(
        book=shop.book, prices={shop.product: make.GRADUATED, fee: {"model": "flat", "amount": "99.00"}}
    )
    whole = make.subscriber(shop)
    late_comer = make.subscriber(shop, starts_on=date(2026, 10, 22))

    make.drafted_run(shop)

    assert amounts(make.invoice_of(whole)) == [("fee", Decimal(1), Decimal("99.00"))]
    # 10 of 31 days: 31.935...
    assert amounts(make.invoice_of(late_comer)) == [("fee", Decimal(1), Decimal("31.94"))]


@pytest.mark.parametrize(
    ("treatment", "tax", "note"),
    [
        (Customer.TaxTreatment.STANDARD, "9.50", ""),
        (Customer.TaxTreatment.REVERSE_CHARGE, "0.00", "Reverse charge: the recipient owes the tax."),
        (Customer.TaxTreatment.EXEMPT, "0.00", "Not subject to tax."),
    ],
)
def test_tax_follows_the_treatment_of_the_customer(treatment: str, tax: str, note: str) -> None:
    shop = make.shop()
    customer = make.subscriber(shop, tax_treatment=treatment)
    make.use(shop, customer, "100", on=make.OCT_10)

    make.drafted_run(shop)

    invoice = make.invoice_of(customer)
    assert (invoice.tax_amount, invoice.tax_note) == (Decimal(tax), note)


def test_a_customer_without_usage_and_fees_gets_no_invoice() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)

    make.drafted_run(shop)

    assert item_of(customer).state == BillRunItem.State.EMPTY
    assert not Invoice.objects.exists()


def test_usage_that_costs_nothing_is_still_on_an_invoice() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "0"})
    customer = make.subscriber(shop)
    make.use(shop, customer, "3", on=make.OCT_10)

    make.drafted_run(shop)

    assert make.invoice_of(customer).total_amount == 0


def test_an_unapproved_price_book_parks_its_contracts_and_the_others_go_on() -> None:
    shop = make.shop()
    unpriced = make.subscriber(shop, name="Unpriced Ltd", book=make_pricing.price_book())
    priced = make.subscriber(shop)
    make.use(shop, unpriced, "7", on=make.OCT_10)
    make.use(shop, priced, "7", on=make.OCT_10)

    make.drafted_run(shop)

    parked = item_of(unpriced)
    assert parked.state == BillRunItem.State.PARKED
    assert parked.reason == "The price book of the contract has no approved prices in the period. (NoApprovedPrices)"
    assert make.invoice_of(priced).net_amount == Decimal("3.50")
    listed = UnbilledUsage.objects.get()
    assert (listed.customer, listed.reason, listed.quantity, listed.event_count) == (unpriced, "parked", 7, 1)


def test_a_submitted_version_is_not_approved_yet() -> None:
    shop = make.shop(approved=False)
    make_pricing.submitted_version(book=shop.book, prices={shop.product: make.GRADUATED})
    customer = make.subscriber(shop)
    make.use(shop, customer, "7", on=make.OCT_10)

    make.drafted_run(shop)

    assert item_of(customer).state == BillRunItem.State.PARKED


def test_parked_contracts_are_billed_once_the_prices_are_approved() -> None:
    shop = make.shop(approved=False)
    customer = make.subscriber(shop)
    make.use(shop, customer, "7", on=make.OCT_10)
    run = make.drafted_run(shop)
    make_pricing.approved_version(book=shop.book, prices={shop.product: make.GRADUATED})

    retried = bill_runs.retry_parked(run_id=run.pk, actor=shop.analyst, at=make.NOV_3)
    make.drafted_run(shop)

    assert retried == 1
    assert make.invoice_of(customer).net_amount == Decimal("3.50")
    assert not UnbilledUsage.objects.exists()


@committing
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
    assert amounts(invoice) == [("usage", 1, Decimal("0.50")), ("late_usage", 7, Decimal("3.50"))]
    assert sum(UnbilledUsage.objects.values_list("event_count", flat=True)) == 0


def test_usage_that_no_product_takes_is_listed_with_the_reason() -> None:
    shop = make.shop()
    stray = make_pricing.meter()
    make_pricing.product(code="LISTED", meter=stray, dimension_filter={"sku": "listed"})
    customer = make.subscriber(shop)
    make.use(shop, customer, "5", on=make.OCT_10, sku="listed", event_type=stray.event_type)
    make.use(shop, customer, "6", on=make.OCT_10, sku="stray", event_type=stray.event_type)

    make.drafted_run(shop)

    assert set(UnbilledUsage.objects.values_list("reason", "quantity", "event_count")) == {
        ("no_price", Decimal(5), 1),
        ("no_product", Decimal(6), 1),
    }


def test_a_customer_with_usage_and_without_a_contract_is_listed() -> None:
    shop = make.shop()
    make.subscriber(shop)
    customer = make.subscriber(shop, ends_on=date(2026, 10, 9))
    make.use(shop, customer, "2", on=datetime(2026, 10, 5, tzinfo=UTC))
    make.use(shop, customer, "9", on=make.OCT_10)

    make.drafted_run(shop)

    listed = UnbilledUsage.objects.get()
    assert (listed.customer, listed.reason, listed.quantity) == (customer, "no_contract", 9)
    assert listed.period.lower == datetime(2026, 10, 8, 22, tzinfo=UTC)
    assert make.invoice_of(customer).net_amount == Decimal("1.00")


def test_a_counting_meter_bills_its_events() -> None:
    shop = make.shop(approved=False)
    calls = define_meter(
        code="calls",
        name="Calls",
        event_type="example.call",
        aggregation=Meter.Aggregation.COUNT,
        unit="call",
        actor=Actor.system("tests"),
        at=make.LONG_AGO,
    )
    product = make_pricing.product(name="Calls", meter=calls)
    make_pricing.approved_version(book=shop.book, prices={product: {"model": "per_unit", "unit_price": "0.25"}})
    customer = make.subscriber(shop)
    for _ in range(3):
        make.use(shop, customer, "99", on=make.OCT_10, event_type=calls.event_type)

    make.drafted_run(shop)

    assert amounts(make.invoice_of(customer)) == [("usage", Decimal(3), Decimal("0.75"))]


def test_drafting_again_adds_nothing() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    run = make.drafted_run(shop)

    again = make.drafted_run(shop)

    assert again == run
    assert InvoiceLine.objects.count() == 1


@committing
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
    assert amounts(october) == [("usage", Decimal("90.01"), Decimal("45.01"))]
    assert amounts(november) == [
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


@committing
def test_late_usage_is_billed_once_however_often_it_is_looked_for() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "4", on=make.OCT_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    make.drafted_run(shop, make.DECEMBER, at=datetime(2027, 1, 2, tzinfo=UTC))

    assert item_of(customer, make.DECEMBER).state == BillRunItem.State.EMPTY
    assert sum(InvoiceLine.objects.values_list("amount", flat=True)) == Decimal("7.00")
    assert sum(InvoiceLine.objects.values_list("event_count", flat=True)) == 2


@committing
def test_late_usage_of_a_month_that_was_empty_is_found() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    quiet = make.subscriber(shop, name="Quiet Ltd")
    make.issued_run(shop)
    make.use(shop, quiet, "4", on=make.OCT_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert amounts(make.invoice_of(quiet, make.NOVEMBER)) == [("late_usage", Decimal(4), Decimal("2.00"))]


@committing
def test_only_customers_with_late_usage_are_read_again() -> None:
    shop = make.shop()
    steady = make.subscriber(shop)
    make.use(shop, steady, "1", on=make.OCT_10)
    make.issued_run(shop)
    rollups.fold(limit=1000)
    make.use(shop, steady, "2", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert amounts(make.invoice_of(steady, make.NOVEMBER)) == [("usage", Decimal(2), Decimal("1.00"))]


@committing
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

    assert amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(1), Decimal("2.00")),
        ("late_usage", Decimal(1), Decimal("1.00")),
    ]


@committing
def test_a_month_billed_anew_bills_only_what_a_later_run_did_not() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    october = make.approved_run(shop)
    make.use(shop, customer, "5", on=make.OCT_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    bill_runs.cancel_bill_run(run_id=october.pk, reason="Wrong", actor=shop.analyst, at=make.DEC_2)

    make.issued_run(shop, at=make.DEC_3)

    assert amounts(make.invoice_of(customer, make.NOVEMBER)) == [("late_usage", Decimal(5), Decimal("2.50"))]
    assert amounts(make.invoice_of(customer)) == [("usage", Decimal(10), Decimal("5.00"))]


@committing
def test_a_total_below_zero_is_parked() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "-4", on=make.OCT_10)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    reason = item_of(customer, make.NOVEMBER).reason
    assert reason == "The lines add up to -1.50 EUR; an invoice cannot pay money out. (InvoiceTotalNegative)"
    assert UnbilledUsage.objects.get().quantity == 1


@committing
def test_usage_that_was_taken_back_late_lowers_the_next_invoice() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "-4", on=make.OCT_10)
    make.use(shop, customer, "20", on=make.NOV_10)

    make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(20), Decimal("10.00")),
        ("late_usage", Decimal(-4), Decimal("-2.00")),
    ]


def test_a_day_that_began_within_an_hour_parks_the_contracts() -> None:
    # No company is opened in a zone of half hours; this one was there from 2015 to 2018 and is on the hour today.
    shop = replace(make.shop(), entity=make_accounts.legal_entity(time_zone="Asia/Pyongyang"))
    customer = make.subscriber(shop, starts_on=date(2017, 1, 1))

    make.drafted_run(shop, date(2017, 10, 1))

    assert "T15:30:00+00:00 lies within one. (WindowNotOnTheHour)" in item_of(customer, date(2017, 10, 1)).reason


def test_a_yen_invoice_has_no_decimals() -> None:
    shop = make.shop(currency="JPY", tax_rate="10")
    customer = make.subscriber(shop)
    make.use(shop, customer, "101", on=make.OCT_10)

    make.drafted_run(shop)

    invoice = make.invoice_of(customer)
    # 50.3 yen become 50; 10 % of them are 5
    assert (invoice.net_amount, invoice.tax_amount) == (Decimal(50), Decimal(5))


def test_the_watermark_and_the_digest_of_a_line_are_those_of_its_usage() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=make.OCT_10)

    make.drafted_run(shop)

    line = make.invoice_of(customer).lines.get()
    period = line.service_period
    found = series_totals([UsageWindow(customer_id=customer.pk, start=period.lower, end=period.upper)])
    assert line.series_ids == [each.series_id for each in found]
    assert make.invoice_of(customer).usage_watermark == item_of(customer).usage_watermark
    assert line.usage_digest is not None


@committing
@pytest.mark.parametrize("with_late_usage", [False, True])
def test_a_chunk_takes_as_many_queries_for_fifty_customers_as_for_one(with_late_usage: bool) -> None:
    counts = []
    for number in (1, 50):
        shop = make.shop()
        customers = [make.subscriber(shop, name=f"Customer {index}", email=None) for index in range(number)]
        month = make.NOVEMBER if with_late_usage else make.OCTOBER
        for customer in customers:
            make.use(shop, customer, "1", on=make.OCT_10)
        if with_late_usage:
            make.approved_run(shop)
            for customer in customers:
                make.use(shop, customer, "1", on=make.OCT_10)
        run = bill_runs.start_bill_run(legal_entity_id=shop.entity.pk, month=month, actor=shop.analyst, at=make.DEC_2)
        with CaptureQueriesContext(connection) as queries:
            assert bill_runs.draft_chunk(run_id=run.pk, limit=100, at=make.DEC_2) == number
        counts.append(len(queries))

    assert counts[0] == counts[1]
    assert Invoice.objects.filter(bill_run=run).count() == 50


def test_a_legal_entity_bills_only_its_own_customers() -> None:
    shop = make.shop()
    mine = make.subscriber(shop)
    foreign = make_accounts.customer(name="Foreign Ltd")
    make_pricing.contract(customer=foreign, book=shop.book)
    make.use(shop, mine, "1", on=make.OCT_10)

    run = make.drafted_run(shop)

    assert [item.contract.customer for item in run.items.all()] == [mine]
