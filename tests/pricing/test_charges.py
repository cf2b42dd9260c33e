"""Charges of a contract for a billing period: slices of price versions, late usage, fees and their shares."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.periods import Period, month_period
from pricing.charges import (
    Billed,
    ChargeLine,
    ContractTerms,
    MeteredUsage,
    PriceInForce,
    PricesOverlap,
    UsageUnpriced,
    charges,
    service_period,
    slices,
)
from pricing.money import add, round_to_minor, total
from pricing.rating import QuantityNegative, StepKind, Usage, parse_price, rate, steps_as_json

BERLIN = "Europe/Berlin"
OCTOBER = month_period(2026, 10, BERLIN)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MID_OCTOBER = datetime(2026, 10, 15, 22, tzinfo=UTC)  # local midnight of the 16th

TIERS = {
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_price": "1", "flat_amount": "5"}, {"up_to": None, "unit_price": "0.5"}],
}
DEARER_TIERS = {
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_price": "2", "flat_amount": "7"}, {"up_to": None, "unit_price": "0.8"}],
}
PENNIES = {"model": "per_unit", "unit_price": "0.004"}
FEE = {"model": "flat", "amount": "31.00"}


def terms(starts_on: date = date(2026, 1, 1), ends_on: date | None = None, currency: str = "EUR") -> ContractTerms:
    return ContractTerms(currency=currency, starts_on=starts_on, ends_on=ends_on, anchor_day=1, time_zone=BERLIN)


def in_force(
    key: int,
    spec: dict[str, Any],
    product: str = "gpu-hour",
    since: datetime = LONG_AGO,
    until: datetime | None = None,
) -> PriceInForce:
    return PriceInForce(product, key, parse_price(spec), since, until)


def used(quantity: str, events: int = 1) -> MeteredUsage:
    return MeteredUsage(Decimal(quantity), events)


def in_short(lines: list[ChargeLine]) -> list[tuple[str, int, str, str]]:
    return [(line.product_key, line.price_key, f"{line.quantity:f}", str(line.amount)) for line in lines]


def test_each_product_with_usage_gets_a_line_in_order_of_product() -> None:
    prices = [in_force(2, PENNIES, "requests"), in_force(1, TIERS, "gpu-hour"), in_force(3, PENNIES, "storage")]

    lines = charges(terms=terms(), prices=prices, usage={1: used("150", 9), 2: used("1000", 4)}, period=OCTOBER)

    assert in_short(lines) == [("gpu-hour", 1, "150", "130.00"), ("requests", 2, "1000", "4.00")]
    assert [line.event_count for line in lines] == [9, 4]
    assert all(line.period == OCTOBER for line in lines)


def test_usage_that_costs_nothing_still_makes_a_line() -> None:
    free = {**PENNIES, "included_quantity": "1000"}

    lines = charges(terms=terms(), prices=[in_force(1, free)], usage={1: used("10")}, period=OCTOBER)

    assert in_short(lines) == [("gpu-hour", 1, "10", "0.00")]


def test_events_that_add_up_to_nothing_still_make_a_line() -> None:
    lines = charges(terms=terms(), prices=[in_force(1, PENNIES)], usage={1: used("0", 2)}, period=OCTOBER)

    assert [line.event_count for line in lines] == [2]


def test_tiers_go_on_counting_where_a_new_version_takes_over() -> None:
    prices = [in_force(2, DEARER_TIERS, since=MID_OCTOBER), in_force(1, TIERS, until=MID_OCTOBER)]

    lines = charges(terms=terms(), prices=prices, usage={1: used("80"), 2: used("50")}, period=OCTOBER)

    # 5 + 80 x 1, then the 20 left of the first tier at 2 and 30 at 0.80, without the flat amount again
    assert in_short(lines) == [("gpu-hour", 1, "80", "85.00"), ("gpu-hour", 2, "50", "64.00")]
    assert [line.period for line in lines] == [
        Period(OCTOBER.start, MID_OCTOBER),
        Period(MID_OCTOBER, OCTOBER.end),
    ]


def test_a_version_without_usage_has_no_line() -> None:
    prices = [in_force(1, TIERS, until=MID_OCTOBER), in_force(2, DEARER_TIERS, since=MID_OCTOBER)]

    lines = charges(terms=terms(), prices=prices, usage={2: used("50")}, period=OCTOBER)

    assert in_short(lines) == [("gpu-hour", 2, "50", "107.00")]


def test_late_usage_is_billed_on_top_of_what_was_billed() -> None:
    billed = {1: Billed(Decimal(80), Decimal("85.00"), 3)}

    [line] = charges(
        terms=terms(), prices=[in_force(1, TIERS)], usage={1: used("130", 5)}, period=OCTOBER, billed=billed
    )

    assert (line.quantity, line.event_count) == (Decimal(50), 2)
    assert (line.exact, str(line.amount)) == (Decimal(35), "35.00")  # 5 + 100 + 15 - 85
    assert steps_as_json(line.steps)[-1] == {
        "kind": "billed_before",
        "quantity": "80",
        "billed_amount": "85",
        "amount": "-85",
    }
    assert total(step.amount for step in line.steps) == line.exact


def test_late_usage_in_an_early_version_moves_the_tiers_of_the_next() -> None:
    prices = [in_force(1, TIERS, until=MID_OCTOBER), in_force(2, DEARER_TIERS, since=MID_OCTOBER)]
    billed = {1: Billed(Decimal(80), Decimal("85.00"), 1), 2: Billed(Decimal(50), Decimal("64.00"), 1)}

    lines = charges(
        terms=terms(), prices=prices, usage={1: used("100", 2), 2: used("50")}, period=OCTOBER, billed=billed
    )

    # The 20 late units fill the first tier, so the later 50 all fall into the second: 40 in place of 64.
    assert in_short(lines) == [("gpu-hour", 1, "20", "20.00"), ("gpu-hour", 2, "0", "-24.00")]


def test_a_run_without_new_usage_adds_nothing() -> None:
    prices = [in_force(1, PENNIES), in_force(2, FEE, "support")]
    usage = {1: used("1", 1)}
    billed = {1: Billed(Decimal(1), Decimal("0.00"), 1), 2: Billed(Decimal(1), Decimal("31.00"), 0)}

    assert charges(terms=terms(), prices=prices, usage=usage, period=OCTOBER, billed=billed) == []


def test_usage_taken_back_is_credited() -> None:
    billed = {1: Billed(Decimal(150), Decimal("130.00"), 3)}

    [line] = charges(terms=terms(), prices=[in_force(1, TIERS)], usage={}, period=OCTOBER, billed=billed)

    assert (line.quantity, str(line.amount), line.event_count) == (Decimal(-150), "-130.00", -3)


@given(quantities=st.lists(st.integers(min_value=1, max_value=400).map(Decimal), min_size=1, max_size=8))
def test_any_number_of_runs_bills_the_whole_rounded_once(quantities: list[Decimal]) -> None:
    prices = [in_force(1, PENNIES)]
    so_far, paid = Decimal(0), Decimal("0.00")

    for runs, quantity in enumerate(quantities):
        billed = {1: Billed(so_far, paid, runs)} if runs else {}
        so_far = add(so_far, quantity)
        usage = {1: MeteredUsage(so_far, runs + 1)}
        [line] = charges(terms=terms(), prices=prices, usage=usage, period=OCTOBER, billed=billed)
        paid = add(paid, line.amount)

    assert paid == round_to_minor(so_far * Decimal("0.004"), "EUR")


@given(
    first=st.integers(min_value=1, max_value=300).map(Decimal),
    second=st.integers(min_value=1, max_value=300).map(Decimal),
)
def test_a_version_that_changes_nothing_costs_the_same(first: Decimal, second: Decimal) -> None:
    prices = [in_force(1, TIERS, until=MID_OCTOBER), in_force(2, TIERS, since=MID_OCTOBER)]

    lines = charges(
        terms=terms(),
        prices=prices,
        usage={1: MeteredUsage(first, 1), 2: MeteredUsage(second, 1)},
        period=OCTOBER,
    )

    whole = rate(parse_price(TIERS), Usage(add(first, second)), "EUR")
    assert total(line.exact for line in lines) == whole.exact


def test_a_fee_is_charged_once_at_the_price_of_the_start() -> None:
    prices = [
        in_force(1, FEE, "support", until=MID_OCTOBER),
        in_force(2, {"model": "flat", "amount": "62"}, "support", since=MID_OCTOBER),
    ]

    [line] = charges(terms=terms(), prices=prices, usage={}, period=OCTOBER)

    assert (line.price_key, line.quantity, str(line.amount)) == (1, Decimal(1), "31.00")
    assert line.period == OCTOBER


def test_a_fee_that_begins_later_waits_for_the_next_period() -> None:
    prices = [in_force(1, FEE, "support", since=MID_OCTOBER)]

    assert charges(terms=terms(), prices=prices, usage={}, period=OCTOBER) == []


@pytest.mark.parametrize(
    ("starts_on", "ends_on", "days", "amount"),
    [
        pytest.param(date(2026, 10, 17), None, 15, "15.00", id="starts inside"),
        pytest.param(date(2026, 1, 1), date(2026, 10, 11), 10, "10.00", id="ends inside"),
        pytest.param(date(2026, 10, 31), None, 1, "1.00", id="the last day"),
        pytest.param(date(2026, 10, 25), date(2026, 10, 26), 1, "1.00", id="a day of 25 hours is one day"),
    ],
)
def test_a_fee_is_shared_by_local_days(starts_on: date, ends_on: date | None, days: int, amount: str) -> None:
    [line] = charges(terms=terms(starts_on, ends_on), prices=[in_force(1, FEE, "support")], usage={}, period=OCTOBER)

    assert str(line.amount) == amount
    assert line.period == service_period(terms(starts_on, ends_on), OCTOBER)
    assert line.steps[-1].kind is StepKind.PRORATION
    assert line.steps[-1].facts == {"days": days, "of_days": 31}
    assert total(step.amount for step in line.steps) == line.exact


def test_a_share_without_end_is_rounded_once() -> None:
    fee = {"model": "flat", "amount": "10"}

    [line] = charges(terms=terms(date(2026, 10, 21)), prices=[in_force(1, fee, "support")], usage={}, period=OCTOBER)

    assert str(line.amount) == "3.55"  # 10 x 11 / 31 = 3.548...
    assert total(step.amount for step in line.steps) == line.exact


def test_usage_is_not_shared_by_days() -> None:
    [line] = charges(
        terms=terms(date(2026, 10, 16)), prices=[in_force(1, TIERS)], usage={1: used("150")}, period=OCTOBER
    )

    assert str(line.amount) == "130.00"
    assert line.period == Period(MID_OCTOBER, OCTOBER.end)


@pytest.mark.parametrize(
    ("starts_on", "ends_on"),
    [
        pytest.param(date(2026, 11, 1), None, id="starts after it"),
        pytest.param(date(2026, 1, 1), date(2026, 10, 1), id="ended before it"),
    ],
)
def test_a_contract_outside_the_period_owes_nothing(starts_on: date, ends_on: date | None) -> None:
    lines = charges(terms=terms(starts_on, ends_on), prices=[in_force(1, FEE, "support")], usage={}, period=OCTOBER)

    assert lines == []


def test_usage_is_asked_for_by_slice() -> None:
    prices = [
        in_force(3, PENNIES, "requests"),
        in_force(2, DEARER_TIERS, since=MID_OCTOBER),
        in_force(1, TIERS, until=MID_OCTOBER),
        in_force(4, TIERS, "ended", until=OCTOBER.start),
    ]

    found = slices(prices, OCTOBER)

    assert [(each.product_key, each.price_key, each.period.start) for each in found] == [
        ("gpu-hour", 1, OCTOBER.start),
        ("gpu-hour", 2, MID_OCTOBER),
        ("requests", 3, OCTOBER.start),
    ]


def test_two_prices_at_one_instant_are_refused() -> None:
    prices = [in_force(1, TIERS), in_force(2, DEARER_TIERS, since=MID_OCTOBER)]

    with pytest.raises(PricesOverlap):
        charges(terms=terms(), prices=prices, usage={}, period=OCTOBER)


@pytest.mark.parametrize("starts_on", [date(2026, 1, 1), date(2026, 11, 1)], ids=["inside", "outside"])
def test_usage_without_a_price_is_never_left_out_in_silence(starts_on: date) -> None:
    with pytest.raises(UsageUnpriced, match="7"):
        charges(terms=terms(starts_on), prices=[in_force(1, TIERS)], usage={7: used("1")}, period=OCTOBER)


def test_usage_below_nothing_is_refused() -> None:
    with pytest.raises(QuantityNegative):
        charges(terms=terms(), prices=[in_force(1, TIERS)], usage={1: used("-1")}, period=OCTOBER)


def test_amounts_follow_the_currency_of_the_contract() -> None:
    [line] = charges(terms=terms(currency="JPY"), prices=[in_force(1, PENNIES)], usage={1: used("125")}, period=OCTOBER)

    assert (line.exact, str(line.amount), line.currency) == (Decimal("0.500"), "1", "JPY")
