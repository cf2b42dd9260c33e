"""How states become quantities: the rules that need no database, on numbers written by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering import aggregations
from metering.aggregations import Aggregation, Latest, Slots, State, combine, in_unit, percentile_95
from metering.models import Meter

HOUR = aggregations.MICROSECONDS_IN_HOUR


class Total(NamedTuple):
    quantity: Decimal
    state: State | None
    divisor: Decimal = Decimal(1)


def test_the_aggregations_are_those_of_meters() -> None:
    assert {each.value for each in Aggregation} == set(Meter.Aggregation.values)


@pytest.mark.parametrize(
    ("seen", "slots", "expected"),
    [
        # 12 slots of an hour: 5 % are none, so the highest counts.
        (["7"], 12, "7"),
        # 20 slots: one is left out.
        (["7", "5", "9"], 20, "7"),
        # 288 slots of a day: 14 are left out, the 15th counts, and here it saw nothing.
        (["7"] * 14, 288, "0"),
        (["7"] * 14 + ["3"], 288, "3"),
        # Less than nothing lies below the slots that saw nothing.
        (["-2", "-5"], 20, "0"),
        (["-2"] * 20, 20, "-2"),
        (["-2"] * 19 + ["-3"], 20, "-2"),
    ],
)
def test_the_percentile_leaves_out_one_slot_in_twenty_and_takes_the_next(
    seen: list[str], slots: int, expected: str
) -> None:
    assert percentile_95(map(Decimal, seen), slots) == Decimal(expected)


@given(st.lists(st.integers(-5, 5).map(Decimal), max_size=60), st.integers(0, 60))
def test_the_percentile_is_that_of_all_slots_sorted(seen: list[Decimal], empty: int) -> None:
    slots = [*seen, *[Decimal(0)] * empty]
    if not slots:
        return

    expected = sorted(slots, reverse=True)[len(slots) // 20]

    assert percentile_95(seen, len(slots)) == expected


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        (Decimal(HOUR), "1"),
        (Decimal(HOUR) * 5 / 2, "2.5"),
        (Decimal(0), "0"),
        # It ends, however many places that takes.
        (Decimal("0.000000000000000000036"), "0.00000000000000000000000000001"),
        # It does not end: 18 places, half up.
        (Decimal(HOUR) / 4 + 1, "0.250000000277777778"),
        (Decimal(-1), "-0.000000000277777778"),
    ],
)
def test_a_level_over_time_is_exact_where_its_decimals_end(area: Decimal, expected: str) -> None:
    assert format(in_unit(Aggregation.GAUGE, area, Decimal(1)), "f") == expected


@pytest.mark.parametrize(
    ("aggregation", "figure", "divisor", "expected"),
    [
        (Aggregation.SUM, "7200", "3600", "2"),
        (Aggregation.SUM, "1", "3600", "0.000277777777777778"),
        (Aggregation.SUM, "-5", "1000", "-0.005"),
        # 75 MB in five minutes, in bits by the conversion: 2 Mbit/s.
        (Aggregation.P95, "600", "300", "2"),
        (Aggregation.P95, "100", "300", "0.333333333333333333"),
        # 2 ** 38 in 38 places: it ends.
        (Aggregation.MAX, "1", "274877906944", "0.0000000000036379788070917129516601562500".rstrip("0")),
        # 730 hours are a month: one division for both.
        (Aggregation.GAUGE, str(HOUR * 365), "730", "0.5"),
        (Aggregation.LATEST, "5.50", "1", "5.50"),
    ],
)
def test_a_divisor_divides_once_and_exactly_where_decimals_end(
    aggregation: Aggregation, figure: str, divisor: str, expected: str
) -> None:
    assert format(in_unit(aggregation, Decimal(figure), Decimal(divisor)), "f") == expected


def test_series_are_joined_before_they_are_divided() -> None:
    third = aggregations.quantity_of(Aggregation.SUM, Decimal(1), Decimal(3))

    joined = combine(Aggregation.SUM, [Total(third, Decimal(1), Decimal(3))] * 3)

    assert (third, joined) == (Decimal("0.333333333333333333"), Decimal(1))


@pytest.mark.parametrize(
    ("aggregation", "states", "expected"),
    [
        (Aggregation.SUM, [Decimal(2), Decimal(3)], "5"),
        (Aggregation.COUNT, [Decimal(2), Decimal(3)], "5"),
        (Aggregation.MIN, [Decimal(2), Decimal(3)], "2"),
        (Aggregation.MAX, [Decimal(2), Decimal(3)], "3"),
        (Aggregation.UNIQUE, [frozenset("ab"), frozenset("bc")], "3"),
        (Aggregation.GAUGE, [Decimal(HOUR) / 3, Decimal(HOUR) * 2 / 3], "1"),
        (Aggregation.P95, [Slots({0: Decimal(4)}, 12), Slots({0: Decimal(1), 300: Decimal(4)}, 12)], "5"),
        (
            Aggregation.LATEST,
            [
                Latest(datetime(2026, 10, 2, tzinfo=UTC), Decimal(1)),
                Latest(datetime(2026, 10, 1, tzinfo=UTC), Decimal(9)),
                Latest(datetime(2026, 10, 2, tzinfo=UTC), Decimal(2)),
            ],
            "2",
        ),
    ],
)
def test_several_series_are_joined_before_the_quantity_is_taken(
    aggregation: Aggregation, states: list[State], expected: str
) -> None:
    totals = [Total(aggregations.quantity_of(aggregation, state, Decimal(1)), state) for state in states]

    assert combine(aggregation, totals) == Decimal(expected)


def test_one_series_is_its_own_quantity() -> None:
    assert combine(Aggregation.UNIQUE, [Total(Decimal(7), None)]) == 7
