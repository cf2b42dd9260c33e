"""Brings what is in the buffer to the server, in batches, until the server has it."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

from countinghouse.buffer import Batch, Buffer
from countinghouse.door import Counted, Door, NotNow, Unacceptable

_log = logging.getLogger("countinghouse")


@dataclass(frozen=True)
class Rejection:
    """An event that the server refused for good, its code for the reason and its words."""

    event: dict[str, Any]
    reason: str
    detail: str


@dataclass(frozen=True)
class Pace:
    """How many events, how many bytes and how long a batch waits for more; and how tries are spaced, in seconds."""

    batch_events: int
    batch_bytes: int
    batch_seconds: float
    sync_seconds: float
    first_retry_seconds: float
    longest_retry_seconds: float


@dataclass(frozen=True)
class Stats:
    """What became of events so far, those of earlier runs found in the buffer included."""

    delivered: int = 0
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    rejected: int = 0
    failed_tries: int = 0
    last_error: str = ""


OnRejected = Optional[Callable[[Rejection], object]]
OnError = Optional[Callable[[str], object]]


class Delivery:
    """A thread that sends; `wake` tells it that there is something, `stop` ends it."""

    def __init__(self, *, buffer: Buffer, door: Door, pace: Pace, on_rejected: OnRejected, on_error: OnError) -> None:
        self._buffer = buffer
        self._door = door
        self._pace = pace
        self._on_rejected = on_rejected
        self._on_error = on_error
        self._dead_letters: Path = buffer.folder / "dead-letters.jsonl"
        self._changed = threading.Condition()
        self._is_stopping = False
        self._flushes = 0
        # What an earlier run left is not kept waiting.
        self._oldest_at = float("-inf")
        self._synced_at = time.monotonic()
        self.stats = Stats()
        self._thread = threading.Thread(target=self._run, name="countinghouse", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that events were appended."""
        with self._changed:
            self._changed.notify_all()

    def wait_for_delivery(self, events: int, *, timeout_seconds: float | None) -> bool:
        """Send at once and wait until so many events were delivered in all; tells whether they were in time."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self.stats.delivered >= events, timeout_seconds)
            finally:
                self._flushes -= 1

    def stop(self, *, timeout_seconds: float) -> bool:
        """End the thread after the try in progress; tells whether it ended in time."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._is_stopping:
            failures = 0 if self._goes_on() else failures + 1
            if failures:
                self._pause(self._retry_seconds(failures))
        self._door.close()

    def _goes_on(self) -> bool:
        """Do the next thing that is due; False where it failed, and is to be tried again later."""
        try:
            self._sync_if_due()
            if self._is_due():
                self._deliver_one()
        except Exception as error:  # noqa: BLE001 -- the disk may fail for a while; nobody else would go on sending
            self._note_failure(f"{type(error).__name__}: {error}")
            return False
        return True

    def _is_due(self) -> bool:
        """Wait a moment for enough events; tells whether a batch should go now."""
        with self._changed:
            waiting = self._buffer.waiting
            if not waiting:
                self._oldest_at = float("inf")
                self._changed.wait(self._pace.sync_seconds or None)
                return False
            self._oldest_at = min(self._oldest_at, time.monotonic())
            is_full = waiting >= self._pace.batch_events or self._buffer.waiting_bytes >= self._pace.batch_bytes
            age_left = self._oldest_at + self._pace.batch_seconds - time.monotonic()
            if is_full or self._flushes or age_left <= 0:
                return True
            self._changed.wait(min(age_left, self._pace.sync_seconds or age_left))
            return False

    def _deliver_one(self) -> None:
        batch = self._buffer.read(max_records=self._pace.batch_events, max_bytes=self._pace.batch_bytes)
        self._oldest_at = time.monotonic()
        if not self._send_all(batch):
            return
        trouble = self._advance(batch)
        with self._changed:
            delivered = self.stats.delivered + len(batch.records)
            self.stats = replace(self.stats, delivered=delivered, last_error=trouble)
            self._changed.notify_all()

    def _advance(self, batch: Batch) -> str:
        """Let go of a delivered batch; returns what was wrong where the disk did not take the note of it.

        It is delivered all the same: a crash before the next note only sends it again.
        """
        try:
            self._buffer.advance(batch.end)
        except OSError as error:
            trouble = f"what was delivered could not be noted: {type(error).__name__}: {error}"
            _log.warning("%s", trouble)
            self._tell(self._on_error, trouble)
            return trouble
        return ""

    def _send_all(self, batch: Batch) -> bool:
        """Send until the server has taken or refused each event; False when told to stop before that."""
        parts = [batch.records] if batch.records else []
        while parts:
            part = parts.pop()
            answer = self._send_until_answered(part)
            if answer is None:
                return False
            if isinstance(answer, Counted):
                self._note_counted(part, answer)
            elif len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                self._reject([Rejection(json.loads(part[0]), answer.reason, answer.detail)])
        return True

    def _send_until_answered(self, part: list[bytes]) -> Counted | Unacceptable | None:
        failures = 0
        while not self._is_stopping:
            answer = self._door.send(part)
            if not isinstance(answer, NotNow):
                return answer
            failures += 1
            self._note_failure(answer.detail)
            self._pause(answer.retry_after_seconds + self._retry_seconds(failures))
        return None

    def _retry_seconds(self, failures: int) -> float:
        """Return a random wait below a ceiling that doubles, so that many senders do not come back as one."""
        ceiling = self._pace.first_retry_seconds * 2 ** min(failures - 1, 30)
        return random.uniform(0, min(ceiling, self._pace.longest_retry_seconds))  # noqa: S311 -- not a secret

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._is_stopping and (left := deadline - time.monotonic()) > 0:
            with suppress(OSError):  # told already, or will be once it is this file's turn
                self._sync_if_due()
            with self._changed:
                self._changed.wait(min(left, self._pace.sync_seconds or left))

    def _sync_if_due(self) -> None:
        if self._pace.sync_seconds and time.monotonic() >= self._synced_at + self._pace.sync_seconds:
            self._buffer.sync()
            self._synced_at = time.monotonic()

    def _note_counted(self, part: list[bytes], answer: Counted) -> None:
        with self._changed:
            self.stats = replace(
                self.stats,
                accepted=self.stats.accepted + answer.accepted,
                duplicates=self.stats.duplicates + answer.duplicates,
                quarantined=self.stats.quarantined + answer.quarantined,
            )
        self._reject(
            [
                Rejection(json.loads(part[each["index"]]), str(each.get("reason", "")), str(each.get("detail", "")))
                for each in answer.rejected
            ]
        )

    def _reject(self, rejections: list[Rejection]) -> None:
        if not rejections:
            return
        at = datetime.now(timezone.utc).isoformat()
        lines = [json.dumps({**vars(rejection), "at": at}, ensure_ascii=False) for rejection in rejections]
        try:
            with self._dead_letters.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            # An event that is refused is not let go of before it is kept, so the rest waits behind it.
            msg = f"refused events cannot be kept in {self._dead_letters}: {error.strerror}"
            raise OSError(msg) from error
        with self._changed:
            self.stats = replace(self.stats, rejected=self.stats.rejected + len(rejections))
        for rejection in rejections:
            _log.warning("event %s was refused: %s", rejection.event.get("id"), rejection.detail)
            self._tell(self._on_rejected, rejection)

    def _note_failure(self, detail: str) -> None:
        with self._changed:
            self.stats = replace(self.stats, failed_tries=self.stats.failed_tries + 1, last_error=detail)
        _log.warning("events were not delivered and stay in the buffer: %s", detail)
        self._tell(self._on_error, detail)

    @staticmethod
    def _tell(callback: Callable[[Any], object] | None, what: object) -> None:
        if callback is None:
            return
        try:
            callback(what)
        except Exception:  # noqa: BLE001 -- the caller's mistake must not end the delivery
            _log.exception("a callback of the client failed")
