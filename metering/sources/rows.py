"""What every reader of a usage file yields, and the errors that refuse a whole file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accounts.errors import CountinghouseError


class UsageFileUnreadable(CountinghouseError):
    """The file as a whole cannot be read: not text, no header, or columns missing."""

    code = "usage_file_unreadable"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One record of the file: an event to ingest, or a refusal with its reason.

    `position` is the line on which the record ends, counted from 1. `contradiction` says why a well-formed record
    cannot be trusted; such an event goes to quarantine instead of being counted.
    """

    position: int
    event: Mapping[str, object] | None
    payload: str = ""
    refusal: str = ""
    detail: str = ""
    contradiction: str = ""
