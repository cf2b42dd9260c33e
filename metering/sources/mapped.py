"""Turns the rows of a table into events, as a mapping says; shared by every layout that has columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b

from accounts.periods import instants_of
from metering.events import exact_number
from metering.models import RefusedEvent
from metering.sources.mapping import RFC3339, UNIX_FORMATS, ColumnMapping, Taken, Timed
from metering.sources.rows import UsageFileUnreadable, UsageRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX = re.compile(r"-?\d{1,18}(?:\.\d{1,9})?", re.ASCII)
_MICROSECOND = timedelta(microseconds=1)
_LONGEST_NUMBER = 1_000
_COLUMNS_SHOWN = 30


class _Refused(ValueError):
    """A cell that cannot be read, with the reason in words."""


class RowMapper:
    """Makes events of rows whose cells are texts in the order of `header`.

    Raises: UsageFileUnreadable, if the header lacks a column of the mapping or has it twice.
    """

    def __init__(self, mapping: ColumnMapping, header: Sequence[str]) -> None:
        require_columns(mapping, header)
        places = {name: index for index, name in reversed(list(enumerate(header)))}
        self._width = len(header)
        self._empty = frozenset({"", *mapping.empty})
        self._id_at = places.get(mapping.id.column)
        self._hashed = [places[name] for name in mapping.id.hash_of]
        self._texts = [
            (name, taken.constant, places.get(taken.column, -1))
            for name, taken in (("source", mapping.source), ("type", mapping.type), ("subject", mapping.subject))
            if isinstance(taken, Taken)
        ]
        self._time_at = places[mapping.time.column]
        self._read_time = _reader_of_times(mapping.time)
        self._read_number = _reader_of_numbers(mapping)
        self._data = [(column.key, places[column.column], column.kind == "number") for column in mapping.data]

    def row(self, position: int, cells: Sequence[str]) -> UsageRow:
        """Return the row's event, or why there is none; `position` is its line or number, from 1."""
        payload = json.dumps(cells, ensure_ascii=False)
        if len(cells) != self._width:
            return refused_row(position, payload, f"{len(cells)} of {self._width} cells")
        try:
            event = self._event(cells)
        except _Refused as refusal:
            return refused_row(position, payload, str(refusal))
        return UsageRow(position=position, event=event, payload=payload)

    def _event(self, cells: Sequence[str]) -> dict[str, object]:
        event: dict[str, object] = {
            "specversion": "1.0",
            "id": cells[self._id_at] if self._id_at is not None else self._hash(cells),
            "time": self._read_time(cells[self._time_at].strip()),
        }
        for name, constant, place in self._texts:
            text = constant or cells[place]
            event[name] = "" if text in self._empty else text
        data: dict[str, object] = {}
        for name, place, is_number in self._data:
            cell = cells[place]
            if cell not in self._empty:
                data[name] = self._number(name, cell) if is_number else cell
        event["data"] = data
        return event

    def _hash(self, cells: Sequence[str]) -> str:
        """The texts as a JSON list, so that no two lists of texts are written alike."""
        texts = json.dumps([cells[place] for place in self._hashed], ensure_ascii=False)
        return blake2b(texts.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    def _number(self, name: str, cell: str) -> object:
        number = self._read_number(cell.strip())
        if number is None:
            msg = f"{name}: {cell[:60]!r} is not a number as the mapping says numbers are written"
            raise _Refused(msg)
        return number


def refused_row(position: int, payload: str, detail: str) -> UsageRow:
    """Return the row as one that is no event."""
    reason = RefusedEvent.Reason.MALFORMED
    return UsageRow(position=position, event=None, payload=payload, refusal=reason, detail=detail)


def require_columns(mapping: ColumnMapping, header: Sequence[str]) -> None:
    """Raise UsageFileUnreadable unless each column of the mapping is in the header, once."""
    missing = [name for name in mapping.used_columns if name not in header]
    if missing:
        named = ", ".join(header[:_COLUMNS_SHOWN]) + (" …" if len(header) > _COLUMNS_SHOWN else "")
        msg = f"The file lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}. It has: {named}."
        raise UsageFileUnreadable(msg)
    for name in mapping.used_columns:
        places = [str(place) for place, other in enumerate(header, start=1) if other == name]
        if len(places) > 1:
            msg = f"The header has {name!r} {len(places)} times, as columns {' and '.join(places)}: which is meant?"
            raise UsageFileUnreadable(msg)


def _reader_of_times(time: Timed) -> Callable[[str], str]:
    """Return the function that reads a time and writes it as ingestion wants it: RFC 3339 with an offset."""
    if time.format == RFC3339:
        # What is wrong with it is said by ingestion, in the same words as for every door.
        return lambda text: text
    if time.format in UNIX_FORMATS:
        per_second = UNIX_FORMATS[time.format]
        return lambda text: _of_unix(text, per_second)
    return lru_cache(maxsize=4_096)(lambda text: _of_pattern(text, time))


def _of_unix(text: str, per_second: int) -> str:
    if _UNIX.fullmatch(text) is None:
        msg = f"time: {text[:60]!r} is not a number of seconds, or parts of seconds, since 1970"
        raise _Refused(msg)
    try:
        # Digits beyond the microsecond are cut off, as of every time.
        moment = _EPOCH + int(Decimal(text) * 1_000_000 // per_second) * _MICROSECOND
    except OverflowError as error:
        msg = f"time: {text[:60]!r} lies beyond the calendar"
        raise _Refused(msg) from error
    return moment.isoformat()


def _of_pattern(text: str, time: Timed) -> str:
    try:
        moment = datetime.strptime(text, time.format)  # noqa: DTZ007 -- the time zone comes below
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).isoformat()
    except (ValueError, OverflowError) as error:
        msg = f"time: {text[:60]!r} is not written as {time.format}"
        raise _Refused(msg) from error
    instants = instants_of(moment, time.time_zone)
    if not instants:
        msg = f"time: {text!r} never was in {time.time_zone}, whose clocks were set forward over it"
        raise _Refused(msg)
    if len(instants) > 1 and time.twice == "refuse":
        msg = f"time: {text!r} was twice in {time.time_zone}, whose clocks were set back; the mapping may say which"
        raise _Refused(msg)
    return instants[-1 if time.twice == "second" else 0].isoformat()


def _reader_of_numbers(mapping: ColumnMapping) -> Callable[[str], object]:
    """Return the function that reads a number to its last digit, and anything else as None."""
    point = "," if mapping.decimal_comma else "."
    grouped = rf"|\d{{1,3}}(?:{re.escape(mapping.thousands)}\d{{3}})+" if mapping.thousands else ""
    written = re.compile(
        rf"(?P<sign>[+-]?)(?P<whole>\d+{grouped})?(?:{re.escape(point)}(?P<part>\d*))?(?P<power>[eE][+-]?\d+)?",
        re.ASCII,
    )

    def read(text: str) -> object:
        match = written.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
        if match is None or not (match["whole"] or match["part"]):
            return None
        whole = (match["whole"] or "0").replace(mapping.thousands, "")
        sign = match["sign"].replace("+", "")
        if not match["part"] and not match["power"]:
            return int(f"{sign}{whole}")
        number = exact_number(f"{sign}{whole}.{match['part'] or '0'}{match['power'] or ''}")
        return number if isinstance(number, Decimal) else None

    return read
