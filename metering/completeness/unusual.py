"""Finds usage that is unlike the usual week: hours of a source, and what a customer used over a period.

The usual week of a series of hours is, for each of the 168 hours of a week (UTC), the median over the weeks before the
period: the value in the middle, the lower of two, exact. A week without usage counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection

_WEEK = timedelta(weeks=1)


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


# What both queries share, from `known` (place, hour, count, sum; only hours with usage) to the usual week of each
# place. A median of n weeks of which some saw nothing: their zeros stand between what is below and what is above.
_USUAL_WEEK = """
    place AS (
        SELECT place, max(hour) AS last_at, count(*) AS hours,
               least(%(weeks)s, floor(extract(epoch FROM %(start)s - min(hour)) / 604800))::int AS weeks
        FROM known GROUP BY place
    ), seen AS (
        SELECT place, slot, weeks, array_agg(count ORDER BY count) AS counts, array_agg(sum ORDER BY sum) AS sums,
               weeks - count(*)::int AS zeros, (count(*) FILTER (WHERE sum < 0))::int AS below,
               (weeks + 1) / 2 AS middle
        FROM (
            SELECT place, weeks, count, sum, mod(extract(epoch FROM hour)::bigint / 3600, 168) AS slot
            FROM known JOIN place USING (place)
            WHERE weeks >= %(weeks_at_least)s AND hour < %(start)s AND hour >= %(start)s - weeks * interval '7 days'
        ) AS hours
        GROUP BY place, slot, weeks
    ), usual AS (
        SELECT place, slot, CASE WHEN middle <= zeros THEN 0 ELSE counts[middle - zeros] END AS usual_count,
               CASE WHEN middle <= below THEN sums[middle] WHEN middle <= below + zeros THEN 0
                    ELSE sums[middle - zeros] END AS usual_sum
        FROM seen
    ), silent AS (
        SELECT place, last_at + interval '1 hour' AS since
        FROM (
            SELECT place, last_at, hour - lag(hour) OVER (PARTITION BY place ORDER BY hour) AS pause
            FROM known JOIN place USING (place)
            WHERE weeks < %(weeks_at_least)s AND hours >= %(fewest)s
              AND last_at + interval '25 hours' < %(end)s
        ) AS step
        GROUP BY place, last_at
        HAVING %(end)s - last_at - interval '1 hour' > 2 * max(pause)
    )
"""

# Usage that comes an hour earlier or later than usual, as from a clock that follows summer time, is no gap. A spike is
# measured against the busiest of the hours around it, or of the week where there is never any usage around it.
_ODD_HOURS = f"""
    WITH received AS (
        SELECT source, type, meter_id, hour, count, sum FROM usage_receipt_hour
        WHERE meter_id <> 0 AND hour >= %(since)s AND hour < %(end)s
        UNION ALL
        SELECT source, type, meter_id, hour, count, sum FROM usage_receipt
        WHERE meter_id <> 0 AND hour >= %(since)s AND hour < %(end)s
    ), known AS (
        SELECT ARRAY[source, type, meter_id::text] AS place, hour, sum(count)::bigint AS count, sum(sum) AS sum
        FROM received
        WHERE %(customers)s::bigint[] IS NULL
           OR meter_id IN (SELECT meter_id FROM usage_series WHERE customer_id = ANY(%(customers)s))
        GROUP BY source, type, meter_id, hour HAVING sum(count) > 0
    ), {_USUAL_WEEK}, grid AS (
        SELECT place, hour, coalesce(known.count, 0) AS count, coalesce(known.sum, 0) AS sum,
               coalesce(usual_count, 0) AS usual_count, coalesce(usual_sum, 0) AS usual_sum, busiest
        FROM (
            SELECT place, busiest, hour, mod(extract(epoch FROM hour)::bigint / 3600, 168) AS slot
            FROM (SELECT place, max(usual_sum) AS busiest FROM usual GROUP BY place) AS every
            CROSS JOIN generate_series(%(start)s, %(end)s - interval '1 hour', interval '1 hour') AS hour
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
    )
    SELECT kind, place, min(hour), max(hour) + interval '1 hour', count(*), sum(sum), sum(usual_sum)
    FROM run GROUP BY place, kind, run
    UNION ALL
    SELECT 'silent', place, since, %(end)s, (extract(epoch FROM %(end)s - since) / 3600)::bigint, 0, 0 FROM silent
    ORDER BY 3 DESC, 2 LIMIT 1000
"""  # noqa: S608 -- the house's own SQL

_ODD_CUSTOMERS = f"""
    WITH part AS (
        SELECT customer_id, series_id, hour, count, sum FROM usage_hour
        WHERE hour >= %(since)s AND hour < %(end)s
          AND (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
        UNION ALL
        SELECT customer_id, series_id, hour, count, sum FROM usage_delta
        WHERE hour >= %(since)s AND hour < %(end)s
          AND (%(customers)s::bigint[] IS NULL OR customer_id = ANY(%(customers)s))
    ), known AS (
        SELECT ARRAY[part.customer_id, meter_id] AS place, hour, sum(count)::bigint AS count, sum(sum) AS sum
        FROM part JOIN usage_series AS series ON series.customer_id = part.customer_id AND series.id = part.series_id
        GROUP BY part.customer_id, meter_id, hour HAVING sum(count) > 0
    ), {_USUAL_WEEK}, hours AS (
        SELECT mod(extract(epoch FROM hour)::bigint / 3600, 168) AS slot, count(*) AS times
        FROM generate_series(%(start)s, %(end)s - interval '1 hour', interval '1 hour') AS hour
        GROUP BY slot
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
    )
    SELECT kind, place, %(start)s, %(end)s, (extract(epoch FROM %(end)s - %(start)s) / 3600)::bigint, sum, usual_sum
    FROM judged WHERE kind IS NOT NULL
    UNION ALL
    SELECT 'silent', place, since, %(end)s, (extract(epoch FROM %(end)s - since) / 3600)::bigint, 0, 0 FROM silent
    ORDER BY 3 DESC, 2 LIMIT 1000
"""  # noqa: S608 -- as above


def odd_hours(*, start: datetime, end: datetime, customer_ids: Sequence[int] | None = None) -> list[Oddity]:
    """Return where a source sent nothing, far less or far more than in the usual hours; consecutive hours are one.

    Both edges on the hour. With customers, only of meters that count usage of theirs. At most 1,000, the newest
    first; one query.
    """
    return [
        Oddity(kind, place[0], place[1], None, int(place[2]), *figures)
        for kind, place, *figures in _fetch(_ODD_HOURS, start=start, end=end, customer_ids=customer_ids)
    ]


def odd_customers(*, start: datetime, end: datetime, customer_ids: Sequence[int] | None = None) -> list[Oddity]:
    """Return which customers' usage of a meter over the whole of `[start, end)` is nothing, far less or far more.

    Both edges on the hour. At most 1,000; one query, which reads the hours of the period and of the weeks before it.
    """
    return [
        Oddity(kind, "", "", place[0], place[1], *figures)
        for kind, place, *figures in _fetch(_ODD_CUSTOMERS, start=start, end=end, customer_ids=customer_ids)
    ]


def _fetch(query: str, *, start: datetime, end: datetime, customer_ids: Sequence[int] | None) -> list[tuple[Any, ...]]:
    parameters = {
        "start": start,
        "end": end,
        "since": start - settings.USUAL_WEEKS * _WEEK,
        "customers": None if customer_ids is None else list(customer_ids),
        "weeks": settings.USUAL_WEEKS,
        "weeks_at_least": settings.USUAL_WEEKS_AT_LEAST,
        "fewest": settings.USAGE_FEWEST_EVENTS,
        "fall": settings.USAGE_FALL_PERCENT,
        "spike": settings.USAGE_SPIKE_PERCENT,
        "hour_spike": settings.USAGE_HOUR_SPIKE_PERCENT,
    }
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
