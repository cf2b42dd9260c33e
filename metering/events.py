"""Reads CloudEvents 1.0: what an event must look like, and its identity and content as hashes.

Numbers stay exactly as sent: integers and `Decimal`, never a float. A number that no database could hold is kept as
its text and judged as a value later. `specversion` may be left out; another version than 1.0 is refused. Attributes
that the house does not use (`datacontenttype`, extensions) are accepted and not kept. Digits of a second beyond the
sixth are cut off, never rounded, so that an event cannot move into the next period.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec

from metering.errors import BodyNotEvents, BodyNotJson, TooManyEvents

MAX_DATA_BYTES = 65_536
MAX_NAME_LENGTH = 200
_MAX_DEPTH = 32
_MAX_DIGITS = 1_000

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]


class Envelope(msgspec.Struct, gc=False):
    """An event as it comes over the wire."""

    id: _Name
    source: _Name
    type: _Name
    time: Annotated[str, msgspec.Meta(max_length=64)]
    subject: Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)] | None = None
    data: dict[str, Any] | None = None
    data_base64: object = None
    specversion: Literal["1.0"] = "1.0"


class Event(msgspec.Struct, gc=False):
    """A well-formed event.

    `index` is its position in the batch, `key` the hash of its identity and `content_hash` of all the rest, both as 32
    hexadecimal digits; `time` is in UTC and `time_text` the same in ISO 8601; `data_text` is canonical JSON.
    """

    index: int
    key: str
    content_hash: str
    source: str
    event_id: str
    type: str
    subject: str
    time: datetime
    time_text: str
    data: dict[str, Any]
    data_text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """An object that is no valid event: its position in the batch, its id if it has one, and what is wrong."""

    index: int
    source: str
    event_id: str
    detail: str
    payload: str


class Unreadable(msgspec.Struct, gc=False):
    """A part of what was sent that stands where an event should and cannot be read: its bytes, and why not."""

    raw: bytes
    detail: str


class _EventMalformed(ValueError):
    pass


def exact_number(text: str) -> Decimal | str:
    """Return a JSON number's exact value, or its text if it has more digits than a database could hold."""
    if len(text) > _MAX_DIGITS:
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return number if abs(number.adjusted()) <= _MAX_DIGITS else text


_NUMBER_TOO_LONG = "data: a number with more digits than can be read"

_decode_envelopes = msgspec.json.Decoder(list[Envelope], float_hook=exact_number).decode
_decode_envelope = msgspec.json.Decoder(Envelope, float_hook=exact_number).decode
_decode_any = msgspec.json.Decoder(float_hook=exact_number).decode
_decode_lines = msgspec.json.Decoder(Envelope, float_hook=exact_number).decode_lines
_decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder(decimal_format="number", order="sorted").encode
_encode_as_is = msgspec.json.Encoder(decimal_format="number").encode


def decode_body(body: bytes) -> Sequence[object]:
    """Return the events of a JSON body, one object or an array, as `read_events` takes them.

    Raises: BodyNotJson with the position of the fault, BodyNotEvents.
    """
    if not body.strip():
        msg = "The body is empty."
        raise BodyNotJson(msg)
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        whole = _without_half_pairs(body)
        if whole != body:
            return decode_body(whole)
        raise BodyNotJson(_sentence(error)) from error


def decode_lines(body: bytes, *, limit: int) -> Sequence[object]:
    """Return the events of JSON lines, as `read_events` takes them; blank lines are nothing.

    A line that cannot be read costs no other line.

    Raises: TooManyEvents above `limit` lines.
    """
    try:
        events = _decode_lines(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        events = []
    # An object that goes over several lines is none here, whether its neighbours are sound or not.
    if events and len(events) == body.count(b"\n") + (not body.endswith(b"\n")):
        return events
    return [decode_line(line) for line in _lines(body, limit=limit)]


def _lines(body: bytes, *, limit: int) -> Iterator[bytes]:
    # Not split at once: of line ends alone there may be millions.
    count = 0
    for line in io.BytesIO(body):
        if text := line.strip():
            count += 1
            if count > limit:
                msg = f"More than {limit:,} events in one batch."
                raise TooManyEvents(msg)
            yield text


def decode_line(line: bytes) -> object:
    """Return what one line of JSON says, as `read_events` takes it: `Unreadable` where it is not JSON."""
    try:
        return _decode_any(line)
    except msgspec.ValidationError:
        return Unreadable(line, _NUMBER_TOO_LONG)
    except RecursionError:
        return Unreadable(line, "nests too deep")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        whole = _without_half_pairs(line)
        return decode_line(whole) if whole != line else Unreadable(line, f"not JSON: {error}")


def _decode(body: bytes) -> Sequence[object]:
    first = body.lstrip(b" \t\r\n")[:1]
    try:
        if first == b"[":
            return _decode_envelopes(body)
        if first == b"{":
            return [_decode_envelope(body)]
        _decode_any(body)
    except (msgspec.ValidationError, RecursionError):
        return _decode_one_by_one(body, is_array=first == b"[")
    raise BodyNotEvents


def _decode_one_by_one(body: bytes, *, is_array: bool) -> list[object]:
    """Decode so that one bad event does not take the others with it."""
    if is_array:
        return [decode_line(bytes(part)) for part in _decode_raw(body)]
    try:
        return [_decode_any(body)]
    except msgspec.ValidationError:
        return [Unreadable(body, _NUMBER_TOO_LONG)]


_ESCAPE = re.compile(
    rb"\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|(?P<half>u[Dd][89A-Fa-f][0-9A-Fa-f]{2})|.)",
    re.DOTALL,
)


def _without_half_pairs(body: bytes) -> bytes:
    r"""Return the body with `\u0000` for each half of a surrogate pair, for which msgspec refuses the whole body.

    JSON's grammar allows it, no text can hold it: as with U+0000, the one event in which it stands is refused for it.
    """
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    whole = bytearray(body)
    for escape in _ESCAPE.finditer(body):
        if escape["half"]:
            whole[escape.start() : escape.end()] = rb"\u0000"
    return bytes(whole)


def _sentence(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "The body nests too deep."
    return f"The body is not JSON: {error}."


def read_events(objects: Iterable[object]) -> tuple[list[Event], list[Malformed]]:
    """Return the well-formed events of a batch, and what is wrong with each of the others."""
    events: list[Event] = []
    malformed: list[Malformed] = []
    for index, item in enumerate(objects):
        try:
            envelope = item if type(item) is Envelope else msgspec.convert(item, Envelope)
            events.append(_event(index, envelope))
        except (_EventMalformed, msgspec.ValidationError, RecursionError) as error:
            malformed.append(_malformed(index, item, _reason(error)))
    return events, malformed


def _event(index: int, envelope: Envelope) -> Event:
    source, event_id, kind, subject = envelope.source, envelope.id, envelope.type, envelope.subject or ""
    if not f"{source}{event_id}{kind}{subject}".isprintable():
        _refuse_control_characters(source=source, id=event_id, type=kind, subject=subject)
    if envelope.data_base64 is not None:
        # Left aside, what the event says would be lost, and two that say different things would be one.
        msg = "data_base64: the data of an event is a JSON object here, under `data`"
        raise _EventMalformed(msg)
    time = _moment(envelope.time)
    time_text = time.isoformat()
    data = envelope.data or {}
    data_text = canonical_data(data)
    return Event(
        index,
        event_key(source, event_id),
        content_hash(kind, subject, time_text, data_text),
        source,
        event_id,
        kind,
        subject,
        time,
        time_text,
        data,
        data_text,
    )


def event_key(source: str, event_id: str) -> str:
    """Return the identity's hash: 128-bit BLAKE2b of source and id (neither of which can hold the separator)."""
    return blake2b(f"{source}\0{event_id}".encode(), digest_size=16).hexdigest()


def content_hash(kind: str, subject: str, time_text: str, data_text: str) -> str:
    """Return the hash of what an event says: type, subject, time in UTC and canonical data."""
    return blake2b(f"{kind}\0{subject}\0{time_text}\0{data_text}".encode(), digest_size=16).hexdigest()


def canonical_data(data: dict[str, Any]) -> str:
    """Return the data as JSON with sorted names and numbers as sent.

    Raises: ValueError where Postgres' jsonb could not hold it.
    """
    for value in data.values():
        if type(value) is not str:
            _check_value(value, depth=1)
    try:
        encoded = _encode(data)
    except (UnicodeEncodeError, TypeError) as error:
        msg = f"data: {error}"
        raise _EventMalformed(msg) from error
    # The database writes 1E+999 with all its zeros, and so whoever reads the event would hold them.
    length = len(encoded) + (_left_out_zeros(data) if b"E" in encoded else 0)
    if length > MAX_DATA_BYTES:
        msg = f"data: {length:,} bytes with its numbers written out; at most {MAX_DATA_BYTES:,} are taken"
        raise _EventMalformed(msg)
    if b"\\u0000" in encoded and _holds_nul(data):
        msg = "data: holds the character U+0000 or half of a surrogate pair, which text in a database cannot"
        raise _EventMalformed(msg)
    return encoded.decode()


def _check_value(value: object, *, depth: int) -> None:
    """Refuse what JSON has no word for, and numbers that a database cannot hold."""
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        fits = value.bit_length() <= 3 * _MAX_DIGITS
    elif isinstance(value, Decimal):
        fits = (
            value.is_finite() and abs(value.adjusted()) <= _MAX_DIGITS and len(value.as_tuple().digits) <= _MAX_DIGITS
        )
    elif isinstance(value, dict | list) and depth < _MAX_DEPTH:
        for part in value.values() if isinstance(value, dict) else value:
            _check_value(part, depth=depth + 1)
        return
    else:
        fits = False
    if not fits:
        msg = f"data: a value of type {type(value).__name__} that is no exact JSON, is too large or lies too deep"
        raise _EventMalformed(msg)


def _left_out_zeros(value: object) -> int:
    """Return at least as many digits as numbers leave out that are written with an exponent."""
    if isinstance(value, Decimal):
        return abs(value.adjusted())
    if isinstance(value, dict):
        return sum(map(_left_out_zeros, value.values()))
    return sum(map(_left_out_zeros, value)) if isinstance(value, list) else 0


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(name) or _holds_nul(part) for name, part in value.items())
    return isinstance(value, list) and any(_holds_nul(part) for part in value)


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_LEAP_SECOND = re.compile(r"\d\d:\d\d:60")


def _moment(text: str) -> datetime:
    """Return the moment in UTC; RFC 3339 with an offset, to the microsecond."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        msg = f"time: {text!r} is not RFC 3339, such as 2026-10-31T23:59:59Z"
        raise _EventMalformed(msg)
    if match[2] is None:
        msg = f"time: {text!r} has no offset from UTC (Z or +01:00)"
        raise _EventMalformed(msg)
    try:
        moment = datetime.fromisoformat(text if text[-1] != "z" else text.upper())
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        problem = "is a leap second" if _LEAP_SECOND.search(text) else "is no moment of the calendar"
        msg = f"time: {text!r} {problem}"
        raise _EventMalformed(msg) from error


_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _refuse_control_characters(**attributes: str) -> None:
    """CloudEvents 1.0, section 3.1, forbids them in attributes."""
    for name, value in attributes.items():
        if _CONTROL_CHARACTER.search(value):
            msg = f"{name}: holds a control character or half of a surrogate pair"
            raise _EventMalformed(msg)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "data: lies too deep"
    return str(error).replace("`$.", "`").replace(" - at `$`", "")


_PAYLOAD_LENGTH = 8_192


def _malformed(index: int, item: object, detail: str) -> Malformed:
    source: object
    event_id: object
    if isinstance(item, Envelope):
        source, event_id = item.source, item.id
    elif isinstance(item, dict):
        source, event_id = item.get("source"), item.get("id")
    else:
        source, event_id = "", ""
    if isinstance(item, Unreadable):
        detail = item.detail
    return Malformed(index, _shown(source), _shown(event_id), storable_text(detail), payload_text(item))


def _shown(value: object) -> str:
    return storable_text(value)[:MAX_NAME_LENGTH] if isinstance(value, str) else ""


def payload_text(item: object) -> str:
    """Return what was sent, as text that a database takes and cut to 8,192 characters."""
    if isinstance(item, Unreadable):
        item = item.raw
    if isinstance(item, bytes):
        text = item[:_PAYLOAD_LENGTH].decode(errors="replace")
    else:
        try:
            text = _encode_as_is(item).decode()
        except (UnicodeEncodeError, TypeError, RecursionError, ValueError):
            text = _shallow_repr(item)
    return storable_text(text)[:_PAYLOAD_LENGTH]


def _shallow_repr(item: object) -> str:
    try:
        return repr(item)
    except RecursionError:
        return f"a {type(item).__name__} that lies too deep"


def storable_text(text: str) -> str:
    """Return the text without what Postgres refuses in a text: U+0000 and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
