"""What a correction would change, and for whom: the real run, in a transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection, transaction

from accounts.access import Actor
from accounts.periods import month_period
from metering.aggregations import part_changed
from metering.corrections import correction_work
from metering.models import UsageCorrection
from metering.reading import quantities
from metering.reading.quantities import QuantityAsk

ROWS_KEPT = 2_000
_ASKS_AT_ONCE = 500


class Touched(NamedTuple):
    """A month (of the legal entity's local time) of one customer's meter that a correction changes events of.

    An event and the one that takes its place are one of `events`.
    """

    customer_id: int
    customer: str
    meter_id: int
    meter: str
    unit: str
    aggregation: str
    month: date
    time_zone: str
    events: int


def preview(correction: UsageCorrection, *, actor: Actor, at: datetime) -> dict[str, Any]:
    """Return the quantities before and after by customer, meter and month, the most events first.

    Usage that comes in meanwhile is in one of the two readings only. Of more than 2,000 rows the first are read. To be
    called within a transaction that holds the correction. `greatest_share` is the greatest part by which a quantity
    changes, 1 where there was none before or none is left.

    Raises: CorrectionNotCountable.
    """
    batch_ids: list[int] = []
    with transaction.atomic():
        while items := correction_work.waiting_items(correction, correction_work.EVENTS_AT_ONCE):
            batch_ids.append(correction_work.settle(correction, items, actor=actor, at=at))
        applied, skipped = _settled(correction.pk)
        touched = _touched(batch_ids)
        after = read(touched)
        transaction.set_rollback(True)
    before = read(touched)
    rows = [
        {
            "customer_id": each.customer_id,
            "customer": each.customer,
            "meter": each.meter,
            "unit": each.unit,
            "month": f"{each.month:%Y-%m}",
            "events": each.events,
            "before": _text(before[position]),
            "after": _text(after[position]),
        }
        for position, each in enumerate(touched)
    ]
    shares = [share(before[position], after[position]) for position in range(len(touched))]
    return {
        "events": applied,
        "skipped": skipped,
        "customers": len({each.customer_id for each in touched}),
        "greatest_share": str(max(shares, default=Decimal(0))),
        "is_cut": len(rows) == ROWS_KEPT,
        "rows": rows,
    }


def _settled(correction_id: int) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE state = 'applied'), count(*) FILTER (WHERE state = 'skipped')"
            " FROM metering_usagecorrectionitem WHERE correction_id = %s",
            [correction_id],
        )
        applied, skipped = cursor.fetchone()
    return int(applied), int(skipped)


_TOUCHED = """
    WITH fact AS (
        SELECT customer_id, time, unnest(series_ids) AS series_id, (sign < 0)::int AS old, (sign > 0)::int AS new
        FROM usage_amendment WHERE batch_id = ANY(%(batches)s)
        UNION ALL
        SELECT customer_id, time, unnest(series_ids), 0, 1 FROM usage_event WHERE batch_id = ANY(%(batches)s)
    )
    SELECT customer.id, customer.name, meter.id, meter.name, meter.unit, meter.aggregation,
           date_trunc('month', fact.time AT TIME ZONE entity.time_zone)::date AS month, entity.time_zone,
           greatest(sum(fact.old), sum(fact.new))
    FROM fact
    JOIN usage_series AS series ON series.customer_id = fact.customer_id AND series.id = fact.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    JOIN accounts_customer AS customer ON customer.id = fact.customer_id
    JOIN accounts_legalentity AS entity ON entity.id = customer.legal_entity_id
    GROUP BY customer.id, meter.id, month, entity.time_zone
    ORDER BY 9 DESC, customer.name, meter.name, month LIMIT %(limit)s
"""


def _touched(batch_ids: Sequence[int]) -> list[Touched]:
    with connection.cursor() as cursor:
        cursor.execute(_TOUCHED, {"batches": [each for each in batch_ids if each], "limit": ROWS_KEPT})
        return [Touched(*row) for row in cursor.fetchall()]


def read(touched: Sequence[Touched]) -> list[Decimal]:
    """Return the quantity of each of these months as it stands."""
    found = [Decimal(0)] * len(touched)
    for start in range(0, len(touched), _ASKS_AT_ONCE):
        asks = []
        for each in touched[start : start + _ASKS_AT_ONCE]:
            month = month_period(each.month.year, each.month.month, each.time_zone)
            asks.append(
                QuantityAsk(
                    customer_id=each.customer_id,
                    meter_id=each.meter_id,
                    aggregation=each.aggregation,
                    edges=[month.start, month.end],
                )
            )
        for quantity in quantities.quantities(asks):
            found[start + quantity.ask] = quantity.quantity
    return found


def share(before: Decimal, after: Decimal) -> Decimal:
    """Return by which part a quantity changes, to four places; 1 where there was none before."""
    if before == after:
        return Decimal(0)
    if before == 0:
        return Decimal(1)
    return part_changed(before, after, places=4).copy_abs()


def _text(quantity: Decimal) -> str:
    return format(quantity, "f")
