"""Counts hours anew from the events: what corrections change, what a rebuild mends and what a check compares with.

Everything is counted by the function `usage_contribution_of`, in SQL and apart from the counting of ingestion. A
recount deletes the deltas that it sees and writes the hours anew in one statement, hence in one snapshot, and no fold
runs meanwhile. Of a batch that commits meanwhile it sees nothing: its events are not counted here, its deltas stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from metering import rollups

HOUR = timedelta(hours=1)


class Span(NamedTuple):
    """Hours of one customer: those that begin in `[start, end)`, both on the hour of UTC."""

    customer_id: int
    start: datetime
    end: datetime


class Recounted(NamedTuple):
    """What a recount found otherwise than it was kept: hours, parts of hours, and deltas that it took up."""

    hours: int
    parts: int
    deltas: int


def spans_of(moments: Iterable[tuple[int, datetime]]) -> list[Span]:
    """Return the hours in which these moments (customer, time) lie, neighbouring hours as one span."""
    spans: list[Span] = []
    for customer_id, hour in sorted({(customer_id, _hour_of(moment)) for customer_id, moment in moments}):
        if spans and spans[-1].customer_id == customer_id and spans[-1].end == hour:
            spans[-1] = spans[-1]._replace(end=hour + HOUR)
        else:
            spans.append(Span(customer_id, hour, hour + HOUR))
    return spans


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


# Hours whose raw events went into the archive or were erased cannot be counted anew: they are left out.
_ASKED = """
    asked AS MATERIALIZED (
        SELECT wanted.customer_id, lower(part) AS starts_at, upper(part) AS ends_at
        FROM unnest(%(customers)s::bigint[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
            AS wanted(customer_id, starts_at, ends_at)
        CROSS JOIN LATERAL unnest(tstzmultirange(tstzrange(wanted.starts_at, wanted.ends_at)) - coalesce((
            SELECT range_agg(tstzrange(gone.starts_at, gone.ends_at)) FROM usage_unrecountable AS gone
            WHERE gone.customer_id IS NULL OR gone.customer_id = wanted.customer_id
        ), '{}')) AS part
    )
"""

# A span costs what its own events and their amendments cost. The subquery is kept from being flattened (OFFSET 0), so
# that it is asked for each span by the index of each partition.
CONTRIBUTIONS = f"""
    {_ASKED}, contribution AS MATERIALIZED (
        SELECT found.* FROM asked CROSS JOIN LATERAL (
            SELECT customer_id, series_id, hour, time, value, kind, part COLLATE "C" AS part
            FROM usage_contribution_of(asked.customer_id, asked.starts_at, asked.ends_at)
            WHERE %(series)s::bigint[] IS NULL OR series_id = ANY(%(series)s::bigint[])
            OFFSET 0
        ) AS found
    ), counted AS MATERIALIZED (
        SELECT customer_id, series_id, hour, sum(value) AS sum, count(*) AS count, min(value) AS min, max(value) AS max,
               (array_agg(value ORDER BY time DESC, value DESC))[1] AS last, max(time) AS last_at
        FROM contribution GROUP BY customer_id, series_id, hour
    ), counted_part AS MATERIALIZED (
        SELECT customer_id, series_id, hour, kind, part, sum(value) AS sum, count(*) AS count
        FROM contribution WHERE part IS NOT NULL GROUP BY customer_id, series_id, hour, kind, part
    )
"""  # noqa: S608 -- built from constants

# What events would add in series, counting there or not: the reading of `usage_contribution`, and a test holds the two
# together. Needs `asked(item_id, customer_id, time, key, sign, series_ids)`.
READINGS_AS_ASKED = """
    version AS (
        SELECT meter_id, value_path, conversion,
               CASE WHEN number = 1 THEN '-infinity' ELSE valid_from END AS starts_at,
               lead(valid_from, 1, 'infinity') OVER (PARTITION BY meter_id ORDER BY valid_from) AS ends_at
        FROM metering_meterversion
    ), read AS (
        SELECT asked.item_id, asked.sign, asked.customer_id, asked.time, series.id AS series_id, meter.aggregation,
               version.conversion, coalesce(
                   nullif(event.data -> version.value_path, 'null'),
                   event.data #> string_to_array(version.value_path, '.')
               ) AS found
        FROM asked JOIN usage_event AS event USING (customer_id, time, key)
        CROSS JOIN LATERAL unnest(asked.series_ids) AS own(series_id)
        JOIN usage_series AS series ON series.customer_id = asked.customer_id AND series.id = own.series_id
        JOIN metering_meter AS meter ON meter.id = series.meter_id
        JOIN version ON version.meter_id = meter.id AND asked.time >= starts_at AND asked.time < ends_at
    ), valued AS (
        SELECT *, CASE WHEN aggregation IN ('count', 'unique') THEN 1
                       ELSE (found #>> '{}')::numeric * conversion END AS value
        FROM read
    )
    SELECT item_id, customer_id, series_id, date_trunc('hour', time, 'UTC') AS hour, time, value,
           CASE aggregation WHEN 'unique' THEN 'v' WHEN 'p95' THEN 's' WHEN 'gauge' THEN 'r' END AS kind,
           CASE aggregation
               WHEN 'unique' THEN CASE jsonb_typeof(found)
                   WHEN 'number' THEN trim_scale((found #>> '{}')::numeric)::text ELSE found #>> '{}' END
               WHEN 'p95' THEN to_char(date_bin('5 minutes', time, '2000-01-01 00:00:00+00') AT TIME ZONE 'UTC', 'MI')
               WHEN 'gauge' THEN lpad(
                   (extract(epoch FROM time - date_trunc('hour', time, 'UTC')) * 1000000)::bigint::text, 10, '0'
               ) || ' ' || trim_scale(value)
           END COLLATE "C" AS part, sign
    FROM valued
"""

WITHIN = """
    {table}.customer_id = asked.customer_id AND {table}.hour >= asked.starts_at AND {table}.hour < asked.ends_at
    AND (%(series)s::bigint[] IS NULL OR {table}.series_id = ANY(%(series)s::bigint[]))
"""

# An hour or a part that is right already is left alone. Hours are never deleted: one without events holds nothing.
_RECOUNT = f"""
    WITH {CONTRIBUTIONS}, taken AS (
        DELETE FROM usage_delta AS delta USING asked WHERE {WITHIN.format(table="delta")} RETURNING 1
    ), taken_part AS (
        DELETE FROM usage_part_delta AS delta USING asked WHERE {WITHIN.format(table="delta")} RETURNING 1
    ), written AS (
        INSERT INTO usage_hour AS kept (customer_id, series_id, hour, sum, count, min, max, last, last_at)
        SELECT customer_id, series_id, hour, sum, count, min, max, last, last_at FROM counted
        ORDER BY customer_id, series_id, hour
        ON CONFLICT (customer_id, series_id, hour) DO UPDATE SET
            sum = EXCLUDED.sum, count = EXCLUDED.count, min = EXCLUDED.min, max = EXCLUDED.max,
            last = EXCLUDED.last, last_at = EXCLUDED.last_at
        WHERE (kept.sum, kept.count, kept.min, kept.max, kept.last, kept.last_at) IS DISTINCT FROM
              (EXCLUDED.sum, EXCLUDED.count, EXCLUDED.min, EXCLUDED.max, EXCLUDED.last, EXCLUDED.last_at)
        RETURNING 1
    ), emptied AS (
        UPDATE usage_hour AS kept SET sum = 0, count = 0
        FROM asked WHERE {WITHIN.format(table="kept")} AND (kept.count <> 0 OR kept.sum <> 0)
          AND NOT EXISTS (
              SELECT FROM counted WHERE counted.customer_id = kept.customer_id
                AND counted.series_id = kept.series_id AND counted.hour = kept.hour
          )
        RETURNING 1
    ), written_part AS (
        INSERT INTO usage_part AS kept (customer_id, series_id, hour, kind, part, sum, count)
        SELECT customer_id, series_id, hour, kind, part, sum, count FROM counted_part
        ORDER BY customer_id, series_id, hour, part
        ON CONFLICT (customer_id, series_id, hour, part) DO UPDATE SET
            kind = EXCLUDED.kind, sum = EXCLUDED.sum, count = EXCLUDED.count
        WHERE (kept.kind, kept.sum, kept.count) IS DISTINCT FROM (EXCLUDED.kind, EXCLUDED.sum, EXCLUDED.count)
        RETURNING 1
    ), emptied_part AS (
        DELETE FROM usage_part AS kept USING asked WHERE {WITHIN.format(table="kept")} AND NOT EXISTS (
            SELECT FROM counted_part WHERE counted_part.customer_id = kept.customer_id
              AND counted_part.series_id = kept.series_id AND counted_part.hour = kept.hour
              AND counted_part.part = kept.part
        )
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM written) + (SELECT count(*) FROM emptied),
           (SELECT count(*) FROM written_part) + (SELECT count(*) FROM emptied_part),
           (SELECT count(*) FROM taken) + (SELECT count(*) FROM taken_part)
"""  # noqa: S608 -- built from constants

_DROP_LEVELS = f"""
    WITH {_ASKED}, dropped AS (
        DELETE FROM usage_level AS level USING asked WHERE {WITHIN.format(table="level")}
    )
    SELECT DISTINCT part.customer_id, part.series_id, part.hour FROM asked JOIN usage_part AS part
        ON {WITHIN.format(table="part")}
    WHERE part.kind = 'r' AND part.count > 0
"""  # noqa: S608 -- built from constants


@transaction.atomic
def recount(*, spans: Sequence[Span], series_ids: Sequence[int] | None = None) -> Recounted:
    """Write the hours of these spans anew from events and amendments: of these series, or of all that have any.

    Spans do not overlap. Amendments of this transaction are counted. No fold runs from here until the transaction ends,
    so ask for no more hours than a moment takes. Hours whose raw events are gone stay as they are.
    """
    parameters = parameters_of(spans, series_ids)
    with connection.cursor() as cursor:
        hold_partitions(cursor)
        rollups.hold_folding(cursor)
        cursor.execute(_RECOUNT, parameters)
        result = Recounted(*cursor.fetchone())
        _rebuild_levels(cursor, parameters)
    return result


def hold_partitions(cursor: CursorWrapper) -> None:
    """Keep new months from being added to the events until the transaction ends.

    A statement that was planned before a month was there would see its deltas and not its events. To be called before
    anything else is locked, as senders do.
    """
    cursor.execute("SELECT pg_advisory_xact_lock_shared(hashtext('make_usage_event_partition'))")


def parameters_of(spans: Sequence[Span], series_ids: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the parameters of `CONTRIBUTIONS` and `WITHIN`."""
    customers, starts, ends = zip(*spans, strict=True) if spans else ((), (), ())
    return {
        "customers": list(customers),
        "starts": list(starts),
        "ends": list(ends),
        "series": None if series_ids is None else list(series_ids),
    }


def _rebuild_levels(cursor: CursorWrapper, parameters: dict[str, Any]) -> None:
    cursor.execute(_DROP_LEVELS, parameters)
    if levelled := cursor.fetchall():
        customers, series_ids, hours = zip(*levelled, strict=True)
        rollups.rebuild_levels(cursor, customers=customers, series_ids=series_ids, hours=hours)


class Chunk(NamedTuple):
    """Spans that are counted at once, and about how many events lie in them."""

    spans: list[Span]
    events: int


CHUNK_EVENTS = 200_000
_CHUNK_CUSTOMERS = 1_000

_EVENTS_BY_CUSTOMER = """
    SELECT customer_id, sum(events)::bigint FROM (
        SELECT customer_id, count(*) AS events FROM usage_event
        WHERE time >= %(start)s AND time < %(end)s AND (%(customer)s::bigint IS NULL OR customer_id = %(customer)s)
        GROUP BY customer_id
        UNION ALL
        -- What is kept of a customer without events here has to be looked for, too.
        SELECT DISTINCT customer_id, 0 FROM usage_series
        WHERE %(customer)s::bigint IS NULL OR customer_id = %(customer)s
        UNION ALL
        SELECT DISTINCT customer_id, 0 FROM usage_hour
        WHERE hour >= %(start)s AND hour < %(end)s AND (%(customer)s::bigint IS NULL OR customer_id = %(customer)s)
        UNION ALL
        SELECT DISTINCT customer_id, 0 FROM usage_delta
        WHERE hour >= %(start)s AND hour < %(end)s AND (%(customer)s::bigint IS NULL OR customer_id = %(customer)s)
        UNION ALL
        SELECT DISTINCT customer_id, 0 FROM usage_part_delta
        WHERE hour >= %(start)s AND hour < %(end)s AND (%(customer)s::bigint IS NULL OR customer_id = %(customer)s)
    ) AS present
    GROUP BY customer_id ORDER BY customer_id
"""

_EVENTS_BY_HOUR = """
    SELECT date_trunc('hour', time, 'UTC') AS hour, count(*) FROM usage_event
    WHERE customer_id = %s AND time >= %s AND time < %s GROUP BY hour ORDER BY hour
"""


def chunks(
    *, start: datetime, end: datetime, customer_id: int | None = None, chunk_events: int = CHUNK_EVENTS
) -> list[Chunk]:
    """Cut the hours of `[start, end)` of all customers, or of one, into chunks of about `chunk_events` events.

    Customers are put together up to that, and one with more is cut by hours. One hour of one customer is never cut.
    """
    found: list[Chunk] = []
    spans: list[Span] = []
    events = 0
    for customer, count in _rows(_EVENTS_BY_CUSTOMER, {"start": start, "end": end, "customer": customer_id}):
        if count > chunk_events:
            found += _chunks_of_one(Span(customer, start, end), chunk_events)
            continue
        if spans and (events + count > chunk_events or len(spans) == _CHUNK_CUSTOMERS):
            found.append(Chunk(spans, events))
            spans, events = [], 0
        spans.append(Span(customer, start, end))
        events += count
    return [*found, Chunk(spans, events)] if spans else found


def _chunks_of_one(span: Span, chunk_events: int) -> list[Chunk]:
    found: list[Chunk] = []
    start, events = span.start, 0
    for hour, count in _rows(_EVENTS_BY_HOUR, list(span)):
        if events and events + count > chunk_events:
            found.append(Chunk([Span(span.customer_id, start, hour)], events))
            start, events = hour, 0
        events += count
    return [*found, Chunk([Span(span.customer_id, start, span.end)], events)]


def _rows(query: str, parameters: dict[str, Any] | list[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
