"""Reads and writes tables as CSV the way spreadsheet programs do, with every mistake named by line and column."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from typing import Final, NamedTuple

from pricing.errors import FileProblem

_MOST_CHARACTERS: Final = 20_000_000
_DELIMITERS: Final = (",", ";", "\t")
# What a spreadsheet would run as a formula, behind any number of the apostrophes that mark a cell as text.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_MARKED_FORMULA: Final = re.compile(r"'+[=+\-@\t\r]")


class Columns(NamedTuple):
    """Which columns a table must have and which it may have, in the order in which they are written."""

    every: tuple[str, ...]
    required: frozenset[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line on which it begins (the header is line 1) and its cells by column, trimmed."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        """The cell; empty where the file has no such column."""
        return self.cells.get(column, "")


class Table(NamedTuple):
    """What could be read of a file, and everything that could not."""

    rows: list[Row]
    problems: list[FileProblem]


def read_table(content: str | bytes, columns: Columns) -> Table:
    """Read UTF-8 with or without a byte-order mark, lines that end in LF or CRLF, cells between `,`, `;` or tabs.

    Blank rows are skipped. A row with more or fewer cells than the header is a problem and not a row.
    """
    try:
        text = _decode(content)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return Table([], [FileProblem(line, "", "this is not UTF-8 text; save the file as “CSV UTF-8”")])
    if len(text) > _MOST_CHARACTERS:
        return Table([], [FileProblem(1, "", f"the file is larger than {_MOST_CHARACTERS:,} characters")])
    lines = _lines(text)
    header: list[str] = []
    rows: list[Row] = []
    problems: list[FileProblem] = []
    try:
        _, first = next(lines, (1, []))
        header = [name.strip().lower() for name in first]
        problems = _header_problems(header, columns)
        if problems:
            return Table([], problems)
        for line, cells in lines:
            _read_row(line, cells, header, rows, problems)
    except csv.Error as error:
        reached = rows[-1].line + 1 if rows else 1
        problems.append(FileProblem(reached, "", f"the file can not be read from here on: {error}"))
    return Table(rows, problems)


def _decode(content: str | bytes) -> str:
    text = content if isinstance(content, str) else content.decode("utf-8")
    return text.removeprefix("\ufeff")


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of its first line."""
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield begins, cells
        begins = reader.line_num + 1


def _header_problems(header: Sequence[str], columns: Columns) -> list[FileProblem]:
    missing = [
        FileProblem(1, name, "this column is missing") for name in columns.every if _lacks(name, header, columns)
    ]
    unknown = [
        FileProblem(1, name or f"column {number}", "this column is not known")
        for number, name in enumerate(header, 1)
        if name not in columns.every
    ]
    twice = [
        FileProblem(1, name, "this column is there twice")
        for name, times in Counter(header).items()
        if times > 1 and name in columns.every
    ]
    return [*missing, *unknown, *twice]


def _lacks(name: str, header: Sequence[str], columns: Columns) -> bool:
    return name in columns.required and name not in header


def _read_row(
    line: int, cells: Sequence[str], header: Sequence[str], rows: list[Row], problems: list[FileProblem]
) -> None:
    if len(cells) != len(header):
        problems.append(FileProblem(line, "", f"this row has {len(cells)} cells and the header {len(header)}"))
        return
    if any("\0" in cell for cell in cells):
        problems.append(FileProblem(line, "", "this row holds a character that is not text"))
        return
    rows.append(Row(line, dict(zip(header, map(_read_cell, cells), strict=True))))


def _read_cell(cell: str) -> str:
    text = cell.strip()
    return text[1:] if _MARKED_FORMULA.match(text) else text


def write_table(columns: Columns, rows: Iterable[Mapping[str, str]]) -> str:
    """Write a table that `read_table` reads back cell by cell, with CRLF as RFC 4180 has it.

    A cell that a spreadsheet would run as a formula is marked as text by an apostrophe.
    """
    out = StringIO(newline="")
    writer = csv.writer(out)
    header = dict(zip(columns.every, columns.every, strict=True))
    for row in chain([header], rows):
        writer.writerow([_written_cell(row.get(name, "")) for name in columns.every])
    return out.getvalue()


def _written_cell(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text
