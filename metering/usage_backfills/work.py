"""Closes and reverts backfills: some events at a time, each step one transaction with the place it has got to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from metering import recount, series, storage
from metering.corrections.correction_events import Place, stored_events
from metering.corrections.correction_work import Amendment, insert_amendments
from metering.corrections.counting_again import series_counting_again
from metering.counting import SeriesKey
from metering.models import UsageBackfill, UsageBatch
from metering.usage_backfills import settling
from metering.usage_backfills.deciding import EVENTS_AT_ONCE, Outcome, rows_at_once, waiting_items
from metering.usage_backfills.errors import UsageBackfillUnknown
from metering.usage_backfills.records import State, Status

RESULTS: Final = ("counted", "kept", "replaced", "brought_back", "voided", "left_out")

_CHANGED_SINCE = "A correction has changed it since; revert that one first."
_GONE = "Its raw data went into the archive or were erased."


def due() -> list[int]:
    """Return the backfills that are being closed or reverted, the oldest first."""
    found = UsageBackfill.objects.filter(status__in=[Status.CLOSING, Status.REVERTING])
    return list(found.order_by("pk").values_list("pk", flat=True))


def work_on(*, backfill_id: int, limit: int = EVENTS_AT_ONCE, actor: Actor, at: datetime) -> int:
    """Close or revert up to `limit` events of a backfill and return how many were settled.

    0: there is nothing to do, or somebody else is at it. Killed, nothing of this step has happened.

    Raises: PermissionMissing, UsageBackfillUnknown.
    """
    actor.require(Permission.CORRECT_USAGE)
    with transaction.atomic():
        found = UsageBackfill.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=backfill_id)
        backfill = found.first()
        if backfill is None:
            if not UsageBackfill.objects.filter(pk=backfill_id).exists():
                raise UsageBackfillUnknown
            return 0
        step = _STEPS.get(backfill.status)
        return step(backfill, limit, actor=actor, at=at) if step else 0


def note_error(*, backfill_id: int, error: str) -> None:
    """Keep why a backfill cannot go on, for its page; the next step that succeeds takes it away."""
    UsageBackfill.objects.filter(pk=backfill_id, status__in=[Status.CLOSING, Status.REVERTING]).update(last_error=error)


def _close_some(backfill: UsageBackfill, limit: int, *, actor: Actor, at: datetime) -> int:
    items = waiting_items(backfill, limit)
    if items:
        _add(backfill, settling.settle(backfill, items, actor=actor, at=at))
    backfill.last_error = ""
    if len(items) < limit:
        backfill.status, backfill.closed_at = Status.CLOSED, at
    backfill.save(update_fields=["status", "closed_at", "last_error", *RESULTS])
    if backfill.status == Status.CLOSED:
        data = {name: getattr(backfill, name) for name in RESULTS}
        audit.record(
            actor=actor, verb="usage_backfill.closed", subject=backfill, at=at, reason=backfill.reason, data=data
        )
    return len(items)


def _add(backfill: UsageBackfill, outcomes: Sequence[Outcome]) -> None:
    for state, number in Counter(outcome.state for outcome in outcomes).items():
        setattr(backfill, state, getattr(backfill, state) + number)


class Done(NamedTuple):
    """What a backfill did to one event: where the event lies that counts by it, and where the one that does not."""

    id: int
    state: str
    counts: Place | None
    voided: Place | None
    batch_id: int


_DONE = """
    SELECT id, state, customer_id, time, coalesce(new_key, key), there_customer_id, there_time, key, batch_id
    FROM metering_usagebackfillitem
    WHERE backfill_id = %s AND state IN ('counted', 'replaced', 'brought_back', 'voided')
      AND reverted_batch_id IS NULL AND revert_detail = ''
    ORDER BY customer_id, time, key
"""


def done_items(backfill: UsageBackfill, limit: int) -> list[Done]:
    """Return the next events that are to be undone."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_DONE} LIMIT %s", [backfill.pk, limit])
        return [_done(row) for row in cursor.fetchall()]


def all_done_items(backfill: UsageBackfill) -> Iterator[list[Done]]:
    """Yield all events that are to be undone, some at a time; to be called within a transaction."""
    for rows in rows_at_once(_DONE, [backfill.pk]):
        yield [_done(row) for row in rows]


def _done(row: tuple[Any, ...]) -> Done:
    pk, state, customer_id, time, counts_key, there_customer_id, there_time, key, batch_id = row
    place = Place(customer_id, time.astimezone(UTC), counts_key.hex)
    if state == State.VOIDED:
        return Done(pk, state, None, place, batch_id)
    there = None
    if state == State.REPLACED:
        there = Place(there_customer_id, there_time.astimezone(UTC), key.hex)
    return Done(pk, state, place, there, batch_id)


class Undoing(NamedTuple):
    """What undoes events, by item, and why others could not be undone."""

    amendments: dict[int, list[Amendment]]
    kept: dict[int, str]


def plan_undoing(
    items: Sequence[Done], *, series_ids: Callable[[set[SeriesKey]], Mapping[SeriesKey, int]], lock: bool
) -> Undoing:
    """Return what lets these events be as before: what counts by them does no more, what they voided does again.

    One that another correction has changed since, or whose data are gone, cannot be undone. `series_ids` names series
    that an event is to count in besides those that it was voided in. With `lock` nobody else
    amends them until the transaction ends.
    """
    places = sorted({place for item in items for place in (item.counts, item.voided) if place is not None})
    stored = stored_events(places, lock=lock)
    voids = [(item.voided, item.batch_id) for item in items if item.voided is not None]
    again = series_counting_again(voids, stored, series_ids=series_ids)
    plan = Undoing({}, {})
    for item in items:
        found = _undoing(item, stored, again)
        if isinstance(found, str):
            plan.kept[item.id] = found
        else:
            plan.amendments[item.id] = found
    return plan


def _undo(backfill: UsageBackfill, items: Sequence[Done], *, actor: Actor, at: datetime) -> dict[int, str]:
    """Undo these events, and return why some could not be undone, by item."""
    storage.find_by_index()
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        batch_id = storage.begin_batch(cursor, months=[])
        with connection.cursor() as plain:
            recount.hold_partitions(plain)
        plan = plan_undoing(items, series_ids=lambda keys: series.ids_of(cursor, keys).ids, lock=True)
        amendments = [each for found in plan.amendments.values() for each in found]
        insert_amendments(amendments, batch_id=batch_id)
        settling.insert_batch(
            cursor,
            batch_id,
            UsageBatch.Door.BACKFILL,
            f"revert of usage backfill {backfill.pk}",
            amendments=amendments,
            actor=actor,
            at=at,
        )
    if amendments:
        recount.recount(spans=recount.spans_of([(place.customer_id, place.time) for place, _, _ in amendments]))
    _write_undone(items, plan.kept, batch_id=batch_id)
    return plan.kept


def _undoing(item: Done, stored: Mapping[str, Any], again: Mapping[str, list[int]]) -> list[Amendment] | str:
    """Return the amendments that undo what was done to an event, or why it cannot be undone."""
    amendments = []
    if item.counts is not None:
        event = stored.get(item.counts.key)
        if event is None:
            return _GONE
        if not event.series_ids:
            return _CHANGED_SINCE
        amendments.append(Amendment(event.place, -1, event.series_ids))
    # Of an event that another took the place of, nothing was voided where it had been voided before.
    if item.voided is not None and item.voided.key in again:
        event = stored.get(item.voided.key)
        if event is None:
            return _GONE
        if event.series_ids:
            return _CHANGED_SINCE
        amendments.append(Amendment(event.place, 1, again[item.voided.key]))
    return amendments


_UNDONE = """
    UPDATE metering_usagebackfillitem AS item
    SET reverted_batch_id = CASE undone.detail WHEN '' THEN %s END, revert_detail = undone.detail
    FROM unnest(%s::bigint[], %s::text[]) AS undone(id, detail) WHERE item.id = undone.id
"""


def _write_undone(items: Sequence[Done], kept: Mapping[int, str], *, batch_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_UNDONE, [batch_id, [item.id for item in items], [kept.get(item.id, "") for item in items]])


def _revert_some(backfill: UsageBackfill, limit: int, *, actor: Actor, at: datetime) -> int:
    items = done_items(backfill, limit)
    if items:
        kept = _undo(backfill, items, actor=actor, at=at)
        backfill.revert_left_out += len(kept)
        backfill.reverted += len(items) - len(kept)
    backfill.last_error = ""
    if len(items) < limit:
        backfill.status, backfill.reverted_at = Status.REVERTED, at
    backfill.save(update_fields=["status", "reverted_at", "reverted", "revert_left_out", "last_error"])
    if backfill.status == Status.REVERTED:
        data = {"undone": backfill.reverted, "left_out": backfill.revert_left_out}
        audit.record(
            actor=actor,
            verb="usage_backfill.reverted",
            subject=backfill,
            at=at,
            reason=backfill.revert_reason,
            data=data,
        )
    return len(items)


_STEPS: Final[Mapping[str, Callable[..., int]]] = {
    Status.CLOSING: _close_some,
    Status.REVERTING: _revert_some,
}
