"""The files of an archived month: events as Parquet, and a manifest that says what is in them.

Columns of a file, in the order of the primary key: `customer_id`, `time` (microseconds, UTC), `key` (16 bytes),
`batch_id`, `source`, `event_id`, `type`, `subject`, `data` (JSON as Postgres writes jsonb: names sorted and unique,
numbers with every digit), `series_ids`. An erased event has an empty `event_id` and `{}` for data.

Files appear under their name only when they are whole: written under another one, flushed to disk, renamed. Memory is
bounded by a row group, whatever the month holds, and by one entry for each series and batch.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from metering.counting import EXACT
from metering.errors import ArchiveFileDamaged

FORMAT_VERSION = 1
_ROWS_IN_GROUP = 20_000
_BYTES_IN_GROUP = 16 * 1024 * 1024
_ROWS_AT_ONCE = 1_000
_READ_BYTES = 1024 * 1024
_HALF = 8

_SCHEMA = pa.schema(
    [
        pa.field("customer_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("batch_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("data", pa.string(), nullable=False),
        pa.field("series_ids", pa.list_(pa.int64()), nullable=False),
    ]
)
COLUMNS = tuple(_SCHEMA.names)
_encode = msgspec.json.Encoder(order="sorted").encode


class EventRow(NamedTuple):
    """One event as it lies in the database and in the file; `time` in microseconds since 1970."""

    customer_id: int
    time: int
    key: bytes
    batch_id: int
    source: str
    event_id: str
    type: str
    subject: str
    data: str
    series_ids: list[int]

    @property
    def is_erased(self) -> bool:
        """Whether the law took what the event said."""
        return not self.event_id


class SeriesInFile(msgspec.Struct):
    """What a series' events in a file add up to as they were accepted; `sum` is a plain decimal, without the erased."""

    events: int = 0
    erased: int = 0
    sum: str = "0"


class BatchInFile(msgspec.Struct):
    """How many of a batch's events a file holds, and the earliest (microseconds since 1970)."""

    events: int
    earliest: int


# Returns the value that an event adds to a series, or None where it adds none that can be summed.
ValueOf = Callable[[EventRow, int], Decimal | None]


class Contents(msgspec.Struct):
    """What a run of events holds, worked out in one pass; two that are equal hold the same events.

    `first` and `last` are moments (microseconds since 1970); `customers` says how many events of each are not erased.
    """

    rows: int = 0
    erased: int = 0
    rows_sha256: str = ""
    key_high: int = 0
    key_low: int = 0
    first: int | None = None
    last: int | None = None
    series: dict[str, SeriesInFile] = {}
    batches: dict[str, BatchInFile] = {}
    customers: dict[str, int] = {}


class Manifest(msgspec.Struct):
    """What is said of a file, beside it: `replaces` is the SHA-256 of the manifest before an erasure.

    A month has as many files as it takes, numbered from 1; `is_last` says that there is none after this one.
    """

    format: int
    month: str
    revision: int
    file: str
    file_sha256: str
    file_bytes: int
    columns: list[str]
    contents: Contents
    part: int = 1
    is_last: bool = True
    replaces: str = ""
    erasure: int | None = None


class Counting:
    """Works out the contents of events that pass through it."""

    def __init__(self, value_of: ValueOf) -> None:
        self._value_of = value_of
        self._digest = hashlib.sha256()
        self._sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        self._found = Contents(series={}, batches={}, customers={})

    def through(self, rows: Iterable[EventRow]) -> Iterator[EventRow]:
        """Yield the rows as they are, having counted each."""
        for row in rows:
            self._count(row)
            yield row

    def contents(self) -> Contents:
        """Return what passed through so far."""
        self._found.rows_sha256 = self._digest.hexdigest()
        for series_id, total in self._sums.items():
            self._found.series[series_id].sum = format(total, "f")
        return self._found

    def _count(self, row: EventRow) -> None:
        found = self._found
        self._digest.update(_encode((*row[:2], row.key.hex(), *row[3:])))
        found.rows += 1
        found.key_high += int.from_bytes(row.key[:_HALF], signed=True)
        found.key_low += int.from_bytes(row.key[_HALF:], signed=True)
        found.first = row.time if found.first is None else min(found.first, row.time)
        found.last = row.time if found.last is None else max(found.last, row.time)
        batch = found.batches.setdefault(str(row.batch_id), BatchInFile(0, row.time))
        batch.events += 1
        batch.earliest = min(batch.earliest, row.time)
        is_erased = row.is_erased
        if is_erased:
            found.erased += 1
        else:
            customer = str(row.customer_id)
            found.customers[customer] = found.customers.get(customer, 0) + 1
        for series_id in row.series_ids:
            name = str(series_id)
            series = found.series.setdefault(name, SeriesInFile())
            series.events += 1
            series.erased += is_erased
            if not is_erased:
                self._sums[name] = EXACT.add(self._sums[name], self._value_of(row, series_id) or Decimal(0))


def file_name(month: date, revision: int, part: int = 1) -> str:
    """Return the name of a month's file of events."""
    return f"{_stem(month, revision, part)}.parquet"


def manifest_name(month: date, revision: int, part: int = 1) -> str:
    """Return the name of the manifest beside it."""
    return f"{_stem(month, revision, part)}.json"


def _stem(month: date, revision: int, part: int) -> str:
    return f"usage-{month:%Y-%m}.r{revision}{f'.p{part:04}' if part > 1 else ''}"


def write(
    rows: Iterable[EventRow],
    *,
    folder: Path,
    month: date,
    revision: int,
    value_of: ValueOf,
    part: int = 1,
    is_last: Callable[[], bool] = lambda: True,
    replaces: str = "",
    erasure: int | None = None,
) -> tuple[Manifest, str]:
    """Write a month's file and its manifest; returns the manifest and its SHA-256.

    `is_last` is asked once the events are written.

    Killed at any point it leaves what was there, and perhaps a `.part`, which the next run overwrites.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(month, revision, part)
    counting = Counting(value_of)
    draft = _draft(path)
    with draft.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
        for group in _groups(counting.through(rows)):
            writer.write_batch(group)
    _publish(draft, path)
    manifest = Manifest(
        format=FORMAT_VERSION,
        month=f"{month:%Y-%m}",
        revision=revision,
        file=path.name,
        file_sha256=sha256_of(path),
        file_bytes=path.stat().st_size,
        columns=list(COLUMNS),
        contents=counting.contents(),
        part=part,
        is_last=is_last(),
        replaces=replaces,
        erasure=erasure,
    )
    manifest_path = folder / manifest_name(month, revision, part)
    text = msgspec.json.format(_encode(manifest), indent=1) + b"\n"
    _draft(manifest_path).write_bytes(text)
    _publish(_draft(manifest_path), manifest_path)
    return manifest, hashlib.sha256(text).hexdigest()


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _publish(draft: Path, path: Path) -> None:
    """Give a written file its name once it is on the disk, and see to it that the name is too."""
    _flush(draft)
    draft.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _groups(rows: Iterable[EventRow]) -> Iterator[pa.RecordBatch]:
    group: list[EventRow] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.data) + len(row.source) + len(row.event_id) + len(row.subject)
        if len(group) >= _ROWS_IN_GROUP or size >= _BYTES_IN_GROUP:
            yield _record_batch(group)
            group, size = [], 0
    if group:
        yield _record_batch(group)


def _record_batch(group: list[EventRow]) -> pa.RecordBatch:
    columns = zip(*group, strict=True)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def read(path: Path) -> Iterator[EventRow]:
    """Yield the events of a file, some at a time. Raises: ArchiveFileDamaged."""
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != list(COLUMNS):
                msg = f"{path.name} does not have the columns of an archived month."
                raise ArchiveFileDamaged(msg)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                columns = [_values(batch.column(name), name) for name in COLUMNS]
                for row in zip(*columns, strict=True):
                    yield EventRow(*row)
    except (OSError, pa.ArrowException) as error:
        msg = f"{path.name} cannot be read: {str(error).splitlines()[0]}"
        raise ArchiveFileDamaged(msg) from error


def _values(column: pa.Array, name: str) -> list[Any]:
    # A moment as a number: as a datetime it would have to be one that Python knows.
    values: list[Any] = (column.cast(pa.int64()) if name == "time" else column).to_pylist()
    return values


def read_manifest(path: Path, *, sha256: str) -> Manifest:
    """Return a manifest that is exactly the one that was written. Raises: ArchiveFileDamaged."""
    try:
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != sha256:
            msg = f"{path.name} is not the manifest that was written: its SHA-256 differs."
            raise ArchiveFileDamaged(msg)
        return msgspec.json.decode(text, type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        msg = f"{path.name} cannot be read: {error}"
        raise ArchiveFileDamaged(msg) from error


def require_whole(path: Path, manifest: Manifest) -> None:
    """Raise ArchiveFileDamaged unless a file is, byte for byte, the one that its manifest names."""
    try:
        found = sha256_of(path)
    except OSError as error:
        msg = f"{path.name} cannot be read: {error}"
        raise ArchiveFileDamaged(msg) from error
    if found != manifest.file_sha256:
        msg = f"{path.name} is not the file that was written: its SHA-256 differs from the manifest's."
        raise ArchiveFileDamaged(msg)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remove_superseded(folder: Path, *, month: date, kept: Collection[str]) -> None:
    """Delete the month's files but those to be kept: earlier revisions, and what a killed run left behind."""
    if not folder.is_dir():
        return
    for path in [*folder.glob(f"usage-{month:%Y-%m}.r*"), *folder.glob(f".usage-{month:%Y-%m}.r*.part")]:
        if path.name not in kept:
            with suppress(FileNotFoundError):
                path.unlink()
    _flush(folder)
