"""Tells the workers that there is something to do; the database stays the truth about what."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

MOST_WORKERS: Final = 4


def nudge(task: str, *, times: int = 1, **arguments: int) -> None:
    """Ask for a task by name once the transaction has committed, `times` over for so many workers (four at most).

    A message that gets lost, or a broker that is away, costs a minute and nothing else: the sweep finds the work in
    its table.
    """
    for _ in range(min(times, MOST_WORKERS)):
        transaction.on_commit(partial(_send, task, arguments))


def _send(task: str, arguments: dict[str, int]) -> None:
    try:
        current_app.send_task(task, kwargs=arguments)
    except OperationalError:
        logger.warning("no broker to ask for %s; the sweep will find the work", task, exc_info=True)
