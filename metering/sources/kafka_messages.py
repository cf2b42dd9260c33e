"""Reads Kafka messages as CloudEvents: structured, an array of events, or binary with the attributes as headers.

What is no event at all is not passed over: it comes back as such, and ingestion refuses it by its offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metering.errors import BodyNotEvents, BodyNotJson
from metering.events import Unreadable, decode_body, decode_line

# The Kafka protocol binding of CloudEvents 1.0, section 3.2.3.1.
_PREFIX = "ce_"

Header = tuple[str, str | bytes | None]
# The library says that it may hand over either.
Headers = Sequence[Header] | Mapping[str, str | bytes | None]


def events_of(*, value: bytes | None, headers: Headers, label: str) -> Sequence[object]:
    """Return the events of one message as `read_events` takes them, never none.

    `label` names the message in what is said of one that cannot be read, so that each of them is listed.
    """
    try:
        if attributes := _attributes(headers):
            return [_binary(attributes, value or b"", label=label)]
        if not value:
            return [Unreadable(b"", f"{label}: the message is empty")]
        return decode_body(value) or [Unreadable(value, f"{label}: an array without events")]
    except BodyNotJson as error:
        return [Unreadable(value or b"", f"{label}: {error}")]
    except BodyNotEvents:
        return [Unreadable(value or b"", f"{label}: neither an event nor an array of events")]
    except UnicodeDecodeError as error:
        return [Unreadable(value or b"", f"{label}: a header is not UTF-8: {error}")]


def _attributes(headers: Headers) -> Mapping[str, str]:
    return {
        name.removeprefix(_PREFIX): text.decode() if isinstance(text, bytes) else text or ""
        for name, text in (headers.items() if isinstance(headers, Mapping) else headers)
        if name.startswith(_PREFIX)
    }


def _binary(attributes: Mapping[str, str], value: bytes, *, label: str) -> object:
    data = decode_line(value) if value else None
    if isinstance(data, Unreadable):
        return Unreadable(value, f"{label}: the data: {data.detail}")
    return {**attributes, "data": data}
