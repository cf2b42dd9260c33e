"""Speaks to `POST /api/v1/events`: one try at a time, and what its answer means."""

from __future__ import annotations

import email.utils
import gzip
import http.client
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Union
from urllib.parse import urlsplit

PATH = "/api/v1/events"
# Nobody is believed who says to come again next week.
LONGEST_RETRY_AFTER_SECONDS = 300.0
_PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Counted:
    """The server has taken the batch: how many events were new, known, and set aside there; and which it refused."""

    accepted: int
    duplicates: int
    quarantined: int
    rejected: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Unacceptable:
    """The server does not take this batch as a whole, today or tomorrow; a smaller one it may."""

    reason: str
    detail: str


@dataclass(frozen=True)
class NotNow:
    """Nothing is known to be taken; to be tried again, and not before so many seconds."""

    detail: str
    retry_after_seconds: float = 0.0


Answer = Union[Counted, Unacceptable, NotNow]


class Door:
    """The server's address and key, and one connection that is kept open while it lasts."""

    def __init__(self, *, url: str, key: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = f"{url!r} is no address such as https://billing.example.com"
            raise ValueError(msg)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path.rstrip("/") + PATH
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._tls = ssl.create_default_context() if self._is_tls else None
        self._line: http.client.HTTPConnection | None = None

    def send(self, records: Sequence[bytes]) -> Answer:
        """Send records, each an event as a line of JSON, and say what became of them. Never raises for the network."""
        body = gzip.compress(b"\n".join(records), compresslevel=6, mtime=0)
        try:
            status, headers, content = self._exchange(body)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            self.close()
            # A server may refuse a key and hang up before it has heard all, and the answer is lost on the way. One
            # event is heard to its end, so its answer says what is wrong.
            is_cut_off = isinstance(error, (BrokenPipeError, ConnectionResetError)) and len(records) > 1
            reason = self.send(records[:1]) if is_cut_off else None
            return reason if isinstance(reason, NotNow) else NotNow(f"{type(error).__name__}: {error}")
        return _understood(status, headers, content, events=len(records))

    def close(self) -> None:
        """Hang up; the next `send` connects anew."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _exchange(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        is_old = self._line is not None
        try:
            return self._exchange_once(body)
        except (ConnectionError, http.client.BadStatusLine):
            self.close()
            # The server may have closed a quiet connection meanwhile, which says nothing about how it fares.
            if not is_old:
                raise
        return self._exchange_once(body)

    def _exchange_once(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self._line is None:
            self._line = self._new_line()
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "User-Agent": "countinghouse-python/0.1.0",
        }
        self._line.request("POST", self._path, body, headers)
        response = self._line.getresponse()
        return response.status, response.headers, response.read()

    def _new_line(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_seconds, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)


def _understood(status: int, headers: http.client.HTTPMessage, content: bytes, *, events: int) -> Answer:
    answer = _object_in(content)
    if status == HTTPStatus.OK:
        counted = _counted(answer, events=events)
        return counted or NotNow("The answer of 200 does not say what became of each event; is this the right address?")
    detail = f"{status} {answer.get('code') or ''}: {answer.get('detail') or content[:200]!r}"
    # Only the door itself knows what it will never take; a proxy in between may be wrong today and right tomorrow.
    is_of_the_door = headers.get_content_type() == _PROBLEM
    if is_of_the_door and status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
        return Unacceptable(str(answer.get("code") or status), detail)
    return NotNow(detail, _retry_after_seconds(headers.get("Retry-After")))


def _object_in(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _counted(answer: dict[str, Any], *, events: int) -> Counted | None:
    """Return the outcome if it accounts for every event, so that no stranger's answer drops any."""
    rejected = answer.get("rejected")
    accepted, duplicates, quarantined = (answer.get(name) for name in ("accepted", "duplicates", "quarantined"))
    if not (isinstance(accepted, int) and isinstance(duplicates, int) and isinstance(quarantined, int)):
        return None
    if not isinstance(rejected, list):
        return None
    indexes = [each.get("index") for each in rejected if isinstance(each, dict)]
    if len(indexes) != len(rejected) or not all(isinstance(index, int) and 0 <= index < events for index in indexes):
        return None
    if accepted + duplicates + quarantined + len(rejected) != events:
        return None
    return Counted(accepted, duplicates, quarantined, rejected)


def _retry_after_seconds(value: str | None) -> float:
    """Return how long RFC 9110's Retry-After says to wait: seconds, or a date."""
    if not value:
        return 0.0
    try:
        seconds = float(value) if value.strip().isdigit() else _seconds_until(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _seconds_until(value: str) -> float:
    return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
