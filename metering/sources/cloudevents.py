"""CloudEvents as JSON lines: one event a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from metering.events import Unreadable, decode_line
from metering.models import RefusedEvent
from metering.sources.rows import UsageRow

# An event's data is at most 64 KiB, however its numbers and texts are written.
LONGEST_LINE = 1_048_576
_SHOWN = 2_000
_TOO_LONG = f"longer than {LONGEST_LINE:,} bytes"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_cloudevents(stream: BinaryIO, *, skip: int = 0) -> Iterator[UsageRow]:
    """Yield a row for each line that is not blank; a line that is no JSON object is refused, the rest goes on.

    Each line is read as the API reads it, so that an event that comes through both doors is one event and no conflict.
    A byte-order mark, Windows line ends and a last line without an end are accepted. Numbers keep every digit as
    written: nothing passes through a float. The first `skip` rows are left out and not looked at.
    """
    for position, raw in enumerate(_lines(stream), start=1):
        line = raw.removeprefix(_BYTE_ORDER_MARK).strip() if position == 1 else raw.strip()
        if skip and (line or len(raw) > LONGEST_LINE):
            skip -= 1
        elif len(raw) > LONGEST_LINE:
            yield _refused(position, line[:_SHOWN].decode("utf-8", errors="replace"), _TOO_LONG)
        elif line:
            yield _row(position, line)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield line by line; of one that is too long no more than one byte above the limit, whatever its length."""
    while line := stream.readline(LONGEST_LINE + 1):
        yield line
        while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            line = stream.readline(LONGEST_LINE + 1)


def _row(position: int, line: bytes) -> UsageRow:
    payload = line.decode("utf-8", errors="replace")
    event = decode_line(line)
    if isinstance(event, Unreadable):
        return _refused(position, payload, event.detail)
    if not isinstance(event, dict):
        return _refused(position, payload, "not a JSON object")
    return UsageRow(position=position, event=event, payload=payload)


def _refused(position: int, payload: str, detail: str) -> UsageRow:
    reason = RefusedEvent.Reason.MALFORMED
    return UsageRow(position=position, event=None, payload=payload, refusal=reason, detail=detail)
