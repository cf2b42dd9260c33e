"""The events of a correction: as they lie in the database, and what takes their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec
import psycopg
from django.db import connection

from metering import series, storage
from metering.counting import Counted, CountingRules, MeterRule, Problem, SeriesKey, is_number
from metering.errors import CorrectionNotCountable
from metering.events import MAX_NAME_LENGTH, Event, exact_number, read_events
from metering.ingestion import Admitted, admit, counting_rules

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


class Replacement(NamedTuple):
    """What takes an event's place, and the series that this one counts in."""

    event: Event
    series_ids: Sequence[int]


def replacements(originals: Sequence[tuple[Stored, Mapping[str, Any]]], *, correction_id: int) -> list[Replacement]:
    """Return what takes the place of each of these events, given its new values.

    Raises: CorrectionNotCountable, where it would be no event.
    """
    events, malformed = read_events([_envelope(event, changes, correction_id) for event, changes in originals])
    if malformed:
        raise CorrectionNotCountable(_said([(fault.source, fault.event_id, fault.detail) for fault in malformed]))
    return [Replacement(event, original.series_ids) for event, (original, _) in zip(events, originals, strict=True)]


def _envelope(event: Stored, changes: Mapping[str, Any], correction_id: int) -> dict[str, object]:
    data = _decode(event.data_text)
    envelope: dict[str, object] = {
        "source": event.source,
        "id": _successor_of(event, correction_id),
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
    was_number = isinstance(before, int | Decimal) and not isinstance(before, bool)
    where[steps[-1]] = exact_number(value) if was_number and isinstance(value, str) and is_number(value) else value


def _successor_of(event: Stored, correction_id: int) -> str:
    mark = f"#{correction_id}"
    if len(event.event_id) + len(mark) <= MAX_NAME_LENGTH:
        return event.event_id + mark
    # An id that is cut says with its key which one it was.
    mark = f"~{event.place.key}{mark}"
    return event.event_id[: MAX_NAME_LENGTH - len(mark)] + mark


class Ground(Protocol):
    """What a correction or a backfill finds and takes; its preview only looks."""

    @property
    def cursor(self) -> psycopg.Cursor[Any]:
        """The cursor by which it looks."""

    def known(self, keys: Mapping[str, object]) -> dict[str, str]:
        """Return what the identities among these that are taken said."""

    def take(self, hashes: Mapping[str, str]) -> set[str]:
        """Take identities (key to content hash), and return the keys that were free."""

    def stored(self, places: Sequence[Place]) -> dict[str, Stored]:
        """Return the events that lie there, by key, as they count by now."""

    def admit(self, counted: Sequence[Counted]) -> Admitted:
        """Name the series of these events, and sort out those that there is no room for."""

    def series_ids(self, keys: set[SeriesKey]) -> Mapping[SeriesKey, int]:
        """Name these series, less those that there is no room for."""


@dataclass(frozen=True, slots=True)
class Taking:
    """Takes identities and room for series for a batch, and holds the events that it changes."""

    cursor: psycopg.Cursor[Any]
    batch_id: int

    def known(self, keys: Mapping[str, object]) -> dict[str, str]:
        return storage.content_hashes(self.cursor, keys)

    def take(self, hashes: Mapping[str, str]) -> set[str]:
        return storage.take_identities(self.cursor, hashes, batch_id=self.batch_id)

    def stored(self, places: Sequence[Place]) -> dict[str, Stored]:
        return stored_events(places, lock=True)

    def admit(self, counted: Sequence[Counted]) -> Admitted:
        return admit(self.cursor, counted)

    def series_ids(self, keys: set[SeriesKey]) -> Mapping[SeriesKey, int]:
        return series.ids_of(self.cursor, keys).ids


def count(ground: Ground, wanted: Sequence[Replacement], *, at: datetime) -> Admitted:
    """Count new events by the rules of their time, take their identities and name their series; all of them or none.

    An event goes on counting in the meters of the one before it, even if they rest by now.

    Raises: CorrectionNotCountable.
    """
    if not wanted:
        return Admitted((), {}, ())
    events = [event for event, _ in wanted]
    judged = _judged(ground.cursor, wanted, at=at)
    counted = [item for item in judged if isinstance(item, Counted)]
    problems = [(event, item.detail) for event, item in zip(events, judged, strict=True) if isinstance(item, Problem)]
    problems = problems or _out_of_reach(ground.cursor, counted)
    if not problems:
        taken = ground.take({event.key: event.content_hash for event in events})
        problems = [(event, "an event of this source and id is there") for event in events if event.key not in taken]
    if problems:
        raise CorrectionNotCountable(_said([(event.source, event.event_id, detail) for event, detail in problems]))
    admitted = ground.admit(counted)
    if admitted.problems:
        faults = [(item.event.source, item.event.event_id, problem.detail) for item, problem in admitted.problems]
        raise CorrectionNotCountable(_said(faults))
    return admitted


def _judged(cursor: psycopg.Cursor[Any], wanted: Sequence[Replacement], *, at: datetime) -> list[Counted | Problem]:
    events = [event for event, _ in wanted]
    meters = _meters_of(cursor, {series_id for each in wanted for series_id in each.series_ids})
    resting = {meter_id for meter_id, is_active in meters.values() if not is_active}
    rules = counting_rules(cursor, events=events, resting=resting, at=at)
    # What was accepted once may be corrected however old it is by now: its identity is kept for ever.
    rules = rules._replace(earliest=min([rules.earliest, *[event.time for event in events]]))
    found = []
    for event, series_ids in wanted:
        before = {meters[series_id][0] for series_id in series_ids}
        found.append(_rules_after(rules, event.type, before=before, resting=resting).judge(event))
    return found


def _meters_of(cursor: psycopg.Cursor[Any], series_ids: set[int]) -> dict[int, tuple[int, bool]]:
    cursor.execute(
        """
        SELECT series.id, meter.id, meter.is_active
        FROM usage_series AS series JOIN metering_meter AS meter ON meter.id = series.meter_id
        WHERE series.id = ANY(%s)
        """,
        [sorted(series_ids)],
    )
    return {series_id: (meter_id, is_active) for series_id, meter_id, is_active in cursor}


def _rules_after(rules: CountingRules, kind: str, *, before: set[int], resting: set[int]) -> CountingRules:
    """Return the rules for what takes the place of an event that counted in the meters `before`."""
    meters = [
        _from_the_beginning(meter) if meter.id in before else meter
        for meter in rules.meters.get(kind, ())
        if meter.id in before or meter.id not in resting
    ]
    return rules._replace(meters={kind: meters} if meters else {})


def _from_the_beginning(meter: MeterRule) -> MeterRule:
    # An event of before the first version may count by that one, since it was back-filled.
    first = meter.versions[-1]._replace(valid_from=datetime.min.replace(tzinfo=UTC))
    return meter._replace(versions=[*meter.versions[:-1], first])


def _out_of_reach(cursor: psycopg.Cursor[Any], counted: Sequence[Counted]) -> list[tuple[Event, str]]:
    """Return the events of times whose events are in the archive or were erased, where no total could follow."""
    cursor.execute(
        """
        SELECT position
        FROM unnest(%s::bigint[], %s::timestamptz[]) WITH ORDINALITY AS asked(customer_id, time, position)
        WHERE NOT usage_is_recountable(customer_id, time) ORDER BY position
        """,
        [[item.customer_id for item in counted], [item.event.time for item in counted]],
    )
    why = "the events of that time are in the archive or were erased"
    return [(counted[position - 1].event, why) for (position,) in cursor]


_SAID = 5


def _said(faults: Sequence[tuple[str, str, str]]) -> str:
    shown = "; ".join(f"{event_id} of {source}: {detail}" for source, event_id, detail in faults[:_SAID])
    more = f"; and {len(faults) - _SAID:,} more" if len(faults) > _SAID else ""
    return f"{len(faults):,} corrected events could not be counted: {shown}{more}."
