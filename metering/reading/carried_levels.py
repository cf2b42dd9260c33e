"""Finds the reading by which a period of a gauge begins: the last one before it, however long ago."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from django.db import connection

# A part of a gauge's hour is its microsecond, in ten digits, and the level; of several at one time the greatest counts.
_CARRIED: Final = """
    SELECT series.id, latest.hour + latest.after * interval '1 microsecond', latest.level
    FROM unnest(%(series_ids)s::bigint[]) AS series(id) CROSS JOIN LATERAL (
        (SELECT hour, left(part, 10)::bigint AS after, substr(part, 12)::numeric AS level FROM usage_part
         WHERE customer_id = %(customer_id)s AND series_id = series.id AND hour < %(before)s
           AND kind = 'r' AND count > 0
         ORDER BY hour DESC, after DESC, level DESC LIMIT 1)
        UNION ALL
        (SELECT hour, left(part, 10)::bigint AS after, substr(part, 12)::numeric AS level FROM usage_part_delta
         WHERE customer_id = %(customer_id)s AND series_id = series.id AND hour < %(before)s
           AND kind = 'r' AND count > 0
         ORDER BY hour DESC, after DESC, level DESC LIMIT 1)
        ORDER BY hour DESC, after DESC, level DESC LIMIT 1
    ) AS latest
"""


class CarriedLevel(NamedTuple):
    """A level as events said it (not yet divided), and when it was read."""

    read_at: datetime
    level: Decimal


def carried_levels(*, customer_id: int, series_ids: Sequence[int], before: datetime) -> dict[int, CarriedLevel]:
    """Return the last reading before a full hour of each of a customer's series that has one."""
    if not series_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_CARRIED, {"customer_id": customer_id, "series_ids": list(series_ids), "before": before})
        return {series_id: CarriedLevel(read_at, level) for series_id, read_at, level in cursor.fetchall()}
