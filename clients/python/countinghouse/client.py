"""The client: takes events, keeps them on disk and has them delivered in the background."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from countinghouse.buffer import Buffer
from countinghouse.delivery import Delivery, OnError, OnRejected, Pace, Stats
from countinghouse.door import Door
from countinghouse.errors import ClientClosed, NotDelivered
from countinghouse.events import encoded, event_of

_MEBIBYTE = 1024 * 1024


class Client:
    """Sends usage events to one server with one key.

    `directory` keeps what is not delivered yet; one client holds it at a time. A batch goes when `batch_events` or
    `batch_bytes` wait or the oldest has waited `batch_seconds`. Every `sync_seconds` the disk is made to take what was
    appended; with 0, before each `send` returns. `on_rejected` is told of each event that the server refused for good,
    which is also written to `dead-letters.jsonl` in the directory; `on_error` of each try that failed. Both are called
    from the background thread.

    Raises: ValueError for a bad address, BufferInUse, BufferUnwritable.
    """

    def __init__(  # noqa: PLR0913 -- settings, each with a default
        self,
        *,
        url: str,
        key: str,
        directory: str | os.PathLike[str],
        source: str = "",
        batch_events: int = 1_000,
        batch_bytes: int = _MEBIBYTE,
        batch_seconds: float = 1.0,
        max_buffer_bytes: int = 256 * _MEBIBYTE,
        sync_seconds: float = 1.0,
        timeout_seconds: float = 30.0,
        first_retry_seconds: float = 0.5,
        longest_retry_seconds: float = 60.0,
        on_rejected: OnRejected = None,
        on_error: OnError = None,
    ) -> None:
        door = Door(url=url, key=key, timeout_seconds=timeout_seconds)
        self._source = source
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._buffer = Buffer(Path(directory), max_bytes=max_buffer_bytes, sync_each=sync_seconds == 0)
        self._taken = self._buffer.waiting
        self._delivery = Delivery(
            buffer=self._buffer,
            door=door,
            pace=Pace(
                batch_events, batch_bytes, batch_seconds, sync_seconds, first_retry_seconds, longest_retry_seconds
            ),
            on_rejected=on_rejected,
            on_error=on_error,
        )

    @property
    def stats(self) -> Stats:
        """What became of events so far."""
        return self._delivery.stats

    @property
    def waiting(self) -> int:
        """How many events are not delivered yet."""
        return self._buffer.waiting

    def send(
        self,
        *,
        type: str,  # noqa: A002 -- as CloudEvents call it
        subject: str = "",
        data: Mapping[str, Any] | None = None,
        time: datetime | None = None,
        id: str | None = None,  # noqa: A002 -- as CloudEvents call it
        source: str | None = None,
    ) -> str:
        """Take an event and return its id; it is on its way once this returns, and survives a crash of the program.

        Raises: EventInvalid, BufferFull, BufferUnwritable, ClientClosed; the event was not taken then.
        """
        event = event_of(
            source=self._source if source is None else source, type=type, subject=subject, data=data, time=time, id=id
        )
        self._take([encoded(event)])
        return str(event["id"])

    def send_many(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Take events, each a mapping of what `send` takes, all or none, and return their ids.

        Raises: as `send`.
        """
        made = [event_of(**{"source": self._source, **event}) for event in events]
        self._take([encoded(event) for event in made])
        return [str(event["id"]) for event in made]

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Wait until everything sent before is counted by the server, or refused by it for good.

        Raises: NotDelivered when the time is over, with the last error.
        """
        self._require_open()
        if not self._delivery.wait_for_delivery(self._taken, timeout_seconds=timeout_seconds):
            msg = (
                f"{self.waiting:,} events wait in {self._buffer.folder}; last error: {self.stats.last_error or 'none'}"
            )
            raise NotDelivered(msg)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Deliver what there is time for, and let go of the directory; the rest is sent by the next client of it.

        Closing twice does nothing more.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        deadline = time.monotonic() + timeout_seconds
        self._delivery.wait_for_delivery(self._taken, timeout_seconds=timeout_seconds)
        # A try that is under way may outlast the deadline; the directory is let go of when the program ends, then.
        if self._delivery.stop(timeout_seconds=max(deadline - time.monotonic(), 0.5)):
            self._buffer.close()
        else:
            self._buffer.sync()

    def __enter__(self) -> Client:  # noqa: PYI034 -- typing.Self is younger than the Pythons this runs on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, records: list[bytes]) -> None:
        with self._lock:
            self._require_open()
            self._buffer.append(records)
            self._taken += len(records)
        self._delivery.wake()

    def _require_open(self) -> None:
        if self._is_closed:
            msg = "The client is closed."
            raise ClientClosed(msg)
        if os.getpid() != self._process_id:
            msg = "The client was made before a fork; each process needs one of its own, with a directory of its own."
            raise ClientClosed(msg)
