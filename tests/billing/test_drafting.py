"""What invoices hold: prices in time, fees, tax, parked contracts, unbilled usage; amounts by hand."""

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
from metering.meters.meters import define_meter
from metering.models import Meter
from metering.reading.usage import UsageWindow, series_totals
from tests import make_accounts, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db

PENNY = {"model": "per_unit", "unit_price": "0.004"}


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
    dearer = {
        "model": "graduated",
        "tiers": [{"up_to": "100", "unit_price": "0.60"}, {"up_to": None, "unit_price": "0.40"}],
    }
    make_pricing.approved_version(
        book=shop.book, prices={shop.product: dearer}, effective_from=datetime(2026, 10, 15, 22, tzinfo=UTC)
    )
    make.use(shop, customer, "80", on=make.OCT_10)
    make.use(shop, customer, "50", on=datetime(2026, 10, 20, tzinfo=UTC))

    make.drafted_run(shop)

    # 80 x 0.50 = 40.00; then 20 x 0.60 + 30 x 0.40 = 24.00
    assert make.amounts(make.invoice_of(customer)) == [
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

    assert make.amounts(make.invoice_of(whole)) == [("fee", Decimal(1), Decimal("99.00"))]
    # 10 of 31 days: 31.935...
    assert make.amounts(make.invoice_of(late_comer)) == [("fee", Decimal(1), Decimal("31.94"))]


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


@pytest.mark.parametrize(
    ("treatment", "locale", "note"),
    [
        ("reverse_charge", "de_AT", "Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge)."),
        ("exempt", "de_DE", "Steuerfrei."),
        ("reverse_charge", "fr_FR", "Autoliquidation : la taxe est due par le preneur."),
        ("exempt", "fr_FR", "Exonéré de taxe."),
        ("reverse_charge", "ja_JP", "Reverse charge: the recipient owes the tax."),
    ],
)
def test_why_there_is_no_tax_is_said_in_the_language_of_the_customer(treatment: str, locale: str, note: str) -> None:
    shop = make.shop()
    customer = make.subscriber(shop, tax_treatment=treatment, locale=locale)
    make.use(shop, customer, "100", on=make.OCT_10)

    make.drafted_run(shop)

    assert make.invoice_of(customer).tax_note == note


def test_a_customer_without_usage_and_fees_gets_no_invoice() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)

    make.drafted_run(shop)

    assert make.item_of(customer).state == BillRunItem.State.EMPTY
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

    parked = make.item_of(unpriced)
    assert parked.state == BillRunItem.State.PARKED
    assert parked.reason == "The price book of the contract has no approved prices in the period. (NoApprovedPrices)"
    assert make.invoice_of(priced).net_amount == Decimal("3.50")
    listed = UnbilledUsage.objects.get()
    assert (listed.customer, listed.reason, listed.quantity, listed.event_count) == (unpriced, "parked", Decimal(7), 1)


def test_prices_that_nobody_approved_park_their_contracts_and_the_others_go_on() -> None:
    shop = make.shop()
    book = make_pricing.price_book()
    version = make_pricing.approved_version(book=book, prices={shop.product: make.GRADUATED})
    tampered = make.subscriber(shop, name="Tampered Ltd", book=book)
    sound = make.subscriber(shop)
    make.use(shop, tampered, "7", on=make.OCT_10)
    make.use(shop, sound, "7", on=make.OCT_10)
    make_pricing.tamper('UPDATE pricing_price SET spec = \'{"model": "nonsense"}\' WHERE version_id = %s', version.pk)

    make.drafted_run(shop)

    parked = make.item_of(tampered)
    assert parked.state == BillRunItem.State.PARKED
    assert parked.reason.endswith(
        "does not hold what was approved, so nothing is billed by it. (VersionContentChanged)"
    )
    assert UnbilledUsage.objects.get().quantity == 7
    assert make.invoice_of(sound).net_amount == Decimal("3.50")


def test_a_submitted_version_is_not_approved_yet() -> None:
    shop = make.shop(approved=False)
    make_pricing.submitted_version(book=shop.book, prices={shop.product: make.GRADUATED})
    customer = make.subscriber(shop)
    make.use(shop, customer, "7", on=make.OCT_10)

    make.drafted_run(shop)

    assert make.item_of(customer).state == BillRunItem.State.PARKED


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
    assert (listed.customer, listed.reason, listed.quantity) == (customer, "no_contract", Decimal(9))
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

    assert make.amounts(make.invoice_of(customer)) == [("usage", Decimal(3), Decimal("0.75"))]


def test_drafting_again_adds_nothing() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    run = make.drafted_run(shop)

    again = make.drafted_run(shop)

    assert again == run
    assert InvoiceLine.objects.count() == 1


def test_a_day_that_began_within_an_hour_parks_the_contracts() -> None:
    # No company is opened in a zone of half hours; this one was there from 2015 to 2018 and is on the hour today.
    shop = replace(make.shop(), entity=make_accounts.legal_entity(time_zone="Asia/Pyongyang"))
    customer = make.subscriber(shop, starts_on=date(2017, 1, 1))

    make.drafted_run(shop, date(2017, 10, 1))

    assert "T15:30:00+00:00 lies within one. (WindowNotOnTheHour)" in make.item_of(customer, date(2017, 10, 1)).reason


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
    assert make.invoice_of(customer).usage_watermark == make.item_of(customer).usage_watermark
    assert line.usage_digest is not None


@pytest.mark.django_db(transaction=True)  # late usage is told by the transaction that brought it
@pytest.mark.parametrize("month", [make.OCTOBER, make.NOVEMBER], ids=["without late usage", "with late usage"])
def test_a_chunk_takes_as_many_queries_for_fifty_customers_as_for_one(month: date) -> None:
    counts = []
    for number in (1, 50):
        shop = make.shop()
        customers = [make.subscriber(shop, name=f"Customer {index}", email=None) for index in range(number)]
        for customer in customers:
            make.use(shop, customer, "1", on=make.OCT_10)
        if month == make.NOVEMBER:
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
