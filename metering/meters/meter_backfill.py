"""Back-fills meters: counts events that had come in before a meter was there, as new facts, each once.

A back-fill is a row; workers take it up, and each chunk is one transaction that moves the row on by the events that it
has read. So it goes on where it was left whatever dies, and nothing is counted twice: an event that counts in a series
already is left as it is. Events that come in meanwhile are counted by the meter as they come.

The order of locks is the back-fill, events, the limits of series, series: as in ingestion and in corrections, so that
none of them waits for another in a ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from django.db import connection, transaction
from django.urls import reverse

from accounts import approvals, audit, nudges
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.models import ApprovalRequest
from accounts.periods import PeriodInvalid
from accounts.validation import require_reason
from metering import series, storage
from metering.counting import Counted, MeterRule, Problem, Reason, SeriesKey, contribution, version_at
from metering.errors import BackfillNotReadable, BackfillOpen, BackfillUnknown, MeterRests, MeterUnknown
from metering.meters.meters import rule_of
from metering.models import Meter, MeterBackfill, QuarantinedEvent, UsageBatch
from metering.reading import stored_events
from metering.reading.stored_events import Place, StoredEvent
from metering.retention import retention

APPROVAL_KIND: Final = "meter_backfill"
BACK_FILL_METERS: Final = "metering.tasks.back_fill_meters"
# One that reads more needs a second person, for it changes what many bills say.
EVENTS_WITHOUT_APPROVAL: Final = 1_000
EVENTS_AT_ONCE: Final = 5_000

Status = MeterBackfill.Status
OPEN: Final = (Status.IN_REVIEW, Status.RUNNING)


def events_of(*, meter: Meter, start: datetime, end: datetime) -> int:
    """Return how many stored events of the meter's type lie in `[start, end)`: what a back-fill would read."""
    return _number(
        "SELECT count(*) FROM usage_event WHERE type = %s AND time >= %s AND time < %s AND event_id <> ''",
        [meter.event_type, start, end],
    )


def waiting_of(*, meter: Meter, start: datetime, end: datetime) -> int:
    """Return how many events of the meter's type and of `[start, end)` wait in quarantine; to be released, not here."""
    return QuarantinedEvent.objects.filter(
        type=meter.event_type, status=QuarantinedEvent.Status.OPEN, time__gte=start, time__lt=end
    ).count()


@transaction.atomic
def request_backfill(
    *, meter_id: int, start: datetime, end: datetime, reason: str, actor: Actor, at: datetime
) -> MeterBackfill:
    """Have a meter count the stored events of `[start, end)`: at once, or once a second person has approved it.

    A second person is needed where more than 1,000 events are to be read: one who approves prices, for what a meter
    counts is what is sold (a policy may say otherwise). Asking for the same again returns what is open already.

    Raises: PermissionMissing, ReasonMissing, MeterUnknown, MeterRests, PeriodInvalid, BackfillOpen,
    BackfillNotReadable, ApprovalNeedsAPerson.
    """
    actor.require(Permission.EDIT_METERS)
    require_reason(reason)
    meter = Meter.objects.select_for_update(no_key=True).filter(pk=meter_id).first()
    if meter is None:
        raise MeterUnknown
    if not meter.is_active:
        raise MeterRests
    if start.tzinfo is None or end.tzinfo is None or not start < end:
        raise PeriodInvalid
    present = MeterBackfill.objects.filter(meter=meter, status__in=OPEN).first()
    if present is not None:
        if (present.starts_at, present.ends_at, present.requested_by_label) == (start, end, actor.label):
            return present
        raise BackfillOpen
    _require_readable(start, end)
    expected = events_of(meter=meter, start=start, end=end)
    backfill = MeterBackfill(
        meter=meter,
        starts_at=start,
        ends_at=end,
        reason=reason.strip(),
        status=Status.IN_REVIEW if expected > EVENTS_WITHOUT_APPROVAL else Status.RUNNING,
        expected=expected,
        requested_by_id=actor.user_id,
        requested_by_label=actor.label,
        requested_at=at,
    )
    with named("meter_has_one_open_backfill", BackfillOpen):
        backfill.save(force_insert=True)
    if backfill.status == Status.IN_REVIEW:
        _ask(backfill, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="meter_backfill.requested",
        subject=backfill,
        at=at,
        reason=backfill.reason,
        data=_content(backfill.pk),
    )
    if backfill.status == Status.RUNNING:
        nudges.nudge(BACK_FILL_METERS)
    return backfill


def due() -> list[int]:
    """Return the back-fills that have something left to do, the oldest first."""
    return list(MeterBackfill.objects.filter(status=Status.RUNNING).order_by("pk").values_list("pk", flat=True))


@transaction.atomic
def count_chunk(*, backfill_id: int, limit: int = EVENTS_AT_ONCE, at: datetime) -> bool:
    """Count the next events of a back-fill, at most `limit`, and tell whether to go on at once.

    False: it is done, somebody else is at it, or batches that began before it are still coming in; ask again later.

    Raises: BackfillNotReadable where a month has gone into the archive since.
    """
    running = MeterBackfill.objects.select_for_update(skip_locked=True, no_key=True)
    backfill = running.filter(pk=backfill_id, status=Status.RUNNING).first()
    if backfill is None or _senders_from_before(backfill):
        return False
    meter = Meter.objects.get(pk=backfill.meter_id)
    found = stored_events.by_customer(
        event_type=meter.event_type,
        start=backfill.starts_at,
        end=backfill.ends_at,
        after=_place(backfill),
        limit=limit,
    )
    # Asked once the tables were read, from when on no month of them can go.
    _require_readable(backfill.starts_at, backfill.ends_at)
    events = stored_events.hold(found)
    tally: Counter[str] = Counter()
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        countable = _countable(events, rule_of(meter), tally)
        named_series = series.ids_of(cursor, {item.parts[0].series for item, _ in countable})
        new = _new(countable, named_series, tally)
        if new:
            _write(cursor, backfill, new, named_series.ids, at=at)
    _move_on(backfill, events, tally, is_last=len(found) < limit, at=at)
    return backfill.status == Status.RUNNING


def _countable(
    events: Sequence[StoredEvent], rule: MeterRule, tally: Counter[str]
) -> list[tuple[Counted, frozenset[int]]]:
    """Return the events that the meter reads, each with one part and the series that it counts in already."""
    countable = []
    for stored in events:
        # An event of before the first version counts by that one: the very thing that is asked for here.
        version = version_at(rule, stored.event.time) or rule.versions[-1]
        result = contribution(rule, version, stored.event, stored.customer_id)
        if not stored.counts_in:
            tally["voided"] += 1
        elif result is None:
            tally["left_out"] += 1
        elif isinstance(result, Problem):
            tally[result.reason] += 1
        else:
            countable.append((Counted(stored.event, stored.customer_id, [result]), stored.counts_in))
    return countable


def _new(
    countable: Sequence[tuple[Counted, frozenset[int]]], named_series: series.NamedSeries, tally: Counter[str]
) -> list[Counted]:
    """Return those that do not count in the meter yet and have room in it."""
    new = []
    for item, counts_in in countable:
        key = item.parts[0].series
        if key in named_series.over_limit:
            tally[Reason.TOO_MANY_SERIES] += 1
        elif named_series.ids[key] in counts_in:
            tally["counted_before"] += 1
        else:
            new.append(item)
    tally["counted"] += len(new)
    return new


def _write(
    cursor: psycopg.Cursor[Any],
    backfill: MeterBackfill,
    counted: Sequence[Counted],
    series_ids: Mapping[SeriesKey, int],
    *,
    at: datetime,
) -> None:
    batch_id = storage.begin_batch(cursor, months=[])
    lines = [
        f"{item.customer_id}\t{item.event.time_text}\t{item.event.key}\t{batch_id}\t1"
        f"\t{{{series_ids[item.parts[0].series]}}}\n"
        for item in counted
    ]
    storage.copy_lines(
        cursor, "COPY usage_amendment (customer_id, time, key, batch_id, sign, series_ids) FROM STDIN", lines
    )
    storage.copy_deltas(cursor, counted=counted, series_ids=series_ids, batch_id=batch_id)
    storage.insert_batch(
        cursor,
        batch=storage.NewBatch(
            id=batch_id,
            door=UsageBatch.Door.BACKFILL,
            origin=f"back-fill {backfill.pk}",
            api_key_id=None,
            actor_label=backfill.requested_by_label,
            received_at=at,
            accepted=0,
            duplicates=0,
            quarantined=0,
            rejected=0,
            earliest_at=min(item.event.time for item in counted),
            amended=len(counted),
        ),
    )


_TALLIED: Final = ("counted", "counted_before", "left_out", "voided")


def _move_on(
    backfill: MeterBackfill, events: Sequence[StoredEvent], tally: Counter[str], *, is_last: bool, at: datetime
) -> None:
    for name in _TALLIED:
        setattr(backfill, name, getattr(backfill, name) + tally.pop(name, 0))
    backfill.read += len(events)
    backfill.not_read = dict(Counter(backfill.not_read) + tally)
    if events:
        last = events[-1]
        backfill.read_to_customer, backfill.read_to_time = last.customer_id, last.event.time
        backfill.read_to_key = UUID(last.event.key)
    if is_last:
        backfill.status, backfill.done_at = Status.DONE, at
    backfill.save()
    if is_last:
        facts = {name: getattr(backfill, name) for name in ("read", *_TALLIED, "not_read")}
        audit.record(actor=Actor.system("back-fill"), verb="meter_backfill.done", subject=backfill, at=at, data=facts)


def _place(backfill: MeterBackfill) -> Place:
    if backfill.read_to_customer is None or backfill.read_to_time is None or backfill.read_to_key is None:
        return stored_events.THE_BEGINNING
    return Place(backfill.read_to_customer, backfill.read_to_time, backfill.read_to_key)


def _senders_from_before(backfill: MeterBackfill) -> bool:
    """Tell whether a transaction is open that began before the back-fill: it may not have known the meter.

    Read from the server's list of its sessions; all of the house's are of one database role, which sees its own.
    """
    return bool(
        _number(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
              AND xact_start <= %s
            """,
            [backfill.begun_at],
        )
    )


def _require_readable(start: datetime, end: datetime) -> None:
    away = retention.archived_months(start, end)
    if away:
        msg = f"The events of {', '.join(f'{each.month:%B %Y}' for each in away)} lie in the archive: bring them back."
        raise BackfillNotReadable(msg)


def _number(query: str, parameters: Sequence[Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        (number,) = cursor.fetchone()
    return int(number)


def _ask(backfill: MeterBackfill, *, actor: Actor, at: datetime) -> None:
    approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=backfill.pk,
        title=f"Back-fill {backfill.meter.name}"[:254],
        summary={
            "meter": f"{backfill.meter.name} ({backfill.meter.code})",
            "of events from": f"{backfill.starts_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            "of events before": f"{backfill.ends_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            "events to read": backfill.expected,
            "what it means": "Periods that are billed already get what is counted now on the next invoice.",
        },
        reason=backfill.reason,
        actor=actor,
        at=at,
    )


def _content(backfill_id: int) -> Mapping[str, Any]:
    backfill = MeterBackfill.objects.select_related("meter").get(pk=backfill_id)
    return {
        "meter": backfill.meter.code,
        "starts_at": backfill.starts_at,
        "ends_at": backfill.ends_at,
        "reason": backfill.reason,
        "versions": backfill.meter.versions.count(),
    }


def _lock(backfill_id: int) -> None:
    if not MeterBackfill.objects.select_for_update(no_key=True).filter(pk=backfill_id).exists():
        raise BackfillUnknown


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    del request
    _step(subject_id, Status.RUNNING, verb="meter_backfill.begun", actor=actor, at=at)
    nudges.nudge(BACK_FILL_METERS)


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    del request
    _step(subject_id, Status.REFUSED, verb="meter_backfill.refused", actor=actor, at=at)


def _step(backfill_id: int, status: MeterBackfill.Status, *, verb: str, actor: Actor, at: datetime) -> None:
    backfill = MeterBackfill.objects.get(pk=backfill_id)
    backfill.status = status
    backfill.save(update_fields=["status"])
    audit.record(actor=actor, verb=verb, subject=backfill, at=at)


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Back-fill of a meter",
        permission=Permission.APPROVE_PRICES,
        content=_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda backfill_id: reverse("metering:backfill", args=[backfill_id]),
        lock=_lock,
    ),
)
