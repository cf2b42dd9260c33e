"""Guesses what the columns of a table mean, for a person to look at; nothing is loaded by a guess."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from metering.sources.layouts import HEAD_BYTES, FileFormat, unpacked_head
from metering.sources.mapping import DELIMITERS, RFC3339

_SAMPLES = 5
_MOST_COLUMNS = 200
_NUMBER = re.compile(r"[+-]?\d[\d., ']*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,3}(\.\d{3})*,\d+|[+-]?\d+,\d+", re.ASCII)
_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_PATTERNS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%Y-%m-%d",
    "%d.%m.%Y",
    "%Y%m%d",
)
_WITH_OFFSET = ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z")
# Of each part the names that it goes by, the likeliest first.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "eventid", "recordid", "record", "uuid", "guid", "lineitemid"),
    "time": ("time", "timestamp", "datetime", "at", "ts", "date", "usagestart", "starttime", "readat", "usagetime"),
    "subject": (
        "subject",
        "project",
        "projectid",
        "account",
        "accountid",
        "tenant",
        "device",
        "subaccountid",
        "customer",
    ),
    "source": ("source", "station", "origin"),
    "type": ("type", "eventtype", "kind"),
}


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """A column: its name, texts as they stand in the first rows, and what it may be.

    That it is a part of the id is never guessed: only a person knows which columns together never repeat.
    """

    name: str
    samples: tuple[str, ...]
    role: str
    key: str
    is_in_id: bool = False


@dataclass(frozen=True, slots=True)
class TableGuess:
    """What a table's first rows look like. Without a header the columns' names are numbers, for a person to better."""

    columns: tuple[ColumnGuess, ...]
    header: bool = True
    delimiter: str = ","
    decimal_comma: bool = False
    encoding: str = "utf-8"
    time_format: str = RFC3339
    has_floats: bool = False


def guess_table(stream: BinaryIO, file_format: FileFormat, *, header: bool | None = None) -> TableGuess:
    """Return what the first rows of a CSV or Parquet look like; of what cannot be read there are no columns.

    `header` says whether the first line of a CSV names its columns; None: it does unless it holds numbers or times.
    """
    stream.seek(0)
    if file_format == FileFormat.PARQUET:
        return _of_parquet(stream)
    head = unpacked_head(stream.read(HEAD_BYTES))
    encoding = _encoding(head)
    lines = head.decode(encoding, errors="replace").removeprefix("\ufeff").splitlines()
    first = lines[0] if lines else ""
    delimiter = max(DELIMITERS, key=first.count)
    # The last line is seldom whole.
    records = list(csv.reader(lines[: _SAMPLES + 1] if len(lines) > _SAMPLES + 1 else lines, delimiter=delimiter))
    first_cells = [cell.strip() for cell in records[0][:_MOST_COLUMNS]] if records else []
    has_header = not any(map(_is_no_name, first_cells)) if header is None else header
    names = first_cells if has_header else [f"column {place}" for place in range(1, len(first_cells) + 1)]
    rows = records[1:] if has_header else records
    samples = [tuple(row[place] for row in rows if len(row) > place) for place in range(len(names))]
    columns = _columns(names, samples)
    if all(column.role != "time" for column in columns):
        columns = _by_their_texts(columns)
    texts = [text for column in samples for text in column]
    return TableGuess(
        columns=columns,
        header=has_header,
        delimiter=delimiter,
        decimal_comma=any(_DECIMAL_COMMA.fullmatch(text.strip()) for text in texts) and delimiter != ",",
        encoding=encoding,
        time_format=_time_format(columns),
    )


def _is_no_name(cell: str) -> bool:
    """Whether a cell of the first line is rather a number or a time than the name of a column."""
    return _NUMBER.fullmatch(cell) is not None or any(_reads(pattern)(cell) for pattern in _PATTERNS + _WITH_OFFSET)


def _by_their_texts(columns: tuple[ColumnGuess, ...]) -> tuple[ColumnGuess, ...]:
    """Where no column is named for the time, take the first that holds times."""
    for place, column in enumerate(columns):
        texts = [text.strip() for text in column.samples]
        if column.role == "text" and texts and all(map(_is_no_name, texts)):
            return (*columns[:place], replace(column, role="time"), *columns[place + 1 :])
    return columns


def _of_parquet(stream: BinaryIO) -> TableGuess:
    try:
        file = pq.ParquetFile(stream, pre_buffer=False)
        schema: pa.Schema = file.schema_arrow
        batch = next(file.iter_batches(batch_size=_SAMPLES, use_threads=False), None)
        names = schema.names[:_MOST_COLUMNS]
        samples = [
            tuple("" if value is None else str(value) for value in batch.column(place).to_pylist()) if batch else ()
            for place in range(len(names))
        ]
    except (pa.ArrowException, OSError, ValueError):
        return TableGuess(())
    columns = _columns(names, samples)
    times = [schema.field(column.name).type for column in columns if column.role == "time"]
    is_moment = any(pa.types.is_timestamp(kind) for kind in times)
    return TableGuess(
        columns=columns,
        time_format=RFC3339 if is_moment else _time_format(columns),
        has_floats=any(pa.types.is_floating(kind) for kind in schema.types),
    )


def _columns(header: Sequence[str], samples: Sequence[tuple[str, ...]]) -> tuple[ColumnGuess, ...]:
    roles = dict.fromkeys(header, "")
    for role, names in _NAMES.items():
        found = [name for wanted in names for name in header if _plain(name) == wanted and not roles[name]]
        if found:
            roles[found[0]] = role
    return tuple(
        ColumnGuess(name, texts[:3], roles[name] or ("number" if _are(_NUMBER, texts) else "text"), _plain(name, "_"))
        for name, texts in zip(header, samples, strict=True)
    )


def _plain(name: str, blank: str = "") -> str:
    return re.sub(r"[^a-z0-9]+", blank, name.lower()).strip(blank or None)


def _are(pattern: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Whether most of the texts are written so; among numbers, some stand for none."""
    filled = [text.strip() for text in texts if text.strip()]
    return bool(filled) and 2 * sum(bool(pattern.fullmatch(text)) for text in filled) > len(filled)


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        # What is cut off within a letter is no fault of the file.
        head[: max(0, len(head) - 4)].decode()
    except UnicodeDecodeError as fault:
        return "utf-8" if fault.start > len(head) - 8 else "windows-1252"
    return "utf-8"


def _time_format(columns: Sequence[ColumnGuess]) -> str:
    texts = [text.strip() for column in columns if column.role == "time" for text in column.samples if text.strip()]
    if not texts or _are(_OFFSET, texts):
        return RFC3339
    tries: dict[str, Callable[[str], bool]] = {
        "unix_seconds": lambda text: bool(re.fullmatch(r"1\d{9}(\.\d+)?", text)),
        "unix_milliseconds": lambda text: bool(re.fullmatch(r"1\d{12}", text)),
        **{pattern: _reads(pattern) for pattern in _PATTERNS},
    }
    return next((name for name, fits in tries.items() if all(map(fits, texts))), RFC3339)


def _reads(pattern: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            datetime.strptime(text, pattern)  # noqa: DTZ007 -- only whether it can be read
        except ValueError:
            return False
        return True

    return fits
