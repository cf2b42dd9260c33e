"""Turns content into one fixed sequence of bytes, so that equal content always has the same SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID


def canonical_hash(content: Mapping[str, object]) -> bytes:
    """Return the SHA-256 (32 bytes) of the content's canonical JSON.

    Keys are sorted; Decimals become plain strings without trailing zeros, so 1.50 equals 1.5; moments become ISO 8601
    in UTC. Floats are refused with TypeError, since two equal amounts could differ in them.
    """
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object) -> object:
    match value:
        case Mapping():
            return {_key(key): _plain(item) for key, item in value.items()}
        case Enum():
            return _plain(value.value)
        case None | bool() | int() | str():
            return value
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return [_plain(item) for item in value]
        case _:
            return _text(value)


def _key(key: object) -> str:
    if not isinstance(key, str):
        msg = f"Only text can be a key of content that is hashed, not {key!r}."
        raise TypeError(msg)
    return str(key)


def _text(value: object) -> str:
    match value:
        case Decimal() if value.is_finite():
            return _decimal_text(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        case date() if not isinstance(value, datetime):
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            msg = f"{value!r} has no one fixed form to be hashed in."
            raise TypeError(msg)


def _decimal_text(value: Decimal) -> str:
    # Not Decimal.normalize: that would round to the precision of the context.
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
