"""Settles events of a backfill that is being closed: counts, brings back, replaces, voids, or leaves out with a reason.

The order of locks is that of corrections: months, identities, events, the limits of series, series; then the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from django.db import connection, transaction

from accounts.access import Actor
from metering import recount, storage
from metering.completeness import receipts
from metering.corrections.correction_events import Place, Stored
from metering.corrections.correction_events import stored_events as stored_at
from metering.corrections.correction_work import Amendment, insert_amendments
from metering.counting import Counted, Problem, Reason
from metering.events import MAX_NAME_LENGTH, Event, read_events
from metering.ingestion import Admitted, admit, store_counted
from metering.models import UsageBackfill, UsageBackfillItem, UsageBatch
from metering.reading import stored_events
from metering.usage_backfills.records import Kind, State, rules_of

_GONE = "Its raw data went into the archive or were erased."


class Item(NamedTuple):
    """An event of a backfill that waits to be settled; `there` is where the counted one that it meets lies."""

    id: int
    kind: str
    key: str
    content_hash: str
    customer_id: int | None
    time: datetime
    event: Event | None
    there: Place | None


class Outcome(NamedTuple):
    """What becomes of an item."""

    state: str
    problem: str = ""
    detail: str = ""
    customer_id: int | None = None
    batch_id: int | None = None
    new_key: str | None = None


class _TooManySeriesError(Exception):
    """Events for which a customer would have too many series, by the key of each, with the words."""

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__()
        self.details = details


_WAITING = """
    SELECT id, kind, key, content_hash, customer_id, time, event_id, type, subject, data::text,
           there_customer_id, there_time
    FROM metering_usagebackfillitem WHERE backfill_id = %s AND state = 'waiting'
    ORDER BY customer_id, time, key LIMIT %s
"""


def waiting_items(backfill: UsageBackfill, limit: int) -> list[Item]:
    """Return the next events to settle: those of one customer and hour together, those of nobody last."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING, [backfill.pk, limit])
        return [_item(backfill.source, row) for row in cursor.fetchall()]


def _item(source: str, row: tuple[Any, ...]) -> Item:
    pk, kind, key, content_hash, customer_id, time, event_id, event_type, subject, data, *there_at = row
    there_customer_id, there_time = there_at
    event: Event | None = None
    known_hash = content_hash.hex if content_hash else ""
    if kind == Kind.SENT and data is not None:
        event = stored_events.as_event(key, source, event_id, event_type, subject, time, data)
        event.content_hash = known_hash
    there = None
    if there_customer_id is not None and there_time is not None:
        there = Place(there_customer_id, there_time.astimezone(UTC), key.hex)
    return Item(pk, kind, key.hex, known_hash, customer_id, time.astimezone(UTC), event, there)


def settle(backfill: UsageBackfill, items: Sequence[Item], *, actor: Actor, at: datetime) -> list[Outcome]:
    """Settle these events, each as things stand now, and return what became of each.

    To be called within a transaction that holds the backfill.
    """
    too_many: dict[str, str] = {}
    storage.find_by_index()
    while True:
        try:
            # What turns out to be too much is undone as a whole, for an identity once taken belongs to an event.
            with transaction.atomic():
                outcomes = _settle(backfill, items, too_many, actor=actor, at=at)
        except _TooManySeriesError as found:
            too_many |= found.details
        else:
            _write_outcomes(items, outcomes)
            return [outcomes[item.id] for item in items]


@dataclass(slots=True)
class _Plan:
    """What a batch does: new events, those in another's place with its key, amendments for each, what is left out."""

    batch_id: int
    new: list[Counted] = field(default_factory=list)
    amendments: list[Amendment] = field(default_factory=list)
    replacements: dict[str, Counted] = field(default_factory=dict)
    replaced: list[Amendment] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def leave_out(self, item: Item, problem: str, detail: str) -> None:
        self.outcomes[item.id] = Outcome(State.LEFT_OUT, problem, detail)

    def amend(self, item: Item, state: UsageBackfillItem.State, amendment: Amendment) -> None:
        self.amendments.append(amendment)
        self.outcomes[item.id] = Outcome(state, customer_id=amendment.place.customer_id, batch_id=self.batch_id)


def _settle(
    backfill: UsageBackfill, items: Sequence[Item], too_many: Mapping[str, str], *, actor: Actor, at: datetime
) -> dict[int, Outcome]:
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        judged = _judged(cursor, backfill, items, too_many, at=at)
        countable = {key: each for key, each in judged.items() if isinstance(each, Counted)}
        months = sorted({each.event.time.date().replace(day=1) for each in countable.values()})
        plan = _Plan(storage.begin_batch(cursor, months=months))
        with connection.cursor() as plain:
            recount.hold_partitions(plain)
        sent = [item for item in items if item.event is not None]
        known = _take_identities(cursor, plan, sent, countable)
        _plan_known(cursor, plan, [item for item in sent if item.key in known], known, backfill, judged)
        for item in sent:
            problem = judged[item.key]
            if item.key not in known and isinstance(problem, Problem):
                plan.leave_out(item, problem.reason, problem.detail)
        _plan_there(plan, items)
        _store(cursor, plan, backfill, actor=actor, at=at)
    if amended := [*plan.amendments, *plan.replaced]:
        recount.recount(spans=recount.spans_of([(place.customer_id, place.time) for place, _, _ in amended]))
    for item in items:
        plan.outcomes.setdefault(item.id, Outcome(State.LEFT_OUT, "gone", _GONE))
    return plan.outcomes


def _judged(
    cursor: psycopg.Cursor[Any],
    backfill: UsageBackfill,
    items: Sequence[Item],
    too_many: Mapping[str, str],
    *,
    at: datetime,
) -> dict[str, Counted | Problem]:
    """Return how each event that was filled in would count now, or why it cannot."""
    events = [item.event for item in items if item.event is not None]
    rules = rules_of(cursor, backfill, events, at=at)
    judged: dict[str, Counted | Problem] = {}
    for event in events:
        found = rules.judge(event)
        if event.key in too_many:
            found = Problem(Reason.TOO_MANY_SERIES, too_many[event.key])
        elif isinstance(found, Counted) and backfill.customer_ids and found.customer_id not in backfill.customer_ids:
            found = Problem(Reason.UNKNOWN_SUBJECT, "by now its subject is of a customer that the backfill is not of")
        judged[event.key] = found
    return judged


def _take_identities(
    cursor: psycopg.Cursor[Any], plan: _Plan, sent: Sequence[Item], countable: Mapping[str, Counted]
) -> dict[str, str]:
    """Take the identities of events that are new; returns the content hashes of those that were taken before."""
    known = storage.content_hashes(cursor, {item.key: None for item in sent})
    fresh = {item.key: item.content_hash for item in sent if item.key in countable and item.key not in known}
    taken = storage.take_identities(cursor, fresh, batch_id=plan.batch_id)
    if lost := fresh.keys() - taken:
        # A sender was faster since.
        known |= storage.content_hashes(cursor, dict.fromkeys(lost))
    for item in sent:
        if item.key in taken:
            plan.new.append(countable[item.key])
            customer_id = countable[item.key].customer_id
            plan.outcomes[item.id] = Outcome(State.COUNTED, customer_id=customer_id, batch_id=plan.batch_id)
    return known


_IN_QUARANTINE = """
    SELECT key, status FROM metering_quarantinedevent WHERE key = ANY(%s::uuid[]) AND status <> 'released'
"""
_LAST_VOIDED = """
    SELECT DISTINCT ON (customer_id, time, key) key, series_ids FROM usage_amendment
    JOIN unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS asked(customer_id, time, key)
        USING (customer_id, time, key)
    WHERE sign = -1 ORDER BY customer_id, time, key, batch_id DESC
"""


def _plan_known(  # noqa: PLR0917 -- a step of `_settle`
    cursor: psycopg.Cursor[Any],
    plan: _Plan,
    items: Sequence[Item],
    known: Mapping[str, str],
    backfill: UsageBackfill,
    judged: Mapping[str, Counted | Problem],
) -> None:
    """Plan for events whose identity was taken before."""
    cursor.execute(_IN_QUARANTINE, [[item.key for item in items]])
    held = {key.hex: status for key, status in cursor.fetchall()}
    stored = stored_at([item.there for item in items if item.there is not None], lock=True)
    for item in items:
        is_alike = known[item.key] == item.content_hash
        there = stored.get(item.key)
        if item.key in held:
            words = "waits in quarantine: release it there" if held[item.key] == "open" else "was discarded"
            plan.leave_out(item, "quarantined", f"An event of this id {words}.")
        elif item.there is not None and there is None:
            plan.leave_out(item, "gone", _GONE)
        elif is_alike and there is not None and not there.series_ids:
            plan.amend(item, State.BROUGHT_BACK, Amendment(there.place, 1, _last_voided(cursor, there)))
        elif is_alike:
            plan.outcomes[item.id] = Outcome(State.KEPT)
        elif there is not None and isinstance(found := judged[item.key], Counted):
            _plan_replacement(cursor, plan, item, there, backfill, found)
        elif there is not None and isinstance(found, Problem):
            plan.leave_out(item, found.reason, f"{found.detail}; the one that was counted before stays.")
        else:
            plan.leave_out(item, "conflict", "An event of this id that says something else was counted before.")


def _last_voided(cursor: psycopg.Cursor[Any], there: Stored) -> list[int]:
    cursor.execute(_LAST_VOIDED, [[part] for part in there.place])
    row = cursor.fetchone()
    assert row is not None, "an event that counts nowhere was voided"
    return list(row[1])


def _plan_replacement(  # noqa: PLR0917 -- a step of `_settle`
    cursor: psycopg.Cursor[Any], plan: _Plan, item: Item, there: Stored, backfill: UsageBackfill, counted: Counted
) -> None:
    """Let the event that was filled in count in the other's place, under an identity of its own."""
    event = counted.event
    (new,), _ = read_events(
        [
            {
                "source": event.source,
                "id": _successor_of(event, backfill),
                "type": event.type,
                "subject": event.subject,
                "time": event.time_text,
                "data": event.data,
            }
        ]
    )
    if not storage.take_identities(cursor, {new.key: new.content_hash}, batch_id=plan.batch_id):
        plan.leave_out(item, "conflict", f"There is an event of the id {new.event_id!r} already.")
        return
    plan.replacements[item.key] = Counted(new, counted.customer_id, counted.parts)
    if there.series_ids:
        plan.replaced.append(Amendment(there.place, -1, there.series_ids))
    plan.outcomes[item.id] = Outcome(State.REPLACED, customer_id=counted.customer_id, new_key=new.key)


def _successor_of(event: Event, backfill: UsageBackfill) -> str:
    mark = f"#b{backfill.pk}"
    if len(event.event_id) + len(mark) <= MAX_NAME_LENGTH:
        return event.event_id + mark
    # As corrections do: an id that is cut says with its key which one it was.
    mark = f"~{event.key}{mark}"
    return event.event_id[: MAX_NAME_LENGTH - len(mark)] + mark


def _plan_there(plan: _Plan, items: Sequence[Item]) -> None:
    """Plan for counted events that were not sent again: they count no more."""
    places = {
        item.id: Place(item.customer_id, item.time, item.key)
        for item in items
        if item.kind == Kind.THERE and item.customer_id is not None
    }
    stored = stored_at(list(places.values()), lock=True)
    for item in items:
        if item.id in places and (event := stored.get(item.key)) is not None:
            if event.series_ids:
                plan.amend(item, State.VOIDED, Amendment(event.place, -1, event.series_ids))
            else:
                plan.leave_out(item, "voided", "It was voided by a correction since.")


def _store(cursor: psycopg.Cursor[Any], plan: _Plan, backfill: UsageBackfill, *, actor: Actor, at: datetime) -> None:
    admitted = admit(cursor, [*plan.new, *plan.replacements.values()])
    if admitted.problems:
        originals = {each.event.key: key for key, each in plan.replacements.items()}
        raise _TooManySeriesError(
            {originals.get(each.event.key, each.event.key): problem.detail for each, problem in admitted.problems}
        )
    store_counted(cursor, admitted=Admitted(plan.new, admitted.series_ids, ()), batch_id=plan.batch_id)
    door = UsageBatch.Door.BACKFILL
    receipts.append(cursor, counted=plan.new, problems=(), batch_id=plan.batch_id, door=door)
    insert_amendments(plan.amendments, batch_id=plan.batch_id)
    origin = f"usage backfill {backfill.pk}"
    insert_batch(cursor, plan.batch_id, door, origin, counted=plan.new, amendments=plan.amendments, actor=actor, at=at)
    if plan.replacements:
        # As corrections do, so that the source is not taken to have sent these as well.
        batch_id = storage.begin_batch(cursor, months=[])
        new = list(plan.replacements.values())
        store_counted(cursor, admitted=Admitted(new, admitted.series_ids, ()), batch_id=batch_id)
        insert_amendments(plan.replaced, batch_id=batch_id)
        door = UsageBatch.Door.CORRECTION
        insert_batch(cursor, batch_id, door, origin, counted=new, amendments=plan.replaced, actor=actor, at=at)
        plan.outcomes |= {
            pk: each._replace(batch_id=batch_id) for pk, each in plan.outcomes.items() if each.new_key is not None
        }


def insert_batch(
    cursor: psycopg.Cursor[Any],
    batch_id: int,
    door: UsageBatch.Door,
    origin: str,
    *,
    counted: Sequence[Counted] = (),
    amendments: Sequence[Amendment],
    actor: Actor,
    at: datetime,
) -> None:
    """Write the batch of these events and amendments, if there are any."""
    moments = [each.event.time for each in counted] + [each.place.time for each in amendments]
    if not moments:
        return
    storage.insert_batch(
        cursor,
        batch=storage.NewBatch(
            id=batch_id,
            door=door,
            origin=origin,
            api_key_id=actor.api_key_id,
            actor_label=actor.label,
            received_at=at,
            accepted=len(counted),
            duplicates=0,
            quarantined=0,
            rejected=0,
            earliest_at=min(moments),
            amended=len({each.place.key for each in amendments}),
        ),
    )


# Where the event itself holds what it said, the item need not.
_OUTCOMES = """
    UPDATE metering_usagebackfillitem AS item SET
        state = settled.state, problem = settled.problem, detail = settled.detail, batch_id = settled.batch_id,
        new_key = settled.new_key, customer_id = coalesce(settled.customer_id, item.customer_id),
        event_id = CASE settled.state WHEN 'left_out' THEN item.event_id ELSE '' END,
        subject = CASE settled.state WHEN 'left_out' THEN item.subject ELSE '' END,
        data = CASE settled.state WHEN 'left_out' THEN item.data END
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::uuid[])
        AS settled(id, state, problem, detail, customer_id, batch_id, new_key)
    WHERE item.id = settled.id
"""


def _write_outcomes(items: Sequence[Item], outcomes: Mapping[int, Outcome]) -> None:
    columns = zip(*[(item.id, *outcomes[item.id]) for item in items], strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_OUTCOMES, [list(column) for column in columns])
