"""How quantities change by what is decided of events later: by customer, meter and month, before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.db import connection

from accounts.periods import Month, Period, local_date, month_period
from metering.aggregations import part_changed, quantity_unit
from metering.models import Meter
from metering.reading import quantities
from metering.reading.quantities import QuantityAsk

ROWS_KEPT: Final = 2_000
_ASKS_AT_ONCE = 500


class Touched(NamedTuple):
    """A month (of the legal entity's local time) of one customer's meter that `events` are changed of.

    An event and the one that takes its place are one of them. A month that only a level is carried into has none.
    """

    customer_id: int
    customer: str
    meter_id: int
    meter: str
    unit: str
    aggregation: str
    divisor: Decimal
    month: date
    time_zone: str
    events: int


def with_carried(touched: Sequence[Touched], *, at: datetime) -> list[Touched]:
    """Add the months until now that a changed level may hold in: it lasts until the next reading, months later maybe.

    Not past 2,000 rows.
    """
    found = list(touched)
    first: dict[tuple[int, int], Touched] = {}
    months: defaultdict[tuple[int, int], set[date]] = defaultdict(set)
    for each in touched:
        if each.aggregation == Meter.Aggregation.GAUGE:
            place = each.customer_id, each.meter_id
            months[place].add(each.month)
            first[place] = min(first.get(place, each), each, key=lambda one: one.month)
    for place, one in first.items():
        last = local_date(at, one.time_zone)
        month = Month(one.month.year, one.month.month).next()
        while (starts_on := date(month.year, month.month, 1)) <= last and len(found) < ROWS_KEPT:
            if starts_on not in months[place]:
                found.append(one._replace(month=starts_on, events=0))
            month = month.next()
    return found


def read(touched: Sequence[Touched], *, tables: str = "usage_") -> list[Decimal]:
    """Return the quantity of each of these months as it stands, or as other tables have it (see `quantities`)."""
    found = [Decimal(0)] * len(touched)
    for start in range(0, len(touched), _ASKS_AT_ONCE):
        asks = []
        for each in touched[start : start + _ASKS_AT_ONCE]:
            month = _period_of(each)
            asks.append(
                QuantityAsk(
                    customer_id=each.customer_id,
                    meter_id=each.meter_id,
                    aggregation=each.aggregation,
                    divisor=each.divisor,
                    edges=[month.start, month.end],
                )
            )
        for quantity in quantities.quantities(asks, tables=tables):
            found[start + quantity.ask] = quantity.quantity
    return found


def compared(touched: Sequence[Touched], *, before: Sequence[Decimal], after: Sequence[Decimal]) -> dict[str, Any]:
    """Return what changes, to be kept as JSON: a row for each of these months, and what they come to together.

    A month without changed events is a row only where its quantity changes. `billed_rows` counts the quantities that
    change of months that are billed already; `greatest_share` is the greatest part by which a quantity changes, 1
    where there was none before or none is left.
    """
    billed = _billed(touched)
    rows = []
    shares = []
    for each, old, new in zip(touched, before, after, strict=True):
        if not each.events and old == new:
            continue
        month = _period_of(each)
        shares.append(share(old, new))
        rows.append(
            {
                "customer_id": each.customer_id,
                "customer": each.customer,
                "meter": each.meter,
                "unit": quantity_unit(each.aggregation, each.unit),
                "month": f"{each.month:%Y-%m}",
                "events": each.events,
                "before": format(old, "f"),
                "after": format(new, "f"),
                "change": format(new - old, "f"),
                "is_billed": any(
                    period.start < month.end and period.end > month.start
                    for period in billed.get((each.customer_id, each.meter_id), ())
                ),
            }
        )
    return {
        "customers": len({row["customer_id"] for row in rows}),
        "billed_rows": sum(row["is_billed"] and row["before"] != row["after"] for row in rows),
        "greatest_share": str(max(shares, default=Decimal(0))),
        "is_cut": len(touched) >= ROWS_KEPT,
        "rows": rows,
    }


def share(before: Decimal, after: Decimal) -> Decimal:
    """Return by which part a quantity changes, to four places; 1 where there was none before."""
    if before == after:
        return Decimal(0)
    if before == 0:
        return Decimal(1)
    return part_changed(before, after, places=4).copy_abs()


def _period_of(touched: Touched) -> Period:
    return month_period(touched.month.year, touched.month.month, touched.time_zone)


def _billed(touched: Sequence[Touched]) -> Mapping[tuple[int, int], Sequence[Period]]:
    """Return the periods that were billed of these customers and meters."""
    found: defaultdict[tuple[int, int], list[Period]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT customer_id, meter_id, starts_at, ends_at FROM usage_closing WHERE customer_id = ANY(%s)",
            [sorted({each.customer_id for each in touched})],
        )
        for customer_id, meter_id, starts_at, ends_at in cursor.fetchall():
            found[customer_id, meter_id].append(Period(starts_at, ends_at))
    return found
