"""What the background jobs do for usage."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from celery import shared_task
from django.db import DatabaseError
from django.utils import timezone

from accounts.access import Actor
from metering import rollups
from metering.completeness import receipts
from metering.corrections import correction_work, corrections
from metering.errors import BackfillNotReadable, CorrectionNotCountable
from metering.files import file_work, usage_files
from metering.meters import meter_backfill
from metering.quarantine import clearances, tallies
from metering.retention import partitions, retention_jobs
from metering.usage_backfills import decisions
from metering.usage_backfills import work as usage_backfill_work

logger = logging.getLogger(__name__)

_DELTAS_AT_ONCE = 50_000
_ROUNDS = 20
# As often as beat sweeps: a nudge that no worker took by then is dropped, for the next sweep gives another.
_EXPIRES_SECONDS = 20
# Below the time after which a task is ended; what is left over is the next one's.
_LONGEST_SECONDS = 240.0
_TIME_TO_BEGIN_SECONDS = 30.0
_PREVIEW_SECONDS = 3_600


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def fold_usage() -> None:
    """Fold what has come in; a backlog beyond one task's time is left to the next one."""
    receipts.fold(limit=_DELTAS_AT_ONCE)
    tallies.fold(limit=_DELTAS_AT_ONCE)
    for _ in range(_ROUNDS):
        if rollups.fold(limit=_DELTAS_AT_ONCE) < _DELTAS_AT_ONCE:
            return


@shared_task  # type: ignore[untyped-decorator]
def make_partitions() -> None:
    """Make the tables for the events of the months ahead."""
    partitions.make_ahead(at=timezone.now())


@shared_task  # type: ignore[untyped-decorator]
def keep_retention() -> None:
    """Write and verify the files of planned months, drop and bring back what was asked, erase what was approved."""
    ends_at = time.monotonic() + _LONGEST_SECONDS
    retention_jobs.work(is_time_up=lambda: time.monotonic() > ends_at, at=timezone.now())


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def load_files() -> None:
    """Load uploaded files; what is not done in one task's time goes on in the next one."""
    file_work.load_waiting()


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def sweep_files() -> None:
    """Ask for every load and clearance that waits, so that a lost message or a dead worker costs about a minute."""
    now = timezone.now()
    usage_files.sweep_abandoned(at=now)
    if usage_files.claimable(at=now).exists():
        load_files.apply_async(expires=_EXPIRES_SECONDS)
    if clearances.claimable(at=now).exists():
        clear_quarantine.apply_async(expires=_EXPIRES_SECONDS)


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def clear_quarantine() -> None:
    """Release or discard what was decided by rule; what is not done in one task's time goes on in the next one."""
    ends_at = time.monotonic() + _LONGEST_SECONDS
    clearances.work(is_time_up=lambda: time.monotonic() > ends_at, clock=timezone.now)


@shared_task  # type: ignore[untyped-decorator]
def back_fill_meters() -> None:
    """Count what meters are to count of earlier events, chunk by chunk."""
    end = time.monotonic() + _LONGEST_SECONDS
    for backfill_id in meter_backfill.due():
        with suppress(BackfillNotReadable):
            while meter_backfill.count_chunk(backfill_id=backfill_id, at=timezone.now()) and time.monotonic() < end:
                pass


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def work_on_usage_backfills() -> None:
    """Close and revert backfills of usage; what is not done in one task's time goes on in the next one."""
    end = time.monotonic() + _LONGEST_SECONDS
    actor = Actor.system("usage backfills")
    for backfill_id in usage_backfill_work.due():
        try:
            while usage_backfill_work.work_on(backfill_id=backfill_id, actor=actor, at=timezone.now()):
                if time.monotonic() > end:
                    return
        except DatabaseError as error:
            logger.warning("backfill %s cannot go on", backfill_id, exc_info=True)
            usage_backfill_work.note_error(backfill_id=backfill_id, error=str(error).partition("\n")[0])
    if decisions.previews_are_asked_for():
        preview_usage_backfills.apply_async(expires=_EXPIRES_SECONDS)


# A message is given to another worker before this one may be done, who finds that somebody is at it and leaves it.
@shared_task(time_limit=_PREVIEW_SECONDS, soft_time_limit=_PREVIEW_SECONDS - 40)  # type: ignore[untyped-decorator]
def preview_usage_backfills() -> None:
    """Work out what backfills of usage would change; one of a million events may take longer than a task else may."""
    ends_at = time.monotonic() + _TIME_TO_BEGIN_SECONDS
    decisions.work_out_previews(is_time_up=lambda: time.monotonic() > ends_at, clock=timezone.now)


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def apply_corrections() -> None:
    """Apply approved corrections; what is not done in one task's time goes on in the next one."""
    actor = Actor.system("corrections")
    for correction_id in corrections.due():
        for _ in range(_ROUNDS):
            try:
                if not correction_work.apply_some(correction_id=correction_id, actor=actor, at=timezone.now()):
                    break
            except CorrectionNotCountable:
                logger.warning("correction %s cannot go on", correction_id, exc_info=True)
                break


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def preview_corrections() -> None:
    """Work out what large corrections would change; apart, so that what was approved does not wait for it."""
    # One may take as long as a task may at most: others begin in this one only if all so far were quick.
    ends_at = time.monotonic() + _LONGEST_SECONDS / 4
    corrections.work_out_previews(is_time_up=lambda: time.monotonic() > ends_at, clock=timezone.now)
