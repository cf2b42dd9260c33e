"""What closing or reverting a backfill would change, and for whom: the real run, in a transaction that is rolled back.

The events are settled in the same steps as later, so that memory does not grow with their number.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.db import connection, transaction

from accounts.access import Actor
from accounts.periods import Period, month_period
from metering.corrections import correction_preview
from metering.corrections.correction_preview import Touched
from metering.models import UsageBackfill
from metering.usage_backfills import plan, settling, work
from metering.usage_backfills.errors import UsageBackfillTooLarge

# So many of those that are left out are listed before the closing.
_LISTED: Final = 10_000
# Below the time after which a worker's task is ended.
LONGEST_SECONDS: Final = 400.0


def preview_closing(backfill: UsageBackfill, *, actor: Actor, at: datetime) -> dict[str, Any]:
    """Return what the closing would come to: events by what becomes of them, quantities before and after by month.

    To be called within a transaction that holds the backfill. Events that would be left out are noted with the reason.

    Raises: UsageBackfillTooLarge, also where it takes too long.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    with transaction.atomic():
        items = plan.find_what_is_there(backfill)
        noted = plan.noted(backfill)
        tried = UsageBackfill(pk=backfill.pk)
        while waiting := settling.waiting_items(backfill, work.EVENTS_AT_ONCE):
            work.add(tried, settling.settle(backfill, waiting, actor=actor, at=at))
            _require_time(ends_at)
        left_out = _left_out(backfill)
        reasons = _reasons(backfill)
        touched = _touched(backfill)
        after = correction_preview.read(touched)
        transaction.set_rollback(True)
    _note_left_out(backfill, left_out)
    results = {name: getattr(tried, name) for name in work.RESULTS}
    return {"items": items, "noted": noted, **results, "reasons": reasons, **_compared(touched, after)}


def preview_revert(backfill: UsageBackfill, *, actor: Actor, at: datetime) -> dict[str, Any]:
    """Return what the revert would come to; to be called within a transaction that holds the backfill."""
    undone = left_out = 0
    ends_at = time.monotonic() + LONGEST_SECONDS
    with transaction.atomic():
        while done := work.done_items(backfill, work.EVENTS_AT_ONCE):
            kept = work.undo(backfill, done, actor=actor, at=at)
            undone += len(done) - len(kept)
            left_out += len(kept)
            _require_time(ends_at)
        touched = _touched(backfill)
        after = correction_preview.read(touched)
        transaction.set_rollback(True)
    return {"undone": undone, "left_out": left_out, **_compared(touched, after)}


def _require_time(ends_at: float) -> None:
    if time.monotonic() > ends_at:
        msg = "It could not be previewed in time: it has too many events. Open several, each of a part of the period."
        raise UsageBackfillTooLarge(msg)


# The events that count by it and those that it voided, each in the series that it was counted in. An event and the
# one that takes its place are one of the events of a row.
_TOUCHED: Final = """
    WITH item AS (
        SELECT id, customer_id, time, coalesce(new_key, key) AS key FROM metering_usagebackfillitem
        WHERE backfill_id = %(backfill)s AND batch_id IS NOT NULL
        UNION ALL
        SELECT id, there_customer_id, there_time, key FROM metering_usagebackfillitem
        WHERE backfill_id = %(backfill)s AND state = 'replaced'
    ), fact AS (
        SELECT item.id, event.customer_id, event.time, unnest(event.series_ids) AS series_id
        FROM item JOIN usage_event AS event USING (customer_id, time, key)
        WHERE event.time >= %(start)s AND event.time < %(end)s
    )
    SELECT customer.id, customer.name, meter.id, meter.name, meter.unit, meter.aggregation,
           date_trunc('month', fact.time AT TIME ZONE entity.time_zone)::date AS month, entity.time_zone,
           count(DISTINCT fact.id)
    FROM fact
    JOIN usage_series AS series ON series.customer_id = fact.customer_id AND series.id = fact.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    JOIN accounts_customer AS customer ON customer.id = fact.customer_id
    JOIN accounts_legalentity AS entity ON entity.id = customer.legal_entity_id
    GROUP BY customer.id, meter.id, month, entity.time_zone
    ORDER BY count(DISTINCT fact.id) DESC, customer.name, meter.name, month LIMIT %(limit)s
"""


def _touched(backfill: UsageBackfill) -> list[Touched]:
    parameters: dict[str, Any] = {
        "backfill": backfill.pk,
        "start": backfill.starts_at,
        "end": backfill.ends_at,
        "limit": correction_preview.ROWS_KEPT,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TOUCHED, parameters)
        return [Touched(*row) for row in cursor.fetchall()]


def _compared(touched: Sequence[Touched], after: Sequence[Decimal]) -> dict[str, Any]:
    """Return the quantities as they are beside those that would be."""
    before = correction_preview.read(touched)
    billed = _billed(touched)
    rows = []
    for position, each in enumerate(touched):
        month = month_period(each.month.year, each.month.month, each.time_zone)
        rows.append(
            {
                "customer_id": each.customer_id,
                "customer": each.customer,
                "meter": each.meter,
                "unit": each.unit,
                "month": f"{each.month:%Y-%m}",
                "events": each.events,
                "before": format(before[position], "f"),
                "after": format(after[position], "f"),
                "change": format(after[position] - before[position], "f"),
                "is_billed": any(
                    period.start < month.end and period.end > month.start
                    for period in billed.get((each.customer_id, each.meter_id), ())
                ),
            }
        )
    shares = [correction_preview.share(before[position], after[position]) for position in range(len(touched))]
    return {
        "customers": len({each.customer_id for each in touched}),
        "billed_rows": sum(row["is_billed"] and row["before"] != row["after"] for row in rows),
        "greatest_share": str(max(shares, default=Decimal(0))),
        "is_cut": len(rows) == correction_preview.ROWS_KEPT,
        "rows": rows,
    }


def _billed(touched: Sequence[Touched]) -> Mapping[tuple[int, int], Sequence[Period]]:
    """Return the periods that were billed of these customers and meters."""
    found: defaultdict[tuple[int, int], list[Period]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT customer_id, meter_id, starts_at, ends_at FROM usage_closing WHERE customer_id = ANY(%s)",
            [sorted({each.customer_id for each in touched})],
        )
        for customer_id, meter_id, starts_at, ends_at in cursor.fetchall():
            found[customer_id, meter_id].append(Period(starts_at, ends_at))
    return found


_LeftOut = tuple[int, str, str]


def _left_out(backfill: UsageBackfill) -> list[_LeftOut]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, problem, detail FROM metering_usagebackfillitem"
            " WHERE backfill_id = %s AND state = 'left_out' AND kind = 'sent' ORDER BY id LIMIT %s",
            [backfill.pk, _LISTED],
        )
        return list(cursor.fetchall())


def _reasons(backfill: UsageBackfill) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT problem, count(*) FROM metering_usagebackfillitem"
            " WHERE backfill_id = %s AND state = 'left_out' GROUP BY problem ORDER BY count(*) DESC, problem",
            [backfill.pk],
        )
        return dict(cursor.fetchall())


def _note_left_out(backfill: UsageBackfill, left_out: Sequence[_LeftOut]) -> None:
    """Note on the events why each would be left out, in place of what was noted before."""
    columns = [list(column) for column in zip(*left_out, strict=True)] or [[], [], []]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH wrong AS (
                SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS wrong(id, problem, detail)
            ), seen AS (
                SELECT item.id, coalesce(wrong.problem, '') AS problem, coalesce(wrong.detail, '') AS detail
                FROM metering_usagebackfillitem AS item LEFT JOIN wrong ON wrong.id = item.id
                WHERE item.backfill_id = %s AND (item.problem <> '' OR wrong.id IS NOT NULL)
            )
            UPDATE metering_usagebackfillitem AS item SET problem = seen.problem, detail = seen.detail
            FROM seen WHERE item.id = seen.id AND (item.problem, item.detail) <> (seen.problem, seen.detail)
            """,
            [*columns, backfill.pk],
        )
