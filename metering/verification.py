"""Compares what is kept of usage with what its events add up to, and mends it where the two differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from accounts.models import Customer
from accounts.periods import Month
from metering import recount
from metering.errors import RebuildNeedsReason, WindowNotOnTheHour
from metering.models import Meter, UsageSeries
from metering.reading.levels import made_levels
from metering.recount import Chunk


class Difference(msgspec.Struct, frozen=True, gc=False):
    """An hour, a part of one or a level of a gauge that is kept otherwise than its events have it.

    `kept` and `counted` say how, in words; empty where there is nothing.
    """

    kind: str
    customer_id: int
    series_id: int
    hour: datetime
    part: str
    kept: str
    counted: str


class Verified(NamedTuple):
    """What came out of one chunk: how many events lay in it, how many differences, and the first of these."""

    events: int
    differences: int
    shown: list[Difference]


SHOWN = 100

_HOUR_WORDS = (
    "format('%%s events, sum %%s, min %%s, max %%s, last %%s at %%s', {of}.count, trim_scale({of}.sum),"
    " trim_scale({of}.min), trim_scale({of}.max), trim_scale({of}.last),"
    " to_char({of}.last_at AT TIME ZONE 'UTC', 'MI:SS.US'))"
)
_PART_WORDS = "format('%%s events, sum %%s', {of}.count, trim_scale({of}.sum))"
_LEVEL_WORDS = (
    "format('from %%s, area %%s, last %%s', to_char({of}.first_at AT TIME ZONE 'UTC', 'MI:SS.US'),"
    " trim_scale({of}.area), trim_scale({of}.last))"
)

_READINGS = f"""
    SELECT present.customer_id, series_id, hour, part
    FROM asked JOIN usage_part AS present ON {recount.WITHIN.format(table="present")}
    WHERE kind = 'r' AND count > 0
"""  # noqa: S608 -- built from constants

# Everything is read in one statement, hence in one snapshot: neither a batch nor a fold can come in between.
_DIFFERENCES = f"""
    WITH {recount.CONTRIBUTIONS}, kept AS (
        SELECT customer_id, series_id, hour, sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min,
               max(max) AS max, (array_agg(last ORDER BY last_at DESC, last DESC))[1] AS last, max(last_at) AS last_at
        FROM (
            SELECT hour.customer_id, series_id, hour, sum, count, min, max, last, last_at
            FROM asked JOIN usage_hour AS hour ON {recount.WITHIN.format(table="hour")}
            WHERE count <> 0 OR sum <> 0
            UNION ALL
            SELECT delta.customer_id, series_id, hour, sum, count, min, max, last, last_at
            FROM asked JOIN usage_delta AS delta ON {recount.WITHIN.format(table="delta")}
        ) AS each
        GROUP BY customer_id, series_id, hour
    ), kept_part AS (
        SELECT customer_id, series_id, hour, part, sum(sum) AS sum, sum(count)::bigint AS count
        FROM (
            SELECT present.customer_id, series_id, hour, part, sum, count
            FROM asked JOIN usage_part AS present ON {recount.WITHIN.format(table="present")}
            WHERE count <> 0 OR sum <> 0
            UNION ALL
            SELECT delta.customer_id, series_id, hour, part, sum, count
            FROM asked JOIN usage_part_delta AS delta ON {recount.WITHIN.format(table="delta")}
        ) AS each
        GROUP BY customer_id, series_id, hour, part
    ), {made_levels(_READINGS, by="customer_id, series_id")}, kept_level AS (
        SELECT level.* FROM asked JOIN usage_level AS level ON {recount.WITHIN.format(table="level")}
    ), difference AS (
        SELECT 'hour' AS kind, customer_id, series_id, hour, '' AS part,
               CASE WHEN kept.count IS NOT NULL THEN {_HOUR_WORDS.format(of="kept")} END AS kept,
               CASE WHEN counted.count IS NOT NULL THEN {_HOUR_WORDS.format(of="counted")} END AS counted
        FROM counted FULL JOIN kept USING (customer_id, series_id, hour)
        WHERE (counted.count, counted.sum, counted.min, counted.max, counted.last, counted.last_at)
           IS DISTINCT FROM (kept.count, kept.sum, kept.min, kept.max, kept.last, kept.last_at)
        UNION ALL
        SELECT 'part', customer_id, series_id, hour, part,
               CASE WHEN kept_part.count IS NOT NULL THEN {_PART_WORDS.format(of="kept_part")} END,
               CASE WHEN counted_part.count IS NOT NULL THEN {_PART_WORDS.format(of="counted_part")} END
        FROM counted_part FULL JOIN kept_part USING (customer_id, series_id, hour, part)
        WHERE (counted_part.count, counted_part.sum) IS DISTINCT FROM (kept_part.count, kept_part.sum)
        UNION ALL
        SELECT 'level', customer_id, series_id, hour, '',
               CASE WHEN kept_level.area IS NOT NULL THEN {_LEVEL_WORDS.format(of="kept_level")} END,
               CASE WHEN made_level.area IS NOT NULL THEN {_LEVEL_WORDS.format(of="made_level")} END
        FROM made_level FULL JOIN kept_level USING (customer_id, series_id, hour)
        WHERE (made_level.first_at, made_level.area, made_level.last)
           IS DISTINCT FROM (kept_level.first_at, kept_level.area, kept_level.last)
    )
"""  # noqa: S608 -- built from constants

_SHOW = f"""
    {_DIFFERENCES}
    SELECT kind, customer_id, series_id, hour, part, coalesce(kept, ''), coalesce(counted, ''), count(*) OVER ()
    FROM difference ORDER BY customer_id, series_id, hour, kind, part LIMIT {SHOWN}
"""  # noqa: S608 -- built from constants
_BY_CUSTOMER = f"{_DIFFERENCES} SELECT DISTINCT customer_id FROM difference"  # noqa: S608 -- as above

_MONTHS = """
    SELECT DISTINCT month FROM (
        SELECT to_date(right(relname, 7), 'YYYY_MM') AS month FROM pg_inherits
        JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'usage_event'::regclass
        UNION ALL
        SELECT date_trunc('month', hour AT TIME ZONE 'UTC')::date FROM usage_hour GROUP BY 1
        UNION ALL
        SELECT date_trunc('month', hour AT TIME ZONE 'UTC')::date FROM usage_delta GROUP BY 1
    ) AS present ORDER BY month
"""


def months_kept() -> list[Month]:
    """Return the months (of UTC) that hold any usage, in order."""
    with connection.cursor() as cursor:
        cursor.execute(_MONTHS)
        return [Month(month.year, month.month) for (month,) in cursor.fetchall()]


def plan(*, start: datetime, end: datetime, customer_id: int | None = None) -> list[Chunk]:
    """Return what a check or a rebuild of `[start, end)` works through: chunks of bounded size.

    Raises: WindowNotOnTheHour.
    """
    for moment in (start, end):
        if moment.minute or moment.second or moment.microsecond:
            raise WindowNotOnTheHour
    return recount.chunks(start=start, end=end, customer_id=customer_id)


@transaction.atomic
def verify(chunk: Chunk) -> Verified:
    """Compare what is kept of the chunk's hours with a count of their events; writes nothing.

    Hours whose raw events went into the archive or were erased are left out.
    """
    with connection.cursor() as cursor:
        recount.hold_partitions(cursor)
        cursor.execute(_SHOW, recount.parameters_of(chunk.spans))
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return Verified(chunk.events, rows[0][-1] if rows else 0, [Difference(*row[:-1]) for row in rows])


_LEFT_OUT = """
    SELECT reason, count(DISTINCT customer_id) FROM usage_unrecountable
    WHERE starts_at < %(end)s AND ends_at > %(start)s
      AND (%(customer_id)s::bigint IS NULL OR customer_id IS NULL OR customer_id = %(customer_id)s)
    GROUP BY reason ORDER BY reason
"""


def left_out(*, start: datetime, end: datetime, customer_id: int | None = None) -> list[str]:
    """Return which hours of `[start, end)` are taken as they stand, in words; nothing where all can be counted anew."""
    with connection.cursor() as cursor:
        cursor.execute(_LEFT_OUT, {"start": start, "end": end, "customer_id": customer_id})
        found = dict(cursor.fetchall())
    words = []
    if "archived" in found:
        words.append("archived events")
    if "erased" in found:
        words.append(f"erased events of {found['erased']:,} {'customer' if found['erased'] == 1 else 'customers'}")
    return words


def series_in_words(differences: Sequence[Difference]) -> dict[int, str]:
    """Return of each series that these are about whose it is and what it counts, for people: by code, not by id."""
    series = UsageSeries.objects.in_bulk({each.series_id for each in differences})
    customers = dict(
        Customer.objects.filter(pk__in={each.customer_id for each in series.values()}).values_list("pk", "code")
    )
    meters = dict(Meter.objects.filter(pk__in={each.meter_id for each in series.values()}).values_list("pk", "code"))
    return {
        number: " ".join(
            [
                f"{meters.get(each.meter_id, each.meter_id)} of {customers.get(each.customer_id, each.customer_id)}",
                *(f"{name}={value}" for name, value in sorted(each.dimensions.items())),
            ]
        )
        for number, each in series.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """A period whose totals are made anew, and why; `customer_id` None: those of all customers."""

    start: datetime
    end: datetime
    customer_id: int | None
    reason: str


def rebuild(*, order: Rebuild, actor: Actor, at: datetime) -> Iterator[recount.Recounted]:
    """Make the totals of a period anew from its events, chunk by chunk, and yield what was otherwise in each.

    Each chunk is a transaction with its entry in the audit log where it mended anything. Cut off in between, the chunks
    before stand, and asking again goes on as if nothing had been: what is right already is left alone.

    Raises: PermissionMissing, RebuildNeedsReason, WindowNotOnTheHour.
    """
    actor.require(Permission.APPROVE_CORRECTIONS)
    if not order.reason.strip():
        raise RebuildNeedsReason
    for chunk in plan(start=order.start, end=order.end, customer_id=order.customer_id):
        yield _rebuild_chunk(chunk, order=order, actor=actor, at=at)


@transaction.atomic
def _rebuild_chunk(chunk: Chunk, *, order: Rebuild, actor: Actor, at: datetime) -> recount.Recounted:
    with connection.cursor() as cursor:
        recount.hold_partitions(cursor)
        cursor.execute(_BY_CUSTOMER, recount.parameters_of(chunk.spans))
        wronged = [customer_id for (customer_id,) in cursor.fetchall()]
    mended = recount.recount(spans=chunk.spans)
    audit.record_many(
        actor=actor,
        verb="customer.usage_rebuilt",
        subjects=Customer.objects.filter(pk__in=wronged).order_by("pk"),
        at=at,
        reason=order.reason.strip(),
    )
    return mended
