"""Keeps what was billed of each customer, meter and period, and tells what came after."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection

from metering.aggregations import quantity_unit
from metering.models import ClosedUsage, Meter
from metering.reading.quantities import QuantityAsk, quantities


class Closed(NamedTuple):
    """What all bills up to an invoice hold of a customer's meter and period, and the snapshot that it saw."""

    customer_id: int
    meter_id: int
    starts_at: datetime
    ends_at: datetime
    snapshot: str
    quantity: Decimal
    events: int
    digest: bytes
    invoice_id: int


def close_usage(rows: Sequence[Closed], *, at: datetime) -> None:
    """Note what invoices have billed; to be called in the transaction that issues them, with one statement for all."""
    ClosedUsage.objects.bulk_create([ClosedUsage(**row._asdict(), closed_at=at) for row in rows], batch_size=5_000)


class After(NamedTuple):
    """What came of a closed period after its first bill.

    `added` events count since, `taken_back` no longer do; `carried` of a level's readings did one or the other in
    earlier periods, and what they say holds in this one. `billed` is what the first bill held, `billed_since` what the
    newest holds, with its invoice; it has seen all of this if `waiting` is 0, which is how many of the changes no bill
    has seen. `batches` are the first batches that brought them, `doors` how they came.
    """

    customer_id: int
    customer: str
    meter_id: int
    meter: str
    unit: str
    starts_at: datetime
    ends_at: datetime
    added: int
    taken_back: int
    carried: int
    billed: Decimal
    billed_since: Decimal
    first_invoice_id: int
    newest_invoice_id: int
    waiting: int
    batches: list[int]
    doors: list[str]
    last_received_at: datetime


# Late facts are few and lie in the batches of after the oldest watermark that reach back into a closed period.
_AFTER = """
    WITH closed AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id, meter_id, starts_at) customer_id, meter_id, starts_at, ends_at, quantity,
               invoice_id, snapshot::pg_snapshot AS snapshot
        FROM usage_closing
        WHERE %(customer)s::bigint IS NULL OR customer_id = %(customer)s
        ORDER BY customer_id, meter_id, starts_at, id
    ), newest AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id, meter_id, starts_at) customer_id, meter_id, starts_at, quantity, invoice_id,
               snapshot::pg_snapshot AS snapshot
        FROM usage_closing
        WHERE %(customer)s::bigint IS NULL OR customer_id = %(customer)s
        ORDER BY customer_id, meter_id, starts_at, id DESC
    ), batch AS MATERIALIZED (
        SELECT id, transaction_id::text::xid8 AS transaction_id, received_at, door FROM metering_usagebatch
        WHERE transaction_id >= (SELECT min(pg_snapshot_xmin(snapshot)::text::bigint) FROM closed)
          AND earliest_at < (SELECT max(ends_at) FROM closed)
    ), fact AS MATERIALIZED (
        SELECT event.customer_id, event.time, unnest(event.series_ids) AS series_id, 1 AS sign, batch.*
        FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
        WHERE event.batch_id >= (SELECT min(id) FROM batch) AND event.time < (SELECT max(ends_at) FROM closed)
        UNION ALL
        SELECT amended.customer_id, amended.time, unnest(amended.series_ids), amended.sign, batch.*
        FROM usage_amendment AS amended JOIN batch ON batch.id = amended.batch_id
        WHERE amended.batch_id >= (SELECT min(id) FROM batch) AND amended.time < (SELECT max(ends_at) FROM closed)
    )
    SELECT closed.customer_id, customer.name, closed.meter_id, meter.name, meter.unit, closed.starts_at,
           closed.ends_at, count(*) FILTER (WHERE fact.sign > 0 AND fact.time >= closed.starts_at),
           count(*) FILTER (WHERE fact.sign < 0 AND fact.time >= closed.starts_at),
           count(*) FILTER (WHERE fact.time < closed.starts_at), closed.quantity, newest.quantity, closed.invoice_id,
           newest.invoice_id,
           count(*) FILTER (WHERE NOT pg_visible_in_snapshot(fact.transaction_id, newest.snapshot)),
           (array_agg(DISTINCT fact.id))[:5], array_agg(DISTINCT fact.door), max(fact.received_at),
           meter.aggregation, meter.divisor,
           count(*) FILTER (
               WHERE fact.time < closed.starts_at AND NOT pg_visible_in_snapshot(fact.transaction_id, newest.snapshot)
           )
    FROM fact
    JOIN usage_series AS series ON series.customer_id = fact.customer_id AND series.id = fact.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    JOIN closed ON closed.customer_id = fact.customer_id AND closed.meter_id = series.meter_id
     AND (fact.time >= closed.starts_at OR meter.aggregation = 'gauge') AND fact.time < closed.ends_at
     AND NOT pg_visible_in_snapshot(fact.transaction_id, closed.snapshot)
    JOIN newest ON newest.customer_id = closed.customer_id AND newest.meter_id = closed.meter_id
     AND newest.starts_at = closed.starts_at
    JOIN accounts_customer AS customer ON customer.id = closed.customer_id
    GROUP BY closed.customer_id, customer.name, closed.meter_id, meter.name, meter.unit, meter.aggregation,
             meter.divisor, closed.starts_at, closed.ends_at, closed.quantity, newest.quantity, closed.invoice_id,
             newest.invoice_id
    ORDER BY max(fact.received_at) DESC, customer.name, meter.name, closed.starts_at
    LIMIT %(limit)s
"""


# A bill adds up what it divided of each part of a period; what that leaves is no change.
_NO_CHANGE = Decimal("1e-9")


def what_came_after(*, customer_id: int | None = None, limit: int = 1_000) -> list[After]:
    """Return the closed periods (of one customer or all) of which usage came or was corrected after.

    The newest change first, at most `limit`. A period into which a level is only carried is among them where it
    changed. One query, and one or two more where a level may have been carried.
    """
    parameters: dict[str, Any] = {"customer": customer_id, "limit": limit}
    with connection.cursor() as cursor:
        cursor.execute(_AFTER, parameters)
        found = [(After(*row[:-3]), *row[-3:]) for row in cursor.fetchall()]
    carried = _carried([(after, divisor) for after, _, divisor, _ in found if after.carried])
    kept = []
    for after, aggregation, _, unseen in found:
        waiting = after.waiting
        if after.carried:
            holds = carried[after.customer_id, after.meter_id, after.starts_at]
            is_billed = abs(holds - after.billed_since) < _NO_CHANGE
            waiting -= unseen if is_billed else 0
            if is_billed and not after.added and not after.taken_back and after.billed == after.billed_since:
                continue
        kept.append(after._replace(unit=quantity_unit(aggregation, after.unit), waiting=waiting))
    return kept


def _carried(found: Sequence[tuple[After, Decimal]]) -> dict[tuple[int, int, datetime], Decimal]:
    """Return what each of these periods of levels holds by now."""
    asks = [
        QuantityAsk(
            customer_id=each.customer_id,
            meter_id=each.meter_id,
            aggregation=Meter.Aggregation.GAUGE,
            divisor=divisor,
            edges=[each.starts_at, each.ends_at],
        )
        for each, divisor in found
    ]
    quantity_of = {quantity.ask: quantity.quantity for quantity in quantities(asks)} if asks else {}
    return {
        (each.customer_id, each.meter_id, each.starts_at): quantity_of.get(position, Decimal(0))
        for position, (each, _) in enumerate(found)
    }
