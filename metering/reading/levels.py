"""The SQL that says how long each level of a gauge holds."""

from __future__ import annotations

from typing import Final


def made_levels(readings: str, *, by: str) -> str:
    """Return common tables, the last of them `made_level`: what readings make of each hour that has any.

    `readings` is a query of parts of hours with the columns `by`, `hour` and `part`. A reading holds until the next
    one, the last until the end of the hour; of several at one time the greatest.
    """
    return f"""
    reading AS (
        SELECT {by}, hour, left(part, 10)::bigint AS after, max(substr(part, 12)::numeric) AS level
        FROM ({readings}) AS part GROUP BY {by}, hour, after
    ), reading_until AS (
        SELECT *, lead(after, 1, 3600000000) OVER (PARTITION BY {by}, hour ORDER BY after) AS until FROM reading
    ), made_level AS (
        SELECT {by}, hour, hour + min(after) * interval '1 microsecond' AS first_at,
               sum(level * (until - after)) AS area, (array_agg(level ORDER BY after DESC))[1] AS last
        FROM reading_until GROUP BY {by}, hour
    )
"""  # noqa: S608 -- built from constants


_FRESH_READINGS: Final = """
    SELECT fresh.place, fresh.hour, folded.part FROM fresh CROSS JOIN LATERAL (
        SELECT part FROM usage_part
        WHERE customer_id = fresh.customer_id AND series_id = fresh.series_id AND hour = fresh.hour AND count > 0
        OFFSET 0
    ) AS folded
    UNION ALL
    SELECT fresh.place, fresh.hour, unfolded.part FROM fresh CROSS JOIN LATERAL (
        SELECT part FROM usage_part_delta
        WHERE customer_id = fresh.customer_id AND series_id = fresh.series_id AND hour = fresh.hour AND count > 0
        OFFSET 0
    ) AS unfolded
"""

# Needs `gauge(place, customer_id, series_id, starts_at, ends_at)` and gives `held`: each hour with readings of each
# place, with the area of the hour itself and, as `last` from `holds_from` to `holds_to`, the level that holds until the
# next reading or `ends_at`. The last hour before `starts_at` is among them, for its level is carried in, however long
# ago it was; what it holds of the window begins with the window. Hours that have readings not folded yet are made anew
# from those and the folded ones, as `rollups` will make them.
LEVELS_HELD: Final = f"""
    fresh AS MATERIALIZED (
        SELECT DISTINCT gauge.place, gauge.customer_id, gauge.series_id, part.hour
        FROM gauge CROSS JOIN LATERAL (
            SELECT hour FROM usage_part_delta
            WHERE customer_id = gauge.customer_id AND series_id = gauge.series_id AND hour < gauge.ends_at
            OFFSET 0
        ) AS part
    ), {made_levels(_FRESH_READINGS, by="place")}, level_hour AS (
        SELECT place, hour, first_at, area, last FROM made_level
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
"""  # noqa: S608 -- built from constants
