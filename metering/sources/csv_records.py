"""Reads CSV record by record, so that a torn one costs its own line and no other."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from metering.sources.rows import UsageFileUnreadable

# An event's data is at most 64 KiB; what is longer than this is no table, and would only fill the memory.
LONGEST_LINE = 1_048_576


class Torn(NamedTuple):
    """A line at which a record begins that cannot be read, and what is wrong with it."""

    line: str
    fault: str


class CsvRecords:
    """Reads a file record by record; `position` is the line on which the last one ended, counted from 1.

    A quote that is never closed swallows all lines up to the next quote. So a record that cannot be read costs its
    first line alone, and reading goes on with the line after it. `width` is how many cells a record should have; the
    first record says so where it is not given.
    """

    def __init__(self, text: TextIO, *, delimiter: str = ",", width: int = 0) -> None:
        self.position = 0
        self._width = width
        self._text = text
        self._delimiter = delimiter
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._reader = self._new_reader()

    def header(self) -> list[str] | None:
        """Return the first record, None where the file is empty. Raises: csv.Error, UsageFileUnreadable."""
        cells = next(self._reader, None)
        self.position = len(self._taken)
        self._width = len(cells or ())
        return cells

    def next(self) -> list[str] | Torn | None:
        """Return the next record, the line that is none, or None at the end. Raises: UsageFileUnreadable."""
        self._taken.clear()
        try:
            cells = next(self._reader, None)
        except csv.Error as fault:
            return self._tear(str(fault))
        if cells and len(self._taken) > 1 and (len(cells) != self._width or self._has_swallowed_a_record()):
            return self._tear(f"a quote is not closed; {len(cells)} cells in {len(self._taken)} lines")
        self.position += len(self._taken)
        return cells

    def _has_swallowed_a_record(self) -> bool:
        """Whether a line within the record is one itself: then two stray quotes, not a cell of several lines."""
        return any(
            line.count('"') % 2 == 0 and len(next(csv.reader([line], delimiter=self._delimiter))) == self._width
            for line in self._taken[1:]
            if line.strip()
        )

    def _tear(self, fault: str) -> Torn:
        line, *rest = self._taken
        self._again.extendleft(reversed(rest))
        self._reader = self._new_reader()
        self.position += 1
        return Torn(line, fault)

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        while line := self._again.popleft() if self._again else self._text.readline(LONGEST_LINE + 1):
            if len(line) > LONGEST_LINE:
                where = self.position + len(self._taken) + 1
                msg = f"Line {where:,} is longer than {LONGEST_LINE:,} characters; this is no table of usage."
                raise UsageFileUnreadable(msg)
            self._taken.append(line)
            yield line
