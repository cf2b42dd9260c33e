"""Finds usage that is unlike the usual week: hours of a source, and what a customer used over a period.

The usual week of a series of hours is, for each of the 168 hours of a week (UTC), the median over the weeks before the
period: the value in the middle, the lower of two, exact. A week without usage counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction

_WEEK = timedelta(weeks=1)
# More than there are meters: a customer's number times this plus a meter's is the place's.
_METERS = 10_000_000
_HOUR = timedelta(hours=1)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Oddity(NamedTuple):
    """A stretch of odd usage of one source or of one customer, of one meter; `hours` of it are odd.

    `kind` is "gap", "fall", "spike" or "silent". `actual` and `usual` are what the odd hours add up to, in the meter's
    unit.
    """

    kind: str
    source: str
    type: str
    customer_id: int | None
    meter_id: int
    start: datetime
    end: datetime
    hours: int
    actual: Decimal
    usual: Decimal


# Places (a source or a customer, with a meter) and hours are numbers here, an hour those since 1970: millions of rows
# are sorted by them. `known` (place, hour, count, sum) holds the hours with usage; from it follows the usual week of
# each place. A median of n weeks of which some saw nothing: their zeros stand between what is below and what is above.
_USUAL_WEEK = """
    span AS (
        SELECT place, max(hour) AS last_hour, count(*) AS hours,
               least(%(weeks)s, (%(start)s - min(hour)) / 168) AS weeks
        FROM known GROUP BY place
    ), seen AS (
        SELECT place, slot, weeks, array_agg(count ORDER BY count) AS counts, array_agg(sum ORDER BY sum) AS sums,
               weeks - count(*)::int AS zeros, (count(*) FILTER (WHERE sum < 0))::int AS below,
               (weeks + 1) / 2 AS middle
        FROM (
            SELECT place, weeks, count, sum, hour %% 168 AS slot
            FROM known JOIN span USING (place)
            WHERE weeks >= %(weeks_at_least)s AND hour < %(start)s AND hour >= %(start)s - weeks * 168
        ) AS hours
        GROUP BY place, slot, weeks
    ), usual AS (
        SELECT place, slot, CASE WHEN middle <= zeros THEN 0 ELSE counts[middle - zeros] END AS usual_count,
               CASE WHEN middle <= below THEN sums[middle] WHEN middle <= below + zeros THEN 0
                    ELSE sums[middle - zeros] END AS usual_sum
        FROM seen
    ), silent AS (
        SELECT place, last_hour + 1 AS since
        FROM (
            SELECT place, last_hour, hour - lag(hour) OVER (PARTITION BY place ORDER BY hour) AS pause
            FROM known JOIN span USING (place)
            WHERE weeks < %(weeks_at_least)s AND hours >= %(fewest)s AND last_hour + 25 < %(end)s
        ) AS step
        GROUP BY place, last_hour
        HAVING %(end)s - last_hour - 1 > 2 * max(pause)
    )
"""

_NUMBER_OF_HOUR = "(date_part('epoch', hour) / 3600)::int"

# Usage that comes an hour earlier or later than usual, as from a clock that follows summer time, is no gap. A spike is
# measured against the busiest of the hours around it, or of the week where there is never any usage around it.
_ODD_HOURS = f"""
    WITH received AS MATERIALIZED (
        SELECT source, type, meter_id, hour, count, sum FROM usage_receipt_hour
        WHERE meter_id <> 0 AND hour >= %(from)s AND hour < %(until)s
        UNION ALL
        SELECT source, type, meter_id, hour, count, sum FROM usage_receipt
        WHERE meter_id <> 0 AND hour >= %(from)s AND hour < %(until)s
    ), place AS MATERIALIZED (
        SELECT source, type, meter_id, row_number() OVER (ORDER BY source, type, meter_id)::int AS place
        FROM (SELECT DISTINCT source, type, meter_id FROM received) AS each
        WHERE %(customers)s::bigint[] IS NULL
           OR meter_id IN (SELECT meter_id FROM usage_series WHERE customer_id = ANY(%(customers)s))
    ), known AS MATERIALIZED (
        SELECT place, {_NUMBER_OF_HOUR} AS hour, sum(count)::bigint AS count, sum(sum) AS sum
        FROM received JOIN place USING (source, type, meter_id)
        GROUP BY place, received.hour HAVING sum(count) > 0
    ), {_USUAL_WEEK}, grid AS (
        SELECT place, hour, coalesce(known.count, 0) AS count, coalesce(known.sum, 0) AS sum,
               coalesce(usual_count, 0) AS usual_count, coalesce(usual_sum, 0) AS usual_sum, busiest
        FROM (
            SELECT place, busiest, hour, hour %% 168 AS slot
            FROM (SELECT place, max(usual_sum) AS busiest FROM usual GROUP BY place) AS every
            CROSS JOIN generate_series(%(start)s, %(end)s - 1) AS hour
        ) AS each
        LEFT JOIN usual USING (place, slot)
        LEFT JOIN known USING (place, hour)
    ), around AS (
        SELECT *, lag(usual_count) OVER one AS usual_before, lag(count) OVER one AS count_before,
               lead(usual_count) OVER one AS usual_after, lead(count) OVER one AS count_after,
               greatest(usual_sum, lag(usual_sum) OVER one, lead(usual_sum) OVER one) AS nearby
        FROM grid WINDOW one AS (PARTITION BY place ORDER BY hour)
    ), judged AS (
        SELECT place, hour, sum, usual_sum, CASE
            WHEN usual_count > 0 AND count = 0
                 AND NOT coalesce(usual_before = 0 AND count_before > 0, false)
                 AND NOT coalesce(usual_after = 0 AND count_after > 0, false) THEN 'gap'
            WHEN count > 0 AND usual_count >= %(fewest)s AND sum * 100 < usual_sum * %(fall)s THEN 'fall'
            WHEN count >= %(fewest)s AND busiest > 0
                 AND sum * 100 > CASE WHEN nearby > 0 THEN nearby ELSE busiest END * %(hour_spike)s THEN 'spike'
            END AS kind,
            row_number() OVER (PARTITION BY place ORDER BY hour) AS position
        FROM around WHERE usual_count > 0 OR count > 0
    ), run AS (
        SELECT *, position - row_number() OVER (PARTITION BY place, kind ORDER BY hour) AS run
        FROM judged WHERE kind IS NOT NULL
    ), odd AS (
        SELECT kind, place, min(hour) AS since, max(hour) + 1 AS until, count(*) AS hours, sum(sum) AS sum,
               sum(usual_sum) AS usual_sum
        FROM run GROUP BY place, kind, run
        UNION ALL
        SELECT 'silent', place, since, %(end)s, %(end)s - since, 0, 0 FROM silent
        ORDER BY since DESC, place LIMIT 1000
    )
    SELECT kind, source, type, meter_id, since, until, hours, sum, usual_sum
    FROM odd JOIN place USING (place) ORDER BY since DESC, place
"""  # noqa: S608 -- the house's own SQL

_ODD_CUSTOMERS = f"""
    WITH known AS MATERIALIZED (
        SELECT part.customer_id * %(meters)s + series.meter_id AS place, {_NUMBER_OF_HOUR} AS hour,
               sum(count)::bigint AS count, sum(sum) AS sum
        FROM (
            SELECT customer_id, series_id, hour, count, sum FROM usage_hour
            WHERE hour >= %(from)s AND hour < %(until)s
              AND (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
            UNION ALL
            SELECT customer_id, series_id, hour, count, sum FROM usage_delta
            WHERE hour >= %(from)s AND hour < %(until)s
              AND (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
        ) AS part
        JOIN usage_series AS series ON series.customer_id = part.customer_id AND series.id = part.series_id
        GROUP BY part.customer_id * %(meters)s + series.meter_id, part.hour HAVING sum(count) > 0
    ), {_USUAL_WEEK}, hours AS (
        SELECT hour %% 168 AS slot, count(*) AS times FROM generate_series(%(start)s, %(end)s - 1) AS hour GROUP BY slot
    ), expected AS (
        SELECT place, sum(usual_count * times) AS usual_count, sum(usual_sum * times) AS usual_sum
        FROM usual JOIN hours USING (slot) GROUP BY place
    ), actual AS (
        SELECT place, sum(count) AS count, sum(sum) AS sum FROM known WHERE hour >= %(start)s GROUP BY place
    ), judged AS (
        SELECT place, coalesce(sum, 0) AS sum, usual_sum, CASE
            WHEN usual_count > 0 AND count IS NULL THEN 'gap'
            WHEN usual_count >= %(fewest)s AND sum * 100 < usual_sum * %(fall)s THEN 'fall'
            WHEN usual_count >= %(fewest)s AND sum * 100 > usual_sum * %(spike)s THEN 'spike' END AS kind
        FROM expected LEFT JOIN actual USING (place)
    ), odd AS (
        SELECT kind, place, %(start)s AS since, %(end)s - %(start)s AS hours, sum, usual_sum
        FROM judged WHERE kind IS NOT NULL
        UNION ALL
        SELECT 'silent', place, since, %(end)s - since, 0, 0 FROM silent
        ORDER BY since DESC, place LIMIT 1000
    )
    SELECT kind, place, since, %(end)s, hours, sum, usual_sum FROM odd ORDER BY since DESC, place
"""  # noqa: S608 -- as above

# Enough for the sorts of some thousand customers; with the default of 4 MB all would go to disk several times over.
_MEMORY_MEGABYTES = 64
_MEMORY = "SELECT set_config('work_mem', %s, true)"


def odd_hours(*, start: datetime, end: datetime, customer_ids: Sequence[int] | None = None) -> list[Oddity]:
    """Return where a source sent nothing, far less or far more than in the usual hours; consecutive hours are one.

    Both edges on the hour. With customers, only of meters that count usage of theirs. At most 1,000, the newest
    first; one query.
    """
    return [
        Oddity(kind, source, event_type, None, meter_id, _moment(since), _moment(until), *figures)
        for kind, source, event_type, meter_id, since, until, *figures in _fetch(
            _ODD_HOURS, start=start, end=end, customer_ids=customer_ids
        )
    ]


def odd_customers(*, start: datetime, end: datetime, customer_ids: Sequence[int] | None = None) -> list[Oddity]:
    """Return which customers' usage of a meter over the whole of `[start, end)` is nothing, far less or far more.

    Both edges on the hour. At most 1,000; one query, which reads the hours of the period and of the weeks before it.
    """
    return [
        Oddity(kind, "", "", place // _METERS, place % _METERS, _moment(since), _moment(until), *figures)
        for kind, place, since, until, *figures in _fetch(
            _ODD_CUSTOMERS, start=start, end=end, customer_ids=customer_ids
        )
    ]


def _number(hour: datetime) -> int:
    return (hour - _BEGINNING) // _HOUR


def _moment(number: int) -> datetime:
    return _BEGINNING + number * _HOUR


def _fetch(query: str, *, start: datetime, end: datetime, customer_ids: Sequence[int] | None) -> list[tuple[Any, ...]]:
    parameters: dict[str, Any] = {
        "start": _number(start),
        "end": _number(end),
        "from": start - settings.USUAL_WEEKS * _WEEK,
        "until": end,
        "meters": _METERS,
        "customers": None if customer_ids is None else list(customer_ids),
        "weeks": settings.USUAL_WEEKS,
        "weeks_at_least": settings.USUAL_WEEKS_AT_LEAST,
        "fewest": settings.USAGE_FEWEST_EVENTS,
        "fall": settings.USAGE_FALL_PERCENT,
        "spike": settings.USAGE_SPIKE_PERCENT,
        "hour_spike": settings.USAGE_HOUR_SPIKE_PERCENT,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_MEMORY, [f"{_MEMORY_MEGABYTES}MB"])
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
