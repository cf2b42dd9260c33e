"""How usage of a window becomes a quantity, by the aggregation of its meter, and how several series are joined.

No database and no clock. What the database adds up arrives as a state; states of several series of one window are
joined before the quantity is taken, for different values, percentiles and the latest value cannot be added up.
"""

from __future__ import annotations

import decimal
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeVar

_S = TypeVar("_S")

SLOT: Final = timedelta(minutes=5)
MICROSECONDS_IN_HOUR: Final = 3_600_000_000
# Only of a division that never ends.
PLACES: Final = 18

ZERO: Final = Decimal(0)

_EXACT: Final = decimal.Context(
    prec=200,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow],
)
_MICROSECONDS: Final = Decimal(MICROSECONDS_IN_HOUR)
_ROUNDED: Final = decimal.Context(
    prec=200, rounding=decimal.ROUND_HALF_UP, traps=[decimal.InvalidOperation, decimal.Overflow]
)


class Aggregation(StrEnum):
    """The aggregations of meters; the same as `metering.models.Meter.Aggregation`, which a test holds."""

    SUM = "sum"
    COUNT = "count"
    MIN = "min"
    MAX = "max"
    LATEST = "latest"
    UNIQUE = "unique"
    GAUGE = "gauge"
    P95 = "p95"


def quantity_unit(aggregation: str, unit: str) -> str:
    """Return what a meter's quantity is counted in: for a level, its unit over time."""
    return f"{unit}-hours" if aggregation == Aggregation.GAUGE else unit


class Latest(NamedTuple):
    """The value at the latest time; of several at one time the greatest."""

    at: datetime
    value: Decimal


class Slots(NamedTuple):
    """What each five minutes of a window add up to, by their beginning; of `size` slots the others saw nothing."""

    sums: Mapping[int, Decimal]
    size: int


# sum, count, min and max: the value; gauge: level times microseconds; unique: the values seen.
State = Decimal | Latest | frozenset[str] | Slots


class HasState(Protocol):
    """What one series adds up to in one window."""

    @property
    def quantity(self) -> Decimal: ...

    @property
    def divisor(self) -> Decimal: ...

    @property
    def state(self) -> State | None: ...


def sum_unit(unit: str, divisor: Decimal) -> str:
    """Return what sums of a meter's values are in before the meter's divisor takes them to its unit."""
    return unit if divisor == 1 else f"1/{_plain(divisor):f} {unit}"


def slots_in(start: datetime, end: datetime) -> int:
    """Return how many five minutes a window of whole hours has."""
    return (end - start) // SLOT


def quantity_of(aggregation: str, state: State, divisor: Decimal) -> Decimal:
    """Return the quantity that a state stands for, by the meter's divisor; exact, but for a division that never ends.

    A gauge's quantity is in unit-hours. What does not end is rounded half up at 18 places.
    """
    if isinstance(state, Slots):
        return in_unit(aggregation, percentile_95(state.sums.values(), state.size), divisor)
    if isinstance(state, Latest):
        return in_unit(aggregation, state.value, divisor)
    if isinstance(state, frozenset):
        return Decimal(len(state))
    return in_unit(aggregation, state, divisor)


def in_unit(aggregation: str, figure: Decimal, divisor: Decimal) -> Decimal:
    """Return what a figure in values of events (of a gauge: level times microseconds) is in the meter's unit."""
    per = _EXACT.multiply(divisor, _MICROSECONDS) if aggregation == Aggregation.GAUGE else divisor
    return figure if per == 1 else divided(figure, per)


def joined(aggregation: str, states: Sequence[State]) -> State:
    """Return the state of several series of one window together; there is at least one."""
    return _JOINS[Aggregation(aggregation)](states)


def combine(aggregation: str, totals: Sequence[HasState]) -> Decimal:
    """Return the quantity of several series of one window together; there is at least one.

    Sums, counts and gauges add up; of smallest, greatest and latest values one remains; different values are counted
    once whichever series saw them; five-minute totals are added before their percentile is taken.
    """
    if len(totals) == 1:
        return totals[0].quantity
    states = []
    for total in totals:
        assert total.state is not None, "a state is read wherever a meter has several series"
        states.append(total.state)
    return quantity_of(aggregation, joined(aggregation, states), totals[0].divisor)


def percentile_95(sums: Iterable[Decimal], slots: int) -> Decimal:
    """Return the 95th percentile of five-minute totals as bandwidth is billed.

    All slots of the window are sorted, those without usage as zero; the highest 5 % of them (rounded down) are left
    out, and the next one is the answer.
    """
    seen = sorted(sums, reverse=True)
    rank = slots // 20
    above_zero = sum(1 for each in seen if each > 0)
    below_zero = sum(1 for each in seen if each < 0)
    if rank < above_zero:
        return seen[rank]
    if rank < slots - below_zero:
        return ZERO
    return seen[rank - slots + len(seen)]


def divided(figure: Decimal, divisor: Decimal) -> Decimal:
    """Divide; exact where it ends within 200 digits, as nearly all that ends does, or rounded half up at 18 places."""
    try:
        return _plain(_EXACT.divide(figure, divisor))
    except decimal.Inexact:
        return _plain(_ROUNDED.divide(figure, divisor).quantize(Decimal(1).scaleb(-PLACES), context=_ROUNDED))


def part_changed(before: Decimal, after: Decimal, *, places: int) -> Decimal:
    """Return by what part of `before`, which is not zero, a quantity changes; rounded half up, below zero if it falls.

    Quantities may have any number of digits, so that 28 of them, Python's own choice, would not do.
    """
    with decimal.localcontext(_ROUNDED):
        return ((after - before) / before).quantize(Decimal(1).scaleb(-places))


def _plain(number: Decimal) -> Decimal:
    """Drop zeros at the end, and keep the number free of an exponent."""
    short = number.normalize(_EXACT)
    return short if int(short.as_tuple().exponent) <= 0 else short.quantize(Decimal(1), context=_EXACT)


def _added(states: Sequence[State]) -> State:
    with decimal.localcontext(_EXACT):
        return sum(_of(states, Decimal), ZERO)


def _union(states: Sequence[State]) -> State:
    seen: Sequence[frozenset[str]] = _of(states, frozenset)
    return frozenset[str]().union(*seen)


def _slots_added(states: Sequence[State]) -> State:
    sums: defaultdict[int, Decimal] = defaultdict(Decimal)
    found = _of(states, Slots)
    with decimal.localcontext(_EXACT):
        for each in found:
            for slot, value in each.sums.items():
                sums[slot] += value
    return Slots(dict(sums), max(each.size for each in found))


def _of(states: Sequence[State], kind: type[_S]) -> Sequence[_S]:
    found = [each for each in states if isinstance(each, kind)]
    assert len(found) == len(states), "all states of one meter are of one kind"
    return found


_JOINS: Final[Mapping[Aggregation, Callable[[Sequence[State]], State]]] = {
    Aggregation.SUM: _added,
    Aggregation.COUNT: _added,
    Aggregation.GAUGE: _added,
    Aggregation.MIN: lambda states: min(_of(states, Decimal)),
    Aggregation.MAX: lambda states: max(_of(states, Decimal)),
    Aggregation.LATEST: lambda states: max(_of(states, Latest)),
    Aggregation.UNIQUE: _union,
    Aggregation.P95: _slots_added,
}
