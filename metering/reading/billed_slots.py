"""Finds the five minutes that a 95th percentile is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from django.db import connection

from metering.aggregations import slots_in

# The sums of all series are added before the highest are left out, as `aggregations.percentile_95` does it.
_SLOT: Final = """
    SELECT hour + part::int * interval '1 minute' AS starts_at, sum(sum) AS total FROM (
        SELECT hour, part, sum FROM usage_part
        WHERE customer_id = %(customer_id)s AND series_id = ANY(%(series_ids)s)
          AND hour >= %(start)s AND hour < %(end)s AND kind = 's'
        UNION ALL
        SELECT hour, part, sum FROM usage_part_delta
        WHERE customer_id = %(customer_id)s AND series_id = ANY(%(series_ids)s)
          AND hour >= %(start)s AND hour < %(end)s AND kind = 's'
    ) AS slot
    GROUP BY 1 ORDER BY total DESC, starts_at OFFSET %(left_out)s LIMIT 1
"""


class BilledSlot(NamedTuple):
    """Five minutes, and what their values sum up to (not yet divided)."""

    starts_at: datetime
    total: Decimal


def billed_slot(*, customer_id: int, series_ids: Sequence[int], start: datetime, end: datetime) -> BilledSlot | None:
    """Return the highest five minutes of `[start, end)` below the 5 % that are left out.

    Of several as high, the later ones are below. None where the percentile is zero or less.
    """
    asked: dict[str, Any] = {
        "customer_id": customer_id,
        "series_ids": list(series_ids),
        "start": start,
        "end": end,
        "left_out": slots_in(start, end) // 20,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SLOT, asked)
        row = cursor.fetchone()
    return BilledSlot(*row) if row and row[1] > 0 else None
