"""Fills events into an open backfill: each is checked as ingestion would, kept, and counts nowhere yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg
from django.db import connection, transaction

from accounts.access import Actor, Permission
from metering import refusals, storage
from metering.counting import Counted, CountingRules, Problem
from metering.errors import TooManyEvents
from metering.events import Event, payload_text, read_events, storable_text
from metering.ingestion import MAX_EVENTS, Rejection
from metering.models import UsageBackfill
from metering.refusals import OUT_OF_SCOPE
from metering.usage_backfills.errors import UsageBackfillNotOpen, UsageBackfillTooLarge, UsageBackfillUnknown
from metering.usage_backfills.records import MOST_EVENTS, Status, locked, rules_of

MOST_REFUSALS_LISTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of a batch: `staged`, `duplicates` and the rejections add up to its events.

    `problems` are those of the staged events that could not be counted as things stand.
    """

    backfill_id: int
    staged: int
    duplicates: int
    problems: list[Rejection]
    rejected: list[Rejection]


class _Staged(msgspec.Struct, gc=False):
    """The events of a batch by what becomes of them, by key."""

    judged: dict[str, Counted | tuple[Event, Problem]]
    rejected: list[Rejection]
    duplicates: int


@transaction.atomic
def stage_events(
    *,
    backfill_id: int,
    events: Sequence[object],
    contradictions: Mapping[int, str] | None = None,
    customer_id: int | None = None,
    source: str = "",
    actor: Actor,
    at: datetime,
) -> StageResult:
    """Fill events (decoded JSON objects) into an open backfill and say what became of each; nothing counts yet.

    The same event again is a duplicate, one of the same identity that says something else is refused. What is no event,
    contradicts itself, is not of the backfill's source, period, types and customers, or not of the sender's own
    (`customer_id`, `source`, where given) is refused and listed. An event that could not be counted now is kept, with
    the problem, for it may be mended before the closing. Batches into one backfill wait for one another.

    Raises: PermissionMissing, TooManyEvents, UsageBackfillUnknown, UsageBackfillNotOpen, UsageBackfillTooLarge.
    """
    actor.require(Permission.LOAD_USAGE)
    if len(events) > MAX_EVENTS:
        msg = f"{len(events):,} events in one batch; at most {MAX_EVENTS:,} are taken."
        raise TooManyEvents(msg)
    well_formed, malformed = read_events(events)
    backfill = locked(backfill_id)
    if customer_id is not None and backfill.customer_ids and customer_id not in backfill.customer_ids:
        # Whose key it is need not learn of other people's backfills.
        raise UsageBackfillUnknown
    if backfill.status != Status.OPEN:
        raise UsageBackfillNotOpen
    batch = _Staged({}, [Rejection(each.index, each.event_id, "malformed", each.detail) for each in malformed], 0)
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        scope = _Scope(
            backfill=backfill,
            rules=rules_of(cursor, backfill, well_formed, at=at),
            contradictions=contradictions or {},
            customer_id=customer_id,
            source=source,
        )
        _sort(batch, well_formed, scope)
        _leave_known(cursor, batch, backfill_id)
        if backfill.staged + len(batch.judged) > MOST_EVENTS:
            raise UsageBackfillTooLarge
        _insert(cursor, batch, backfill_id)
    problems = [
        Rejection(item[0].index, item[0].event_id, str(item[1].reason), item[1].detail)
        for item in batch.judged.values()
        if isinstance(item, tuple)
    ]
    batch.rejected.sort(key=lambda rejection: rejection.index)
    _keep_refusals(backfill, batch.rejected, events, at=at)
    _count(backfill, staged=len(batch.judged), problems=len(problems))
    return StageResult(backfill_id, len(batch.judged), batch.duplicates, problems, batch.rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What an event has to be of to be taken."""

    backfill: UsageBackfill
    rules: CountingRules
    contradictions: Mapping[int, str]
    customer_id: int | None
    source: str

    def refusal_of(self, event: Event) -> tuple[str, str] | None:
        """Return why the event is not taken: a code and words."""
        backfill = self.backfill
        if self.source and event.source != self.source:
            return "foreign_source", f"source {event.source!r} is not this key's"
        if event.source != backfill.source:
            return OUT_OF_SCOPE, f"source {event.source!r} is not the backfill's, {backfill.source!r}"
        if not backfill.starts_at <= event.time < backfill.ends_at:
            return OUT_OF_SCOPE, f"its time is not within {_moment(backfill.starts_at)} and {_moment(backfill.ends_at)}"
        if backfill.event_types and event.type not in backfill.event_types:
            return OUT_OF_SCOPE, f"type {event.type!r} is not one of the backfill's"
        if contradiction := self.contradictions.get(event.index):
            return "malformed", f"the record contradicts itself: {contradiction}"
        return self._refusal_of_owner(event)

    def _refusal_of_owner(self, event: Event) -> tuple[str, str] | None:
        owner = self.rules.owner(event)
        if self.customer_id is not None and owner != self.customer_id:
            return "foreign_subject", f"subject {event.subject!r} is not this key's"
        if self.backfill.customer_ids and owner is not None and owner not in self.backfill.customer_ids:
            return OUT_OF_SCOPE, f"subject {event.subject!r} is of a customer that the backfill is not of"
        return None


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _sort(batch: _Staged, events: Sequence[Event], scope: _Scope) -> None:
    for event in events:
        present = batch.judged.get(event.key)
        if present is not None:
            _sort_known(batch, event, _event_of(present).content_hash)
        elif refusal := scope.refusal_of(event):
            batch.rejected.append(Rejection(event.index, event.event_id, *refusal))
        else:
            judged = scope.rules.judge(event)
            batch.judged[event.key] = (event, judged) if isinstance(judged, Problem) else judged


def _event_of(item: Counted | tuple[Event, Problem]) -> Event:
    return item.event if isinstance(item, Counted) else item[0]


def _sort_known(batch: _Staged, event: Event, known_hash: str) -> None:
    if event.content_hash == known_hash:
        batch.duplicates += 1
    else:
        detail = "an event of this id that says something else was filled in before"
        batch.rejected.append(Rejection(event.index, event.event_id, "conflict", detail))


def _leave_known(cursor: psycopg.Cursor[Any], batch: _Staged, backfill_id: int) -> None:
    """Sort out what was filled in before."""
    cursor.execute(
        "SELECT key, content_hash FROM metering_usagebackfillitem WHERE backfill_id = %s AND key = ANY(%s::uuid[])",
        [backfill_id, list(batch.judged)],
    )
    for key, content_hash in cursor.fetchall():
        _sort_known(batch, _event_of(batch.judged.pop(key.hex)), content_hash.hex)


def _insert(cursor: psycopg.Cursor[Any], batch: _Staged, backfill_id: int) -> None:
    lines = []
    for item in batch.judged.values():
        event = _event_of(item)
        # What stands for no customer is the one backslash that is not to be escaped.
        owner = str(item.customer_id) if isinstance(item, Counted) else "\\N"
        problem, detail = ("", "") if isinstance(item, Counted) else (str(item[1].reason), _one_line(item[1].detail))
        fields = (
            f"{event.time_text}\t{event.event_id}\t{event.type}\t{event.subject}\t{event.data_text}"
            f"\t{problem}\t{detail}"
        )
        escaped = fields.replace("\\", "\\\\")
        lines.append(f"{backfill_id}\tsent\t{event.key}\t{event.content_hash}\t{owner}\t{escaped}\twaiting\t\n")
    if not lines:
        return
    statement = (
        "COPY metering_usagebackfillitem (backfill_id, kind, key, content_hash, customer_id, time, event_id, type,"
        " subject, data, problem, detail, state, revert_detail) FROM STDIN"
    )
    # No field holds a tab or a line end: events refuse control characters, and JSON escapes them.
    with cursor.copy(statement) as copy:
        copy.write("".join(lines))


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in storable_text(text))


def _keep_refusals(
    backfill: UsageBackfill, rejected: Sequence[Rejection], events: Sequence[object], *, at: datetime
) -> None:
    """List what was refused, each once, up to 10,000."""
    room = MOST_REFUSALS_LISTED - backfill.refused
    found = {
        refusals.Refusal(0, each.reason, each.detail, payload_text(events[each.index]), "", each.id).fingerprint: each
        for each in rejected
    }
    if not found or room <= 0:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO metering_usagebackfillrefusal (backfill_id, event_id, reason, detail, fingerprint, refused_at)
            SELECT %s, event_id, reason, detail, fingerprint, %s
            FROM unnest(%s::text[], %s::text[], %s::text[], %s::uuid[])
                AS refused(event_id, reason, detail, fingerprint)
            WHERE NOT EXISTS (
                SELECT FROM metering_usagebackfillrefusal AS listed
                WHERE listed.backfill_id = %s AND listed.fingerprint = refused.fingerprint
            ) LIMIT %s
            """,
            [
                backfill.pk,
                at,
                [storable_text(each.id) for each in found.values()],
                [each.reason for each in found.values()],
                [storable_text(each.detail) for each in found.values()],
                list(found),
                backfill.pk,
                room,
            ],
        )
        backfill.refused += int(cursor.rowcount)


def _count(backfill: UsageBackfill, *, staged: int, problems: int) -> None:
    backfill.staged += staged
    backfill.problems += problems
    if staged:
        # What was previewed is not what would be done now.
        backfill.preview, backfill.previewed_at, backfill.fingerprint = None, None, ""
    backfill.save(update_fields=["staged", "problems", "refused", "preview", "previewed_at", "fingerprint"])
