"""CSV whose columns a mapping explains: other companies' exports, meter readings, anything with rows."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import BinaryIO

from metering.sources.csv_records import CsvRecords, Torn
from metering.sources.mapped import RowMapper, refused_row
from metering.sources.mapping import ColumnMapping
from metering.sources.rows import UsageFileUnreadable, UsageRow

_WITH_MARK = {"utf-8": "utf-8-sig"}
_OTHER_ENCODING = "holds bytes that are no UTF-8; if the file is in another encoding, let its mapping say which"


def read_table(stream: BinaryIO, mapping: ColumnMapping, *, skip: int = 0) -> Iterator[UsageRow]:
    """Yield a row for each record; what is ragged, torn or no UTF-8 is refused with its line.

    Accepts a byte-order mark, Windows line ends and cells of several lines. The first `skip` rows are left out.

    Raises: UsageFileUnreadable when the file is empty or not in the encoding that the mapping names, or when its header
    lacks a column of the mapping or has it twice.
    """
    encoding = _WITH_MARK.get(mapping.encoding, mapping.encoding)
    # A byte that is no UTF-8 becomes half of a surrogate pair, and costs its own row alone.
    faults = "surrogateescape" if mapping.encoding == "utf-8" else "strict"
    text = io.TextIOWrapper(stream, encoding=codecs.lookup(encoding).name, errors=faults, newline="")
    records = CsvRecords(text, delimiter=mapping.delimiter, width=len(mapping.columns))
    try:
        mapper = RowMapper(mapping, _header(records, mapping))
        while (cells := records.next()) is not None:
            if skip and cells:
                skip -= 1
            elif isinstance(cells, Torn):
                yield refused_row(records.position, cells.line, f"torn record: {cells.fault}")
            elif cells:
                yield _row(mapper, records.position, cells)
    except (UnicodeError, csv.Error) as error:
        msg = f"The file cannot be read as CSV in {mapping.encoding} near line {records.position + 1:,}: {error}."
        raise UsageFileUnreadable(msg) from error
    finally:
        text.detach()  # the caller opened the stream and closes it


def _row(mapper: RowMapper, position: int, cells: list[str]) -> UsageRow:
    if _is_text("".join(cells)):
        return mapper.row(position, cells)
    shown = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in cells]
    return refused_row(position, json.dumps(shown, ensure_ascii=False), _OTHER_ENCODING)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _header(records: CsvRecords, mapping: ColumnMapping) -> list[str]:
    if not mapping.header:
        return list(mapping.columns)
    header = records.header()
    if header is None:
        msg = "The file is empty."
        raise UsageFileUnreadable(msg)
    if not _is_text("".join(header)):
        msg = f"The header {_OTHER_ENCODING}."
        raise UsageFileUnreadable(msg)
    return [name.strip() for name in header]
