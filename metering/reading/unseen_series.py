"""Which series usage came for, or was corrected of, after it had been seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from django.db import connection

from metering.reading.usage import BATCHES_UNSEEN, UnseenWindow


class UnseenSeries(NamedTuple):
    """A series that a window has usage of which its snapshot did not see; `position` is the window's."""

    position: int
    series_id: int
    meter_id: int
    dimensions: dict[str, str]


# As `usage.windows_with_unseen_usage`, and of the few facts that came late each series that they count, or counted, in.
_UNSEEN = f"""
    {BATCHES_UNSEEN.strip()}, late AS MATERIALIZED (
        SELECT DISTINCT fact.customer_id, fact.series_id, fact.time, batch.transaction_id FROM (
            SELECT customer_id, time, batch_id, unnest(series_ids) AS series_id FROM usage_event
            WHERE batch_id >= (SELECT min(id) FROM batch) AND time < (SELECT max(ends_at) FROM asked)
            UNION ALL
            SELECT customer_id, time, batch_id, unnest(series_ids) FROM usage_amendment
            WHERE batch_id >= (SELECT min(id) FROM batch) AND time < (SELECT max(ends_at) FROM asked)
        ) AS fact JOIN batch ON batch.id = fact.batch_id
    )
    SELECT DISTINCT asked.position, series.id, series.meter_id, series.dimensions::text
    FROM asked JOIN late ON late.customer_id = asked.customer_id AND late.time < asked.ends_at
     AND NOT pg_visible_in_snapshot(late.transaction_id, asked.snapshot)
    JOIN usage_series AS series ON series.customer_id = late.customer_id AND series.id = late.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    WHERE late.time >= asked.starts_at OR meter.aggregation = 'gauge'
    ORDER BY asked.position, series.id
"""  # noqa: S608 -- built from constants


def unseen_series(windows: Sequence[UnseenWindow]) -> list[UnseenSeries]:
    """Return the series of which the windows have usage that their snapshots did not see, by position; one query.

    A correction is usage of its events' time, and a reading of a level from before a window is usage of it.
    """
    columns = [
        [*column]
        for column in zip(*[(each.customer_id, each.start, each.end, each.snapshot) for each in windows], strict=True)
    ]
    if not columns:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_UNSEEN, [list(range(len(windows))), *columns])
        return [
            UnseenSeries(position, series_id, meter_id, json.loads(dimensions))
            for position, series_id, meter_id, dimensions in cursor.fetchall()
        ]
