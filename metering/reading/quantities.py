"""Reads quantities: what meters add up to in windows, by their aggregation, grouped and filtered by dimensions.

Every figure is that of hours and parts plus the deltas not folded yet, in one statement's snapshot. The number of
statements is that of the aggregations asked for, whatever the number of customers, windows and groups.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from django.db import connection

from metering.aggregations import Aggregation, in_unit
from metering.models import BY_CUSTOMER
from metering.reading.levels import LEVELS_HELD
from metering.reading.usage import require_on_the_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityAsk:
    """Usage of one customer, or of all (None), in one meter, in the windows between edges.

    `aggregation` and `divisor` are the meter's. `edges` are instants on the hour of UTC in rising order; each two
    neighbours are a window. With `group_by` each set of values of these dimensions (or `BY_CUSTOMER`) has a quantity of
    its own; of `filters` (dimension to values) a series has to meet all, None being a dimension that is not there;
    `series_ids` leaves only these.

    A level (gauge) is taken to hold until the end of the hour that `until` lies in, and not beyond; without it, until
    the end of the last window.
    """

    customer_id: int | None
    meter_id: int
    aggregation: str
    divisor: Decimal
    edges: Sequence[datetime]
    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    series_ids: Sequence[int] | None = None
    until: datetime | None = None


class Quantity(NamedTuple):
    """The quantity of one window and group; without usage (or a level that holds) there is none.

    `ask` and `window` are positions among the asks and their windows. `group` has the dimensions asked for; None is a
    dimension that is not there. `event_count` is how many events were counted in the window itself: none, where a
    level from before it holds.
    """

    ask: int
    window: int
    group: dict[str, str | None]
    quantity: Decimal
    event_count: int


# The series that each ask is about, each with the group it belongs to. Arrays come as texts, for those of several asks
# differ in length.
_OF_CUSTOMER = "series.customer_id = asked.customer_id AND "
_WANTED = f"""
    asked AS MATERIALIZED (
        SELECT position, customer_id, meter_id, group_by::jsonb AS group_by, filters::jsonb AS filters,
               series_ids::bigint[] AS series_ids, edges::timestamptz[] AS edges
        FROM unnest(%(positions)s::int[], %(customers)s::bigint[], %(meters)s::bigint[], %(groups)s::text[],
                    %(filters)s::text[], %(series_ids)s::text[], %(edges)s::text[])
            AS asked(position, customer_id, meter_id, group_by, filters, series_ids, edges)
    ), wanted AS MATERIALIZED (
        SELECT asked.position, series.customer_id, series.id AS series_id, label.label, asked.edges,
               asked.edges[1] AS starts_at, asked.edges[array_upper(asked.edges, 1)] AS ends_at
        FROM asked
        JOIN usage_series AS series ON {_OF_CUSTOMER}series.meter_id = asked.meter_id
        CROSS JOIN LATERAL (
            SELECT coalesce(jsonb_object_agg(name, CASE name
                WHEN '{BY_CUSTOMER}' THEN to_jsonb(series.customer_id::text) ELSE series.dimensions -> name
            END), '{{}}')::text AS label
            FROM jsonb_array_elements_text(asked.group_by) AS name
        ) AS label
        WHERE (asked.series_ids IS NULL OR series.id = ANY(asked.series_ids)) AND NOT EXISTS (
            SELECT FROM jsonb_each(asked.filters) AS filter(name, allowed)
            WHERE NOT allowed @> coalesce(series.dimensions -> name, 'null')
        )
    )
"""  # noqa: S608 -- built from constants

# Read series by series in the order of their key; OFFSET 0 keeps the planner from reading the whole tables instead.
_HOURS = """
    CROSS JOIN LATERAL (
        SELECT hour, sum, count, min, max, last, last_at FROM usage_hour
        WHERE customer_id = wanted.customer_id AND series_id = wanted.series_id
          AND hour >= wanted.starts_at AND hour < wanted.ends_at AND count > 0
        UNION ALL
        SELECT hour, sum, count, min, max, last, last_at FROM usage_delta
        WHERE customer_id = wanted.customer_id AND series_id = wanted.series_id
          AND hour >= wanted.starts_at AND hour < wanted.ends_at AND count > 0
        OFFSET 0
    ) AS part
"""

_PARTS = """
    CROSS JOIN LATERAL (
        SELECT hour, part, sum, count FROM usage_part
        WHERE customer_id = wanted.customer_id AND series_id = wanted.series_id
          AND hour >= wanted.starts_at AND hour < wanted.ends_at AND count > 0
        UNION ALL
        SELECT hour, part, sum, count FROM usage_part_delta
        WHERE customer_id = wanted.customer_id AND series_id = wanted.series_id
          AND hour >= wanted.starts_at AND hour < wanted.ends_at AND count > 0
        OFFSET 0
    ) AS part
"""

_FROM_HOURS = f"""
    WITH {_WANTED}
    SELECT position, width_bucket(part.hour, edges) - 1 AS bucket, label, %s, sum(part.count)::bigint
    FROM wanted {_HOURS}
    GROUP BY position, bucket, label ORDER BY position, bucket, label
"""  # noqa: S608 -- built from constants

_DIFFERENT_VALUES = f"""
    WITH {_WANTED}
    SELECT position, width_bucket(part.hour, edges) - 1 AS bucket, label, count(DISTINCT part.part)::numeric,
           sum(part.count)::bigint
    FROM wanted {_PARTS}
    GROUP BY position, bucket, label ORDER BY position, bucket, label
"""  # noqa: S608 -- built from constants

# The rule of `aggregations.percentile_95`, beside the data: a month has thousands of slots.
_PERCENTILE = f"""
    WITH {_WANTED}, slot AS (
        SELECT position, width_bucket(part.hour, edges) AS bucket, label, sum(part.sum) AS sum, sum(part.count) AS count
        FROM wanted {_PARTS}
        GROUP BY position, bucket, label, part.hour, part.part
    ), sorted AS (
        SELECT position, bucket, label, array_agg(sum ORDER BY sum DESC) AS sums, count(*) AS seen,
               count(*) FILTER (WHERE sum > 0) AS above, count(*) FILTER (WHERE sum < 0) AS below,
               sum(count)::bigint AS events
        FROM slot GROUP BY position, bucket, label
    ), ranked AS (
        SELECT sorted.*, slots, slots / 20 AS rank FROM sorted JOIN asked USING (position)
        CROSS JOIN LATERAL (
            SELECT (extract(epoch FROM edges[bucket + 1] - edges[bucket]) / 300)::bigint AS slots
        ) AS length
    )
    SELECT position, bucket - 1, label,
           CASE WHEN rank < above THEN sums[rank + 1] WHEN rank < slots - below THEN 0
                ELSE sums[rank - slots + seen + 1] END,
           events
    FROM ranked ORDER BY position, bucket, label
"""  # noqa: S608 -- built from constants

# The area below the level: of hours with readings as the fold made it, and between them level times time, cut where
# windows end.
_LEVEL = f"""
    WITH {_WANTED}, gauge AS (
        SELECT row_number() OVER () AS place, * FROM wanted
    ), {LEVELS_HELD}, piece AS (
        SELECT gauge.position, width_bucket(held.hour, gauge.edges) AS bucket, gauge.label, held.area,
               0::bigint AS events
        FROM held JOIN gauge USING (place) WHERE held.hour >= gauge.starts_at
        UNION ALL
        SELECT gauge.position, bucket, gauge.label,
               held.last * extract(epoch FROM least(held.holds_to, gauge.edges[bucket + 1])
                                   - greatest(held.holds_from, gauge.edges[bucket])) * 1000000, 0
        FROM held JOIN gauge USING (place)
        CROSS JOIN LATERAL generate_series(
            width_bucket(held.holds_from, gauge.edges),
            width_bucket(held.holds_to - interval '1 microsecond', gauge.edges)
        ) AS bucket
        WHERE held.holds_from < held.holds_to
        UNION ALL
        SELECT position, width_bucket(part.hour, edges), label, 0, part.count FROM wanted {_HOURS}
    )
    SELECT position, bucket - 1, label, sum(area), sum(events)::bigint FROM piece
    GROUP BY position, bucket, label ORDER BY position, bucket, label
"""  # noqa: S608 -- built from constants

_STATEMENTS: Mapping[str, str] = {
    Aggregation.SUM: _FROM_HOURS.replace("%s,", "sum(part.sum),"),
    Aggregation.COUNT: _FROM_HOURS.replace("%s,", "sum(part.count),"),
    Aggregation.MIN: _FROM_HOURS.replace("%s,", "min(part.min),"),
    Aggregation.MAX: _FROM_HOURS.replace("%s,", "max(part.max),"),
    Aggregation.LATEST: _FROM_HOURS.replace(
        "%s,", "(array_agg(part.last ORDER BY part.last_at DESC, part.last DESC))[1],"
    ),
    Aggregation.UNIQUE: _DIFFERENT_VALUES,
    Aggregation.P95: _PERCENTILE,
    Aggregation.GAUGE: _LEVEL,
}


def quantities(asks: Sequence[QuantityAsk], *, most: int | None = None, tables: str = "usage_") -> list[Quantity]:
    """Return the quantity of each ask, window and group that saw usage, in order of ask, window and group.

    `most` is how many rows each statement answers at most. There is one statement for each aggregation asked for, and
    one more where it is asked of all customers too. `tables` is what the names of the tables begin with, where it is
    to be read as others have it.

    Raises: WindowNotOnTheHour.
    """
    return _found(asks, "{statement}LIMIT %(most)s", most, tables)


def largest_quantities(ask: QuantityAsk, *, most: int) -> list[Quantity]:
    """Return the greatest quantities of the ask's windows and groups, at most so many, the greatest first.

    Raises: WindowNotOnTheHour.
    """
    return _found([ask], _LARGEST, most)


_LARGEST = """
    SELECT * FROM ({statement}) AS found(position, bucket, label, quantity, events)
    ORDER BY quantity DESC, bucket, label LIMIT %(most)s
"""


def _found(asks: Sequence[QuantityAsk], form: str, most: int | None, tables: str = "usage_") -> list[Quantity]:
    alike: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
    for position, ask in enumerate(asks):
        require_on_the_hour(*ask.edges)
        assert all(one < other for one, other in pairwise(ask.edges)), "edges rise"
        alike[ask.aggregation, ask.customer_id is None].append(position)
    found: list[Quantity] = []
    for (aggregation, is_of_all), positions in alike.items():
        statement = _STATEMENTS[aggregation].replace("usage_", tables)
        if is_of_all:
            statement = statement.replace(_OF_CUSTOMER, "")
        found += _read(form.replace("{statement}", statement), asks, positions, most)
    if len(alike) > 1:
        found.sort(key=lambda each: each[:2])
    return found


def _read(statement: str, asks: Sequence[QuantityAsk], positions: Sequence[int], most: int | None) -> list[Quantity]:
    edges = {position: _edges(asks[position]) for position in positions}
    shown = [position for position in positions if len(edges[position]) > 1]
    if not shown:
        return []
    parameters: dict[str, Any] = {
        "most": most,
        "positions": shown,
        "customers": [asks[position].customer_id for position in shown],
        "meters": [asks[position].meter_id for position in shown],
        "groups": [json.dumps(list(asks[position].group_by)) for position in shown],
        "filters": [json.dumps({k: list(v) for k, v in asks[position].filters.items()}) for position in shown],
        "series_ids": [_array(asks[position].series_ids) for position in shown],
        "edges": [_array([edge.isoformat() for edge in edges[position]]) for position in shown],
    }
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    labels: dict[str, dict[str, str | None]] = {}
    return [
        Quantity(
            position,
            window,
            labels[label] if label in labels else labels.setdefault(label, json.loads(label)),
            in_unit(asks[position].aggregation, value, asks[position].divisor),
            events,
        )
        for position, window, label, value, events in rows
    ]


def _array(values: Sequence[object] | None) -> str | None:
    return None if values is None else "{" + ",".join(map(str, values)) + "}"


def _edges(ask: QuantityAsk) -> list[datetime]:
    edges = [edge.astimezone(UTC) for edge in ask.edges]
    if ask.until is None or ask.aggregation != Aggregation.GAUGE:
        return edges
    # A level is not known beyond the hour that runs; on the hour itself, none does.
    in_utc = ask.until.astimezone(UTC)
    limit = in_utc.replace(minute=0, second=0, microsecond=0)
    if limit < in_utc:
        limit += timedelta(hours=1)
    inside = [edge for edge in edges if edge < limit]
    return edges if len(inside) == len(edges) else [*inside, limit] if inside else []
