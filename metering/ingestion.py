"""Takes usage in: every event counted once, in one transaction with its identity and the change to the totals.

The order of locks is the same for all senders: a month's partition, identities by key, quarantined events by key,
the limits of series, series, refusals. So parallel senders of the same events wait for one another and never in a ring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import MINYEAR, UTC, date, datetime, timedelta
from typing import NamedTuple

import msgspec
import psycopg
from django.conf import settings
from django.db import connection, transaction

from accounts.access import Actor, Permission
from metering import attribution, refusals, series, storage
from metering.completeness import receipts
from metering.counting import Counted, CountingRules, Problem, Reason, SeriesKey
from metering.errors import TooManyEvents
from metering.events import Event, Malformed, payload_text, read_events
from metering.meters import meters
from metering.models import RefusedEvent, UsageBatch

MAX_EVENTS = 10_000
FUTURE_ALLOWANCE = timedelta(hours=1)
_SURELY_NOT_ARCHIVED = timedelta(days=28)

Door = UsageBatch.Door


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that was refused for good: its position in the batch from 0, its id, the reason's code and words."""

    index: int
    id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a batch; `accepted`, `duplicates`, `quarantined` and the rejections add up to its events."""

    batch_id: int
    accepted: int
    duplicates: int
    quarantined: int
    rejected: list[Rejection]


class _Sorted(msgspec.Struct, gc=False):
    """The events of a batch by what becomes of them.

    `judged` holds those whose identity is new here, by key, and `repeated` those of an identity that came before them.
    """

    judged: dict[str, Counted | tuple[Event, Problem]]
    repeated: list[Event]
    refused: list[refusals.Refusal]
    indexes: list[int]
    duplicates: int
    quarantined: int


@transaction.atomic
def ingest(
    *,
    events: Sequence[object],
    contradictions: Mapping[int, str] | None = None,
    positions: Sequence[int] | None = None,
    door: Door,
    origin: str = "",
    api_key_id: int | None = None,
    customer_id: int | None = None,
    source: str = "",
    actor: Actor,
    at: datetime,
) -> IngestResult:
    """Accept a batch of CloudEvents (decoded JSON objects) and say what became of each.

    Once the transaction has committed, each accepted event is counted, and sending it again changes nothing. Events
    that cannot be counted yet go to quarantine. What is no event, contradicts one already known, or names a subject
    that is not `customer_id`'s or a source other than `source` (where given) is refused and listed. `contradictions`
    maps positions to what is wrong with a record that contradicts itself: it goes to quarantine. `positions` are those
    in a file. `at` is when the batch came in.

    Raises: PermissionMissing, TooManyEvents.
    """
    actor.require(Permission.LOAD_USAGE)
    if len(events) > MAX_EVENTS:
        msg = f"{len(events):,} events in one batch; at most {MAX_EVENTS:,} are taken."
        raise TooManyEvents(msg)
    well_formed, malformed = read_events(events)
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        rules = counting_rules(cursor, events=well_formed, at=at)
        batch_id = storage.begin_batch(
            cursor, months=acceptable_months([event.time_text for event in well_formed], at=at)
        )
        batch = _sort(
            well_formed,
            malformed,
            rules=rules,
            contradictions=contradictions or {},
            customer_id=customer_id,
            source=source,
        )
        _take_identities(cursor, batch, batch_id=batch_id, at=at)
        admitted = admit(cursor, [item for item in batch.judged.values() if isinstance(item, Counted)])
        counted = admitted.counted
        problems = [item for item in batch.judged.values() if not isinstance(item, Counted)]
        problems += [(item.event, problem) for item, problem in admitted.problems]
        store_counted(cursor, admitted=admitted, batch_id=batch_id)
        storage.insert_quarantined(cursor, problems=problems, batch_id=batch_id, at=at)
        receipts.append(cursor, counted=counted, problems=problems, batch_id=batch_id, door=door)
        rejected = _record_refused(batch, events, batch_id=batch_id, positions=positions, at=at)
        result = IngestResult(batch_id, len(counted), batch.duplicates, len(problems) + batch.quarantined, rejected)
        storage.insert_batch(
            cursor,
            batch=storage.NewBatch(
                id=batch_id,
                door=door,
                origin=origin,
                api_key_id=api_key_id,
                actor_label=actor.label,
                received_at=at,
                accepted=result.accepted,
                duplicates=result.duplicates,
                quarantined=result.quarantined,
                rejected=len(rejected),
                earliest_at=min((item.event.time for item in counted), default=None),
            ),
        )
    return result


def counting_rules(
    cursor: psycopg.Cursor, *, events: Sequence[Event], resting: Collection[int] = (), at: datetime
) -> CountingRules:
    """Return what decides how these events count, as it stands now; of meters that rest, with the rules of these."""
    earliest = earliest_acceptable(at)
    # Months go into the archive long after their last event; only for old ones has it to be asked which.
    recent = at - _SURELY_NOT_ARCHIVED
    if any([event.time < recent for event in events]):  # noqa: C419 -- half the time of a generator, for each event
        earliest = max(earliest, storage.archived_until(cursor) or earliest)
    return CountingRules(
        meters=meters.rules_for(cursor, {event.type for event in events}, resting=resting),
        owners=attribution.owners_of(cursor, {event.subject for event in events}),
        earliest=earliest,
        latest=at + FUTURE_ALLOWANCE,
    )


def earliest_acceptable(at: datetime) -> datetime:
    """Return the moment before which events are too old: the start of the month that lies the acceptance age back."""
    at = at.astimezone(UTC)
    year, month = divmod(at.year * 12 + at.month - 1 - settings.USAGE_ACCEPTANCE_MONTHS, 12)
    return datetime(max(year, MINYEAR), month + 1, 1, tzinfo=UTC)


def acceptable_months(moments: Iterable[str], *, at: datetime) -> list[date]:
    """Return the first day of each month of these moments (ISO 8601, UTC) whose events may be accepted."""
    first, last = earliest_acceptable(at).isoformat()[:7], (at + FUTURE_ALLOWANCE).astimezone(UTC).isoformat()[:7]
    months = {moment[:7] for moment in moments}
    return [date.fromisoformat(f"{month}-01") for month in sorted(months) if first <= month <= last]


class Admitted(NamedTuple):
    """Events whose series are there, with the ids of these, and those that would take one too many."""

    counted: Sequence[Counted]
    series_ids: Mapping[SeriesKey, int]
    problems: Sequence[tuple[Counted, Problem]]


def admit(cursor: psycopg.Cursor, counted: Sequence[Counted]) -> Admitted:
    """Name the series of these events, and sort out events for which a customer would have too many of them."""
    if not counted:
        return Admitted((), {}, ())
    keys = {part.series for item in counted for part in item.parts}
    return sort_out(counted, series.ids_of(cursor, keys, lambda: series_of_each(counted)))


def series_of_each(counted: Sequence[Counted]) -> Iterator[list[SeriesKey]]:
    """Yield the series of each event."""
    return ([part.series for part in item.parts] for item in counted)


def sort_out(counted: Sequence[Counted], named: series.NamedSeries) -> Admitted:
    """Sort out the events for which a customer would have too many series."""
    if not named.over_limit:
        return Admitted(counted, named.ids, ())
    problems = []
    for item in counted:
        details = [named.over_limit[part.series] for part in item.parts if part.series in named.over_limit]
        if details:
            problems.append((item, Problem(Reason.TOO_MANY_SERIES, details[0])))
    left_out = {id(item) for item, _ in problems}
    return Admitted([item for item in counted if id(item) not in left_out], named.ids, problems)


def store_counted(cursor: psycopg.Cursor, *, admitted: Admitted, batch_id: int) -> None:
    """Write events and what they add to the totals; the identities must be this transaction's own."""
    if admitted.counted:
        storage.copy_events(cursor, counted=admitted.counted, series_ids=admitted.series_ids, batch_id=batch_id)
        storage.copy_deltas(cursor, counted=admitted.counted, series_ids=admitted.series_ids, batch_id=batch_id)


def _sort(
    events: Sequence[Event],
    malformed: Sequence[Malformed],
    *,
    rules: CountingRules,
    contradictions: Mapping[int, str],
    customer_id: int | None,
    source: str,
) -> _Sorted:
    batch = _Sorted({}, [], [], [], 0, 0)
    for fault in malformed:
        batch.indexes.append(fault.index)
        batch.refused.append(
            refusals.Refusal(
                fault.index,
                RefusedEvent.Reason.MALFORMED,
                fault.detail,
                fault.payload,
                fault.source,
                fault.event_id,
            ),
        )
    for event in events:
        if event.key in batch.judged:
            batch.repeated.append(event)
        elif source and event.source != source:
            _refuse(batch, event, RefusedEvent.Reason.FOREIGN_SOURCE, f"source {event.source!r} is not this key's")
        elif customer_id is not None and rules.owner(event) != customer_id:
            _refuse(batch, event, RefusedEvent.Reason.FOREIGN_SUBJECT, f"subject {event.subject!r} is not this key's")
        else:
            contradiction = contradictions.get(event.index)
            judged = Problem(Reason.INCONSISTENT, contradiction) if contradiction else rules.judge(event)
            batch.judged[event.key] = (event, judged) if isinstance(judged, Problem) else judged
    return batch


def _sort_known(batch: _Sorted, event: Event, known_hash: str) -> None:
    if event.content_hash == known_hash:
        batch.duplicates += 1
    else:
        _refuse(batch, event, RefusedEvent.Reason.CONFLICT, "an event of this source and id said something else before")


def _refuse(batch: _Sorted, event: Event, reason: RefusedEvent.Reason, detail: str) -> None:
    batch.indexes.append(event.index)
    batch.refused.append(refusals.Refusal(event.index, reason, detail, "", event.source, event.event_id))


def _take_identities(cursor: psycopg.Cursor, batch: _Sorted, *, batch_id: int, at: datetime) -> None:
    """Take the new identities and sort the rest of the batch into duplicates, conflicts and waiting ones."""
    hashes = {
        key: (item.event if isinstance(item, Counted) else item[0]).content_hash for key, item in batch.judged.items()
    }
    taken = storage.take_identities(cursor, hashes, batch_id=batch_id)
    if len(taken) < len(hashes):
        hashes |= _sort_those_of_before(cursor, batch, hashes, taken, at=at)
    for event in batch.repeated:
        _sort_known(batch, event, hashes[event.key])


def _sort_those_of_before(
    cursor: psycopg.Cursor, batch: _Sorted, hashes: Mapping[str, str], taken: set[str], *, at: datetime
) -> Mapping[str, str]:
    """Take events of identities that other batches took out of the judged; returns what those identities said."""
    known = {key: batch.judged.pop(key) for key in hashes.keys() - taken}
    stored = storage.content_hashes(cursor, known)
    same = [key for key in known if stored[key] == hashes[key]]
    waiting = storage.see_quarantined_again(cursor, keys=same, at=at)
    batch.quarantined += len(waiting)
    for key, item in known.items():
        if key not in waiting:
            _sort_known(batch, item.event if isinstance(item, Counted) else item[0], stored[key])
    return stored


def _record_refused(
    batch: _Sorted,
    events: Sequence[object],
    *,
    batch_id: int,
    positions: Sequence[int] | None,
    at: datetime,
) -> list[Rejection]:
    refused = [
        refusals.Refusal(
            positions[index] if positions else index,
            refusal.reason,
            refusal.detail,
            refusal.payload or payload_text(events[index]),
            refusal.source,
            refusal.event_id,
        )
        for index, refusal in zip(batch.indexes, batch.refused, strict=True)
    ]
    refusals.record(batch_id=batch_id, refused=refused, at=at)
    pairs = sorted(zip(batch.indexes, refused, strict=True), key=lambda pair: pair[0])
    return [Rejection(index, refusal.event_id, str(refusal.reason), refusal.detail) for index, refusal in pairs]
