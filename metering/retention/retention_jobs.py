"""What the jobs do for retention: the steps that wait in the tables, one after another."""

from __future__ import annotations

from datetime import date, datetime

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.errors import MonthInProgress
from metering.models import ArchivedMonth, UsageErasure
from metering.retention import erasure, retention

Status = ArchivedMonth.Status
_ERROR_LENGTH = 1_000


def work(*, at: datetime) -> int:
    """Do every step that waits and returns how many; what cannot be done says why and is tried again."""
    actor = Actor.system("retention")
    done = 0
    for archived in ArchivedMonth.objects.filter(status__in=[Status.PLANNED, Status.EXPORTED, Status.RESTORING]):
        done += _work_on_month(archived.month, archived.status, actor=actor, at=at)
    for erasure_id in erasure.due():
        done += _work_on_erasure(erasure_id, actor=actor, at=at)
    return done


def archive(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Take a planned month as far as it goes by itself: its file written and verified.

    Raises: whatever the steps raise.
    """
    retention.export_month(month=month, actor=actor, at=at)
    return retention.verify_month(month=month, actor=actor, at=at)


def _work_on_month(month: date, status: str, *, actor: Actor, at: datetime) -> bool:
    try:
        if status == Status.RESTORING:
            retention.bring_back(month=month, actor=actor, at=at)
        elif status == Status.EXPORTED:
            retention.verify_month(month=month, actor=actor, at=at)
        else:
            archive(month=month, actor=actor, at=at)
    except MonthInProgress:
        return False
    except CountinghouseError as error:
        ArchivedMonth.objects.filter(month=month).update(last_error=str(error)[:_ERROR_LENGTH])
        return False
    return True


def _work_on_erasure(erasure_id: int, *, actor: Actor, at: datetime) -> bool:
    try:
        erasure.carry_out(erasure_id=erasure_id, actor=actor, at=at)
    except MonthInProgress:
        return False
    except CountinghouseError as error:
        UsageErasure.objects.filter(pk=erasure_id).update(last_error=str(error)[:_ERROR_LENGTH])
        return False
    return True
