"""Builders for corrections. They go through the verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from accounts import approvals
from accounts.access import Actor, Role
from accounts.models import ApprovalDecision, ApprovalRequest
from metering.corrections import corrections
from metering.corrections.correction_selection import EventFilter, NamedEvent
from metering.corrections.correction_work import apply_some
from metering.models import UsageCorrection
from tests import make_accounts
from tests.make_metering import NOON, SYSTEM


def named(*event_ids: str, source: str = "cluster/1", **changes: str) -> list[NamedEvent]:
    """Name events by id, with values that replace theirs, if any."""
    return [NamedEvent(source=source, event_id=each, changes=changes or None) for each in event_ids]


def drafted(
    events: EventFilter | Sequence[NamedEvent],
    *,
    changes: Mapping[str, str] | None = None,
    actor: Actor | None = None,
    at: datetime = NOON,
) -> UsageCorrection:
    """Draft and preview a correction."""
    by = actor or make_accounts.actor(Role.FINANCE_ANALYST)
    correction = corrections.request_correction(
        events=events, changes=changes, reason="the sensor was wrong", actor=by, at=at
    )
    return corrections.preview_correction(correction_id=correction.pk, actor=by, at=at)


def submitted(correction: UsageCorrection, *, actor: Actor | None = None, at: datetime = NOON) -> UsageCorrection:
    """Submit a draft and have another person approve it, if it takes one."""
    by = actor or make_accounts.actor(Role.FINANCE_ANALYST)
    done = corrections.submit_correction(correction_id=correction.pk, actor=by, at=at)
    if done.status == UsageCorrection.Status.IN_REVIEW:
        request = ApprovalRequest.objects.get(
            kind=corrections.APPROVAL_KIND, subject_id=correction.pk, status="pending"
        )
        controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
        approvals.decide(request_id=request.pk, outcome=ApprovalDecision.Outcome.APPROVE, actor=controller, at=at)
    return done


def applied(correction: UsageCorrection, *, at: datetime = NOON, limit: int = 1_000) -> UsageCorrection:
    """Submit a draft, have it approved, and apply all of it."""
    submitted(correction, at=at)
    while apply_some(correction_id=correction.pk, limit=limit, actor=SYSTEM, at=at):
        pass
    correction.refresh_from_db()
    return correction


def voided(*event_ids: str) -> UsageCorrection:
    """Void events by id."""
    return applied(drafted(named(*event_ids)))


def replaced(event_id: str, **changes: str) -> UsageCorrection:
    """Replace one event."""
    return applied(drafted(named(event_id, **changes)))


def reverted(correction: UsageCorrection, *, at: datetime = NOON) -> UsageCorrection:
    """Revert an applied correction."""
    by = make_accounts.actor(Role.FINANCE_ANALYST)
    revert = corrections.request_revert(correction_id=correction.pk, reason="it was right", actor=by, at=at)
    return applied(corrections.preview_correction(correction_id=revert.pk, actor=by, at=at), at=at)
