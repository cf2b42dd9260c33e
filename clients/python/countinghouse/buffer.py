"""A queue of records on disk that survives a crash of the program and, once synced, of the machine.

Records are appended to segment files and read in order. Where reading has come to is kept beside them; a crash between
delivery and that note delivers some records again, which is why each event carries its identity.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from countinghouse.errors import BufferFull, BufferInUse, BufferUnwritable, EventInvalid
from countinghouse.segments import MARK, MAX_RECORD_BYTES, SUFFIX, Segment, packed, packed_size, scan, unpacked

_POSITION = "position.json"
SEGMENT_BYTES = 4 * 1024 * 1024
# An emptied segment that is larger goes at once; a smaller one is written on.
_KEEP_EMPTIED_BYTES = 64 * 1024
_log = logging.getLogger("countinghouse")


class Position(NamedTuple):
    """A place between two records: a segment's number and an offset in it."""

    segment: int
    offset: int


class Batch(NamedTuple):
    """Records in the order in which they were appended, and the place after them."""

    records: list[bytes]
    end: Position


class Buffer:
    """The queue. Safe for threads; one folder belongs to one buffer at a time.

    Raises: BufferInUse, BufferUnwritable.
    """

    def __init__(self, folder: Path, *, max_bytes: int, sync_each: bool) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._sync_each = sync_each
        self._lock = threading.RLock()
        self._file: int | None = None
        self._is_dirty = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._owner = _own(folder)
            self._segments = self._found_segments()
        except OSError as error:
            msg = f"{folder}: {error}"
            raise BufferUnwritable(msg) from error
        kept = _kept_position(folder)
        # Numbers are never given twice: a note about a segment that is gone must not be taken for one about another.
        self._next_number = max(kept.segment, *(segment.number for segment in self._segments), 0) + 1
        self._position = self._position_from(kept)
        self._drop_delivered()

    @property
    def waiting(self) -> int:
        """How many records wait to be delivered."""
        with self._lock:
            return sum(len(segment.ends) - self._first_waiting(segment) for segment in self._segments)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be delivered."""
        with self._lock:
            return sum(max(segment.size - self._start_in(segment), 0) for segment in self._segments)

    def append(self, records: Sequence[bytes]) -> None:
        """Take records, all or none. Once this returns they survive the end of the program.

        Raises: BufferFull, BufferUnwritable, EventInvalid for a record of more than a mebibyte.
        """
        if any(not 0 < len(record) <= MAX_RECORD_BYTES for record in records):
            msg = f"An event takes at most {MAX_RECORD_BYTES:,} bytes."
            raise EventInvalid(msg)
        content = b"".join(packed(record) for record in records)
        with self._lock:
            used = sum(segment.size for segment in self._segments)
            if used + len(content) > self._max_bytes:
                msg = f"{self.folder} holds {used:,} of at most {self._max_bytes:,} bytes of undelivered events."
                raise BufferFull(msg)
            try:
                segment = self._segment_for(len(content))
                self._write(segment, content)
            except OSError as error:
                self._forget_the_unwritten()
                msg = f"{self.folder}: {error}"
                raise BufferUnwritable(msg) from error
            for record in records:
                segment.size += packed_size(record)
                segment.ends.append(segment.size)

    def read(self, *, max_records: int, max_bytes: int) -> Batch:
        """Return the oldest records that were not delivered; at least one where there is any."""
        with self._lock:
            for segment in self._segments:
                first = self._first_waiting(segment)
                ends = segment.ends[first : first + max_records]
                if ends:
                    start = self._start_in(segment)
                    fitting = [end for end in ends if end - start <= max_bytes] or ends[:1]
                    content = _read_part(segment.path, start, fitting[-1])
                    return Batch(list(unpacked(content)), Position(segment.number, fitting[-1]))
            return Batch([], self._position)

    def advance(self, end: Position) -> None:
        """Note that everything before this place was delivered.

        Raises: OSError, where the disk does not take the note; the place holds for this program all the same.
        """
        with self._lock:
            self._position = end
            self._drop_delivered()
            self._keep_position()

    def sync(self) -> None:
        """Have the disk take what was appended; from then on it survives the end of the machine, too."""
        with self._lock:
            if self._file is not None and self._is_dirty:
                os.fsync(self._file)
                self._is_dirty = False

    def close(self) -> None:
        """Sync and let go of the folder."""
        with self._lock:
            self.sync()
            self._close_file()
            if not self.waiting:
                self._drop(self._segments)
            os.close(self._owner)

    def _segment_for(self, needed: int) -> Segment:
        if self._file is not None and self._segments and self._segments[-1].size + needed <= SEGMENT_BYTES:
            return self._segments[-1]
        self.sync()
        self._close_file()
        path = self.folder / f"{self._next_number:012}{SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        segment = Segment(path, self._next_number, 0)
        self._next_number += 1
        self._segments.append(segment)
        self._write(segment, MARK)
        segment.size = len(MARK)
        _sync_folder(self.folder)
        return segment

    def _write(self, segment: Segment, content: bytes) -> None:
        assert self._file is not None
        try:
            remaining = memoryview(content)
            while remaining:
                remaining = remaining[os.write(self._file, remaining) :]
            self._is_dirty = True
            if self._sync_each:
                self.sync()
        except OSError:
            # Half a record in the middle would hide all that follow it.
            with suppress(OSError):
                os.ftruncate(self._file, segment.size)
            self._close_file()
            raise

    def _forget_the_unwritten(self) -> None:
        """Remove a segment without a record, or each one that a full disk refuses would leave a file behind."""
        self._close_file()
        with suppress(OSError):
            self._drop([each for each in self._segments if not each.ends])

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._is_dirty = False

    def _first_waiting(self, segment: Segment) -> int:
        if segment.number < self._position.segment:
            return len(segment.ends)
        if segment.number > self._position.segment:
            return 0
        return bisect_right(segment.ends, self._position.offset)

    def _start_in(self, segment: Segment) -> int:
        if segment.number < self._position.segment:
            return segment.size
        return self._position.offset if segment.number == self._position.segment else min(len(MARK), segment.size)

    def _drop_delivered(self) -> None:
        emptied = [each for each in self._segments if self._first_waiting(each) == len(each.ends)]
        if self._file is not None and emptied and emptied[-1] is self._segments[-1]:
            if emptied[-1].size < _KEEP_EMPTIED_BYTES:
                emptied.pop()
            else:
                self._close_file()
        self._drop(emptied)

    def _drop(self, segments: Sequence[Segment]) -> None:
        for segment in list(segments):
            with suppress(FileNotFoundError):
                segment.path.unlink()
            self._segments.remove(segment)

    def _found_segments(self) -> list[Segment]:
        found = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            content = path.read_bytes()
            result = scan(content)
            if result.is_damaged:
                aside = path.with_suffix(".damaged")
                aside.write_bytes(content[result.size :])
                _log.error("%s is damaged after %d bytes; what follows is kept in %s", path, result.size, aside)
            elif result.size < len(content):
                _log.warning("%s ends with a torn record, which was never taken", path)
            found.append(Segment(path, int(path.stem), result.size, result.ends))
        return found

    def _position_from(self, kept: Position) -> Position:
        for segment in self._segments:
            if segment.number == kept.segment and kept.offset in segment.ends:
                return kept
        # What is no end of a record is not our note; delivering twice is safe, leaving out is not.
        return Position(self._segments[0].number if self._segments else self._next_number, len(MARK))

    def _keep_position(self) -> None:
        path = self.folder / _POSITION
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(self._position._asdict()))
        draft.replace(path)


def _kept_position(folder: Path) -> Position:
    try:
        kept = json.loads((folder / _POSITION).read_bytes())
        return Position(int(kept["segment"]), int(kept["offset"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Position(0, 0)


def _own(folder: Path) -> int:
    owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(owner)
        msg = f"{folder} is held by another client; give each process a folder of its own."
        raise BufferInUse(msg) from error
    return owner


def _read_part(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
