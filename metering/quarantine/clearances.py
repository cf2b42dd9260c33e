"""Releases or discards all quarantined events that fit a rule: decided by a person, done by workers in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Count, Max, Min, Q, QuerySet, Sum

from accounts import audit, nudges
from accounts.access import Actor, Permission
from metering.errors import ClearanceNotRunning, ClearanceUnknown, DiscardNeedsReason, NothingToClear
from metering.models import QuarantineClearance, QuarantinedEvent, UsageFileBatch
from metering.quarantine import quarantine

CLEAR_QUARANTINE = "metering.tasks.clear_quarantine"
CHUNK = 1_000
LEASE = timedelta(seconds=60)

Act = QuarantineClearance.Act
State = QuarantineClearance.State


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which waiting events are meant; an empty part fits all. Times are `[time_from, time_until)` of the events."""

    reason: str = ""
    type: str = ""
    subject: str = ""
    source: str = ""
    time_from: datetime | None = None
    time_until: datetime | None = None
    file_id: int | None = None

    def waiting(self) -> QuerySet[QuarantinedEvent]:
        """Return the events that wait and fit."""
        fits = Q(status=QuarantinedEvent.Status.OPEN)
        for name in ("reason", "type", "subject", "source"):
            if wanted := getattr(self, name):
                fits &= Q(**{name: wanted})
        if self.time_from:
            fits &= Q(time__gte=self.time_from)
        if self.time_until:
            fits &= Q(time__lt=self.time_until)
        if self.file_id:
            fits &= Q(batch_id__in=UsageFileBatch.objects.filter(file_id=self.file_id).values("batch_id"))
        return QuarantinedEvent.objects.filter(fits)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a clearance would be about: how many events, how often they were sent, of which time."""

    events: int
    times_seen: int
    subjects: int
    types: int
    earliest: datetime | None
    latest: datetime | None
    last_event_id: int


def outlook(rule: Rule) -> Outlook:
    """Return what fits a rule now."""
    found = (
        rule.waiting()
        .order_by()
        .aggregate(
            events=Count("id"),
            seen=Sum("seen_count"),
            subjects=Count("subject", distinct=True),
            types=Count("type", distinct=True),
            earliest=Min("time"),
            latest=Max("time"),
            last=Max("id"),
        )
    )
    return Outlook(
        found["events"],
        found["seen"] or 0,
        found["subjects"],
        found["types"],
        found["earliest"],
        found["latest"],
        found["last"] or 0,
    )


@transaction.atomic
def decide_clearance(
    *, act: QuarantineClearance.Act, rule: Rule, explanation: str = "", actor: Actor, at: datetime
) -> QuarantineClearance:
    """Have the workers release or discard what fits a rule now; events that come later are not meant.

    Deciding the same again while it is under way returns the one that is. Each event is counted or closed once, however
    many clearances and people are at it.

    Raises: PermissionMissing, DiscardNeedsReason, NothingToClear.
    """
    actor.require(Permission.RELEASE_QUARANTINE)
    explanation = explanation.strip() if act == Act.DISCARD else ""
    if act == Act.DISCARD and not explanation:
        raise DiscardNeedsReason
    running = _running(act, rule)
    if running is not None:
        return running
    found = outlook(rule)
    if not found.events:
        raise NothingToClear
    clearance = QuarantineClearance(
        act=act,
        **asdict(rule),
        explanation=explanation,
        events=found.events,
        last_event_id=found.last_event_id,
        decided_by_id=actor.user_id,
        actor_label=actor.label,
        created_at=at,
    )
    try:
        with transaction.atomic():
            clearance.save(force_insert=True)
    except IntegrityError:
        # Somebody clicked at the same moment.
        running = _running(act, rule)
        if running is None:
            raise
        return running
    audit.record(
        actor=actor,
        verb=f"quarantine_clearance.{act}",
        subject=clearance,
        at=at,
        reason=explanation,
        data={name: value for name, value in asdict(rule).items() if value},
    )
    nudges.nudge(CLEAR_QUARANTINE)
    return clearance


@transaction.atomic
def stop_clearance(*, clearance_id: int, actor: Actor, at: datetime) -> QuarantineClearance:
    """Stop a clearance after the chunk that it is at; what was done stays done. One that has ended stays as it is.

    Raises: PermissionMissing, ClearanceUnknown.
    """
    actor.require(Permission.RELEASE_QUARANTINE)
    clearance = _locked(clearance_id)
    if clearance.state == State.RUNNING:
        _end(clearance, State.STOPPED, actor=actor, at=at)
    return clearance


@transaction.atomic
def clear_chunk(*, clearance_id: int, limit: int = CHUNK, at: datetime) -> int:
    """Release or discard the next events of a clearance, and return how many were looked at; none: it has ended.

    Raises: ClearanceUnknown, ClearanceNotRunning.
    """
    clearance = _locked(clearance_id)
    if clearance.state != State.RUNNING:
        raise ClearanceNotRunning
    actor = _decider(clearance)
    waiting = rule_of(clearance).waiting().filter(pk__gt=clearance.position, pk__lte=clearance.last_event_id)
    event_ids = list(waiting.order_by("pk").values_list("pk", flat=True)[:limit])
    if not event_ids:
        _end(clearance, State.DONE, actor=actor, at=at)
        return 0
    if clearance.act == Act.RELEASE:
        result = quarantine.release(event_ids=event_ids, actor=actor, at=at)
        clearance.closed += result.released
        clearance.still_waiting += result.still_quarantined
    else:
        clearance.closed += quarantine.discard(event_ids=event_ids, reason=clearance.explanation, actor=actor, at=at)
    clearance.position = event_ids[-1]
    clearance.leased_until = at + LEASE
    clearance.save()
    return len(event_ids)


def claimable(*, at: datetime) -> QuerySet[QuarantineClearance]:
    """Return the clearances that are under way and nobody's work at the moment."""
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=at)
    return QuarantineClearance.objects.filter(free, state=State.RUNNING)


@transaction.atomic
def claim_next(*, at: datetime) -> int | None:
    """Take up the next clearance that waits for a worker and return its id; no other worker does for a minute."""
    clearance = claimable(at=at).select_for_update(skip_locked=True, no_key=True, of=("self",)).order_by("pk").first()
    if clearance is None:
        return None
    clearance.leased_until = at + LEASE
    clearance.save()
    return clearance.pk


def work(*, is_time_up: Callable[[], bool], clock: Callable[[], datetime]) -> None:
    """Carry out what was decided, chunk by chunk, until nothing is left or the time is up."""
    while not is_time_up():
        clearance_id = claim_next(at=clock())
        if clearance_id is None:
            return
        try:
            while clear_chunk(clearance_id=clearance_id, at=clock()):
                if is_time_up():
                    QuarantineClearance.objects.filter(pk=clearance_id, state=State.RUNNING).update(leased_until=None)
                    return
        except ClearanceNotRunning:
            continue


def rule_of(clearance: QuarantineClearance) -> Rule:
    """Return the rule that a clearance was decided by."""
    return Rule(
        reason=clearance.reason,
        type=clearance.type,
        subject=clearance.subject,
        source=clearance.source,
        time_from=clearance.time_from,
        time_until=clearance.time_until,
        file_id=clearance.file_id,
    )


def _decider(clearance: QuarantineClearance) -> Actor:
    """Who decided, and was asked for the permission then."""
    return Actor(
        label=clearance.actor_label,
        user_id=clearance.decided_by_id,
        permissions=frozenset({Permission.RELEASE_QUARANTINE.value}),
    )


def _end(clearance: QuarantineClearance, state: QuarantineClearance.State, *, actor: Actor, at: datetime) -> None:
    clearance.state, clearance.finished_at, clearance.leased_until = state, at, None
    clearance.save()
    data = {"closed": clearance.closed, "still_waiting": clearance.still_waiting}
    audit.record(actor=actor, verb=f"quarantine_clearance.{state}", subject=clearance, at=at, data=data)


def _running(act: QuarantineClearance.Act, rule: Rule) -> QuarantineClearance | None:
    parts = {name: value for name, value in asdict(rule).items() if value is not None}
    missing = {f"{name}__isnull": True for name, value in asdict(rule).items() if value is None}
    return QuarantineClearance.objects.filter(act=act, state=State.RUNNING, **parts, **missing).first()


def _locked(clearance_id: int) -> QuarantineClearance:
    clearance = QuarantineClearance.objects.select_for_update(no_key=True).filter(pk=clearance_id).first()
    if clearance is None:
        raise ClearanceUnknown
    return clearance
