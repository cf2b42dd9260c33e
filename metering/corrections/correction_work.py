"""Applies corrections: some events at a time, each step one transaction with amendments, new events and totals."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from metering import recount, storage
from metering.corrections import correction_events
from metering.corrections.correction_events import Ground, Place, Replacement, stored_events
from metering.corrections.counting_again import series_counting_again
from metering.errors import CorrectionNeedsReason, CorrectionNotCountable, CorrectionNotStuck, CorrectionUnknown
from metering.ingestion import Admitted, store_counted
from metering.models import UsageBatch, UsageCorrection, UsageCorrectionItem

Kind, Status, State = UsageCorrection.Kind, UsageCorrection.Status, UsageCorrectionItem.State

EVENTS_AT_ONCE = 1_000


class Amendment(NamedTuple):
    """What is decided of an event: that it counts no more (-1) or again (+1) in these series."""

    place: Place
    sign: int
    series_ids: list[int]


class Plan(NamedTuple):
    """What a batch of a correction does, by item: amendments, which an event replaces, and what is left out and why."""

    amendments: list[tuple[int, Amendment]]
    replaced: set[int]
    skipped: dict[int, str]


def apply_some(*, correction_id: int, limit: int = EVENTS_AT_ONCE, actor: Actor, at: datetime) -> int:
    """Apply an approved correction to up to `limit` of its events and return how many were settled.

    0: it is not being applied, is done, or somebody else is at it. Killed, nothing of this step has happened. An event
    that cannot be corrected any more, such as one that another correction has voided since, is left out and says why.

    Raises: PermissionMissing, CorrectionUnknown, CorrectionNotCountable.
    """
    actor.require(Permission.CORRECT_USAGE)
    try:
        return _apply_some(correction_id=correction_id, limit=limit, actor=actor, at=at)
    except CorrectionNotCountable as error:
        UsageCorrection.objects.filter(pk=correction_id).update(last_error=str(error))
        raise


@transaction.atomic
def _apply_some(*, correction_id: int, limit: int, actor: Actor, at: datetime) -> int:
    found = UsageCorrection.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=correction_id)
    correction = found.first()
    if correction is None:
        if not UsageCorrection.objects.filter(pk=correction_id).exists():
            raise CorrectionUnknown
        return 0
    if correction.status != Status.APPROVED:
        return 0
    items = waiting_items(correction, limit)
    if items:
        _settle(correction, items, actor=actor, at=at)
        correction.applied += sum(item.state == State.APPLIED for item in items)
        correction.skipped += sum(item.state == State.SKIPPED for item in items)
    if len(items) < limit:
        correction.status = Status.APPLIED
        correction.applied_at = at
    correction.last_error = ""
    correction.save(update_fields=["status", "applied_at", "applied", "skipped", "last_error"])
    if correction.status == Status.APPLIED:
        data = {"applied": correction.applied, "skipped": correction.skipped}
        audit.record(
            actor=actor, verb="usage_correction.applied", subject=correction, at=at, reason=correction.reason, data=data
        )
    return len(items)


@transaction.atomic
def leave_out_rest(*, correction_id: int, reason: str, actor: Actor, at: datetime) -> UsageCorrection:
    """End a correction that cannot go on: events that it has not got to stay as they are, each with the reason.

    What was applied stands, and can be reverted. One that is applied already stays as it is.

    Raises: PermissionMissing, CorrectionNeedsReason, CorrectionUnknown, CorrectionNotStuck.
    """
    actor.require(Permission.CORRECT_USAGE)
    if not reason.strip():
        raise CorrectionNeedsReason
    correction = UsageCorrection.objects.select_for_update(no_key=True).filter(pk=correction_id).first()
    if correction is None:
        raise CorrectionUnknown
    if correction.status == Status.APPLIED:
        return correction
    if correction.status != Status.APPROVED or not correction.last_error:
        raise CorrectionNotStuck
    waiting = UsageCorrectionItem.objects.filter(correction=correction, state=State.WAITING)
    left_out = waiting.update(state=State.SKIPPED, detail=reason.strip())
    correction.skipped += left_out
    correction.status, correction.applied_at = Status.APPLIED, at
    correction.save(update_fields=["status", "applied_at", "skipped"])
    data = {"left_out": left_out, "because": correction.last_error}
    audit.record(
        actor=actor, verb="usage_correction.rest_left_out", subject=correction, at=at, reason=reason.strip(), data=data
    )
    return correction


def waiting_items(correction: UsageCorrection, limit: int) -> list[UsageCorrectionItem]:
    """Return the next events of a correction to be settled, those of one customer and hour together."""
    items = UsageCorrectionItem.objects.filter(correction=correction, state=State.WAITING)
    return list(items.order_by("customer_id", "time", "key")[:limit])


def all_waiting_items(correction: UsageCorrection) -> Iterator[list[UsageCorrectionItem]]:
    """Yield all of them in the same portions; to be called within a transaction."""
    items = UsageCorrectionItem.objects.filter(correction=correction, state=State.WAITING)
    found = items.order_by("customer_id", "time", "key").iterator(chunk_size=EVENTS_AT_ONCE)
    while some := list(islice(found, EVENTS_AT_ONCE)):
        yield some


def _settle(correction: UsageCorrection, items: Sequence[UsageCorrectionItem], *, actor: Actor, at: datetime) -> None:
    """Amend the events of these items, count what takes their place, and make the totals of their hours anew.

    To be called within a transaction that holds the correction.

    Raises: CorrectionNotCountable.
    """
    storage.find_by_index()
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        # Locks in the order of senders: months, events, identities, series; then the fold.
        wanted = replacements_of(correction, items)
        months = sorted({event.time.date().replace(day=1) for event, _ in wanted.values()})
        batch_id = storage.begin_batch(cursor, months=months)
        with connection.cursor() as plain:
            recount.hold_partitions(plain)
        ground = correction_events.Taking(cursor, batch_id)
        plan = plan_of(ground, correction, items, wanted)
        counted = correction_events.count(ground, [wanted[pk] for pk in wanted if pk in plan.replaced], at=at)
        _mark(items, plan, counted, batch_id=batch_id)
        if not plan.amendments:
            return
        amendments = [amendment for _, amendment in plan.amendments]
        insert_amendments(amendments, batch_id=batch_id)
        store_counted(cursor, admitted=counted, batch_id=batch_id)
        moments = [(place.customer_id, place.time) for place, _, _ in amendments]
        moments += [(item.customer_id, item.event.time) for item in counted.counted]
        storage.insert_batch(
            cursor,
            batch=storage.NewBatch(
                id=batch_id,
                door=UsageBatch.Door.CORRECTION,
                origin=f"correction {correction.pk}",
                api_key_id=actor.api_key_id,
                actor_label=actor.label,
                received_at=at,
                accepted=len(counted.counted),
                duplicates=0,
                quarantined=0,
                rejected=0,
                earliest_at=min(moment for _, moment in moments),
                amended=len({place.key for place, _, _ in amendments}),
            ),
        )
    recount.recount(spans=recount.spans_of(moments))


def place_of(item: UsageCorrectionItem) -> Place:
    """Return where the item's event lies."""
    return Place(item.customer_id, item.time, item.key.hex)


def _new_place_of(item: UsageCorrectionItem) -> Place | None:
    if item.new_customer_id is None or item.new_time is None or item.new_key is None:
        return None
    return Place(item.new_customer_id, item.new_time, item.new_key.hex)


def plan_of(
    ground: Ground, correction: UsageCorrection, items: Sequence[UsageCorrectionItem], replaced: Collection[int]
) -> Plan:
    """Return what is to be done about these events as things stand; `replaced` are items that have a replacement."""
    if correction.kind == Kind.REVERT:
        return _plan_of_revert(ground, correction, items)
    stored = ground.stored([place_of(item) for item in items])
    plan = Plan([], set(), {})
    for item in items:
        event = stored.get(item.key.hex)
        if event is None:
            plan.skipped[item.pk] = "Its raw data went into the archive or were erased."
        elif not event.series_ids:
            plan.skipped[item.pk] = "It was voided by another correction since."
        else:
            plan.amendments.append((item.pk, Amendment(event.place, -1, event.series_ids)))
            if item.pk in replaced:
                plan.replaced.add(item.pk)
    return plan


def _plan_of_revert(ground: Ground, correction: UsageCorrection, items: Sequence[UsageCorrectionItem]) -> Plan:
    """Take the events that came in place out again and let the voided ones count; only where both still stand so."""
    done = {
        each.key: each
        for each in UsageCorrectionItem.objects.filter(
            correction_id=correction.reverts_id, key__in=[item.key for item in items], state=State.APPLIED
        )
    }
    new = {key: place for key, each in done.items() if (place := _new_place_of(each)) is not None}
    stored = ground.stored(sorted([*[place_of(item) for item in items], *new.values()]))
    voids = [(place_of(item), done[item.key].batch_id or 0) for item in items]
    again = series_counting_again(voids, stored, series_ids=ground.series_ids)
    plan = Plan([], set(), {})
    for item in items:
        event, successor = stored.get(item.key.hex), new.get(item.key)
        replacement = stored.get(successor.key) if successor else None
        if event is None or (successor and replacement is None):
            plan.skipped[item.pk] = "Its raw data went into the archive or were erased."
        elif event.series_ids or (replacement and not replacement.series_ids):
            plan.skipped[item.pk] = "Another correction has changed it since; revert that one first."
        else:
            plan.amendments.append((item.pk, Amendment(event.place, 1, again[item.key.hex])))
            if replacement:
                plan.amendments.append((item.pk, Amendment(replacement.place, -1, replacement.series_ids)))
    return plan


def replacements_of(correction: UsageCorrection, items: Sequence[UsageCorrectionItem]) -> dict[int, Replacement]:
    """Return what takes the place of each event, by item; nothing where it is only voided."""
    if correction.kind != Kind.REPLACE:
        return {}
    stored = stored_events([place_of(item) for item in items])
    found = [item for item in items if item.key.hex in stored]
    originals = [
        (stored[item.key.hex], item.changes if item.changes is not None else correction.changes) for item in found
    ]
    made = correction_events.replacements(originals, correction_id=correction.pk)
    return {item.pk: replacement for item, replacement in zip(found, made, strict=True)}


def _mark(items: Sequence[UsageCorrectionItem], plan: Plan, counted: Admitted, *, batch_id: int) -> None:
    new = iter(counted.counted)
    for item in items:
        if item.pk in plan.skipped:
            item.state, item.detail = State.SKIPPED, plan.skipped[item.pk]
            continue
        item.state, item.batch_id = State.APPLIED, batch_id
        if item.pk in plan.replaced:
            successor = next(new)
            item.new_customer_id = successor.customer_id
            item.new_time, item.new_key = successor.event.time, UUID(successor.event.key)
    _save(items)


# The ORM's own bulk_update takes longer to write its statement than all the rest of a correction takes.
_SAVE = """
    UPDATE metering_usagecorrectionitem AS item
    SET state = settled.state, detail = settled.detail, batch_id = settled.batch_id,
        new_customer_id = settled.new_customer_id, new_time = settled.new_time, new_key = settled.new_key
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::uuid[])
        AS settled(id, state, detail, batch_id, new_customer_id, new_time, new_key)
    WHERE item.id = settled.id
"""
_SETTLED = ("pk", "state", "detail", "batch_id", "new_customer_id", "new_time", "new_key")


def _save(items: Sequence[UsageCorrectionItem]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SAVE, [[getattr(item, name) for item in items] for name in _SETTLED])


def insert_amendments(amendments: Sequence[Amendment], *, batch_id: int) -> None:
    """Write what is decided of these events, in the order of their places, whose rows the database locks."""
    ordered = sorted(amendments)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO usage_amendment (customer_id, time, key, batch_id, sign, series_ids)
            SELECT customer_id, time, key, %s, sign, series_ids::bigint[]
            FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[], %s::int[], %s::text[])
                AS amended(customer_id, time, key, sign, series_ids)
            """,
            [
                batch_id,
                [each.place.customer_id for each in ordered],
                [each.place.time for each in ordered],
                [each.place.key for each in ordered],
                [each.sign for each in ordered],
                ["{" + ",".join(map(str, each.series_ids)) + "}" for each in ordered],
            ],
        )
