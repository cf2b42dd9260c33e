"""The message queue on our Postgres, waited on in short turns."""

from typing import Any

from kombu.transport import pgmq

# Also the pause between two questions: the queue is asked at the start and at the end of each wait.
LONGEST_WAIT_SECONDS = 0.4


class Transport(pgmq.Transport):
    """kombu's own, except that a worker which is told to stop is not held up.

    Celery waits two seconds for messages, and after the order to stop it begins such a wait once more.
    """

    def drain_events(self, connection: Any, timeout: float | None = None, **_nothing: Any) -> None:
        """Hand on the next message; with a timeout, `socket.timeout` when none came within it."""
        waits = timeout and min(timeout, LONGEST_WAIT_SECONDS)
        super().drain_events(connection, timeout=waits)  # type: ignore[no-untyped-call]
