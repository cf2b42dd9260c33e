"""What closing or reverting a backfill would change, and for whom: the real run, in a transaction that is rolled back.

The events are settled in the same steps as later, so that memory does not grow with their number.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from django.db import connection, transaction

from accounts.access import Actor
from metering.corrections import quantity_changes
from metering.corrections.quantity_changes import ROWS_KEPT, Touched
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
        touched = quantity_changes.with_carried(_touched(backfill), at=at)
        after = quantity_changes.read(touched)
        transaction.set_rollback(True)
    _note_left_out(backfill, left_out)
    results = {name: getattr(tried, name) for name in work.RESULTS}
    changes = quantity_changes.compared(touched, before=quantity_changes.read(touched), after=after)
    return {"items": items, "noted": noted, **results, "reasons": reasons, **changes}


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
        touched = quantity_changes.with_carried(_touched(backfill), at=at)
        after = quantity_changes.read(touched)
        transaction.set_rollback(True)
    changes = quantity_changes.compared(touched, before=quantity_changes.read(touched), after=after)
    return {"undone": undone, "left_out": left_out, **changes}


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
    SELECT customer.id, customer.name, meter.id, meter.name, meter.unit, meter.aggregation, meter.divisor,
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
        "limit": ROWS_KEPT,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TOUCHED, parameters)
        return [Touched(*row) for row in cursor.fetchall()]


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
