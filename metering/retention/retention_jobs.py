"""What the jobs do for retention: the steps that wait in the tables, one after another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

from django.db.models import Q

from accounts.access import Actor
from accounts.errors import CountinghouseError
from metering.errors import MonthInProgress
from metering.models import ArchivedMonth, UsageErasure
from metering.retention import erasure, retention

Status = ArchivedMonth.Status
_ERROR_LENGTH = 1_000


def _never() -> bool:
    return False


def work(*, is_time_up: Callable[[], bool] = _never, at: datetime) -> int:
    """Do every step that waits and returns how many; what cannot be done says why and is tried again.

    A month that takes longer than there is time goes on in the next run, behind the last file that was done.
    """
    actor = Actor.system("retention")
    done = 0
    waiting = Q(status__in=[Status.PLANNED, Status.EXPORTED, Status.RESTORING]) | Q(
        status=Status.DETACHED, drop_asked_at__isnull=False
    )
    for archived in ArchivedMonth.objects.filter(waiting):
        if not is_time_up():
            done += _work_on_month(archived.month, archived.status, is_time_up=is_time_up, actor=actor, at=at)
    for erasure_id in erasure.due():
        done += _work_on_erasure(erasure_id, actor=actor, at=at)
    return done


def archive(*, month: date, is_time_up: Callable[[], bool] = _never, actor: Actor, at: datetime) -> ArchivedMonth:
    """Take a planned month as far as it goes by itself, or as there is time: its files written and verified.

    Raises: whatever the steps raise.
    """
    archived = retention.export_month(month=month, is_time_up=is_time_up, actor=actor, at=at)
    if archived.status == Status.PLANNED or is_time_up():
        return archived
    return retention.verify_month(month=month, is_time_up=is_time_up, actor=actor, at=at)


_STEPS: dict[str, Callable[..., ArchivedMonth]] = {
    Status.PLANNED: archive,
    Status.EXPORTED: retention.verify_month,
    Status.DETACHED: retention.drop_month,
    Status.RESTORING: retention.bring_back,
}


def _work_on_month(month: date, status: str, *, is_time_up: Callable[[], bool], actor: Actor, at: datetime) -> bool:
    try:
        _STEPS[status](month=month, is_time_up=is_time_up, actor=actor, at=at)
    except MonthInProgress:
        return False
    except (CountinghouseError, OSError) as error:
        ArchivedMonth.objects.filter(month=month).update(last_error=str(error)[:_ERROR_LENGTH])
        return False
    return True


def _work_on_erasure(erasure_id: int, *, actor: Actor, at: datetime) -> bool:
    try:
        erasure.carry_out(erasure_id=erasure_id, actor=actor, at=at)
    except MonthInProgress:
        return False
    except (CountinghouseError, OSError) as error:
        UsageErasure.objects.filter(pk=erasure_id).update(last_error=str(error)[:_ERROR_LENGTH])
        return False
    return True
