"""Tells which usage came in after its period had been billed, or was corrected: by window, and of single events.

Read beside quantities, never instead: a total holds all of it. What a bill saw is asked of the snapshot that the first
one of each customer, meter and period left behind, as in `metering.corrections.closing`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.db import connection

from metering.models import BY_CUSTOMER

CORRECTIONS_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkAsk:
    """Usage of these customers (None: all) in one meter, in the windows between edges, by and of its dimensions."""

    customer_ids: Sequence[int] | None
    meter_id: int
    edges: Sequence[datetime]
    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


class Marked(NamedTuple):
    """How many events of a window and group were late, how many were corrected, and by which corrections (a few).

    An event that was put in the place of another one counts as corrected, in its own window.
    """

    window: int
    group: dict[str, str | None]
    late: int
    corrected: int
    corrections: list[int]


# Late events lie in the blocks that were written after the first bill, and few of those are of a billed period.
_MARKS: Final = f"""
    WITH closed AS MATERIALIZED (
        SELECT DISTINCT ON (customer_id, starts_at) customer_id, starts_at, ends_at, snapshot::pg_snapshot AS snapshot
        FROM usage_closing
        WHERE (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s)) AND meter_id = %(meter)s
          AND starts_at < %(end)s AND ends_at > %(start)s
        ORDER BY customer_id, starts_at, id
    ), batch AS MATERIALIZED (
        SELECT id, transaction_id::text::xid8 AS transaction_id FROM metering_usagebatch
        WHERE transaction_id >= (SELECT min(pg_snapshot_xmin(snapshot)::text::bigint) FROM closed)
          AND earliest_at < (SELECT max(ends_at) FROM closed) AND door <> 'correction'
    ), newer AS MATERIALIZED (
        SELECT event.customer_id, event.time, event.key, event.series_ids, batch.transaction_id
        FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
        WHERE event.batch_id >= (SELECT min(id) FROM batch) AND event.time >= %(start)s AND event.time < %(end)s
          AND (%(customers)s::bigint[] IS NULL OR event.customer_id = ANY(%(customers)s))
        UNION ALL
        SELECT amended.customer_id, amended.time, amended.key, amended.series_ids, batch.transaction_id
        FROM usage_amendment AS amended JOIN batch ON batch.id = amended.batch_id
        WHERE amended.batch_id >= (SELECT min(id) FROM batch) AND amended.time >= %(start)s AND amended.time < %(end)s
          AND (%(customers)s::bigint[] IS NULL OR amended.customer_id = ANY(%(customers)s))
    ), fact AS (
        SELECT newer.customer_id, time, key, series_ids, NULL::bigint AS correction_id
        FROM newer JOIN closed ON closed.customer_id = newer.customer_id AND time >= closed.starts_at
         AND time < closed.ends_at AND NOT pg_visible_in_snapshot(newer.transaction_id, closed.snapshot)
        UNION ALL
        SELECT amended.customer_id, amended.time, amended.key, amended.series_ids, item.correction_id
        FROM usage_amendment AS amended
        JOIN metering_usagecorrectionitem AS item ON item.key = amended.key AND item.batch_id = amended.batch_id
        WHERE (%(customers)s::bigint[] IS NULL OR amended.customer_id = ANY(%(customers)s))
          AND amended.time >= %(start)s AND amended.time < %(end)s AND item.state = 'applied'
        UNION ALL
        SELECT event.customer_id, event.time, event.key, event.series_ids, item.correction_id
        FROM metering_usagecorrectionitem AS item
        JOIN usage_event AS event ON event.customer_id = item.new_customer_id AND event.time = item.new_time
         AND event.key = item.new_key
        WHERE item.new_key IS NOT NULL AND item.new_time >= %(start)s AND item.new_time < %(end)s
          AND (%(customers)s::bigint[] IS NULL OR item.new_customer_id = ANY(%(customers)s))
    )
    SELECT width_bucket(fact.time, %(edges)s::timestamptz[]) - 1 AS bucket, label,
           count(DISTINCT fact.key) FILTER (WHERE correction_id IS NULL),
           count(DISTINCT fact.key) FILTER (WHERE correction_id IS NOT NULL),
           coalesce(array_agg(DISTINCT correction_id) FILTER (WHERE correction_id IS NOT NULL), '{{}}')
    FROM fact
    JOIN usage_series AS series ON series.customer_id = fact.customer_id AND series.id = ANY(fact.series_ids)
    CROSS JOIN LATERAL (
        SELECT coalesce(
            jsonb_object_agg(
                name, CASE name
                    WHEN '{BY_CUSTOMER}' THEN to_jsonb(series.customer_id::text) ELSE series.dimensions -> name
                END
            ), '{{}}'
        )::text AS label
        FROM jsonb_array_elements_text(%(group_by)s::jsonb) AS name
    ) AS label
    WHERE series.meter_id = %(meter)s AND NOT EXISTS (
        SELECT FROM jsonb_each(%(filters)s::jsonb) AS filter(name, allowed)
        WHERE NOT allowed @> coalesce(series.dimensions -> name, 'null')
    )
    GROUP BY bucket, label ORDER BY bucket, label
"""  # noqa: S608 -- built from constants


def marks(ask: MarkAsk) -> list[Marked]:
    """Return the windows and groups with events that were late or corrected, in order; one query.

    An event is late if the first bill of its customer's period had not seen it: it came in, or was counted by a
    back-fill, after that.
    """
    parameters: dict[str, Any] = {
        "customers": None if ask.customer_ids is None else list(ask.customer_ids),
        "meter": ask.meter_id,
        "edges": list(ask.edges),
        "start": ask.edges[0],
        "end": ask.edges[-1],
        "group_by": json.dumps(list(ask.group_by)),
        "filters": json.dumps({name: list(allowed) for name, allowed in ask.filters.items()}),
    }
    with connection.cursor() as cursor:
        cursor.execute(_MARKS, parameters)
        return [
            Marked(window, json.loads(label), late, corrected, corrections[-CORRECTIONS_NAMED:])
            for window, label, late, corrected, corrections in cursor.fetchall()
        ]


_LATE: Final = """
    SELECT DISTINCT event.key
    FROM unnest(%s::timestamptz[], %s::uuid[], %s::bigint[], %s::text[]) AS event(time, key, batch_id, series_ids)
    JOIN metering_usagebatch AS batch ON batch.id = event.batch_id AND batch.door <> 'correction'
    JOIN usage_series AS series ON series.customer_id = %s AND series.id = ANY(event.series_ids::bigint[])
    CROSS JOIN LATERAL (
        SELECT snapshot FROM usage_closing AS closed
        WHERE closed.customer_id = series.customer_id AND closed.meter_id = series.meter_id
          AND closed.starts_at <= event.time AND closed.ends_at > event.time
        ORDER BY closed.id LIMIT 1
    ) AS first
    WHERE NOT pg_visible_in_snapshot(batch.transaction_id::text::xid8, first.snapshot::pg_snapshot)
"""


class Taken(NamedTuple):
    """That a batch took an event of one customer in, or amended it: for these series."""

    time: datetime
    key: UUID
    batch_id: int
    series_ids: Sequence[int]


def late_among(customer_id: int, taken: Iterable[Taken]) -> set[UUID]:
    """Return which of a customer's events came in, or were back-filled, after their period was billed; one query."""
    asked = list(taken)
    with connection.cursor() as cursor:
        cursor.execute(
            _LATE,
            [
                [each.time for each in asked],
                [each.key for each in asked],
                [each.batch_id for each in asked],
                ["{" + ",".join(map(str, each.series_ids)) + "}" for each in asked],
                customer_id,
            ],
        )
        return {key for (key,) in cursor.fetchall()}
