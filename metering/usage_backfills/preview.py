"""What closing or reverting a backfill would change, and for whom, as of one moment and without a lock.

It is decided by the very code that does it later, of the same events at once; only what this comes to is kept apart
(see `foreseeing`) and not written. So neither folding nor senders wait, and memory does not grow with the events.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg
from django.db import connection

from metering import storage
from metering.corrections import foreseeing, quantity_changes
from metering.models import UsageBackfill
from metering.usage_backfills import deciding, plan, work
from metering.usage_backfills.deciding import Item, Outcome
from metering.usage_backfills.errors import UsageBackfillBeingPreviewed, UsageBackfillTooLarge
from metering.usage_backfills.records import Kind, State

# So many of those that are left out are listed before the closing.
_LISTED: Final = 10_000


# Its task may run longer by a third, for what comes after the last event.
LONGEST_SECONDS: Final = 2_400.0


class LeftOut(NamedTuple):
    """An event that would be left out, and why."""

    item_id: int
    problem: str
    detail: str


def one_moment(backfill_id: int) -> AbstractContextManager[None]:
    """Read a backfill, and all that it would meet, as of one moment (see `foreseeing`).

    Raises: UsageBackfillBeingPreviewed.
    """
    return foreseeing.one_moment(backfill_id, what="usage_backfill", being_previewed=UsageBackfillBeingPreviewed)


def preview_closing(backfill: UsageBackfill, *, at: datetime) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return what the closing would come to, and which of the events filled in would be left out, up to 10,000.

    The former are events by what becomes of them, and quantities before and after by month. To be called within
    `one_moment`.

    Raises: UsageBackfillTooLarge, also where it takes too long.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    storage.find_by_index()
    items = plan.foresee_what_is_there(backfill)
    noted = plan.foreseen()
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    left_out: list[LeftOut] = []
    for waiting in deciding.all_waiting_items(backfill, plan.FORESEEN_WAITING):
        outcomes = _foresee(backfill, waiting, at=at)
        states.update(each.state for each in outcomes.values())
        wrong = [(item, outcomes[item.id]) for item in waiting if outcomes[item.id].state == State.LEFT_OUT]
        reasons.update(each.problem for _, each in wrong)
        sent = [LeftOut(item.id, each.problem, each.detail) for item, each in wrong if item.kind == Kind.SENT]
        left_out += sent[: _LISTED - len(left_out)]
        _require_time(ends_at)
    results = {name: states[name] for name in work.RESULTS}
    listed = dict(sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0])))
    return {"items": items, "noted": noted, **results, "reasons": listed, **_changes(at=at)}, left_out


def _foresee(backfill: UsageBackfill, items: Sequence[Item], *, at: datetime) -> Mapping[int, Outcome]:
    """Note what would be done with these events, and return what becomes of each."""
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        return deciding.until_all_have_room(lambda too_many: _note(cursor, backfill, items, too_many, at=at))


def _note(
    cursor: psycopg.Cursor[Any],
    backfill: UsageBackfill,
    items: Sequence[Item],
    too_many: Mapping[str, str],
    *,
    at: datetime,
) -> Mapping[int, Outcome]:
    results = deciding.judged(cursor, backfill, items, too_many, at=at)
    found = deciding.decide(cursor, foreseeing.Looking(cursor), backfill, items, results)
    ids = {item.key: item.id for item in items}
    counted = [(ids[each.event.key], each) for each in found.new]
    counted += [(ids[key], each) for key, each in found.replacements.items()]
    foreseeing.note_counted(cursor, counted, found.admitted.series_ids)
    foreseeing.note_amended(cursor, [(ids[each.place.key], each) for each in [*found.amendments, *found.replaced]])
    return found.outcomes


def preview_revert(backfill: UsageBackfill, *, at: datetime) -> dict[str, Any]:
    """Return what the revert would come to; to be called within `one_moment`.

    Raises: UsageBackfillTooLarge where it takes too long.
    """
    storage.find_by_index()
    undone = left_out = 0
    ends_at = time.monotonic() + LONGEST_SECONDS
    for done in work.all_done_items(backfill):
        with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
            found = work.plan_undoing(done, series_ids=foreseeing.Looking(cursor).series_ids, lock=False)
            undone += len(found.amendments)
            left_out += len(found.kept)
            foreseeing.note_amended(cursor, [(pk, each) for pk, some in found.amendments.items() for each in some])
        _require_time(ends_at)
    return {"undone": undone, "left_out": left_out, **_changes(at=at)}


def _require_time(ends_at: float) -> None:
    if time.monotonic() > ends_at:
        msg = "It could not be previewed in time: it has too many events. Open several, each of a part of the period."
        raise UsageBackfillTooLarge(msg)


def _changes(*, at: datetime) -> dict[str, Any]:
    touched = quantity_changes.with_carried(foreseeing.touched(), at=at)
    foreseeing.add_up()
    before = quantity_changes.read(touched)
    after = quantity_changes.read(touched, tables=foreseeing.TABLES)
    return quantity_changes.compared(touched, before=before, after=after)


def note_left_out(backfill: UsageBackfill, left_out: Sequence[LeftOut]) -> None:
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
