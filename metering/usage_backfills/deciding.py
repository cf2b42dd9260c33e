"""Decides what becomes of the events of a backfill: counted, brought back, in another's place, voided, or left out.

It writes nothing itself. What only one can have, identities and room for series, it asks of the `Ground` that it stands
on: a closing takes it for good, a preview only looks. So a preview decides as the closing does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from django.db import connection, transaction

from metering.corrections.correction_events import Ground, Place, Stored
from metering.corrections.correction_work import Amendment
from metering.counting import Counted, Problem, Reason
from metering.events import MAX_NAME_LENGTH, Event, read_events
from metering.ingestion import Admitted
from metering.models import UsageBackfill, UsageBackfillItem
from metering.reading import stored_events
from metering.usage_backfills.records import Kind, State, rules_of

# A preview takes as many at once as a closing: of those that come at once to the limit of series, one has no room.
EVENTS_AT_ONCE: Final = 2_000

_GONE = "Its raw data went into the archive or were erased."
_T = TypeVar("_T")


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
    """What becomes of an item; of one that is settled, also by which batch."""

    state: str
    problem: str = ""
    detail: str = ""
    customer_id: int | None = None
    batch_id: int | None = None
    new_key: str | None = None


@dataclass(slots=True)
class Plan:
    """What is to be done: new events, those in another's place by its key, amendments for each, what becomes of each.

    `admitted` has the series of all the events.
    """

    new: list[Counted] = field(default_factory=list)
    amendments: list[Amendment] = field(default_factory=list)
    replacements: dict[str, Counted] = field(default_factory=dict)
    replaced: list[Amendment] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    admitted: Admitted = field(default_factory=lambda: Admitted((), {}, ()))

    def leave_out(self, item: Item, problem: str, detail: str) -> None:
        self.outcomes[item.id] = Outcome(State.LEFT_OUT, problem, detail)

    def amend(self, item: Item, state: UsageBackfillItem.State, amendment: Amendment) -> None:
        self.amendments.append(amendment)
        self.outcomes[item.id] = Outcome(state, customer_id=amendment.place.customer_id)


_WAITING = """
    SELECT id, kind, key, content_hash, customer_id, time, event_id, type, subject, data::text,
           there_customer_id, there_time
    FROM metering_usagebackfillitem WHERE backfill_id = %s AND state = 'waiting'
    ORDER BY customer_id, time, key
"""


def waiting_items(backfill: UsageBackfill, limit: int) -> list[Item]:
    """Return the next events to settle: those of one customer and hour together, those of nobody last."""
    with connection.cursor() as cursor:
        cursor.execute(f"{_WAITING} LIMIT %s", [backfill.pk, limit])
        return [_item(backfill.source, row) for row in cursor.fetchall()]


def all_waiting_items(backfill: UsageBackfill, query: str) -> Iterator[list[Item]]:
    """Yield all events to settle, as a query has them, in the portions of a closing; to be called in a transaction."""
    for rows in rows_at_once(query, [backfill.pk]):
        yield [_item(backfill.source, row) for row in rows]


def rows_at_once(query: str, parameters: Sequence[int]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield what a query finds, as many rows at once as a closing takes; to be called within a transaction."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(query, parameters)
        while rows := cursor.fetchmany(EVENTS_AT_ONCE):
            yield rows


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


class _TooManySeriesError(Exception):
    """Events for which a customer would have too many series, by the key of each, with the words."""

    def __init__(self, details: Mapping[str, str]) -> None:
        super().__init__()
        self.details = details


def until_all_have_room(attempt: Callable[[Mapping[str, str]], _T]) -> _T:
    """Try with ever more events named (key to words) that there is no room for, until the others have it."""
    too_many: dict[str, str] = {}
    while True:
        try:
            # What turns out to be too much is undone as a whole, for an identity once taken belongs to an event.
            with transaction.atomic():
                return attempt(too_many)
        except _TooManySeriesError as found:
            too_many |= found.details


def judged(
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
    found: dict[str, Counted | Problem] = {}
    for event in events:
        each = rules.judge(event)
        if event.key in too_many:
            each = Problem(Reason.TOO_MANY_SERIES, too_many[event.key])
        elif isinstance(each, Counted) and backfill.customer_ids and each.customer_id not in backfill.customer_ids:
            each = Problem(Reason.UNKNOWN_SUBJECT, "by now its subject is of a customer that the backfill is not of")
        found[event.key] = each
    return found


def decide(
    cursor: psycopg.Cursor[Any],
    ground: Ground,
    backfill: UsageBackfill,
    items: Sequence[Item],
    results: Mapping[str, Counted | Problem],
) -> Plan:
    """Return what becomes of these events, given how each counts; to be called by `until_all_have_room`."""
    plan = Plan()
    sent = [item for item in items if item.event is not None]
    known = _take_identities(ground, plan, sent, results)
    met = _Met(cursor, ground, [item for item in sent if item.key in known], known, backfill)
    for item in met.items:
        _plan_known(plan, met, item, results[item.key])
    for item in sent:
        problem = results[item.key]
        if item.key not in known and isinstance(problem, Problem):
            plan.leave_out(item, problem.reason, problem.detail)
    _plan_there(ground, plan, items)
    plan.admitted = ground.admit([*plan.new, *plan.replacements.values()])
    if plan.admitted.problems:
        originals = {each.event.key: key for key, each in plan.replacements.items()}
        raise _TooManySeriesError(
            {originals.get(each.event.key, each.event.key): problem.detail for each, problem in plan.admitted.problems}
        )
    for item in items:
        plan.outcomes.setdefault(item.id, Outcome(State.LEFT_OUT, "gone", _GONE))
    return plan


def _take_identities(
    ground: Ground, plan: Plan, sent: Sequence[Item], results: Mapping[str, Counted | Problem]
) -> dict[str, str]:
    """Take the identities of events that are new; returns the content hashes of those that were taken before."""
    known = ground.known({item.key: None for item in sent})
    countable = {key: each for key, each in results.items() if isinstance(each, Counted)}
    fresh = {item.key: item.content_hash for item in sent if item.key in countable and item.key not in known}
    taken = ground.take(fresh)
    if lost := fresh.keys() - taken:
        # A sender was faster since.
        known |= ground.known(dict.fromkeys(lost))
    for item in sent:
        if item.key in taken:
            plan.new.append(countable[item.key])
            plan.outcomes[item.id] = Outcome(State.COUNTED, customer_id=countable[item.key].customer_id)
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


class _Met:
    """What events meet whose identity was taken before: what that one said, where it lies, what waits in quarantine."""

    def __init__(
        self,
        cursor: psycopg.Cursor[Any],
        ground: Ground,
        items: Sequence[Item],
        known: Mapping[str, str],
        backfill: UsageBackfill,
    ) -> None:
        self.cursor, self.ground, self.items, self.known, self.backfill = cursor, ground, items, known, backfill
        cursor.execute(_IN_QUARANTINE, [[item.key for item in items]])
        self.held = {key.hex: status for key, status in cursor.fetchall()}
        self.stored = ground.stored([item.there for item in items if item.there is not None])

    def last_voided(self, there: Stored) -> list[int]:
        """Return the series that an event counted in before it was voided."""
        self.cursor.execute(_LAST_VOIDED, [[part] for part in there.place])
        row = self.cursor.fetchone()
        assert row is not None, "an event that counts nowhere was voided"
        return list(row[1])


def _plan_known(plan: Plan, met: _Met, item: Item, result: Counted | Problem) -> None:
    """Plan for an event whose identity was taken before."""
    is_alike = met.known[item.key] == item.content_hash
    there = met.stored.get(item.key)
    if item.key in met.held:
        words = "waits in quarantine: release it there" if met.held[item.key] == "open" else "was discarded"
        plan.leave_out(item, "quarantined", f"An event of this id {words}.")
    elif item.there is not None and there is None:
        plan.leave_out(item, "gone", _GONE)
    elif is_alike and there is not None and not there.series_ids:
        plan.amend(item, State.BROUGHT_BACK, Amendment(there.place, 1, met.last_voided(there)))
    elif is_alike:
        plan.outcomes[item.id] = Outcome(State.KEPT)
    elif there is not None and isinstance(result, Counted):
        _plan_replacement(plan, met, item, there, result)
    elif there is not None and isinstance(result, Problem):
        plan.leave_out(item, result.reason, f"{result.detail}; the one that was counted before stays.")
    else:
        plan.leave_out(item, "conflict", "An event of this id that says something else was counted before.")


def _plan_replacement(plan: Plan, met: _Met, item: Item, there: Stored, counted: Counted) -> None:
    """Let the event that was filled in count in the other's place, under an identity of its own."""
    event = counted.event
    (new,), _ = read_events(
        [
            {
                "source": event.source,
                "id": _successor_of(event, met.backfill),
                "type": event.type,
                "subject": event.subject,
                "time": event.time_text,
                "data": event.data,
            }
        ]
    )
    if not met.ground.take({new.key: new.content_hash}):
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


def _plan_there(ground: Ground, plan: Plan, items: Sequence[Item]) -> None:
    """Plan for counted events that were not sent again: they count no more."""
    places = {
        item.id: Place(item.customer_id, item.time, item.key)
        for item in items
        if item.kind == Kind.THERE and item.customer_id is not None
    }
    stored = ground.stored(list(places.values()))
    for item in items:
        if item.id in places and (event := stored.get(item.key)) is not None:
            if event.series_ids:
                plan.amend(item, State.VOIDED, Amendment(event.place, -1, event.series_ids))
            else:
                plan.leave_out(item, "voided", "It was voided by a correction since.")
