"""Folds deltas into hours and their parts. Totals never change by it: every read adds both, in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from metering.reading.levels import made_levels

# One fold at a time is enough, and then no two of them can wait for each other's hours.
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('metering.rollups.fold'))"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('metering.rollups.fold'))"

# Deltas are summed first, so that each hour is written once; the last value is that of the latest time, and of several
# at the same time the greatest, in whatever order they come to be folded. An hour whose events were all taken out again
# has a count of zero, and no smallest, greatest or last value. The oldest are those up to the last of them: named one
# by one, each would be looked for among all of them as long as the planner takes the table to be empty, as it just was.
_FOLD = """
    WITH taken AS (
        DELETE FROM usage_delta
        WHERE id <= (SELECT max(id) FROM (SELECT id FROM usage_delta ORDER BY id LIMIT %s) AS oldest)
        RETURNING customer_id, hour, series_id, sum, count, min, max, last, last_at
    ), added AS (
        SELECT customer_id, hour, series_id, sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min,
               max(max) AS max, (array_agg(last ORDER BY last_at DESC, last DESC))[1] AS last, max(last_at) AS last_at
        FROM taken GROUP BY customer_id, hour, series_id
    ), folded AS (
        INSERT INTO usage_hour AS hour
            (customer_id, hour, series_id, sum, count, min, max, last, last_at)
        SELECT customer_id, hour, series_id, sum, count, min, max, last, last_at FROM added
        ORDER BY customer_id, series_id, hour
        ON CONFLICT (customer_id, series_id, hour) DO UPDATE SET
            sum = hour.sum + EXCLUDED.sum,
            count = hour.count + EXCLUDED.count,
            min = CASE hour.count WHEN 0 THEN EXCLUDED.min ELSE least(hour.min, EXCLUDED.min) END,
            max = CASE hour.count WHEN 0 THEN EXCLUDED.max ELSE greatest(hour.max, EXCLUDED.max) END,
            last = CASE WHEN hour.count = 0 OR (EXCLUDED.last_at, EXCLUDED.last) > (hour.last_at, hour.last)
                        THEN EXCLUDED.last ELSE hour.last END,
            last_at = CASE hour.count WHEN 0 THEN EXCLUDED.last_at ELSE greatest(hour.last_at, EXCLUDED.last_at) END
    )
    SELECT count(*) FROM taken
"""


_FOLD_PARTS = """
    WITH taken AS (
        DELETE FROM usage_part_delta
        WHERE id <= (SELECT max(id) FROM (SELECT id FROM usage_part_delta ORDER BY id LIMIT %s) AS oldest)
        RETURNING customer_id, series_id, hour, kind, part, sum, count
    ), added AS (
        SELECT customer_id, series_id, hour, kind, part, sum(sum) AS sum, sum(count)::bigint AS count
        FROM taken GROUP BY customer_id, series_id, hour, kind, part
    ), folded AS (
        INSERT INTO usage_part AS present (customer_id, series_id, hour, kind, part, sum, count)
        SELECT customer_id, series_id, hour, kind, part, sum, count FROM added
        ORDER BY customer_id, series_id, hour, part
        ON CONFLICT (customer_id, series_id, hour, part) DO UPDATE SET
            sum = present.sum + EXCLUDED.sum, count = present.count + EXCLUDED.count
    ), levelled AS (
        SELECT DISTINCT customer_id, series_id, hour FROM added WHERE kind = 'r'
    )
    SELECT (SELECT count(*) FROM taken),
           (SELECT array_agg(customer_id ORDER BY customer_id, series_id, hour) FROM levelled),
           (SELECT array_agg(series_id ORDER BY customer_id, series_id, hour) FROM levelled),
           (SELECT array_agg(hour ORDER BY customer_id, series_id, hour) FROM levelled)
"""

_READINGS_ASKED_FOR = """
    SELECT customer_id, series_id, hour, part FROM usage_part JOIN asked USING (customer_id, series_id, hour)
    WHERE kind = 'r' AND count > 0
"""

_LEVEL_HOURS = f"""
    WITH asked AS (
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[]) AS asked(customer_id, series_id, hour)
    ), {made_levels(_READINGS_ASKED_FOR, by="customer_id, series_id")}
    INSERT INTO usage_level (customer_id, series_id, hour, first_at, area, last)
    SELECT customer_id, series_id, hour, first_at, area, last FROM made_level
    ON CONFLICT (customer_id, series_id, hour) DO UPDATE SET
        first_at = EXCLUDED.first_at, area = EXCLUDED.area, last = EXCLUDED.last
"""  # noqa: S608 -- built from constants


@transaction.atomic
def fold(*, limit: int = 50_000) -> int:
    """Merge up to `limit` deltas of hours and of parts, the oldest first, and return how many; 0: none, or not now.

    It is one transaction: killed at any point it has done nothing, and a reader sees each delta either as itself or in
    its hour, never twice and never not at all. While another fold or a recount is at work it leaves everything to it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_TRY_LOCK)
        (is_ours,) = cursor.fetchone()
        if not is_ours:
            return 0
        cursor.execute(_FOLD, [limit])
        (folded,) = cursor.fetchone()
        cursor.execute(_FOLD_PARTS, [limit])
        parts, customers, series_ids, hours = cursor.fetchone()
        if hours:
            rebuild_levels(cursor, customers=customers, series_ids=series_ids, hours=hours)
    return int(folded) + int(parts)


def hold_folding(cursor: CursorWrapper) -> None:
    """Wait for the fold that is at work and keep any other from beginning, until the transaction ends."""
    cursor.execute(_LOCK)


def rebuild_levels(
    cursor: CursorWrapper, *, customers: Sequence[int], series_ids: Sequence[int], hours: Sequence[datetime]
) -> None:
    """Make the levels of these hours anew from their folded parts; an hour without readings is left as it is."""
    cursor.execute(_LEVEL_HOURS, [list(customers), list(series_ids), list(hours)])
