"""Makes CloudEvents 1.0 of what a program measured."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from countinghouse.errors import EventInvalid

MAX_NAME_LENGTH = 200
MAX_DATA_BYTES = 65_536
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def event_of(
    *,
    source: str,
    type: str,  # noqa: A002 -- as CloudEvents call it
    subject: str = "",
    data: Mapping[str, Any] | None = None,
    time: datetime | None = None,
    id: str | None = None,  # noqa: A002 -- as CloudEvents call it
) -> dict[str, Any]:
    """Return an event; without an id it gets a random one, without a time the present.

    Source and id together are counted once for ever, so an event that is sent again after a crash of the caller's own
    should be given the same id.

    Raises: EventInvalid.
    """
    moment = datetime.now(timezone.utc) if time is None else time
    if moment.utcoffset() is None:
        msg = "time: needs a time zone, such as datetime.now(timezone.utc)"
        raise EventInvalid(msg)
    event = {
        "specversion": "1.0",
        "id": uuid.uuid4().hex if id is None else id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": moment.isoformat(),
    }
    for name in ("id", "source", "type", "subject"):
        _check_name(name, event[name], may_be_empty=name == "subject")
    return {**event, "data": dict(data or {})}


def encoded(event: Mapping[str, Any]) -> bytes:
    """Return an event as one line of JSON; decimals become strings, which keep every digit.

    Raises: EventInvalid.
    """
    try:
        data = _json(event["data"])
        line = _json(event)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"data: {error}"
        raise EventInvalid(msg) from error
    if len(data) > MAX_DATA_BYTES:
        msg = f"data: {len(data):,} bytes of JSON; at most {MAX_DATA_BYTES:,} are taken"
        raise EventInvalid(msg)
    return line


def _check_name(name: str, value: object, *, may_be_empty: bool) -> None:
    if not isinstance(value, str) or not (value or may_be_empty) or len(value) > MAX_NAME_LENGTH:
        msg = f"{name}: a text of 1 to {MAX_NAME_LENGTH} characters, not {value!r}"
        raise EventInvalid(msg)
    if _CONTROL_CHARACTER.search(value):
        msg = f"{name}: holds a control character or half of a surrogate pair"
        raise EventInvalid(msg)


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_exact)
    return text.encode()


def _exact(value: object) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    msg = f"{value!r} of type {type(value).__name__} is no JSON"
    raise TypeError(msg)
