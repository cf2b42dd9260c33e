"""The edges of money and time: months of other lengths, hours that happen twice, currencies without cents."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from accounts.access import Actor
from accounts.models import Customer
from billing import bill_runs, documents
from billing.explanations import explain_line
from billing.models import BillRun, Invoice, InvoiceDocument, InvoiceLine, JournalLine, UnbilledUsage
from pricing import contracts
from tests import make_billing as make
from tests import make_metering
from tests.break_it.rules import assert_all_rules_hold

pytestmark = pytest.mark.django_db

BERLIN = ZoneInfo("Europe/Berlin")
MOMENT = timedelta(microseconds=1)
LATER = datetime(2027, 6, 1, tzinfo=UTC)


def berlin(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=BERLIN).astimezone(UTC)  # type: ignore[arg-type, misc]  # year, month, day, hour ...


def use_each(shop: make.Shop, customer: Customer, *, start: datetime, end: datetime, step: timedelta) -> None:
    """Use one unit at the start and after each step, in one batch."""
    moments = [start + step * number for number in range((end - start) // step)]
    make_metering.ingested(
        *[
            make_metering.event(
                time=moment.isoformat(),
                subject=make.subject_of(customer),
                event_type=shop.meter.event_type,
                quantity="1",
                sku="any",
            )
            for moment in moments
        ],
        at=LATER,
    )


def billed(shop: make.Shop, month: date, *, at: datetime = LATER) -> Invoice:
    make.issued_run(shop, month, at=at)
    return Invoice.objects.get(bill_run__month=month, status="issued")


@pytest.mark.parametrize(
    ("month", "hours"),
    [(date(2026, 3, 1), 743), (date(2026, 10, 1), 745), (date(2026, 2, 1), 672), (date(2024, 2, 1), 696)],
    ids=["spring", "autumn", "february", "leap"],
)
def test_a_unit_in_each_hour_of_a_local_month_is_billed_with_neither_gap_nor_double(month: date, hours: int) -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    customer = make.subscriber(shop, starts_on=date(2024, 1, 1))
    following = (month.replace(day=28) + timedelta(days=4)).replace(day=1)
    start = berlin(month.year, month.month, 1)
    end = berlin(following.year, following.month, 1)
    use_each(shop, customer, start=start, end=end, step=timedelta(hours=1))
    make.use(shop, customer, "1000", on=start - MOMENT)
    make.use(shop, customer, "1000", on=end)

    invoice = billed(shop, month)

    assert (invoice.period.lower, invoice.period.upper) == (start, end)
    assert invoice.lines.get().quantity == hours
    assert invoice.net_amount == hours


def test_an_event_at_the_first_moment_is_in_and_one_at_the_end_is_next_months() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    customer = make.subscriber(shop)
    start, end = berlin(2026, 10, 1), berlin(2026, 11, 1)
    for quantity, on in (("1", start - MOMENT), ("20", start), ("300", end - MOMENT), ("4000", end)):
        make.use(shop, customer, quantity, on=on)

    september, october, november = (billed(shop, date(2026, month, 1)) for month in (9, 10, 11))

    assert [each.net_amount for each in (september, october, november)] == [1, 320, 4000]
    assert_all_rules_hold()


def test_the_periods_of_an_anchor_on_the_31st_tile_a_year_with_a_leap_february() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    customer = make.subscriber(shop, starts_on=date(2023, 12, 31), anchor_day=31)
    use_each(shop, customer, start=berlin(2024, 1, 1), end=berlin(2025, 1, 1), step=timedelta(days=1))

    invoices = [billed(shop, date(2024, month, 1)) for month in range(1, 12)]

    assert [each.period.lower.astimezone(BERLIN).date() for each in invoices] == [
        date(2024, 1, 31),
        date(2024, 2, 29),
        date(2024, 3, 31),
        date(2024, 4, 30),
        date(2024, 5, 31),
        date(2024, 6, 30),
        date(2024, 7, 31),
        date(2024, 8, 31),
        date(2024, 9, 30),
        date(2024, 10, 31),
        date(2024, 11, 30),
    ]
    assert all(one.period.upper == other.period.lower for one, other in pairwise(invoices))
    assert sum(each.net_amount for each in invoices) == (date(2024, 12, 31) - date(2024, 1, 31)).days
    assert_all_rules_hold()


def test_a_fee_is_due_for_the_days_of_a_contract_that_begins_and_ends_within_the_month() -> None:
    shop = make.shop(price={"model": "flat", "amount": "31.00"})
    customer = make.subscriber(shop, starts_on=date(2026, 10, 11), ends_on=date(2026, 10, 21))
    make.use(shop, customer, "5", on=berlin(2026, 10, 10, 23))
    make.use(shop, customer, "5", on=berlin(2026, 10, 11))
    make.use(shop, customer, "5", on=berlin(2026, 10, 21))

    invoice = billed(shop, make.OCTOBER)

    assert invoice.net_amount == Decimal("10.00")
    outside = UnbilledUsage.objects.filter(reason="no_contract")
    assert sum(each.event_count for each in outside) == 2


@pytest.mark.parametrize(
    ("currency", "tax_rate", "net", "tax"),
    [("JPY", "10", "494", "49"), ("KWD", "5", "493.827", "24.691"), ("EUR", "19", "493.83", "93.83")],
)
def test_amounts_are_exact_to_the_minor_unit_of_each_currency(currency: str, tax_rate: str, net: str, tax: str) -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "0.004"}, currency=currency, tax_rate=tax_rate)
    customer = make.subscriber(shop, locale="ja_JP" if currency == "JPY" else "en_US")
    make.use(shop, customer, "123456.789", on=make.OCT_10)

    invoice = billed(shop, make.OCTOBER)
    documents.make_due_documents(limit=5, at=LATER)

    assert invoice.lines.get().exact_amount == Decimal("493.827156")
    assert (invoice.net_amount, invoice.tax_amount) == (Decimal(net), Decimal(tax))
    assert InvoiceDocument.objects.get().last_error == ""
    assert sum(line.amount for line in JournalLine.objects.filter(side="debit")) == Decimal(net) + Decimal(tax)
    assert_all_rules_hold()


@pytest.mark.parametrize(
    ("quantity", "unit_price"),
    [
        ("9" * 32, "0.000000000000000001"),
        ("99999999999." + "9" * 27, "9.999999999999999999"),
        ("0." + "0" * 37 + "1", "1"),
        ("0." + "0" * 37 + "1", "0.000000000000000001"),
        ("1", "0.000000000000000001"),
        ("12345", "0"),
    ],
    ids=["many", "most digits", "least", "least of all", "smallest price", "free"],
)
def test_extreme_quantities_and_prices_are_billed_to_the_last_digit(quantity: str, unit_price: str) -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": unit_price}, tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, quantity, on=make.OCT_10)

    invoice = billed(shop, make.OCTOBER)
    documents.make_due_documents(limit=5, at=LATER)

    line = invoice.lines.get()
    assert line.quantity == Decimal(quantity)
    assert Fraction(line.exact_amount) == Fraction(quantity) * Fraction(unit_price)
    assert explain_line(line.pk) is not None
    assert InvoiceDocument.objects.get().state == "made", InvoiceDocument.objects.get().last_error
    assert_all_rules_hold()


def test_an_absurd_quantity_parks_its_customer_and_holds_up_nobody_else() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    honest, mistaken = make.subscriber(shop, name="Honest"), make.subscriber(shop, name="Mistaken")
    make.use(shop, honest, "10", on=make.OCT_10)
    make.use(shop, mistaken, "9" * 38, on=make.OCT_10)

    invoice = billed(shop, make.OCTOBER)

    assert invoice.customer_id == honest.pk
    parked = invoice.bill_run.items.get(state="parked")
    assert "InvoiceTotalAbsurd" in parked.reason
    assert UnbilledUsage.objects.get().quantity == Decimal("9" * 38)
    assert_all_rules_hold()


def test_corrections_below_zero_are_billed_with_the_rest_and_a_negative_month_is_parked() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    mended, negative = make.subscriber(shop, name="Mended"), make.subscriber(shop, name="Negative")
    make.use(shop, mended, "10", on=make.OCT_10)
    make.use(shop, mended, "-3.5", on=make.OCT_10)
    make.use(shop, negative, "-1", on=make.OCT_10)

    run = make.drafted_run(shop)

    assert Invoice.objects.get().net_amount == Decimal("6.50")
    parked = run.items.get(state="parked")
    assert parked.contract.customer_id == negative.pk
    assert parked.reason
    assert_all_rules_hold()


def test_the_year_turns_at_local_midnight_for_the_numbers_and_the_months() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    customer = make.subscriber(shop)
    make.use(shop, customer, "1", on=berlin(2026, 11, 5))
    make.use(shop, customer, "2", on=berlin(2026, 12, 31, 23, 59))
    make.use(shop, customer, "3", on=berlin(2027, 1, 1))

    november = billed(shop, make.NOVEMBER, at=berlin(2026, 12, 31, 23, 59))
    december = billed(shop, make.DECEMBER, at=berlin(2027, 1, 1, 0, 0))

    assert (november.net_amount, december.net_amount) == (Decimal(1), Decimal(2))
    assert november.number is not None
    assert november.number.endswith("-2026-000001")
    assert december.number is not None
    assert december.number.endswith("-2027-000001")


def test_a_contract_ended_before_its_month_while_the_run_is_open_has_nothing_to_bill() -> None:
    shop = make.shop()
    customer, other = make.subscriber(shop), make.subscriber(shop)
    make.use(shop, customer, "5", on=make.OCT_10)
    make.use(shop, other, "5", on=make.OCT_10)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    contracts.end_contract(
        contract_id=customer.contracts.get().pk,
        ends_on=date(2026, 9, 15),
        reason="left",
        actor=Actor.system("tests"),
        at=make.NOV_2,
    )

    make.issued_run(shop)

    assert run.items.filter(state="empty").count() == 1
    assert UnbilledUsage.objects.get().reason == "no_contract"
    assert_all_rules_hold()


def test_a_contract_that_is_ended_in_what_was_billed_already_changes_no_bill_and_stops_no_run() -> None:
    shop = make.shop(price={"model": "per_unit", "unit_price": "1"})
    customer = make.subscriber(shop)
    for day in (5, 25):
        make.use(shop, customer, "10", on=berlin(2026, 10, day))
    october = billed(shop, make.OCTOBER, at=make.NOV_2)
    contracts.end_contract(
        contract_id=customer.contracts.get().pk,
        ends_on=date(2026, 10, 15),
        reason="left",
        actor=Actor.system("tests"),
        at=make.NOV_3,
    )
    make.use(shop, customer, "1", on=berlin(2026, 10, 6))
    make.use(shop, make.subscriber(shop, name="Other"), "7", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    october.refresh_from_db()
    assert october.net_amount == 20
    assert BillRun.objects.filter(status="issued").count() == 2
    assert all(line.amount >= 0 for line in InvoiceLine.objects.all())
    assert_all_rules_hold()
