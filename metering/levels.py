"""The SQL that says how long each level of a gauge holds."""

from __future__ import annotations

from typing import Final

# Needs `gauge(place, customer_id, series_id, starts_at, ends_at)` and gives `held`: each hour with readings of each
# place, with the area of the hour itself and, as `last` from `holds_from` to `holds_to`, the level that holds until the
# next reading or `ends_at`. The last hour before `starts_at` is among them, for its level is carried in, however long
# ago it was; what it holds of the window begins with the window. Hours that have readings not folded yet are made anew
# from those and the folded ones, as `rollups` will make them.
LEVELS_HELD: Final = """
    fresh AS MATERIALIZED (
        SELECT DISTINCT gauge.place, gauge.customer_id, gauge.series_id, part.hour
        FROM gauge CROSS JOIN LATERAL (
            SELECT hour FROM usage_part_delta
            WHERE customer_id = gauge.customer_id AND series_id = gauge.series_id AND hour < gauge.ends_at
            OFFSET 0
        ) AS part
    ), reading AS (
        SELECT place, hour, left(part, 10)::bigint AS after, max(substr(part, 12)::numeric) AS level
        FROM (
            SELECT fresh.place, fresh.hour, folded.part FROM fresh CROSS JOIN LATERAL (
                SELECT part FROM usage_part
                WHERE customer_id = fresh.customer_id AND series_id = fresh.series_id AND hour = fresh.hour
                  AND count > 0
                OFFSET 0
            ) AS folded
            UNION ALL
            SELECT fresh.place, fresh.hour, unfolded.part FROM fresh CROSS JOIN LATERAL (
                SELECT part FROM usage_part_delta
                WHERE customer_id = fresh.customer_id AND series_id = fresh.series_id AND hour = fresh.hour
                  AND count > 0
                OFFSET 0
            ) AS unfolded
        ) AS part
        GROUP BY place, hour, after
    ), span AS (
        SELECT *, lead(after, 1, 3600000000) OVER (PARTITION BY place, hour ORDER BY after) AS until FROM reading
    ), level_hour AS (
        SELECT place, hour, hour + min(after) * interval '1 microsecond' AS first_at,
               sum(level * (until - after)) AS area, (array_agg(level ORDER BY after DESC))[1] AS last
        FROM span GROUP BY place, hour
        UNION ALL
        SELECT gauge.place, folded.* FROM gauge CROSS JOIN LATERAL (
            SELECT hour, first_at, area, last FROM usage_level AS level
            WHERE customer_id = gauge.customer_id AND series_id = gauge.series_id
              AND hour >= gauge.starts_at AND hour < gauge.ends_at
              AND NOT EXISTS (SELECT FROM fresh WHERE fresh.place = gauge.place AND fresh.hour = level.hour)
            OFFSET 0
        ) AS folded
        UNION ALL
        SELECT gauge.place, carried.* FROM gauge CROSS JOIN LATERAL (
            SELECT hour, first_at, area, last FROM usage_level AS level
            WHERE customer_id = gauge.customer_id AND series_id = gauge.series_id AND hour < gauge.starts_at
              AND NOT EXISTS (SELECT FROM fresh WHERE fresh.place = gauge.place AND fresh.hour = level.hour)
            ORDER BY hour DESC LIMIT 1
        ) AS carried
    ), held AS (
        SELECT level_hour.*,
               greatest(level_hour.hour + interval '1 hour', gauge.starts_at) AS holds_from,
               lead(first_at, 1, gauge.ends_at) OVER (PARTITION BY place ORDER BY level_hour.hour) AS holds_to
        FROM level_hour JOIN gauge USING (place)
    )
"""
