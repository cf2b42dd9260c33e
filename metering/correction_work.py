"""Applies corrections: some events at a time, each step one transaction with amendments, new events and totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from metering import recount, storage
from metering.counting import Counted, Problem
from metering.errors import CorrectionNotCountable, CorrectionUnknown
from metering.events import Event, exact_number, read_events
from metering.ingestion import Admitted, admit, counting_rules, store_counted
from metering.models import UsageBatch, UsageCorrection, UsageCorrectionItem

Kind, Status, State = UsageCorrection.Kind, UsageCorrection.Status, UsageCorrectionItem.State

EVENTS_AT_ONCE = 1_000
_ATTRIBUTES = frozenset({"subject", "time", "type"})

_decode = msgspec.json.Decoder(dict, float_hook=exact_number).decode


class Place(NamedTuple):
    """Where an event lies: the primary key of `usage_event`."""

    customer_id: int
    time: datetime
    key: str


class Stored(NamedTuple):
    """An accepted event as it lies in the database; `series_ids` are those that it counts in by now."""

    place: Place
    source: str
    event_id: str
    type: str
    subject: str
    data_text: str
    series_ids: list[int]


class Amendment(NamedTuple):
    """What is decided of an event: that it counts no more (-1) or again (+1) in these series."""

    place: Place
    sign: int
    series_ids: list[int]


class _Plan(NamedTuple):
    """What a batch of a correction does: amendments, new events by their item, and what is left out and why."""

    amendments: list[Amendment]
    replacements: dict[int, dict[str, object]]
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
        settle(correction, items, actor=actor, at=at)
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


def waiting_items(correction: UsageCorrection, limit: int) -> list[UsageCorrectionItem]:
    """Return the next events of a correction to be settled, those of one customer and hour together."""
    items = UsageCorrectionItem.objects.filter(correction=correction, state=State.WAITING)
    return list(items.order_by("customer_id", "time", "key")[:limit])


def settle(correction: UsageCorrection, items: Sequence[UsageCorrectionItem], *, actor: Actor, at: datetime) -> int:
    """Amend the events of these items, count what takes their place, and make the totals of their hours anew.

    To be called within a transaction that holds the correction. Returns the batch's id, 0 where all were left out.

    Raises: CorrectionNotCountable.
    """
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        # Locks in the order of senders: months, events, identities, series; then the fold.
        events = _replacements_of(correction, items)
        months = sorted({event.time.date().replace(day=1) for event in events.values()})
        batch_id = storage.begin_batch(cursor, months=months)
        with connection.cursor() as plain:
            recount.hold_partitions(plain)
        plan = _plan(correction, items, events)
        counted = _judged(cursor, [events[pk] for pk in events if pk in plan.replacements], at=at)
        _mark(items, plan, counted, batch_id=batch_id)
        if not plan.amendments:
            return 0
        _insert_amendments(plan.amendments, batch_id=batch_id)
        store_counted(cursor, admitted=counted, batch_id=batch_id)
        moments = [(place.customer_id, place.time) for place, _, _ in plan.amendments]
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
                amended=len({place.key for place, _, _ in plan.amendments}),
            ),
        )
    recount.recount(spans=recount.spans_of(moments))
    return batch_id


_STORED = """
    SELECT event.customer_id, event.time, event.key, event.source, event.event_id, event.type, event.subject,
           event.data::text, (
               SELECT coalesce(array_agg(series_id ORDER BY series_id), '{}') FROM (
                   SELECT series_id FROM (
                       SELECT unnest(event.series_ids) AS series_id, 1 AS sign
                       UNION ALL
                       SELECT unnest(amendment.series_ids), amendment.sign FROM usage_amendment AS amendment
                       WHERE amendment.customer_id = event.customer_id AND amendment.time = event.time
                         AND amendment.key = event.key
                   ) AS named
                   GROUP BY series_id HAVING sum(sign) = 1
               ) AS counts
           )
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS asked(customer_id, time, key)
    JOIN usage_event AS event USING (customer_id, time, key)
    WHERE event.event_id <> '' AND usage_is_recountable(event.customer_id, event.time)
"""
_LOCK = """
    SELECT FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS asked(customer_id, time, key)
    JOIN usage_event AS event USING (customer_id, time, key)
    ORDER BY customer_id, time, key FOR NO KEY UPDATE OF event
"""


def stored_events(places: Sequence[Place], *, lock: bool = False) -> dict[str, Stored]:
    """Return the events that lie at these places, by key; those whose data are gone are left out."""
    if not places:
        return {}
    columns = [list(column) for column in zip(*places, strict=True)]
    with connection.cursor() as cursor:
        if lock:
            cursor.execute(_LOCK, columns)
        cursor.execute(_STORED, columns)
        rows = cursor.fetchall()
    return {
        key.hex: Stored(Place(customer_id, time.astimezone(UTC), key.hex), *rest)
        for customer_id, time, key, *rest in rows
    }


def place_of(item: UsageCorrectionItem) -> Place:
    """Return where the item's event lies."""
    return Place(item.customer_id, item.time, item.key.hex)


def _new_place_of(item: UsageCorrectionItem) -> Place | None:
    if item.new_customer_id is None or item.new_time is None or item.new_key is None:
        return None
    return Place(item.new_customer_id, item.new_time, item.new_key.hex)


def _plan(correction: UsageCorrection, items: Sequence[UsageCorrectionItem], events: Mapping[int, Event]) -> _Plan:
    if correction.kind == Kind.REVERT:
        return _plan_of_revert(correction, items)
    stored = stored_events([place_of(item) for item in items], lock=True)
    plan = _Plan([], {}, {})
    for item in items:
        event = stored.get(item.key.hex)
        if event is None:
            plan.skipped[item.pk] = "Its raw data went into the archive or were erased."
        elif not event.series_ids:
            plan.skipped[item.pk] = "It was voided by another correction since."
        else:
            plan.amendments.append(Amendment(event.place, -1, event.series_ids))
            if item.pk in events:
                plan.replacements[item.pk] = {}
    return plan


_VOIDED = """
    SELECT key, series_ids FROM usage_amendment
    JOIN unnest(%s::bigint[], %s::timestamptz[], %s::uuid[], %s::bigint[]) AS asked(customer_id, time, key, batch_id)
        USING (customer_id, time, key, batch_id)
    WHERE sign = -1
"""


def _plan_of_revert(correction: UsageCorrection, items: Sequence[UsageCorrectionItem]) -> _Plan:
    """Take the events that came in place out again and let the voided ones count; only where both still stand so."""
    done = {
        each.key: each
        for each in UsageCorrectionItem.objects.filter(
            correction_id=correction.reverts_id, key__in=[item.key for item in items], state=State.APPLIED
        )
    }
    new = {key: place for key, each in done.items() if (place := _new_place_of(each)) is not None}
    stored = stored_events(sorted([*[place_of(item) for item in items], *new.values()]), lock=True)
    with connection.cursor() as cursor:
        columns = zip(*[(*place_of(item), done[item.key].batch_id) for item in items], strict=True)
        cursor.execute(_VOIDED, [list(column) for column in columns])
        voided = {key.hex: series_ids for key, series_ids in cursor.fetchall()}
    plan = _Plan([], {}, {})
    for item in items:
        event, successor = stored.get(item.key.hex), new.get(item.key)
        replacement = stored.get(successor.key) if successor else None
        if event is None or (successor and replacement is None):
            plan.skipped[item.pk] = "Its raw data went into the archive or were erased."
        elif event.series_ids or (replacement and not replacement.series_ids):
            plan.skipped[item.pk] = "Another correction has changed it since; revert that one first."
        else:
            plan.amendments.append(Amendment(event.place, 1, voided[item.key.hex]))
            if replacement:
                plan.amendments.append(Amendment(replacement.place, -1, replacement.series_ids))
    return plan


def _replacements_of(correction: UsageCorrection, items: Sequence[UsageCorrectionItem]) -> dict[int, Event]:
    """Return what takes the place of each event, by item; no event where it is only voided.

    Raises: CorrectionNotCountable, where it would be no event.
    """
    if correction.kind != Kind.REPLACE:
        return {}
    stored = stored_events([place_of(item) for item in items])
    wanted = [(item, stored[item.key.hex]) for item in items if item.key.hex in stored]
    envelopes = [
        _envelope(event, item.changes if item.changes is not None else correction.changes, correction.pk)
        for item, event in wanted
    ]
    events, malformed = read_events(envelopes)
    if malformed:
        raise CorrectionNotCountable(_said([(fault.source, fault.event_id, fault.detail) for fault in malformed]))
    return {wanted[event.index][0].pk: event for event in events}


def _envelope(event: Stored, changes: Mapping[str, Any], correction_id: int) -> dict[str, object]:
    data = _decode(event.data_text)
    envelope: dict[str, object] = {
        "source": event.source,
        "id": f"{event.event_id}#{correction_id}",
        "type": event.type,
        "subject": event.subject,
        "time": event.place.time.isoformat(),
        "data": data,
    }
    for name, value in changes.items():
        if name in _ATTRIBUTES:
            envelope[name] = value
        else:
            _put(data, name, value)
    return envelope


def _put(data: dict[str, Any], name: str, value: Any) -> None:
    """Put a value where counting would find it: under its name, or where the dots of the name lead to."""
    where: Any = data
    steps = [name] if name in data else name.split(".")
    for step in steps[:-1]:
        where = where.get(step) if isinstance(where, dict) else None
    if not isinstance(where, dict):
        where, steps = data, [name]
    before = where.get(steps[-1])
    is_number = isinstance(before, int | Decimal) and not isinstance(before, bool)
    where[steps[-1]] = exact_number(value) if is_number and isinstance(value, str) and _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except ArithmeticError:
        return False


def _judged(cursor: Any, events: Sequence[Event], *, at: datetime) -> Admitted:
    """Count new events by the rules of their time, take their identities and name their series; all of them or none.

    Raises: CorrectionNotCountable.
    """
    if not events:
        return Admitted((), {}, ())
    rules = counting_rules(cursor, events=events, at=at)
    # What was accepted once may be corrected however old it is by now: its identity is kept for ever.
    rules = rules._replace(earliest=min([rules.earliest, *[event.time for event in events]]))
    judged = [(event, rules.judge(event)) for event in events]
    problems = [(event, item.detail) for event, item in judged if isinstance(item, Problem)]
    hashes = {event.key: event.content_hash for event in events}
    if not problems:
        taken = storage.take_identities(cursor, hashes)
        problems = [(event, "an event of this source and id is there") for event in events if event.key not in taken]
    admitted = Admitted((), {}, ())
    if not problems:
        admitted = admit(cursor, [item for _, item in judged if isinstance(item, Counted)])
        problems = [(item.event, problem.detail) for item, problem in admitted.problems]
    if problems:
        raise CorrectionNotCountable(_said([(event.source, event.event_id, detail) for event, detail in problems]))
    return admitted


_SAID = 5


def _said(faults: Sequence[tuple[str, str, str]]) -> str:
    shown = "; ".join(f"{event_id} of {source}: {detail}" for source, event_id, detail in faults[:_SAID])
    more = f"; and {len(faults) - _SAID:,} more" if len(faults) > _SAID else ""
    return f"{len(faults):,} corrected events could not be counted: {shown}{more}."


def _mark(items: Sequence[UsageCorrectionItem], plan: _Plan, counted: Admitted, *, batch_id: int) -> None:
    new = iter(counted.counted)
    for item in items:
        if item.pk in plan.skipped:
            item.state, item.detail = State.SKIPPED, plan.skipped[item.pk]
            continue
        item.state, item.batch_id = State.APPLIED, batch_id
        if item.pk in plan.replacements:
            successor = next(new)
            item.new_customer_id = successor.customer_id
            item.new_time, item.new_key = successor.event.time, UUID(successor.event.key)
    UsageCorrectionItem.objects.bulk_update(
        items, ["state", "detail", "batch_id", "new_customer_id", "new_time", "new_key"], batch_size=1_000
    )


def _insert_amendments(amendments: Sequence[Amendment], *, batch_id: int) -> None:
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
