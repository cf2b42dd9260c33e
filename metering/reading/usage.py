"""Reads what usage adds up to. Every total is hours plus the deltas not folded yet, in one statement's snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import starmap
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import Q

from metering.aggregations import Aggregation, Latest, Slots, State, quantity_of, slots_in
from metering.errors import WindowNotOnTheHour
from metering.models import PartKind, UsageEvent
from metering.reading.levels import LEVELS_HELD


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageWindow:
    """The usage of one customer during `[start, end)`; both on the hour of UTC."""

    customer_id: int
    start: datetime
    end: datetime


class SeriesTotal(msgspec.Struct, frozen=True, gc=False):
    """What one series adds up to in one window.

    `window` is the window's position among those asked for. `quantity` is that of the meter's aggregation, and `state`
    what `aggregations.combine` needs, with `divisor`, to join several series; of different values it is read only where
    the customer has several series in the meter. A gauge's series whose level was read before the window has no event
    in it, and no `min`, `max` and `last`. `last` is the value at the latest time. `sum`, `min`, `max`, `last` and the
    state are as the meter reads values: only the quantity is divided.

    `digest` is the SHA-256 of all that the quantity is made of, so that a later reading of the same window can be
    compared: the series' id and its hours in order (seconds since 1970, sum, count), for sum and count; for the others
    followed by the smallest, greatest or latest value, the area below the level, the hash of five-minute totals, or
    that of the different values of each hour.
    """

    window: int
    customer_id: int
    series_id: int
    meter_id: int
    aggregation: str
    dimensions: dict[str, str]
    quantity: Decimal
    divisor: Decimal
    state: State | None
    sum: Decimal
    count: int
    min: Decimal | None
    max: Decimal | None
    last: Decimal | None
    digest: bytes


class DayOfUsage(msgspec.Struct, frozen=True, gc=False):
    """One day's usage of one meter, in the time zone asked for."""

    day: date
    meter_id: int
    sum: Decimal
    count: int


# Each series is read on its own, in the order of its key, and its few unfolded hours are joined to it: nothing has to
# be sorted that lies in order already. An hour whose events were all taken out again counts as none.
_HOURS_OF_SERIES = """
    SELECT sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
           (array_agg(last ORDER BY hour DESC))[1] AS last, (array_agg(last_at ORDER BY hour DESC))[1] AS last_at,
           string_agg(
               date_part('epoch', hour)::bigint || '|' || trim_scale(sum) || '|' || count, E'\\n' ORDER BY hour
           ) AS text
    FROM (
        SELECT coalesce(folded.hour, fresh.hour) AS hour,
               coalesce(folded.sum + fresh.sum, folded.sum, fresh.sum) AS sum,
               coalesce(folded.count + fresh.count, folded.count, fresh.count) AS count,
               least(folded.min, fresh.min) AS min,
               greatest(folded.max, fresh.max) AS max,
               CASE WHEN fresh.hour IS NULL OR (folded.last_at, folded.last) > (fresh.last_at, fresh.last)
                    THEN folded.last ELSE fresh.last END AS last,
               greatest(folded.last_at, fresh.last_at) AS last_at
        FROM (
            SELECT * FROM usage_hour AS part
            WHERE part.customer_id = asked.customer_id AND part.series_id = series.id
              AND part.hour >= asked.starts_at AND part.hour < asked.ends_at AND part.count > 0
        ) AS folded
        FULL JOIN (
            SELECT hour, sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
                   (array_agg(last ORDER BY last_at DESC, last DESC))[1] AS last, max(last_at) AS last_at
            FROM usage_delta AS part
            WHERE part.customer_id = asked.customer_id AND part.series_id = series.id
              AND part.hour >= asked.starts_at AND part.hour < asked.ends_at
            GROUP BY hour
        ) AS fresh ON fresh.hour = folded.hour
    ) AS hours
"""


def _parts_of_series(kind: PartKind, aggregation: Aggregation) -> str:
    """The parts of a series; of a meter with another aggregation, nothing is read."""
    return f"""
        SELECT hour, part, sum(sum) AS sum
        FROM (
            SELECT hour, part, sum FROM usage_part AS part
            WHERE part.customer_id = asked.customer_id AND part.series_id = series.id
              AND part.hour >= asked.starts_at AND part.hour < asked.ends_at AND part.count > 0
              AND part.kind = '{kind}' AND meter.aggregation = '{aggregation}'
            UNION ALL
            SELECT hour, part, sum FROM usage_part_delta AS part
            WHERE part.customer_id = asked.customer_id AND part.series_id = series.id
              AND part.hour >= asked.starts_at AND part.hour < asked.ends_at
              AND part.kind = '{kind}' AND meter.aggregation = '{aggregation}'
        ) AS part
        GROUP BY hour, part
    """  # noqa: S608 -- built from constants


_SLOTS = _parts_of_series(PartKind.SLOT, Aggregation.P95)
_VALUES = _parts_of_series(PartKind.VALUE, Aggregation.UNIQUE)

_ASKED = """
    asked AS (
        SELECT * FROM unnest(%(positions)s::int[], %(customers)s::bigint[], %(starts)s::timestamptz[],
                             %(ends)s::timestamptz[]) AS asked(position, customer_id, starts_at, ends_at)
    ), meter AS (
        SELECT * FROM unnest(%(meters)s::bigint[], %(aggregations)s::text[]) AS meter(id, aggregation)
    )
"""

_DIGEST = """
    sha256(convert_to(series.id || E'\\n' || total.text || CASE meter.aggregation
        WHEN 'min' THEN E'\\n' || trim_scale(total.min) WHEN 'max' THEN E'\\n' || trim_scale(total.max)
        WHEN 'latest' THEN E'\\n' || trim_scale(total.last) || '|' || extract(epoch FROM total.last_at)
        ELSE '' END, 'UTF8'))
"""

# Where no meter keeps parts: nearly always, and so with nothing in it that only the others need.
_SERIES_TOTALS = f"""
    WITH {_ASKED}
    SELECT asked.position, asked.customer_id, series.id, series.meter_id, meter.aggregation, series.dimensions::text,
           total.sum, total.count, total.min, total.max, total.last, {_DIGEST}, total.last_at,
           NULL, NULL, NULL, NULL, NULL
    FROM asked
    JOIN usage_series AS series ON series.customer_id = asked.customer_id
    JOIN meter ON meter.id = series.meter_id
    CROSS JOIN LATERAL ({_HOURS_OF_SERIES}) AS total
    WHERE total.count IS NOT NULL
    ORDER BY asked.position, series.id
"""  # noqa: S608 -- built from constants

_SERIES_TOTALS_WITH_PARTS = f"""
    WITH {_ASKED}, gauge AS (
        SELECT row_number() OVER () AS place, asked.*, series.id AS series_id
        FROM asked JOIN usage_series AS series ON series.customer_id = asked.customer_id
        JOIN meter ON meter.id = series.meter_id AND meter.aggregation = 'gauge'
    ), {LEVELS_HELD}, area AS (
        SELECT gauge.position, gauge.series_id,
               sum(CASE WHEN held.hour >= gauge.starts_at THEN held.area ELSE 0 END)
               + sum(CASE WHEN held.holds_from < held.holds_to
                     THEN held.last * extract(epoch FROM held.holds_to - held.holds_from) * 1000000 ELSE 0 END) AS area
        FROM held JOIN gauge USING (place)
        GROUP BY gauge.position, gauge.series_id
    )
    SELECT asked.position, asked.customer_id, series.id, series.meter_id, meter.aggregation, series.dimensions::text,
           coalesce(total.sum, 0), coalesce(total.count, 0), total.min, total.max, total.last,
           CASE meter.aggregation
               WHEN 'gauge' THEN sha256(convert_to(
                   series.id || E'\\n' || coalesce(total.text, '') || E'\\n' || trim_scale(area.area), 'UTF8'))
               WHEN 'p95' THEN sha256(convert_to(series.id || E'\\n' || total.text || E'\\n' || slots.text, 'UTF8'))
               WHEN 'unique' THEN sha256(
                   convert_to(series.id || E'\\n' || total.text || E'\\n' || values.text, 'UTF8'))
               ELSE {_DIGEST}
           END,
           total.last_at, area.area, slots.starts, slots.sums, values.count, values.seen
    FROM asked
    JOIN usage_series AS series ON series.customer_id = asked.customer_id
    JOIN meter ON meter.id = series.meter_id
    CROSS JOIN LATERAL ({_HOURS_OF_SERIES}) AS total
    LEFT JOIN area ON area.position = asked.position AND area.series_id = series.id
    LEFT JOIN LATERAL (
        SELECT array_agg(slot.at ORDER BY slot.at) AS starts, array_agg(slot.sum ORDER BY slot.at) AS sums,
               string_agg(slot.at || '|' || trim_scale(slot.sum), E'\\n' ORDER BY slot.at) AS text
        FROM (
            SELECT date_part('epoch', hour)::bigint + part::int * 60 AS at, sum FROM ({_SLOTS}) AS part
        ) AS slot
    ) AS slots ON meter.aggregation = 'p95'
    LEFT JOIN LATERAL (
        SELECT count(DISTINCT seen.part) AS count,
               CASE WHEN EXISTS (
                   SELECT FROM usage_series AS other
                   WHERE other.customer_id = series.customer_id AND other.meter_id = series.meter_id
                     AND other.id <> series.id
               ) THEN array_agg(DISTINCT seen.part) END AS seen,
               (SELECT string_agg(each.text, E'\\n' ORDER BY each.hour) FROM (
                   SELECT part.hour, encode(sha256(convert_to(
                              string_agg(part.part, E'\\n' ORDER BY part.part), 'UTF8')), 'hex') AS text
                   FROM ({_VALUES}) AS part GROUP BY part.hour
               ) AS each) AS text
        FROM ({_VALUES}) AS seen
    ) AS values ON meter.aggregation = 'unique'
    WHERE total.count IS NOT NULL OR area.area IS NOT NULL
    ORDER BY asked.position, series.id
"""  # noqa: S608 -- built from constants


_KEEP_PARTS = frozenset({Aggregation.UNIQUE, Aggregation.GAUGE, Aggregation.P95})


def series_totals(windows: Sequence[UsageWindow]) -> list[SeriesTotal]:
    """Return what every series adds up to in each window, in the order of the windows; two queries for all.

    A gauge's series whose level was read before a window and holds in it is among them, however long ago that was.

    Raises: WindowNotOnTheHour.
    """
    for window in windows:
        require_on_the_hour(window.start, window.end)
    meters = {row[0]: _Meter(*row[1:]) for row in _fetch("SELECT id, aggregation, divisor FROM metering_meter", [])}
    aggregations = [meter.aggregation for meter in meters.values()]
    rows = _fetch(
        _SERIES_TOTALS if _KEEP_PARTS.isdisjoint(aggregations) else _SERIES_TOTALS_WITH_PARTS,
        {
            "positions": list(range(len(windows))),
            "customers": [window.customer_id for window in windows],
            "starts": [window.start for window in windows],
            "ends": [window.end for window in windows],
            "meters": list(meters),
            "aggregations": aggregations,
        },
    )
    return [_series_total(row, windows[row.window], meters[row.meter_id].divisor) for row in starmap(_Total, rows)]


class _Meter(NamedTuple):
    """What is read of a meter, to know what its hours stand for."""

    aggregation: str
    divisor: Decimal


class _Total(NamedTuple):
    """A row of what one series adds up to; the columns that its aggregation has no need of are empty."""

    window: int
    customer_id: int
    series_id: int
    meter_id: int
    aggregation: str
    dimensions: str
    sum: Decimal
    events: int
    min: Any
    max: Any
    last: Any
    digest: bytes
    last_at: Any
    area: Any
    slots: Any
    slot_sums: Any
    different: Any
    seen: Any


_STATES: Mapping[str, Callable[[_Total, UsageWindow], State | None]] = {
    Aggregation.SUM: lambda row, _window: row.sum,
    Aggregation.COUNT: lambda row, _window: Decimal(row.events),
    Aggregation.MIN: lambda row, _window: row.min,
    Aggregation.MAX: lambda row, _window: row.max,
    Aggregation.LATEST: lambda row, _window: Latest(row.last_at, row.last),
    Aggregation.GAUGE: lambda row, _window: row.area,
    Aggregation.UNIQUE: lambda row, _window: None if row.seen is None else frozenset(row.seen),
    Aggregation.P95: lambda row, window: Slots(
        dict(zip(row.slots, row.slot_sums, strict=True)), slots_in(window.start, window.end)
    ),
}


def _series_total(row: _Total, window: UsageWindow, divisor: Decimal) -> SeriesTotal:
    state = _STATES[row.aggregation](row, window)
    return SeriesTotal(
        row.window,
        row.customer_id,
        row.series_id,
        row.meter_id,
        row.aggregation,
        msgspec.json.decode(row.dimensions),
        Decimal(row.different) if state is None else quantity_of(row.aggregation, state, divisor),
        divisor,
        state,
        row.sum,
        row.events,
        row.min,
        row.max,
        row.last,
        row.digest,
    )


_DAILY = """
    WITH parts AS (
        SELECT customer_id, series_id, hour, sum, count FROM usage_hour
        WHERE hour >= %(start)s AND hour < %(end)s
          AND (%(customer_id)s::bigint IS NULL OR customer_id = %(customer_id)s)
        UNION ALL
        SELECT customer_id, series_id, hour, sum, count FROM usage_delta
        WHERE hour >= %(start)s AND hour < %(end)s
          AND (%(customer_id)s::bigint IS NULL OR customer_id = %(customer_id)s)
    )
    SELECT (hour AT TIME ZONE %(time_zone)s)::date AS day, series.meter_id, sum(parts.sum), sum(parts.count)::bigint
    FROM parts JOIN usage_series AS series
        ON series.customer_id = parts.customer_id AND series.id = parts.series_id
    WHERE %(meter_id)s::bigint IS NULL OR series.meter_id = %(meter_id)s
    GROUP BY day, series.meter_id ORDER BY day, series.meter_id
"""


def daily_totals(
    *,
    start: datetime,
    end: datetime,
    customer_id: int | None = None,
    meter_id: int | None = None,
    time_zone: str = "UTC",
) -> list[DayOfUsage]:
    """Return usage by day and meter of the hours that begin in `[start, end)`, of one customer or of all.

    An hour belongs to the local day in which it begins.
    """
    rows = _fetch(
        _DAILY,
        {"start": start, "end": end, "customer_id": customer_id, "meter_id": meter_id, "time_zone": time_zone},
    )
    return [DayOfUsage(*row) for row in rows]


def events(
    *,
    customer_id: int,
    series_ids: Sequence[int],
    start: datetime,
    end: datetime,
    limit: int = 100,
    after: tuple[datetime, UUID] | None = None,
) -> list[UsageEvent]:
    """Return the events of `[start, end)` that were counted in any of these series, by time; at most `limit`.

    `after` is the time and key of the last event of the page before.
    """
    found = UsageEvent.objects.filter(
        customer_id=customer_id,
        time__gte=start,
        time__lt=end,
        series_ids__overlap=list(series_ids),
    )
    if after is not None:
        time, key = after
        found = found.filter(Q(time__gt=time) | Q(time=time, key__gt=key), time__gte=time)
    return list(found.order_by("time", "key")[:limit])


def current_snapshot() -> str:
    """Return which transactions are committed as of now, to ask later what came after.

    Take it before reading totals: what commits in between then counts as unseen, and is looked at again, never missed.
    """
    ((snapshot,),) = _fetch("SELECT pg_current_snapshot()::text", [])
    return str(snapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenWindow:
    """A customer's usage of `[start, end)` as it was seen in a snapshot."""

    customer_id: int
    start: datetime
    end: datetime
    snapshot: str


# No batch older than the oldest snapshot's horizon can be unseen, and few of the younger ones reach back into a closed
# period; their events lie together in the blocks that were written last. A level that was read before a window may
# hold in it; whether it does is not asked, for looking at one window too many costs no cent.
BATCHES_UNSEEN = """
    WITH asked AS MATERIALIZED (
        SELECT position, customer_id, starts_at, ends_at, snapshot::pg_snapshot AS snapshot
        FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::text[])
            AS asked(position, customer_id, starts_at, ends_at, snapshot)
    ), batch AS MATERIALIZED (
        SELECT id, transaction_id::text::xid8 AS transaction_id FROM metering_usagebatch
        WHERE transaction_id >= (SELECT min(pg_snapshot_xmin(snapshot)::text::bigint) FROM asked)
          AND earliest_at < (SELECT max(ends_at) FROM asked)
    )
"""
_UNSEEN = f"""
    {BATCHES_UNSEEN.strip()}, late AS MATERIALIZED (
        SELECT event.customer_id, event.time, batch.transaction_id, false AS is_level
        FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
        WHERE event.batch_id >= (SELECT min(id) FROM batch)
          AND event.time >= (SELECT min(starts_at) FROM asked)
          AND event.time < (SELECT max(ends_at) FROM asked)
        UNION ALL
        SELECT event.customer_id, event.time, batch.transaction_id, true
        FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
        WHERE event.batch_id >= (SELECT min(id) FROM batch)
          AND event.type IN (SELECT event_type FROM metering_meter WHERE aggregation = 'gauge')
          AND event.time < (SELECT max(starts_at) FROM asked)
        UNION ALL
        SELECT amended.customer_id, amended.time, batch.transaction_id, EXISTS (
            SELECT FROM usage_series AS series JOIN metering_meter AS meter ON meter.id = series.meter_id
            WHERE series.customer_id = amended.customer_id AND series.id = ANY(amended.series_ids)
              AND meter.aggregation = 'gauge'
        )
        FROM usage_amendment AS amended JOIN batch ON batch.id = amended.batch_id
        WHERE amended.batch_id >= (SELECT min(id) FROM batch)
          AND amended.time < (SELECT max(ends_at) FROM asked)
    )
    SELECT position FROM asked WHERE EXISTS (
        SELECT 1 FROM late
        WHERE late.customer_id = asked.customer_id AND (late.time >= asked.starts_at OR late.is_level)
          AND late.time < asked.ends_at
          AND NOT pg_visible_in_snapshot(late.transaction_id, asked.snapshot)
    )
    ORDER BY position
"""  # noqa: S608 -- built from constants


def windows_with_unseen_usage(windows: Sequence[UnseenWindow]) -> list[int]:
    """Return the positions of the windows whose customer has usage in them that the snapshot did not see.

    A correction is usage of its events' time. The answer is exact whatever the order in which batches committed; a
    reading of a level from before a window counts as usage of it, for its level may hold there.
    """
    rows = _fetch(
        _UNSEEN,
        [
            list(range(len(windows))),
            [window.customer_id for window in windows],
            [window.start for window in windows],
            [window.end for window in windows],
            [window.snapshot for window in windows],
        ],
    )
    return [position for (position,) in rows]


def require_on_the_hour(*moments: datetime) -> None:
    """Raise WindowNotOnTheHour where one of the moments is not a full hour of UTC."""
    for moment in moments:
        in_utc = moment.astimezone(UTC)
        if in_utc.minute or in_utc.second or in_utc.microsecond:
            msg = f"Usage is added up by hours of UTC; {in_utc.isoformat()} lies within one."
            raise WindowNotOnTheHour(msg)


def _fetch(query: str, parameters: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
