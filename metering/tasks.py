"""What the background jobs do for usage."""

from __future__ import annotations

from celery import shared_task

from metering import receipts, rollups

_DELTAS_AT_ONCE = 50_000
_ROUNDS = 20


@shared_task  # type: ignore[untyped-decorator]  # celery comes without types
def fold_usage() -> None:
    """Fold what has come in; a backlog beyond one task's time is left to the next one."""
    receipts.fold(limit=_DELTAS_AT_ONCE)
    for _ in range(_ROUNDS):
        if rollups.fold(limit=_DELTAS_AT_ONCE) < _DELTAS_AT_ONCE:
            return
