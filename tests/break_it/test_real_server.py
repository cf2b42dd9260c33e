"""The door for events behind the real web server, spoken to byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from metering.models import UsageBatch, UsageEvent
from tests import make_accounts
from tests import make_metering as make
from tests.patience import PATIENCE_SECONDS
from tests.web_server import EVENTS, web_server

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with web_server() as server:
        yield server.address


def event(number: int) -> dict[str, object]:
    return make.event(f"e{number}", time=(timezone.now() - timedelta(minutes=5)).isoformat(), seconds="1")


def answered(address: tuple[str, int], raw: bytes) -> tuple[int, dict[str, object]]:
    with socket.create_connection(address, timeout=PATIENCE_SECONDS) as line:
        line.sendall(raw)
        line.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(line)
        answer.begin()
        return answer.status, json.loads(answer.read())


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def test_bodies_of_unstated_or_broken_length_and_a_database_that_goes_away(address: tuple[str, int]) -> None:
    make.meter()
    make.subject("project-1")
    secret = make_accounts.api_key("events:write").secret
    head = (
        f"POST {EVENTS} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\n".encode()
    )
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    body = json.dumps([event(1), event(2)]).encode()

    in_chunks = answered(address, chunked + chunk(body[:50]) + chunk(body[50:]) + b"0\r\n\r\n")
    broken_chunks = answered(address, chunked + chunk(body[:50]) + b"ffff\r\n[")
    torn = answered(address, head + b"Content-Length: 5000\r\n\r\n" + body[:-1])
    torn_line = head + b"Content-Type: application/x-ndjson\r\nContent-Length: 5000\r\n\r\n"
    torn_lines = answered(address, torn_line + json.dumps(event(3)).encode() + b'\n{"id"')
    _cut_all_connections()
    cut_off = answered(address, head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    again = answered(address, head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    assert (in_chunks[0], in_chunks[1].get("accepted")) == (200, 2)
    assert (broken_chunks[0], broken_chunks[1].get("code")) == (400, "body_not_json")
    assert (torn[0], torn[1].get("code")) == (400, "body_not_json")
    assert (torn_lines[0], torn_lines[1].get("code")) == (400, "body_not_json")
    assert cut_off[0] in {200, 503}
    assert (again[0], again[1].get("duplicates")) == (200, 2)
    assert UsageEvent.objects.count() == 2
    assert UsageBatch.objects.count() == 2 + (cut_off[0] == 200)


def _cut_all_connections() -> None:
    """End every connection to the test's database but this one, as a server that is started anew does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
