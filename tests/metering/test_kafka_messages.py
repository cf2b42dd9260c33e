"""What a Kafka message says: an event, several, one in headers, or nothing that is one."""

from __future__ import annotations

import json

import pytest

from metering.events import Unreadable, read_events
from metering.sources.kafka_messages import Headers, events_of
from tests import make_metering as make

HEADERS = [
    ("content-type", b"application/json"),
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e1"),
    ("ce_source", b"cluster/1"),
    ("ce_type", b"gpu.used"),
    ("ce_subject", "Straße".encode()),
    ("ce_time", b"2026-10-15T10:30:00Z"),
]


def read(value: bytes | None, headers: Headers = ()) -> tuple[list[str], list[str]]:
    """Return the ids of the events of a message, and what is wrong with what is none."""
    events, malformed = read_events(events_of(value=value, headers=headers, label="usage[3]@17"))
    return [event.event_id for event in events], [fault.detail for fault in malformed]


def test_a_message_is_one_event() -> None:
    ids, faults = read(json.dumps(make.event("e1")).encode())

    assert (ids, faults) == (["e1"], [])


def test_a_message_may_be_an_array_of_events_and_a_bad_one_costs_only_itself() -> None:
    ids, faults = read(json.dumps([make.event("e1"), {"id": "e2"}, make.event("e3")]).encode())

    assert ids == ["e1", "e3"]
    assert faults == ["Object missing required field `source`"]


def test_in_binary_mode_the_attributes_are_headers_and_the_value_is_the_data() -> None:
    (event,), _ = read_events(events_of(value=b'{"seconds": 0.10}', headers=HEADERS, label=""))

    assert (event.event_id, event.source, event.type, event.subject) == ("e1", "cluster/1", "gpu.used", "Straße")
    assert event.data_text == '{"seconds":0.10}'


def test_the_same_event_in_either_mode_is_the_same() -> None:
    structured = json.dumps(make.event("e1", subject="Straße", seconds="1")).encode()

    (one,), _ = read_events(events_of(value=structured, headers=(), label=""))
    (other,), _ = read_events(events_of(value=b'{"seconds": "1"}', headers=HEADERS, label=""))

    assert (one.key, one.content_hash) == (other.key, other.content_hash)


@pytest.mark.parametrize(
    ("value", "headers", "said"),
    [
        (None, (), "usage[3]@17: the message is empty"),
        (b"", (), "usage[3]@17: the message is empty"),
        (b"not json", (), "usage[3]@17: The body is not JSON: JSON is malformed"),
        (b"\xff\xfe\x00", (), "usage[3]@17: The body is not JSON"),
        (b"12", (), "usage[3]@17: neither an event nor an array"),
        (b"[]", (), "usage[3]@17: an array without events"),
        (b"[" * 100_000, (), "usage[3]@17: "),
        (b"{", HEADERS, "usage[3]@17: the data: "),
        (b"1", HEADERS, "Expected `object | null`, got `int`"),
        (None, HEADERS[:2], "Object missing required field `id`"),
        (None, [("ce_id", b"\xff")], "usage[3]@17: a header is not UTF-8"),
        (b"{}", [*HEADERS, ("ce_time", None)], "time: '' is not RFC 3339"),
    ],
)
def test_what_is_no_event_is_said_and_never_passed_over(value: bytes | None, headers: Headers, said: str) -> None:
    ids, faults = read(value, headers)

    assert ids == []
    (fault,) = faults
    assert said in fault


def test_what_cannot_be_read_keeps_its_bytes() -> None:
    (unreadable,) = events_of(value=b"not json", headers=(), label="")

    assert isinstance(unreadable, Unreadable)
    assert unreadable.raw == b"not json"
