"""Folds deltas into hours. Totals never change by it: every read adds both, in one snapshot."""

from __future__ import annotations

from django.db import connection, transaction

# One fold at a time is enough, and then no two of them can wait for each other's hours.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('metering.rollups.fold'))"

# Deltas are summed first, so that each hour is written once; the last value is that of the latest time, and of several
# at the same time the greatest, in whatever order they come to be folded.
_FOLD = """
    WITH taken AS (
        DELETE FROM usage_delta WHERE id IN (SELECT id FROM usage_delta ORDER BY id LIMIT %s)
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
            min = least(hour.min, EXCLUDED.min),
            max = greatest(hour.max, EXCLUDED.max),
            last = CASE WHEN (EXCLUDED.last_at, EXCLUDED.last) > (hour.last_at, hour.last)
                        THEN EXCLUDED.last ELSE hour.last END,
            last_at = greatest(hour.last_at, EXCLUDED.last_at)
    )
    SELECT count(*) FROM taken
"""


@transaction.atomic
def fold(*, limit: int = 50_000) -> int:
    """Merge up to `limit` deltas, the oldest first, and return how many; 0 when there are none or another fold runs.

    One statement does it all: killed at any point it has done nothing, and a reader sees each delta either as itself or
    in its hour, never twice and never not at all.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
        (is_ours,) = cursor.fetchone()
        if not is_ours:
            return 0
        cursor.execute(_FOLD, [limit])
        (folded,) = cursor.fetchone()
    return int(folded)
