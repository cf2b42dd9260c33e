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
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL = "%Y-%m-%dT%H:%M:%S.%f"

Texts = Callable[[pa.Array], list[str]]


def read_parquet(stream: BinaryIO, mapping: ColumnMapping) -> Iterator[UsageRow]:
    """Yield a row for each row of the file; its position is its number, counted from 1.

    No more than a part of one row group is in memory. A moment without a time zone is one of the mapping's time zone.

    Raises: UsageFileUnreadable when it is no Parquet, or lacks a column of the mapping, or has it in a type that is no
    text, number or moment.
    """
    try:
        file = pq.ParquetFile(stream, buffer_size=_READ_AT_ONCE, pre_buffer=False)
        yield from _rows(file, mapping)
    except (pa.ArrowException, OSError) as error:
        msg = f"The file cannot be read as Parquet: {error}."
        raise UsageFileUnreadable(msg) from error


def _rows(file: pq.ParquetFile, mapping: ColumnMapping) -> Iterator[UsageRow]:
    schema: pa.Schema = file.schema_arrow
    require_columns(mapping, schema.names)
    names = mapping.used_columns
    mapper = RowMapper(_as_typed(mapping, schema.field(mapping.time.column).type), names)
    readers = [_reader(schema.field(name), mapping) for name in names]
    position = 0
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False):
        columns = [read(batch.column(name)) for name, read in zip(names, readers, strict=True)]
        for row in zip(*columns, strict=True):
            position += 1
            yield mapper.row(position, row)


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
            return lambda column: _texts(pc.cast(column, pa.string()))
    if pa.types.is_decimal(kind) or pa.types.is_date(kind):
        return lambda column: ["" if value is None else str(value) for value in column.to_pylist()]
    msg = f"The column {field.name!r} is of the type {field.type}, which is no text, number or moment."
    raise UsageFileUnreadable(msg)


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
