"""Reads the body of a request that brings events: unpacks it, bounds it and takes it apart by its content type.

Whatever is sent costs bounded memory: the limit holds for what is unpacked, while it is being unpacked, and the number
of JSON values is bounded before any is made, for a few bytes of JSON can be a hundred of memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import unquote

from accounts.errors import CountinghouseError
from metering.errors import (
    BodyEncodingUnknown,
    BodyNotEvents,
    BodyNotGzip,
    BodyNotJson,
    BodyTooComplex,
    BodyTooLarge,
    BodyTypeUnknown,
)
from metering.events import Unreadable, decode_body, decode_line, decode_lines
from metering.ingestion import MAX_EVENTS

MAX_VALUES = 500_000
BINARY_MODE_HEADER = "ce-specversion"
# How much more than the limit is read, and thrown away, before the line is cut.
_DRAINED_LIMITS = 4
_PIECE_BYTES = 64 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Packed in pieces is usual; packed in a million empty pieces is only meant to keep us busy.
_MAX_GZIP_MEMBERS = 1_000
_GZIP = 16 + zlib.MAX_WBITS
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_ATTRIBUTES = ("specversion", "id", "source", "type", "subject", "time")


def read_body(*, read: Callable[[int], bytes], stated_length: int, encoding: str, limit: int) -> bytes:
    """Return the whole body, unpacked. `read(n)` gives its next bytes, at most n, and none at its end.

    `stated_length` is that of the body as sent, 0 where it is not stated; `limit` is in bytes and holds for both forms.

    Raises: BodyTooLarge, BodyEncodingUnknown, BodyNotGzip, BodyNotJson when it breaks off.
    """
    packed = _pieces(read, stated_length=stated_length)
    try:
        if stated_length > limit:
            raise _too_large(limit)
        pieces = _bounded(_unpacker(encoding)(_bounded(packed, limit=limit)), limit=limit)
        return b"".join(pieces)
    except CountinghouseError:
        # A sender who is still speaking when the line is cut never hears the answer.
        _drain(read, most=_DRAINED_LIMITS * limit)
        raise


def decode_events(body: bytes, *, content_type: str, headers: Mapping[str, str]) -> Sequence[object]:
    """Return the events of a body, as ingestion takes them.

    Plain JSON is one event, an array or, where its first line is a whole object and more lines follow, JSON lines.
    With a header `ce-specversion` the request is one event of CloudEvents' binary mode: its attributes are the headers
    `ce-id`, `ce-source` and so on, its data is the body.

    Raises: BodyTypeUnknown, BodyTooComplex, BodyNotJson, BodyNotEvents, TooManyEvents.
    """
    kind = content_type.partition(";")[0].strip().lower()
    _refuse_other_characters(content_type)
    _refuse_too_many_values(body)
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if BINARY_MODE_HEADER in headers and not kind.startswith("application/cloudevents"):
        return [_binary_event(body, kind=kind, headers=headers)]
    reader = _READERS.get(kind)
    if reader is None:
        raise _type_unknown(kind)
    return reader(body)


def _unpacker(encoding: str) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    if encoding in {"gzip", "x-gzip"}:
        return _unpacked
    if encoding in {"", "identity"}:
        return iter
    msg = f"The content encoding {encoding!r} is not read here; send gzip, or the body as it is."
    raise BodyEncodingUnknown(msg)


def _drain(read: Callable[[int], bytes], *, most: int) -> None:
    drained = 0
    with suppress(BodyNotJson):
        for piece in _pieces(read):
            drained += len(piece)
            if drained > most:
                break


def _pieces(read: Callable[[int], bytes], *, stated_length: int = 0) -> Iterator[bytes]:
    length = 0
    while piece := _piece(read):
        length += len(piece)
        yield piece
    # Of JSON lines the first ones would be sound, and the torn one be listed as if somebody had meant it so.
    if length < stated_length:
        raise _broken_off()


def _piece(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(_PIECE_BYTES)
    except Exception as error:  # each web server has errors of its own for a sender who stops or garbles the lengths
        raise _broken_off() from error


def _broken_off() -> BodyNotJson:
    return BodyNotJson("The body broke off before its end.")


def _bounded(pieces: Iterator[bytes], *, limit: int) -> Iterator[bytes]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise _too_large(limit)
        yield piece


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    members = 1
    member = zlib.decompressobj(_GZIP)
    try:
        for piece in pieces:
            packed = piece
            while packed:
                if member.eof:
                    members += 1
                    if members > _MAX_GZIP_MEMBERS:
                        msg = f"The body is gzip of more than {_MAX_GZIP_MEMBERS:,} members."
                        raise BodyNotGzip(msg)
                    member = zlib.decompressobj(_GZIP)
                yield member.decompress(packed, _PIECE_BYTES)
                packed = member.unused_data if member.eof else member.unconsumed_tail
        while not member.eof and (rest := member.decompress(b"", _PIECE_BYTES)):
            yield rest
    except zlib.error as error:
        # zlib begins with its own number: "Error -3 while decompressing data: incorrect header check".
        msg = f"The body is not gzip, or is damaged: {str(error).rpartition(': ')[2]}."
        raise BodyNotGzip(msg) from error
    if not member.eof:
        msg = "The body is gzip that breaks off before its end."
        raise BodyNotGzip(msg)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit:,} bytes (unpacked); send fewer events at once.")


def _type_unknown(kind: str) -> BodyTypeUnknown:
    known = ", ".join(kind for kind in _READERS if kind)
    return BodyTypeUnknown(f"The content type {kind!r} is not read here; it is one of {known}.")


def _refuse_other_characters(content_type: str) -> None:
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in {"utf-8", "utf8", "us-ascii"}:
        msg = f"The character set {charset[1]!r} is not read here; JSON is UTF-8."
        raise BodyTypeUnknown(msg)


def _refuse_too_many_values(body: bytes) -> None:
    # Each value but the first follows one of these; those inside of texts are counted too, which does no harm.
    if len(body) > MAX_VALUES and body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        msg = f"The body holds more than {MAX_VALUES:,} JSON values; send fewer events at once."
        raise BodyTooComplex(msg)


def _json(body: bytes) -> Sequence[object]:
    try:
        return decode_body(body)
    except BodyNotJson:
        if not _begins_with_a_whole_object(body):
            raise
        return _lines(body)


def _begins_with_a_whole_object(body: bytes) -> bool:
    first, end, _ = body.lstrip().partition(b"\n")
    return bool(end) and isinstance(decode_line(first), dict)


def _lines(body: bytes) -> Sequence[object]:
    return decode_lines(body, limit=MAX_EVENTS)


def _one(body: bytes) -> Sequence[object]:
    if body.lstrip()[:1] == b"[":
        msg = "application/cloudevents+json is one event; an array is application/cloudevents-batch+json."
        raise BodyNotEvents(msg)
    return decode_body(body)


def _array(body: bytes) -> Sequence[object]:
    if body.lstrip()[:1] == b"{":
        msg = "application/cloudevents-batch+json is an array; one event is application/cloudevents+json."
        raise BodyNotEvents(msg)
    return decode_body(body)


def _binary_event(body: bytes, *, kind: str, headers: Mapping[str, str]) -> object:
    if kind not in {"", "application/json"}:
        msg = f"The data of an event in binary mode is application/json, not {kind!r}."
        raise BodyTypeUnknown(msg)
    data = decode_line(body) if body.strip() else None
    if isinstance(data, Unreadable):
        msg = f"The body is not JSON: {data.detail}."
        raise BodyNotJson(msg)
    try:
        attributes = {name: _attribute(headers[f"ce-{name}"]) for name in _ATTRIBUTES if f"ce-{name}" in headers}
    except UnicodeDecodeError:
        # With something else in its place, two ids would become one, and the second event a duplicate.
        return Unreadable(body, "an attribute in a header is not percent-encoded UTF-8")
    return {**attributes, "data": data}


def _attribute(header: str) -> str:
    """Return what a header says, by the HTTP binding of CloudEvents 1.0, section 3.1.3.2.

    What is no printable ASCII is percent-encoded UTF-8; older senders put values into quotes.
    """
    if _QUOTED.fullmatch(header):
        header = _QUOTED_PAIR.sub(r"\1", header[1:-1])
    return unquote(header, errors="strict")


_READERS: Mapping[str, Callable[[bytes], Sequence[object]]] = {
    "": _json,
    "application/json": _json,
    "application/cloudevents+json": _one,
    "application/cloudevents-batch+json": _array,
    "application/x-ndjson": _lines,
    "application/ndjson": _lines,
    "application/jsonl": _lines,
    "application/x-jsonlines": _lines,
}
CONTENT_TYPES = tuple(kind for kind in _READERS if kind)
