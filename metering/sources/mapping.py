"""Mappings: which column of a table becomes which part of an event.

A mapping is JSON, the same in a record that staff edit and in a file on the command line:

    {"id": {"column": "record"},                   or {"hash_of": ["device", "read_at"]}
     "source": {"constant": "meters/berlin"},      or {"column": "station"}
     "type": {"constant": "power.read"},
     "subject": {"column": "device"},
     "time": {"column": "read_at", "format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin", "twice": "refuse"},
     "data": [{"column": "kWh", "name": "kwh", "kind": "number"}, {"column": "room"}],
     "delimiter": ";", "decimal_comma": true, "thousands": ".", "encoding": "utf-8",
     "header": true, "columns": [], "empty": ["NULL"], "floats": "refuse"}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from accounts.errors import CountinghouseError
from accounts.periods import TimeZoneUnknown, time_zone_named

RFC3339 = "rfc3339"
UNIX_FORMATS = {"unix_seconds": 1, "unix_milliseconds": 1_000, "unix_microseconds": 1_000_000}
DELIMITERS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "utf-16", "iso-8859-1", "windows-1252")
_LONGEST_SPEC = 100_000
_TRIED = datetime(2001, 2, 3, 14, 5, 6)  # noqa: DTZ001 -- what a clock on a wall shows


class MappingInvalid(CountinghouseError):
    """The mapping contradicts itself or leaves something open; the message says what."""

    code = "mapping_invalid"


class Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a text comes from: one column, or the same for every row."""

    column: str = ""
    constant: str = ""


class Identified(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where an event's id comes from: one column, or the hash of several whose texts together never repeat."""

    column: str = ""
    hash_of: tuple[str, ...] = ()


class Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a time is written.

    `format` is `rfc3339`, `unix_seconds` (or milliseconds, microseconds), or directives as `%d.%m.%Y %H:%M`, which
    need a `time_zone` unless `%z` is among them. `twice` says which is meant where clocks are set back and the same
    time comes twice.
    """

    column: str
    format: str = RFC3339
    time_zone: str = ""
    twice: Literal["refuse", "first", "second"] = "refuse"


class DataColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A column that goes into the event's data, under its own name unless another is given."""

    column: str
    name: str = ""
    kind: Literal["text", "number"] = "text"

    @property
    def key(self) -> str:
        """The name in the event's data."""
        return self.name or self.column


class ColumnMapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How a row of a table becomes an event.

    `columns` names them where the file has no header; `empty` are texts that mean nothing, as an empty cell does.
    """

    id: Identified
    source: Taken
    type: Taken
    time: Timed
    subject: Taken | None = None
    data: tuple[DataColumn, ...] = ()
    delimiter: str = ","
    decimal_comma: bool = False
    thousands: Literal["", ",", ".", " ", "'", "\u202f", "\u00a0"] = ""
    encoding: str = "utf-8"
    header: bool = True
    columns: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    floats: Literal["refuse", "shortest"] = "refuse"

    @property
    def used_columns(self) -> list[str]:
        """Every column that the mapping reads, each once."""
        taken = [self.id.column, *self.id.hash_of, self.source.column, self.type.column, self.time.column]
        taken += [self.subject.column if self.subject else "", *(column.column for column in self.data)]
        return [name for name in dict.fromkeys(taken) if name]

    def as_json(self) -> dict[str, Any]:
        """The mapping as plain JSON, without what is as it is anyway."""
        built: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return built


def read_mapping(spec: object) -> ColumnMapping:
    """Return the mapping that JSON (text, bytes or decoded) describes.

    Raises: MappingInvalid, which names everything that is wrong with it.
    """
    try:
        if isinstance(spec, str | bytes):
            if len(spec) > _LONGEST_SPEC:
                msg = f"A mapping is at most {_LONGEST_SPEC:,} characters long."
                raise MappingInvalid(msg)
            mapping = msgspec.json.decode(spec, type=ColumnMapping)
        else:
            mapping = msgspec.convert(spec, ColumnMapping)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"The mapping cannot be read: {str(error).replace('`$.', '`').replace(' - at `$`', '')}."
        raise MappingInvalid(msg) from error
    faults = [*_faults_of_parts(mapping), *_faults_of_time(mapping.time), *_faults_of_layout(mapping)]
    if faults:
        raise MappingInvalid(" ".join(faults))
    return mapping


def _faults_of_parts(mapping: ColumnMapping) -> list[str]:
    faults = []
    if bool(mapping.id.column) == bool(mapping.id.hash_of):
        faults.append("The id comes from one column, or else from columns that together never repeat (their hash).")
    for name, taken in (("source", mapping.source), ("type", mapping.type), ("subject", mapping.subject)):
        if taken is not None and bool(taken.column) == bool(taken.constant):
            faults.append(f"The {name} comes from a column, or is the same for every row.")
    if not mapping.time.column:
        faults.append("The time needs a column.")
    if not all(column.column for column in mapping.data):
        faults.append("Each part of the data needs a column.")
    twice = _named_twice([column.key for column in mapping.data])
    if twice:
        faults.append(f"The data has {twice!r} twice.")
    return faults


def _faults_of_time(time: Timed) -> list[str]:
    faults = []
    if time.time_zone:
        try:
            time_zone_named(time.time_zone)
        except TimeZoneUnknown as error:
            faults.append(str(error))
    if time.format != RFC3339 and time.format not in UNIX_FORMATS:
        if not _names_a_day(time.format):
            faults.append(
                f"The time's format {time.format!r} is none of rfc3339, {', '.join(UNIX_FORMATS)}, and no directives"
                " that name a day, such as %Y-%m-%d %H:%M:%S."
            )
        elif not time.time_zone and "%z" not in time.format:
            faults.append("A time without an offset needs a time zone, such as Europe/Berlin or UTC.")
    return faults


def _names_a_day(pattern: str) -> bool:
    try:
        read = datetime.strptime(_TRIED.strftime(pattern), pattern)  # noqa: DTZ007 -- what a clock on a wall shows
    except (ValueError, re.error):
        # Directives that are none, or of which reading knows less than writing does.
        return "%z" in pattern and _names_a_day(pattern.replace("%z", ""))
    return read.date() == _TRIED.date()


def _faults_of_layout(mapping: ColumnMapping) -> list[str]:
    faults = []
    if mapping.delimiter not in DELIMITERS:
        faults.append("Cells are parted by a comma, a semicolon, a tab or a bar.")
    if mapping.encoding not in ENCODINGS:
        faults.append(f"The encoding is one of {', '.join(ENCODINGS)}.")
    if mapping.thousands and mapping.thousands == ("," if mapping.decimal_comma else "."):
        faults.append("One sign cannot part the thousands and the decimals.")
    if mapping.header and mapping.columns:
        faults.append("A file with a header names its columns itself.")
    if not mapping.header and not mapping.columns:
        faults.append("A file without a header needs the names of its columns, in their order.")
    twice = _named_twice(mapping.columns)
    if twice:
        faults.append(f"The columns have {twice!r} twice.")
    if mapping.columns:
        missing = [name for name in mapping.used_columns if name not in mapping.columns]
        faults += [f"There is no column {name!r} among the columns." for name in missing]
    return faults


def _named_twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
