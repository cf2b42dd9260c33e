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


def load_waiting(*, longest_seconds: float = LONGEST_SECONDS) -> None:
    """Load what waits; what is not done in this time goes on in the next task."""
    ends_at = time.monotonic() + longest_seconds
    while time.monotonic() < ends_at:
        file = usage_files.claim_next(lease=loading.LEASE, at=timezone.now())
        if file is None:
            return
        if file.state == UsageFile.State.LOADING:
            _load(file, ends_at)


def _load(file: UsageFile, ends_at: float) -> None:
    actor = usage_files.loader_of(file)
    try:
        with file_content.open_content(file) as stream:
            loading.load_file(
                file_id=file.pk,
                stream=stream,
                is_time_up=lambda: time.monotonic() > ends_at,
                actor=actor,
            )
    except (OperationalError, InterfaceError):
        # The database went away, or ended a wait; the lease runs out, and the file is taken up again.
        raise
    except Exception as error:  # a fault of ours must not be tried for ever, and is to be seen where the file is
        logger.exception("usage file %s could not be loaded", file.pk)
        loading.fail(file_id=file.pk, error=f"{error} ({type(error).__name__})", actor=actor, at=timezone.now())
    else:
        usage_files.release_claim(file.pk)
