"""Parquet whose columns a mapping explains, read row group by row group with every digit kept.

Whole numbers, decimals and moments are taken exactly. A column of binary floats (float, double) is refused unless the
mapping says `"floats": "shortest"`: then each is the shortest decimal number that stands for that float and for no
other, as it was most likely meant when it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metering.sources.mapped import RowMapper, require_columns
from metering.sources.mapping import RFC3339, ColumnMapping, Timed
from metering.sources.rows import UsageFileUnreadable, UsageRow

_ROWS_AT_ONCE = 2_000
_READ_AT_ONCE = 1_048_576
_BYTES_AT_ONCE = 16_777_216
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL = "%Y-%m-%dT%H:%M:%S.%f"

Texts = Callable[[pa.Array], list[str]]


def read_parquet(stream: BinaryIO, mapping: ColumnMapping, *, skip: int = 0) -> Iterator[UsageRow]:
    """Yield a row for each row of the file; its position is its number, counted from 1.

    No more than a part of one row group is in memory. A moment without a time zone is one of the mapping's time zone.
    The first `skip` rows are left out.

    Raises: UsageFileUnreadable when it is no Parquet, or lacks a column of the mapping, or has it in a type that is no
    text, number or moment.
    """
    try:
        file = pq.ParquetFile(
            stream, buffer_size=_READ_AT_ONCE, pre_buffer=False, read_dictionary=_texts_in(stream, mapping)
        )
        yield from _rows(file, mapping, skip)
    except (pa.ArrowException, OSError) as error:
        msg = f"The file cannot be read as Parquet: {error}."
        raise UsageFileUnreadable(msg) from error


def _texts_in(stream: BinaryIO, mapping: ColumnMapping) -> list[str]:
    """Return the columns of texts, each different one of which is kept once: a million rows may repeat a megabyte."""
    schema: pa.Schema = pq.ParquetFile(stream, pre_buffer=False).schema_arrow
    used = [field for field in schema if field.name in mapping.used_columns]
    return [field.name for field in used if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _rows(file: pq.ParquetFile, mapping: ColumnMapping, skip: int) -> Iterator[UsageRow]:
    schema: pa.Schema = file.schema_arrow
    require_columns(mapping, schema.names)
    names = mapping.used_columns
    mapper = RowMapper(_as_typed(mapping, schema.field(mapping.time.column).type), names)
    readers = [_reader(schema.field(name), mapping) for name in names]
    position, groups = _rows_before(file, skip)
    batches = file.iter_batches(batch_size=_rows_at_once(file), row_groups=groups, columns=names, use_threads=False)
    for whole in batches:
        batch = whole.slice(max(0, min(skip - position, whole.num_rows)))
        position += whole.num_rows - batch.num_rows
        columns = [read(batch.column(name)) for name, read in zip(names, readers, strict=True)]
        for row in zip(*columns, strict=True):
            position += 1
            yield mapper.row(position, row)


def _rows_before(file: pq.ParquetFile, skip: int) -> tuple[int, list[int]]:
    """Return how many rows lie in the row groups that hold nothing but rows to be left out, and the other groups."""
    before = first = 0
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    while first < len(sizes) and before + sizes[first] <= skip:
        before += sizes[first]
        first += 1
    return before, list(range(first, len(sizes)))


def _rows_at_once(file: pq.ParquetFile) -> int:
    """Return how many rows are read at once: fewer where they are wide."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(widest, 1)))


def _as_typed(mapping: ColumnMapping, kind: pa.DataType) -> ColumnMapping:
    """Return the mapping for cells whose texts this module writes itself: numbers with a point, times in ISO 8601."""
    typed = msgspec.structs.replace(mapping, decimal_comma=False, thousands="")
    if not pa.types.is_timestamp(kind):
        return typed
    name = mapping.time.column
    if kind.tz:
        return msgspec.structs.replace(typed, time=Timed(column=name, format=RFC3339))
    if not mapping.time.time_zone:
        msg = f"The times of {name!r} have no time zone in the file, so the mapping has to name theirs."
        raise UsageFileUnreadable(msg)
    return msgspec.structs.replace(typed, time=msgspec.structs.replace(mapping.time, format=_LOCAL))


def _reader(field: pa.Field, mapping: ColumnMapping) -> Texts:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_timestamp(kind):
        return lambda column: [_moment(value, kind) for value in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_floating(kind):
        if mapping.floats == "refuse":
            msg = (
                f"The column {field.name!r} holds binary floats, which have no exact decimal value. Send decimals, or"
                ' let the mapping say "floats": "shortest".'
            )
            raise UsageFileUnreadable(msg)
        return lambda column: _texts(pc.cast(column, pa.string()))
    for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean):
        if is_kind(kind):
            return _texts_of
    if pa.types.is_decimal(kind) or pa.types.is_date(kind):
        return lambda column: ["" if value is None else str(value) for value in column.to_pylist()]
    msg = f"The column {field.name!r} is of the type {field.type}, which is no text, number or moment."
    raise UsageFileUnreadable(msg)


def _texts_of(column: pa.Array) -> list[str]:
    if not pa.types.is_dictionary(column.type):
        return _texts(pc.cast(column, pa.string()))
    # One text for all rows that have it.
    texts = _texts(pc.cast(column.dictionary, pa.string()))
    return ["" if place is None else texts[place] for place in column.indices.to_pylist()]


def _texts(column: pa.Array) -> list[str]:
    return ["" if text is None else text for text in column.to_pylist()]


def _moment(value: int | None, kind: pa.TimestampType) -> str:
    """Write a moment in ISO 8601, with `Z` where the file knows the offset; digits beyond the sixth are cut off."""
    if value is None:
        return ""
    microseconds = value * 1_000_000 // _PER_SECOND[kind.unit]
    try:
        moment = (_EPOCH + timedelta(microseconds=microseconds)).strftime("%H:%M:%S.%f")
        day = (_EPOCH + timedelta(microseconds=microseconds)).date().isoformat()
    except OverflowError:
        return f"{value} {kind.unit} since 1970"
    return f"{day}T{moment}{'Z' if kind.tz else ''}"
