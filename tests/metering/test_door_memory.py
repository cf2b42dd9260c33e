"""The memory of a worker of the real web server, watched while senders do their worst."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.utils import timezone

from tests import make_accounts
from tests import make_metering as make
from tests.web_server import Answer, WebServer, web_server

pytestmark = pytest.mark.django_db(transaction=True)

MEBIBYTE = 1024 * 1024
LIMIT = 16 * MEBIBYTE
# Measured at most 150 MiB more than at rest.
MOST_FOR_ONE = 220 * MEBIBYTE


def filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * ((LIMIT - len(start) - len(end)) // len(piece)) + end


def bomb(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MEBIBYTE)) for _ in range(mebibytes)), packer.flush()])


def as_large_as_allowed() -> bytes:
    moment = (timezone.now() - timedelta(minutes=5)).isoformat()
    note = "x" * 1_300
    events = [make.event(f"large-{number}", time=moment, seconds="1", note=note) for number in range(10_000)]
    return json.dumps(events).encode()


LINES = {"Content_Type": "application/x-ndjson"}
PACKED = {"Content_Encoding": "gzip"}
BODIES: dict[str, tuple[Callable[[], bytes], dict[str, str], int]] = {
    "as large as is allowed": (as_large_as_allowed, {}, 200),
    "as many values as are allowed": (lambda: b"[" + b"{}," * 9_999 + b"[" + b"[]," * 235_000 + b"[]]]", {}, 200),
    "objects of a few bytes": (lambda: filled(b"[", b"{},", b"{}]"), {}, 413),
    "arrays of a few bytes": (lambda: filled(b"[", b"[],", b"[]]"), {}, 413),
    "names and values": (lambda: filled(b'{"data":{', b'"a":1,', b'"b":1}}'), {}, 413),
    "deep arrays": (lambda: b"[" * LIMIT, {}, 413),
    "deep objects": (lambda: filled(b"", b'{"a":', b""), {}, 413),
    "as many names as are allowed": (
        lambda: b'{"data":{' + b",".join(b'"%d":1' % number for number in range(490_000)) + b"}}",
        {},
        200,
    ),
    "a depth that is allowed": (lambda: b'{"a":' * 400_000, {}, 400),
    "lines of nothing": (lambda: filled(b"", b"\n", b""), LINES, 200),
    "lines of a few bytes": (lambda: filled(b"", b"5\n", b""), LINES, 413),
    "a number": (lambda: filled(b'{"data":{"x":', b"9", b"}}"), {}, 200),
    "a number with a point": (lambda: filled(b'{"data":{"x":1.', b"9", b"}}"), {}, 200),
    "an exponent": (lambda: filled(b'{"data":{"x":1e', b"9", b"}}"), {}, 200),
    "a text": (lambda: filled(b'{"id":"', b"x", b'"}'), {}, 200),
    "a text of escapes": (lambda: filled(b'{"id":"', rb"\u0001", b'"}'), {}, 200),
    "a text of halves of pairs": (lambda: filled(b'{"id":"', rb"\ud800", b'"}'), {}, 200),
    "zeros": (lambda: bytes(LIMIT), {}, 400),
    "too much": (lambda: b" " * (LIMIT + 1), {}, 413),
    "a bomb": (lambda: bomb(2_000), PACKED, 413),
    "a bomb in a bomb": (lambda: gzip.compress(bomb(500)), PACKED, 400),
    "gzip of nothing, many times": (lambda: filled(b"", gzip.compress(b""), b""), PACKED, 400),
}


class Watch:
    """The most that a worker held while this watched."""

    def __init__(self) -> None:
        self.most = 0


@contextmanager
def watched(server: WebServer) -> Iterator[Watch]:
    watch, done = Watch(), threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            watch.most = max(watch.most, server.resident_bytes())

    eye = threading.Thread(target=look)
    eye.start()
    try:
        yield watch
    finally:
        done.set()
        eye.join()


def test_memory_stays_bounded_whatever_is_sent() -> None:
    make.meter()
    make.subject("project-1")
    secret = make_accounts.api_key("events:write").secret

    with web_server(threads=2) as server:
        server.post(b"[]", secret=secret)
        before = server.resident_bytes()
        for name, (body, headers, status) in BODIES.items():
            content = body()
            with watched(server) as watch:
                answer = server.post(content, secret=secret, **headers)
            assert (name, answer.status) == (name, status), answer
            assert watch.most - before < MOST_FOR_ONE, name


def test_many_at_once_take_no_more_than_as_many_as_are_let_in() -> None:
    make.meter()
    make.subject("project-1")
    secret = make_accounts.api_key("events:write").secret
    content = as_large_as_allowed()
    answers: list[Answer] = []

    with web_server(threads=8) as server:
        server.post(b"[]", secret=secret)
        before = server.resident_bytes()
        senders = [
            threading.Thread(target=lambda: answers.append(server.post(content, secret=secret))) for _ in "12345678"
        ]
        with watched(server) as watch:
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()

    assert {answer.status for answer in answers} <= {200, 429}
    assert sum(answer.body.get("accepted", 0) for answer in answers) == 10_000
    # Two are taken at once; the other six wait with their bodies in hand.
    assert watch.most - before < 2 * MOST_FOR_ONE + 6 * 2 * LIMIT
