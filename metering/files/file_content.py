"""The bytes of an uploaded file: kept in the database in parts, read like any other file."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from django.db.models import Sum
from django.db.models.functions import Length

from metering.models import UsageFile, UsageFilePart
from metering.models.files import LARGEST_PART

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_AT_ONCE = 1_048_576


def sha256_of(stream: BinaryIO) -> tuple[bytes, int]:
    """Return the SHA-256 of a file and its size in bytes; the file is read from its beginning to its end."""
    stream.seek(0)
    digest, size = hashlib.sha256(), 0
    while part := stream.read(_READ_AT_ONCE):
        digest.update(part)
        size += len(part)
    return digest.digest(), size


def changed_at(stream: BinaryIO) -> int:
    """Return when a file on disk was written to last (nanoseconds since 1970); 0 for what is no file on disk."""
    try:
        return os.fstat(stream.fileno()).st_mtime_ns
    except (OSError, AttributeError):
        return 0


def received_bytes(file_id: int) -> int:
    """Return how many bytes of an upload are here."""
    return UsageFilePart.objects.filter(file_id=file_id).aggregate(size=Sum(Length("content")))["size"] or 0


def open_content(file: UsageFile, *, on_part: Callable[[], object] = lambda: None) -> BinaryIO:
    """Open an uploaded file; every part but the last is of the full size. No more than one part is in memory.

    `on_part` is told of each part that is fetched.
    """
    return cast("BinaryIO", io.BufferedReader(_Parts(file, on_part), buffer_size=65_536))


class _Parts(io.RawIOBase):
    """A file made of parts, each fetched when it is needed."""

    def __init__(self, file: UsageFile, on_part: Callable[[], object]) -> None:
        self._on_part = on_part
        self._file_id, self._size = file.pk, file.size
        self._place = 0
        self._number, self._part = -1, memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        number, start = divmod(self._place, LARGEST_PART)
        if self._place >= self._size:
            return 0
        if number != self._number:
            part = UsageFilePart.objects.get(file_id=self._file_id, number=number)
            self._number, self._part = number, memoryview(part.content)
            self._on_part()
        target = memoryview(buffer).cast("B")
        piece = self._part[start : start + len(target)]
        target[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)
