"""Reads what usage adds up to. Every total is hours plus the deltas not folded yet, in one statement's snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection
from django.db.models import Q

from metering.errors import WindowNotOnTheHour
from metering.models import UsageEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageWindow:
    """The usage of one customer during `[start, end)`; both on the hour of UTC."""

    customer_id: int
    start: datetime
    end: datetime


class SeriesTotal(msgspec.Struct, frozen=True, gc=False):
    """What one series adds up to in one window.

    `window` is the window's position among those asked for. `last` is the value at the latest time. `digest` is the
    SHA-256 of the series' id and its hours in order (seconds since 1970, sum, count), so that a later reading of the
    same window can be compared.
    """

    window: int
    customer_id: int
    series_id: int
    meter_id: int
    dimensions: dict[str, str]
    sum: Decimal
    count: int
    min: Decimal
    max: Decimal
    last: Decimal
    digest: bytes


class HourOfUsage(msgspec.Struct, frozen=True, gc=False):
    """One hour of one series; `hour` is its beginning."""

    series_id: int
    hour: datetime
    sum: Decimal
    count: int


class DayOfUsage(msgspec.Struct, frozen=True, gc=False):
    """One day's usage of one meter, in the time zone asked for."""

    day: date
    meter_id: int
    sum: Decimal
    count: int


# Each series is read on its own, in the order of its key, and its few unfolded hours are joined to it: nothing has to
# be sorted that lies in order already.
_SERIES_TOTALS = """
    WITH asked AS (
        SELECT * FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])
            AS asked(position, customer_id, starts_at, ends_at)
    )
    SELECT asked.position, asked.customer_id, series.id, series.meter_id, series.dimensions::text,
           total.sum, total.count, total.min, total.max, total.last, total.digest
    FROM asked
    JOIN usage_series AS series ON series.customer_id = asked.customer_id
    CROSS JOIN LATERAL (
        SELECT sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
               (array_agg(last ORDER BY hour DESC))[1] AS last,
               sha256(convert_to(series.id || E'\\n' || string_agg(
                   date_part('epoch', hour)::bigint || '|' || trim_scale(sum) || '|' || count, E'\\n' ORDER BY hour
               ), 'UTF8')) AS digest
        FROM (
            SELECT coalesce(folded.hour, fresh.hour) AS hour,
                   coalesce(folded.sum + fresh.sum, folded.sum, fresh.sum) AS sum,
                   coalesce(folded.count + fresh.count, folded.count, fresh.count) AS count,
                   least(folded.min, fresh.min) AS min,
                   greatest(folded.max, fresh.max) AS max,
                   CASE WHEN fresh.hour IS NULL OR (folded.last_at, folded.last) > (fresh.last_at, fresh.last)
                        THEN folded.last ELSE fresh.last END AS last
            FROM (
                SELECT * FROM usage_hour AS part
                WHERE part.customer_id = asked.customer_id AND part.series_id = series.id
                  AND part.hour >= asked.starts_at AND part.hour < asked.ends_at
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
    ) AS total
    WHERE total.count IS NOT NULL
    ORDER BY asked.position, series.id
"""


def series_totals(windows: Sequence[UsageWindow]) -> list[SeriesTotal]:
    """Return what every series adds up to in each window, in the order of the windows; one query for all.

    Raises: WindowNotOnTheHour.
    """
    for window in windows:
        require_on_the_hour(window.start, window.end)
    rows = _fetch(
        _SERIES_TOTALS,
        [
            list(range(len(windows))),
            [window.customer_id for window in windows],
            [window.start for window in windows],
            [window.end for window in windows],
        ],
    )
    return [_series_total(*row) for row in rows]


def _series_total(
    window: int,
    customer_id: int,
    series_id: int,
    meter_id: int,
    dimensions: str,
    *totals: Any,
) -> SeriesTotal:
    return SeriesTotal(window, customer_id, series_id, meter_id, msgspec.json.decode(dimensions), *totals)


_HOURS = """
    WITH asked AS (
        SELECT id, customer_id FROM usage_series WHERE id = ANY(%(series_ids)s)
    ), parts AS (
        SELECT asked.id AS series_id, hour, sum, count
        FROM asked JOIN usage_hour AS part ON part.customer_id = asked.customer_id AND part.series_id = asked.id
        WHERE hour >= %(start)s AND hour < %(end)s
        UNION ALL
        SELECT asked.id, hour, sum, count
        FROM asked JOIN usage_delta AS part ON part.customer_id = asked.customer_id AND part.series_id = asked.id
        WHERE hour >= %(start)s AND hour < %(end)s
    )
    SELECT series_id, hour, sum(sum), sum(count)::bigint FROM parts
    GROUP BY series_id, hour ORDER BY hour, series_id
"""


def hours(*, series_ids: Sequence[int], start: datetime, end: datetime) -> list[HourOfUsage]:
    """Return the hours of these series that begin in `[start, end)` and saw usage, in order of time."""
    rows = _fetch(_HOURS, {"series_ids": list(series_ids), "start": start, "end": end})
    return [HourOfUsage(*row) for row in rows]


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
# period; their events lie together in the blocks that were written last.
_UNSEEN = """
    WITH asked AS MATERIALIZED (
        SELECT position, customer_id, starts_at, ends_at, snapshot::pg_snapshot AS snapshot
        FROM unnest(%s::int[], %s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::text[])
            AS asked(position, customer_id, starts_at, ends_at, snapshot)
    ), batch AS MATERIALIZED (
        SELECT id, transaction_id::text::xid8 AS transaction_id FROM metering_usagebatch
        WHERE transaction_id >= (SELECT min(pg_snapshot_xmin(snapshot)::text::bigint) FROM asked)
          AND earliest_at < (SELECT max(ends_at) FROM asked)
    ), late AS MATERIALIZED (
        SELECT event.customer_id, event.time, batch.transaction_id
        FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
        WHERE event.batch_id >= (SELECT min(id) FROM batch)
          AND event.time >= (SELECT min(starts_at) FROM asked)
          AND event.time < (SELECT max(ends_at) FROM asked)
    )
    SELECT position FROM asked WHERE EXISTS (
        SELECT 1 FROM late
        WHERE late.customer_id = asked.customer_id AND late.time >= asked.starts_at AND late.time < asked.ends_at
          AND NOT pg_visible_in_snapshot(late.transaction_id, asked.snapshot)
    )
    ORDER BY position
"""


def windows_with_unseen_usage(windows: Sequence[UnseenWindow]) -> list[int]:
    """Return the positions of the windows whose customer has usage in them that the snapshot did not see.

    The answer is exact whatever the order in which batches committed.
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
