"""Builders for backfills of usage. They go through the verbs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from accounts import approvals
from accounts.access import Actor, Role
from accounts.models import ApprovalDecision, ApprovalRequest
from metering.files import usage_files
from metering.models import UsageBackfill, UsageBackfillItem, UsageFile
from metering.usage_backfills import decisions
from metering.usage_backfills.staging import StageResult, stage_events
from metering.usage_backfills.work import work_on
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

START, END = datetime(2026, 10, 5, tzinfo=UTC), datetime(2026, 10, 12, tzinfo=UTC)
WITHIN = "2026-10-07T10:30:00Z"


def event(event_id: str, *, time: str = WITHIN, **data: Any) -> dict[str, object]:
    """Make an event of the period that backfills are of."""
    return make.event(event_id, time=time, **data)


def opened(*, actor: Actor | None = None, at: datetime = NOON, **change: Any) -> UsageBackfill:
    """Open a backfill of a week of the source that events are of unless told otherwise; it adds what is missing."""
    given: dict[str, Any] = {
        "source": "cluster/1",
        "start": START,
        "end": END,
        "mode": UsageBackfill.Mode.ADD,
        "reason": "the exporter was down",
    }
    by = actor or make_accounts.actor(Role.FINANCE_ANALYST)
    return decisions.open_backfill(**{**given, **change}, actor=by, at=at)


def replacing(**change: Any) -> UsageBackfill:
    """Open a backfill that replaces what is there."""
    return opened(**{"mode": UsageBackfill.Mode.REPLACE, **change})


def staged(
    backfill: UsageBackfill,
    *events: object,
    customer_id: int | None = None,
    source: str = "",
    at: datetime = NOON,
) -> StageResult:
    """Fill events into a backfill as one batch."""
    return stage_events(
        backfill_id=backfill.pk, events=events, customer_id=customer_id, source=source, actor=SYSTEM, at=at
    )


def previewed(backfill: UsageBackfill, *, actor: Actor | None = None, at: datetime = NOON) -> UsageBackfill:
    """Preview the closing."""
    by = actor or make_accounts.actor(Role.FINANCE_ANALYST)
    return decisions.preview_backfill(backfill_id=backfill.pk, actor=by, at=at)


def approved(backfill: UsageBackfill, *, at: datetime = NOON) -> None:
    """Have a second person approve what waits for it, if anything does."""
    request = ApprovalRequest.objects.filter(
        kind=decisions.APPROVAL_KIND, subject_id=backfill.pk, status="pending"
    ).first()
    if request is not None:
        controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
        approvals.decide(request_id=request.pk, outcome=ApprovalDecision.Outcome.APPROVE, actor=controller, at=at)


def closing(backfill: UsageBackfill, *, at: datetime = NOON) -> UsageBackfill:
    """Preview a backfill, submit it and have it approved, so that it is being closed."""
    by = make_accounts.actor(Role.FINANCE_ANALYST)
    previewed(backfill, actor=by, at=at)
    decisions.close_backfill(backfill_id=backfill.pk, actor=by, at=at)
    approved(backfill, at=at)
    return UsageBackfill.objects.get(pk=backfill.pk)


def worked(backfill: UsageBackfill, *, limit: int = 1_000, at: datetime = NOON) -> UsageBackfill:
    """Do what there is to do, and read it anew."""
    while work_on(backfill_id=backfill.pk, limit=limit, actor=SYSTEM, at=at):
        pass
    return UsageBackfill.objects.get(pk=backfill.pk)


def closed(backfill: UsageBackfill, *, limit: int = 1_000, at: datetime = NOON) -> UsageBackfill:
    """Take an open backfill to its end."""
    closing(backfill, at=at)
    return worked(backfill, limit=limit, at=at)


def reverting(backfill: UsageBackfill, *, at: datetime = NOON) -> UsageBackfill:
    """Preview a revert, submit it and have it approved, so that the backfill is being reverted."""
    by = make_accounts.actor(Role.FINANCE_ANALYST)
    decisions.preview_revert(backfill_id=backfill.pk, actor=by, at=at)
    decisions.revert_backfill(backfill_id=backfill.pk, reason="it was the wrong file", actor=by, at=at)
    approved(backfill, at=at)
    return UsageBackfill.objects.get(pk=backfill.pk)


def reverted(backfill: UsageBackfill, *, limit: int = 1_000, at: datetime = NOON) -> UsageBackfill:
    """Revert a closed backfill."""
    reverting(backfill, at=at)
    return worked(backfill, limit=limit, at=at)


def states(backfill: UsageBackfill) -> dict[str, int]:
    """Return how many of its events are in which state."""
    found: dict[str, int] = {}
    for state in UsageBackfillItem.objects.filter(backfill=backfill).values_list("state", flat=True):
        found[state] = found.get(state, 0) + 1
    return found


def into(backfill: UsageBackfill, file: UsageFile) -> None:
    """Have a file's rows filled into a backfill, and its loading begin."""
    usage_files.choose_backfill(file_id=file.pk, backfill_id=backfill.pk, actor=SYSTEM)
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
