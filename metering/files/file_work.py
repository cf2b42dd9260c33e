"""What a worker does for uploaded files: takes them up one by one and loads them, for as long as a task may last."""

from __future__ import annotations

import logging
import time
from typing import Final

from django.db import InterfaceError, OperationalError
from django.utils import timezone

from metering.files import file_content, usage_files
from metering.models import UsageFile
from metering.sources import loading

logger = logging.getLogger(__name__)

# Well below the time after which a task is ended; what is left over is the next one's.
LONGEST_SECONDS: Final = 240.0
# However long it took to find the place in a large file again: so long it is loaded from there, or it would never end.
_AT_LEAST_SECONDS: Final = 60.0


def load_waiting(*, longest_seconds: float = LONGEST_SECONDS) -> None:
    """Load what waits; what is not done in this time goes on in the next task."""
    ends_at = time.monotonic() + longest_seconds
    while time.monotonic() < ends_at:
        file = usage_files.claim_next(lease=loading.LEASE, at=timezone.now())
        if file is None:
            return
        if file.state == UsageFile.State.LOADING:
            load(file, ends_at=ends_at)


def stay_at(file: UsageFile) -> None:
    """Renew the lease while rows are left out that were loaded before: nobody else takes the file up meanwhile."""
    now = timezone.now()
    if file.leased_until is not None and file.leased_until - now < loading.LEASE / 2:
        file.leased_until = usage_files.renew_claim(file.pk, lease=loading.LEASE, at=now)


def load(file: UsageFile, *, ends_at: float) -> None:
    """Load a file that was taken up, until the moment by the clock that never goes back, or a minute at least."""
    actor = usage_files.loader_of(file)
    first_batch_at: list[float] = []

    def note_progress(_rows: int) -> None:
        if not first_batch_at:
            first_batch_at.append(time.monotonic())

    def is_time_up() -> bool:
        return bool(first_batch_at) and time.monotonic() > max(ends_at, first_batch_at[0] + _AT_LEAST_SECONDS)

    try:
        with file_content.open_content(file, on_part=lambda: stay_at(file)) as stream:
            loading.load_file(
                file_id=file.pk, stream=stream, on_progress=note_progress, is_time_up=is_time_up, actor=actor
            )
    except (OperationalError, InterfaceError):
        # The database went away, or ended a wait; the lease runs out, and the file is taken up again.
        raise
    except Exception as error:  # a fault of ours must not be tried for ever, and is to be seen where the file is
        logger.exception("usage file %s could not be loaded", file.pk)
        loading.fail(file_id=file.pk, error=f"{error} ({type(error).__name__})", actor=actor, at=timezone.now())
    else:
        usage_files.release_claim(file.pk)
