"""Lets quarantined events out: counted once their cause is mended, or discarded with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import psycopg
from django.db import connection, transaction
from django.db.models import Max, Min, Sum

from accounts import audit
from accounts.access import Actor, Permission
from metering import storage
from metering.completeness import receipts
from metering.counting import Counted, Problem
from metering.errors import DiscardNeedsReason
from metering.events import Event, exact_number
from metering.ingestion import MAX_EVENTS, acceptable_months, admit, counting_rules, store_counted
from metering.models import QuarantinedEvent, QuarantineTally, UsageBatch

Status = QuarantinedEvent.Status

_decode = msgspec.json.Decoder(dict, float_hook=exact_number).decode


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """How many events are counted now, how many still cannot be, and how many had been closed before."""

    released: int
    still_quarantined: int
    closed_before: int


def release(*, event_ids: Sequence[int], actor: Actor, at: datetime) -> ReleaseResult:
    """Count quarantined events whose cause is mended, each once and with its own time; the rest waits on.

    An event that contradicts itself counts as it stands: releasing it is the person's word that it is right. An event
    that still cannot be counted shows the reason that holds now.

    More events than a batch holds are released in several transactions, for one that took the locks of a second batch
    after those of the first could wait in a ring. Cut off in between, the rest waits on and is released by asking
    again.

    Raises: PermissionMissing.
    """
    actor.require(Permission.RELEASE_QUARANTINE)
    released = still = 0
    wanted = sorted(set(event_ids))
    for start in range(0, len(wanted), MAX_EVENTS):
        counted, problems = _release_batch(wanted[start : start + MAX_EVENTS], actor=actor, at=at)
        released += counted
        still += problems
    return ReleaseResult(released, still, len(wanted) - released - still)


@transaction.atomic
def _release_batch(event_ids: Sequence[int], *, actor: Actor, at: datetime) -> tuple[int, int]:
    counted, problems = _count(event_ids, actor=actor, at=at)
    _close(counted, status=Status.RELEASED, reason="", actor=actor, at=at)
    _explain(problems)
    return len(counted), len(problems)


@transaction.atomic
def discard(*, event_ids: Sequence[int], reason: str, actor: Actor, at: datetime) -> int:
    """Close quarantined events that shall never count, and return how many; they are kept, with the reason.

    Events that were closed before stay as they are.

    Raises: PermissionMissing, DiscardNeedsReason.
    """
    actor.require(Permission.RELEASE_QUARANTINE)
    if not reason.strip():
        raise DiscardNeedsReason
    waiting = _lock_open(event_ids)
    _close(waiting, status=Status.DISCARDED, reason=reason.strip(), actor=actor, at=at)
    return len(waiting)


@dataclass(frozen=True, slots=True)
class QuarantineGroup:
    """Open quarantined events that share a reason: how many, since when, and how often they came."""

    reason: str
    events: int
    times_seen: int
    first_seen_at: datetime
    last_seen_at: datetime


def summary() -> list[QuarantineGroup]:
    """Return what waits in quarantine by reason, the most first."""
    groups = (
        QuarantineTally.objects.filter(status=Status.OPEN)
        .order_by()
        .values("reason")
        .annotate(number=Sum("events"), times=Sum("seen"), first=Min("first_seen_at"), last=Max("last_seen_at"))
        .filter(number__gt=0)
    )
    found = [
        QuarantineGroup(group["reason"], group["number"], group["times"], group["first"], group["last"])
        for group in groups
    ]
    return sorted(found, key=lambda group: -group.events)


def _lock_open(event_ids: Sequence[int]) -> list[QuarantinedEvent]:
    # In the order in which ingestion locks them, so that the two never wait in a ring.
    events = QuarantinedEvent.objects.filter(pk__in=event_ids, status=Status.OPEN)
    return list(events.order_by("key").select_for_update(no_key=True))


def _count(
    event_ids: Sequence[int],
    *,
    actor: Actor,
    at: datetime,
) -> tuple[list[QuarantinedEvent], list[tuple[QuarantinedEvent, Problem]]]:
    """Judge events by the rules of now and store those that count; their identities are theirs already."""
    times = QuarantinedEvent.objects.filter(pk__in=event_ids).values_list("time", flat=True)
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        # Locks in the order of ingestion: partitions first, then the events.
        months = acceptable_months([time.isoformat() for time in times], at=at)
        batch_id = storage.begin_batch(cursor, months=months)
        waiting = _lock_open(event_ids)
        events = _as_sent(cursor, waiting)
        rules = counting_rules(cursor, events=events, at=at)
        judged = [(record, rules.judge(event)) for record, event in zip(waiting, events, strict=True)]
        admitted = admit(cursor, [item for _, item in judged if isinstance(item, Counted)])
        if admitted.counted:
            store_counted(cursor, admitted=admitted, batch_id=batch_id)
            receipts.append(
                cursor, counted=admitted.counted, problems=(), batch_id=batch_id, door=UsageBatch.Door.QUARANTINE
            )
            _insert_batch(cursor, admitted.counted, batch_id=batch_id, actor=actor, at=at)
    problems = {record.pk: item for record, item in judged if isinstance(item, Problem)}
    problems |= {waiting[item.event.index].pk: problem for item, problem in admitted.problems}
    return (
        [record for record in waiting if record.pk not in problems],
        [(record, problems[record.pk]) for record in waiting if record.pk in problems],
    )


def _as_sent(cursor: psycopg.Cursor, waiting: Sequence[QuarantinedEvent]) -> list[Event]:
    """Read the events back with every digit of their numbers, which the ORM would turn into floats."""
    cursor.execute(
        "SELECT id, data::text FROM metering_quarantinedevent WHERE id = ANY(%s)",
        [[record.pk for record in waiting]],
    )
    texts: dict[int, str] = dict(cursor.fetchall())
    return [
        Event(
            index=index,
            key=record.key.hex,
            content_hash=record.content_hash.hex,
            source=record.source,
            event_id=record.event_id,
            type=record.type,
            subject=record.subject,
            time=record.time,
            time_text=record.time.isoformat(),
            data=_decode(texts[record.pk]),
            data_text=texts[record.pk],
        )
        for index, record in enumerate(waiting)
    ]


def _insert_batch(
    cursor: psycopg.Cursor,
    counted: Sequence[Counted],
    *,
    batch_id: int,
    actor: Actor,
    at: datetime,
) -> None:
    storage.insert_batch(
        cursor,
        batch=storage.NewBatch(
            id=batch_id,
            door=UsageBatch.Door.QUARANTINE,
            origin="",
            api_key_id=actor.api_key_id,
            actor_label=actor.label,
            received_at=at,
            accepted=len(counted),
            duplicates=0,
            quarantined=0,
            rejected=0,
            earliest_at=min(item.event.time for item in counted),
        ),
    )


def _close(events: Sequence[QuarantinedEvent], *, status: Status, reason: str, actor: Actor, at: datetime) -> None:
    QuarantinedEvent.objects.filter(pk__in=[event.pk for event in events]).update(
        status=status,
        closed_at=at,
        closed_by_id=actor.user_id,
        closing_reason=reason,
    )
    receipts.append_closed(events, discarded=status == Status.DISCARDED)
    audit.record_many(actor=actor, verb=f"quarantined_event.{status}", subjects=events, at=at, reason=reason)


def _explain(problems: Sequence[tuple[QuarantinedEvent, Problem]]) -> None:
    """Note the reasons that hold now where they are not the ones that were noted."""
    changed = []
    for record, problem in problems:
        if (record.reason, record.detail) != (problem.reason, problem.detail):
            record.reason, record.detail = problem.reason, problem.detail
            changed.append(record)
    QuarantinedEvent.objects.bulk_update(changed, ["reason", "detail"], batch_size=1000)
