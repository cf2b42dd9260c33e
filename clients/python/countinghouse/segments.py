"""How records lie in a file: a mark, then records of length, CRC-32 and content. Files are only ever appended to."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MARK = b"CHUSAGE1"
MAX_RECORD_BYTES = 1024 * 1024
SUFFIX = ".segment"
_HEADER = struct.Struct(">II")


@dataclass(eq=False)
class Segment:
    """A file of the buffer: its number, how many bytes of it are sound, and where each record ends."""

    path: Path
    number: int
    size: int
    ends: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Scan:
    """What a file was found to hold: where its sound records end, and whether what follows them is damage.

    A torn record at the end is no damage: the program was killed before `send` had returned.
    """

    ends: list[int]
    size: int
    is_damaged: bool


def packed(record: bytes) -> bytes:
    """Return a record as it is written."""
    return _HEADER.pack(len(record), zlib.crc32(record)) + record


def packed_size(record: bytes) -> int:
    """Return how many bytes a record takes."""
    return _HEADER.size + len(record)


def unpacked(content: bytes) -> Iterator[bytes]:
    """Yield the records of a part of a file that begins and ends with a whole record.

    Raises: ValueError where a record is not what was written.
    """
    position = 0
    while position < len(content):
        end = _end_of_record(content, position)
        if end is None:
            msg = "a record of the buffer is damaged"
            raise ValueError(msg)
        yield content[position + _HEADER.size : end]
        position = end


def scan(content: bytes) -> Scan:
    """Find the sound records of a file, from its beginning to the first that is torn or damaged."""
    if not content.startswith(MARK):
        is_torn = MARK.startswith(content) or not content.strip(b"\0")
        return Scan([], 0, is_damaged=not is_torn)
    ends = []
    position = len(MARK)
    while (end := _end_of_record(content, position)) is not None:
        ends.append(end)
        position = end
    rest = content[position:]
    return Scan(ends, position, is_damaged=not _is_torn(rest))


def _end_of_record(content: bytes, position: int) -> int | None:
    start = position + _HEADER.size
    if start > len(content):
        return None
    length, checksum = _HEADER.unpack_from(content, position)
    end = start + int(length)
    if not 0 < length <= MAX_RECORD_BYTES or end > len(content) or zlib.crc32(content[start:end]) != checksum:
        return None
    return end


def _is_torn(rest: bytes) -> bool:
    """Whether this is a record that was being written: cut short, or zeros where the disk had not followed yet."""
    if len(rest) < _HEADER.size:
        return True
    (length, _) = _HEADER.unpack_from(rest)
    is_cut_short = 0 < length <= MAX_RECORD_BYTES and _HEADER.size + int(length) >= len(rest)
    return is_cut_short or not rest.strip(b"\0")
