"""The layouts of usage files: which there are, how one is told from a file's first bytes, and who reads it."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import BinaryIO, NamedTuple, cast

from metering.sources.cloudevents import read_cloudevents
from metering.sources.focus import read_focus
from metering.sources.mapping import ColumnMapping
from metering.sources.parquet import read_parquet
from metering.sources.rows import UsageFileUnreadable, UsageRow
from metering.sources.tables import read_table

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOCUS_COLUMNS = (b"BillingAccountId", b"ChargeCategory", b"ChargePeriodStart")
HEAD_BYTES = 65_536


class FileFormat(StrEnum):
    """The layouts of usage files that can be loaded."""

    CLOUDEVENTS = "cloudevents"
    FOCUS = "focus"
    CSV = "csv"
    PARQUET = "parquet"

    @property
    def label(self) -> str:
        """The layout in words."""
        return {"cloudevents": "CloudEvents, JSON lines", "focus": "FOCUS, CSV", "csv": "CSV", "parquet": "Parquet"}[
            self.value
        ]

    @property
    def needs_mapping(self) -> bool:
        """Whether nothing but a mapping says what the columns mean."""
        return self in {FileFormat.CSV, FileFormat.PARQUET}


class OpenRows(NamedTuple):
    """The rows of an open file, and how many bytes of it (as it lies there) have been read for them."""

    rows: Iterator[UsageRow]
    bytes_done: Callable[[], int]


@contextmanager
def open_rows(
    stream: BinaryIO, file_format: FileFormat, mapping: ColumnMapping | None, *, skip: int = 0
) -> Iterator[OpenRows]:
    """Read a file from its first byte, packed with gzip or not; its rows are read as they are asked for.

    The first `skip` rows are left out, and not looked at closer than it takes to know where they end.

    Raises: UsageFileUnreadable, at once or from the rows.
    """
    stream.seek(0)
    is_packed = stream.read(2) == _GZIP
    stream.seek(0)
    if is_packed and file_format == FileFormat.PARQUET:
        msg = "Parquet packs its columns itself; send the file without gzip around it."
        raise UsageFileUnreadable(msg)
    content = cast("BinaryIO", gzip.GzipFile(fileobj=stream, mode="rb")) if is_packed else stream
    # Closed before the stream is, for readers let go of it at their end.
    with closing(_unpacked(_rows_of(content, file_format, mapping, skip))) as rows:
        yield OpenRows(rows, stream.tell)


def _rows_of(
    content: BinaryIO, file_format: FileFormat, mapping: ColumnMapping | None, skip: int
) -> Iterator[UsageRow]:
    if file_format == FileFormat.CLOUDEVENTS:
        return read_cloudevents(content, skip=skip)
    if file_format == FileFormat.FOCUS:
        return read_focus(content, skip=skip)
    if mapping is None:
        msg = f"A {file_format.label} file needs a mapping that says what its columns mean."
        raise UsageFileUnreadable(msg)
    read = read_table if file_format == FileFormat.CSV else read_parquet
    return read(content, mapping, skip=skip)


def _unpacked(rows: Iterator[UsageRow]) -> Generator[UsageRow]:
    try:
        yield from rows
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        msg = f"The file is cut off or damaged within its gzip packing: {error}."
        raise UsageFileUnreadable(msg) from error


def unpacked_head(head: bytes) -> bytes:
    """Return what a file begins with, unpacked as far as its first bytes allow."""
    if not head.startswith(_GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def detect_format(head: bytes) -> FileFormat:
    """Tell the layout from a file's first bytes: Parquet's mark, JSON's brace, FOCUS's columns; else it is CSV."""
    content = unpacked_head(head)
    if content.startswith(_PARQUET):
        return FileFormat.PARQUET
    text = content.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text.startswith((b"{", b"[")):
        return FileFormat.CLOUDEVENTS
    header = io.BytesIO(text).readline()
    return FileFormat.FOCUS if any(column in header for column in _FOCUS_COLUMNS) else FileFormat.CSV
