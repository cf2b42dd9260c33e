"""The forms in which events come over HTTP: content types, JSON lines, gzip, CloudEvents' binary mode, and limits."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Customer
from metering.door.bodies import CONTENT_TYPES, MAX_VALUES, read_body
from metering.errors import BodyTooLarge
from metering.models import RefusedEvent, UsageBatch, UsageEvent
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

EVENTS = "/api/v1/events"
LINES = "application/x-ndjson"
MEBIBYTE = 1024 * 1024
Send = Callable[..., Any]


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def send(client: Client) -> Send:
    own = make_accounts.api_key("events:write").secret

    def post(body: bytes, content_type: str = "application/json", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post(EVENTS, body, content_type=content_type, headers={"Authorization": f"Bearer {own}", **named})

    return post


def recent(event_id: str, **changes: object) -> dict[str, object]:
    moment = timezone.now() - timedelta(minutes=5)
    return {**make.event(event_id, time=moment.isoformat()), "data": {"seconds": "1"}, **changes}


def as_lines(*events: object, end: bytes = b"\n") -> bytes:
    return end.join(json.dumps(event).encode() for event in events)


def outcome(answer: Any) -> tuple[int, int, list[tuple[int, str]]]:
    body = answer.json()
    assert answer.status_code == 200, body
    return body["accepted"], body["duplicates"], [(each["index"], each["reason"]) for each in body["rejected"]]


@pytest.mark.parametrize(
    "content_type",
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines; charset=UTF-8"],
)
def test_json_lines_are_events_and_blank_lines_nothing(acme: Customer, send: Send, content_type: str) -> None:
    body = as_lines(recent("e1"), recent("e2"), end=b"\r\n\n  \n") + b"\n"

    assert outcome(send(body, content_type)) == (2, 0, [])


def test_json_lines_under_the_name_of_plain_json_are_seen_for_what_they_are(acme: Customer, send: Send) -> None:
    body = as_lines(recent("e1"), recent("e2"), 5, recent("e3"))

    assert outcome(send(body)) == (3, 0, [(2, "malformed")])


def test_a_malformed_line_costs_no_other_line_and_says_what_is_wrong(acme: Customer, send: Send) -> None:
    good = [json.dumps(recent(f"e{number}")).encode() for number in range(4)]
    bad = [
        b'{"id": ',
        b"[1]",
        b"\xff\xfe",
        b'{"data":{"x":' + b"9" * 6_000 + b"}}",
        b'{"data":' * 3_000,
        json.dumps({**recent("half"), "subject": "\ud800"}).encode(),
    ]

    answer = send(b"\n".join([good[0], *bad[:3], good[1], *bad[3:], good[2], b"\xef\xbb\xbf", good[3]]), LINES)

    accepted, _, rejected = outcome(answer)
    assert (accepted, [index for index, _ in rejected]) == (4, [1, 2, 3, 5, 6, 7, 9])
    details = [each["detail"] for each in answer.json()["rejected"]]
    assert "not JSON" in details[0]
    assert "got `array`" in details[1]
    assert "more digits" in details[3]
    assert "too deep" in details[4]
    assert "half of a surrogate pair" in details[5]
    assert RefusedEvent.objects.filter(payload='{"id":').exists()


def test_an_object_over_several_lines_is_refused_line_by_line_whoever_its_neighbours_are(
    acme: Customer, send: Send
) -> None:
    spread = json.dumps(recent("e2"), indent=1).encode()
    one = json.dumps(recent("e1")).encode()

    accepted, _, rejected = outcome(send(one + b"\n" + spread, LINES))

    assert (accepted, len(rejected)) == (1, spread.count(b"\n") + 1)


def test_one_event_spread_over_lines_is_plain_json(acme: Customer, send: Send) -> None:
    assert outcome(send(b"\xef\xbb\xbf" + json.dumps(recent("e1"), indent=2).encode())) == (1, 0, [])


def test_the_same_request_again_gives_the_same_totals(acme: Customer, send: Send) -> None:
    body = as_lines(recent("e1"), recent("e2"), {"id": "bad"}, {**recent("e3"), "type": "unheard.of"})

    first, again = send(body, LINES).json(), send(body, LINES).json()

    assert (first["accepted"], first["duplicates"], first["quarantined"]) == (2, 0, 1)
    assert (again["accepted"], again["duplicates"], again["quarantined"]) == (0, 2, 1)
    assert first["rejected"] == again["rejected"]


def test_cloudevents_own_content_types_hold_one_event_or_an_array(acme: Customer, send: Send) -> None:
    one, array = json.dumps(recent("e1")).encode(), json.dumps([recent("e2"), recent("e3")]).encode()

    assert outcome(send(one, "application/cloudevents+json; charset=utf-8")) == (1, 0, [])
    assert outcome(send(array, "application/cloudevents-batch+json")) == (2, 0, [])
    assert outcome(send(b"[]", "application/cloudevents-batch+json")) == (0, 0, [])
    assert send(array, "application/cloudevents+json").json()["code"] == "body_not_events"
    assert send(one, "application/cloudevents-batch+json").json()["code"] == "body_not_events"


def test_binary_mode_takes_attributes_from_headers_and_data_from_the_body(acme: Customer, send: Send) -> None:
    event = recent("e%201€")
    attributes = {f"ce_{name}": str(event[name]) for name in ("specversion", "source", "type", "subject", "time")}

    taken = send(b'{"seconds": "2"}', ce_id="e%25201%E2%82%AC", **attributes)
    nameless = send(b'{"seconds": "2"}', **attributes)
    no_object = send(b"[1]", ce_id="e2", **attributes)
    broken = send(b"{", ce_id="e3", **attributes)
    text = send(b"two", "text/plain", ce_id="e4", **attributes)

    assert outcome(taken) == (1, 0, [])
    assert UsageEvent.objects.get().event_id == "e%201€"
    assert outcome(nameless) == (0, 0, [(0, "malformed")])
    assert outcome(no_object) == (0, 0, [(0, "malformed")])
    assert (broken.status_code, broken.json()["code"]) == (400, "body_not_json")
    assert (text.status_code, text.json()["code"]) == (415, "body_type_unknown")


@pytest.mark.parametrize(
    ("header", "event_id"),
    [('"e 1"', "e 1"), (r'"say \"hi\" \\ now"', r'say "hi" \ now'), ('"e1', '"e1'), ('"', '"'), ("e%22", 'e"')],
)
def test_quotes_around_an_attribute_in_a_header_are_none_of_it(
    acme: Customer, send: Send, header: str, event_id: str
) -> None:
    event = recent(event_id)
    attributes = {f"ce_{name}": str(event[name]) for name in ("specversion", "source", "type", "subject", "time")}
    in_json = json.dumps({**event, "data": {"seconds": "2"}}).encode()

    taken = send(b'{"seconds": "2"}', ce_id=header, **attributes)
    again = send(in_json)

    assert (outcome(taken), outcome(again)) == ((1, 0, []), (0, 1, []))


def test_an_attribute_that_is_no_text_is_refused_rather_than_guessed(acme: Customer, send: Send) -> None:
    event = recent("e1")
    attributes = {f"ce_{name}": str(event[name]) for name in ("specversion", "source", "type", "subject", "time")}

    answers = [send(b'{"seconds": "2"}', ce_id=f"e{wrong}", **attributes) for wrong in ("%FF", "%FE", "%ED%A0%80")]

    assert [outcome(each) for each in answers] == [(0, 0, [(0, "malformed")])] * 3
    assert UsageEvent.objects.count() == 0


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("text/csv", "text/csv"),
        ("application/x-www-form-urlencoded", "application/x-ndjson"),
        ("application/json; charset=utf-16", "utf-16"),
    ],
)
def test_another_content_type_or_character_set_is_refused_with_those_that_are_read(
    send: Send, content_type: str, named: str
) -> None:
    answer = send(b"{}", content_type)

    assert (answer.status_code, answer["Content-Type"]) == (415, "application/problem+json")
    assert (answer.json()["code"], named in answer.json()["detail"]) == ("body_type_unknown", True)


def test_the_description_names_every_content_type(client: Client) -> None:
    described = client.get("/api/schema/", headers={"Accept": "application/json"}).json()

    assert set(described["paths"][EVENTS]["post"]["requestBody"]["content"]) == set(CONTENT_TYPES)


def test_gzip_is_unpacked_in_one_piece_or_several(acme: Customer, send: Send) -> None:
    one = gzip.compress(json.dumps([recent("e1")]).encode())
    several = gzip.compress(as_lines(recent("e2")) + b"\n") + gzip.compress(as_lines(recent("e3")))

    assert outcome(send(one, Content_Encoding="gzip")) == (1, 0, [])
    assert outcome(send(several, LINES, Content_Encoding="X-Gzip")) == (2, 0, [])


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (b"[]", "br", 415, "body_encoding_unknown"),
        (b"[]", "gzip, gzip", 415, "body_encoding_unknown"),
        (b"[]", "gzip", 400, "body_not_gzip"),
        (b"", "gzip", 400, "body_not_gzip"),
        (gzip.compress(b"[]", mtime=0)[:-9], "gzip", 400, "body_not_gzip"),
        (gzip.compress(b"[]", mtime=0)[:-6] + b"\0" * 6, "gzip", 400, "body_not_gzip"),
        (gzip.compress(b"[]", mtime=0) + b"rest", "gzip", 400, "body_not_gzip"),
        (gzip.compress(b"", mtime=0) * 1_001, "gzip", 400, "body_not_gzip"),
        (gzip.compress(b" " * (16 * MEBIBYTE + 1), mtime=0), "gzip", 413, "body_too_large"),
        (gzip.compress(b"[" + b"{}," * MAX_VALUES + b"{}]", mtime=0), "gzip", 413, "body_too_complex"),
        (b"{}\n" * 10_001, "identity", 413, "too_many_events"),
    ],
    ids=lambda part: f"{len(part)} bytes" if isinstance(part, bytes) else str(part),
)
def test_packing_that_cannot_be_undone_or_hides_too_much_is_answered_with_a_problem(
    send: Send, body: bytes, encoding: str, status: int, code: str
) -> None:
    answer = send(body, LINES, Content_Encoding=encoding)

    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    assert (answer.json()["code"], bool(answer.json()["detail"])) == (code, True)
    assert not UsageBatch.objects.exists()


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (b"", "identity", "The body is empty."),
        (b" \n", "identity", "The body is empty."),
        (b"[]", "gzip", "The body is not gzip, or is damaged: incorrect header check."),
    ],
    ids=["nothing", "blanks", "no gzip"],
)
def test_a_body_without_events_is_refused_in_words_for_people(
    send: Send, body: bytes, encoding: str, says: str
) -> None:
    answer = send(body, Content_Encoding=encoding)

    assert (answer.status_code, answer.json()["detail"]) == (400, says)


@pytest.mark.parametrize("asked", ["backfil=7", "backfill=7&backfill=8", "limit=1"])
def test_a_parameter_that_is_not_known_is_refused_and_nothing_is_counted(
    acme: Customer, client: Client, asked: str
) -> None:
    own = make_accounts.api_key("events:write").secret

    answer = client.post(
        f"{EVENTS}?{asked}",
        json.dumps(recent("e1")),
        content_type="application/json",
        headers={"Authorization": f"Bearer {own}"},
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "details_invalid")
    assert not UsageBatch.objects.exists()


def test_ten_thousand_events_are_taken_and_one_more_is_not(acme: Customer, send: Send) -> None:
    events = [recent(f"e{number}") for number in range(10_001)]

    too_many = send(as_lines(*events), LINES)
    enough = send(as_lines(*events[1:]), LINES)

    assert (too_many.status_code, too_many.json()["code"]) == (413, "too_many_events")
    assert outcome(enough) == (10_000, 0, [])


def test_a_bomb_is_unpacked_no_further_than_the_limit() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(MEBIBYTE)) for _ in range(200)), packer.flush()])
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = bomb[position : position + size]
        position += len(piece)
        return piece

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            read_body(read=read, stated_length=0, encoding="gzip", limit=MEBIBYTE)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 3 * MEBIBYTE
    # The rest was heard out, packed as it is, so that the sender hears the answer.
    assert position == len(bomb)
