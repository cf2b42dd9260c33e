"""Lets batches in no faster than they can be taken: overload is an answer, never a queue and never a lost event.

Three bounds, each answered with when to come again: how many batches one process takes at once, how much waits to be
folded, and how long the database may take. Whoever is refused has left nothing behind and sends the same batch again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction

from metering.errors import FoldBacklogFull, IngestBusy, IngestTimedOut

_BACKLOG_IS_KNOWN_FOR_SECONDS = 1.0
_TOO_SLOW = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


@contextmanager
def admitted() -> Iterator[None]:
    """Hold one of this process's places for a batch, and a transaction in which the database may only take so long.

    Raises: IngestBusy, FoldBacklogFull, IngestTimedOut; the transaction is rolled back then.
    """
    with _gate.passed():
        backlog.refuse_if_full()
        with _in_time(), transaction.atomic():
            _limit_the_database()
            yield


class _Gate:
    """A number of places, and a number of those who wait for one, both bounded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def passed(self) -> Iterator[None]:
        with self._changed:
            if not self._is_free():
                self._wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def _is_free(self) -> bool:
        return self._inside < settings.INGEST_AT_ONCE

    def _wait(self) -> None:
        if self._waiting >= settings.INGEST_WAITING:
            raise IngestBusy
        self._waiting += 1
        try:
            if not self._changed.wait_for(self._is_free, timeout=settings.INGEST_WAIT_SECONDS):
                raise IngestBusy
        finally:
            self._waiting -= 1


class _Backlog:
    """How many deltas wait for the fold, asked of the database about once a second."""

    def __init__(self) -> None:
        self._length = 0
        self._known_until = 0.0

    def refuse_if_full(self) -> None:
        """Raise FoldBacklogFull above the limit of the settings."""
        if monotonic() >= self._known_until:
            self._length = _deltas_waiting()
            self._known_until = monotonic() + _BACKLOG_IS_KNOWN_FOR_SECONDS
        if self._length > settings.INGEST_BACKLOG_LIMIT:
            raise FoldBacklogFull

    def forget(self) -> None:
        """Ask anew the next time."""
        self._known_until = 0.0


_gate = _Gate()
backlog = _Backlog()


def _deltas_waiting() -> int:
    # Ids only grow and the oldest are folded first, so the two ends tell how many there are at most.
    with connection.cursor() as cursor:
        cursor.execute("""
            SELECT (SELECT coalesce(max(id) - min(id) + 1, 0) FROM usage_delta)
                   + (SELECT coalesce(max(id) - min(id) + 1, 0) FROM usage_part_delta)
        """)
        (length,) = cursor.fetchone()
    return int(length)


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, _TOO_SLOW):
            raise IngestTimedOut from error
        raise


def _limit_the_database() -> None:
    limits = (settings.INGEST_LOCK_TIMEOUT_SECONDS, settings.INGEST_STATEMENT_TIMEOUT_SECONDS)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
            [f"{round(seconds * 1000)}ms" for seconds in limits],
        )
