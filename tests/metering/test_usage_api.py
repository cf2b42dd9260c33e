"""Reading usage and events over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import Customer
from metering import rollups
from metering.reading import usage_questions
from tests import make_accounts
from tests import make_metering as make
from tests.make_corrections import replaced, voided

pytestmark = pytest.mark.django_db

USAGE, EVENTS = "/api/v1/usage", "/api/v1/events"


class Read(Protocol):
    def __call__(self, address: str, *, secret: str = "", tag: str = "", **words: Any) -> Any: ...


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer(code="acme")
    make.meter(code="gpu", dimensions=["region"])
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def read(client: Client) -> Read:
    own = make_accounts.api_key("usage:read").secret

    def get(address: str, *, secret: str = "", tag: str = "", **words: Any) -> Any:
        headers = {"Authorization": f"Bearer {secret or own}"} | ({"If-None-Match": tag} if tag else {})
        return client.get(address, words, headers=headers)

    return get


def test_usage_is_read_by_window_and_dimension(acme: Customer, read: Read) -> None:
    make.ingested(
        make.event(time="2026-10-14T21:59:59Z", seconds="1.50", region="eu"),
        make.event(time="2026-10-14T22:00:00Z", seconds="2", region="eu"),
        make.event(time="2026-10-14T22:00:00Z", seconds="4", region="us"),
    )

    body = read(
        USAGE, customer="acme", meter="gpu", month="2026-10", window="day", time_zone="Europe/Berlin", group_by="region"
    ).json()

    assert body.pop("data_as_of")
    assert body.pop("rows") == [
        day("13T22", "14T22", "1.5", 1, region="eu"),
        day("14T22", "15T22", "2", 1, region="eu"),
        day("14T22", "15T22", "4", 1, region="us"),
    ]
    assert body == {
        "customer": "acme",
        "meter": "gpu",
        "aggregation": "sum",
        "unit": "s",
        "start": "2026-09-30T22:00:00Z",
        "end": "2026-10-31T23:00:00Z",
        "window": "day",
        "time_zone": "Europe/Berlin",
        "group_by": ["region"],
    }


def day(start: str, end: str, quantity: str, events: int, **group: str) -> dict[str, object]:
    return {
        "start": f"2026-10-{start}:00:00Z",
        "end": f"2026-10-{end}:00:00Z",
        "group": group,
        "quantity": quantity,
        "events": events,
    }


@pytest.mark.parametrize(
    ("chosen", "quantity"),
    [(["eu"], "1"), (["eu", "us"], "3"), (["(none)"], "4"), (["mars"], None), ([""], "8")],
)
def test_usage_is_filtered_on_dimensions(acme: Customer, read: Read, chosen: list[str], quantity: str | None) -> None:
    make.ingested(
        make.event(seconds="1", region="eu"),
        make.event(seconds="2", region="us"),
        make.event(seconds="4"),
        make.event(seconds="8", region=""),
    )

    asked: dict[str, Any] = {"customer": acme.pk, "meter": "gpu", "month": "2026-10", "filter[region]": chosen}
    rows = read(USAGE, **asked).json()["rows"]

    assert [row["quantity"] for row in rows] == ([quantity] if quantity else [])


def test_what_was_acknowledged_is_in_the_next_read_and_changes_its_tag(acme: Customer, read: Read) -> None:
    asked = {"customer": "acme", "meter": "gpu", "start": "2026-10-01", "end": "2026-11-01"}
    make.ingested(make.event(seconds="1"))
    first = read(USAGE, **asked)
    assert read(USAGE, **asked, tag=first["ETag"]).status_code == HTTPStatus.NOT_MODIFIED
    rollups.fold()
    assert read(USAGE, **asked, tag=f'W/"other", {first["ETag"]}').status_code == HTTPStatus.NOT_MODIFIED

    make.ingested(make.event(seconds="1"))

    again = read(USAGE, **asked, tag=first["ETag"])
    assert (again.status_code, again.json()["rows"][0]["quantity"]) == (HTTPStatus.OK, "2")


def test_a_tag_of_any_kind_is_answered_with_304(acme: Customer, read: Read) -> None:
    answer = read(USAGE, customer="acme", meter="gpu", month="2026-10", tag="*")

    assert (answer.status_code, answer.content, bool(answer["ETag"])) == (HTTPStatus.NOT_MODIFIED, b"", True)


@pytest.mark.parametrize(("address", "allowed"), [(USAGE, "GET, HEAD"), (EVENTS, "GET, HEAD, POST")])
def test_only_the_head_may_be_asked_for_and_other_methods_are_named(
    acme: Customer, client: Client, address: str, allowed: str
) -> None:
    headers = {"Authorization": f"Bearer {make_accounts.api_key('usage:read').secret}"}
    asked = {"customer": "acme", "month": "2026-10"} | ({"meter": "gpu"} if address == USAGE else {})

    head = client.head(address, asked, headers=headers)
    other = client.options(address, headers=headers)

    assert (head.status_code, head.content) == (HTTPStatus.OK, b"")
    assert (other.status_code, other["Allow"]) == (HTTPStatus.METHOD_NOT_ALLOWED, allowed)
    assert other.json()["detail"].endswith(f"only {allowed}.")


def test_a_key_of_a_customer_sees_its_own_usage_and_nobody_elses(acme: Customer, read: Read) -> None:
    make.ingested(make.event(seconds="1"))
    other = make_accounts.customer()
    own = make_accounts.api_key("usage:read", customer=acme).secret
    foreign = make_accounts.api_key("usage:read", customer=other).secret
    sender = make_accounts.api_key("events:write").secret
    asked = {"meter": "gpu", "month": "2026-10"}

    assert read(USAGE, **asked, secret=own).json()["rows"][0]["quantity"] == "1"
    assert len(read(EVENTS, month="2026-10", secret=own).json()["events"]) == 1
    assert read(USAGE, **asked, secret=foreign).json()["rows"] == []
    assert read(EVENTS, month="2026-10", secret=foreign).json()["events"] == []
    for name in ("acme", acme.pk):
        for address in (USAGE, EVENTS):
            answer = read(address, **asked, customer=name, secret=foreign)
            assert (answer.status_code, answer.json()["code"]) == (HTTPStatus.NOT_FOUND, "customer_unknown")
    for address in (USAGE, EVENTS):
        assert read(address, **asked, secret=sender).status_code == HTTPStatus.FORBIDDEN
        assert read(address, **asked, secret="ch_no").status_code == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    ("words", "status", "code", "field"),
    [
        ({"customer": "nobody"}, 404, "customer_unknown", None),
        ({"customer": ""}, 422, "details_invalid", "customer"),
        ({"meter": "no"}, 404, "meter_unknown", None),
        ({"meter": ""}, 422, "details_invalid", "meter"),
        ({"month": ""}, 422, "details_invalid", "month"),
        ({"month": "2026-13"}, 422, "details_invalid", "month"),
        ({"month": "2026-10", "start": "2026-10-01"}, 422, "details_invalid", "month"),
        ({"month": "", "start": "2026-10-01"}, 422, "details_invalid", "end"),
        ({"month": "", "start": "2026-10-01T00:00:00", "end": "2026-10-02"}, 422, "details_invalid", "start"),
        ({"month": "", "start": "2026-10-02", "end": "2026-10-01"}, 422, "details_invalid", "end"),
        ({"month": "", "start": "2026-10-02T00:30:00Z", "end": "2026-10-03"}, 422, "window_not_on_the_hour", None),
        ({"time_zone": "Mars/Olympus"}, 422, "details_invalid", "time_zone"),
        ({"time_zone": "Asia/Kolkata"}, 422, "window_not_on_the_hour", None),
        ({"window": "week"}, 422, "details_invalid", "window"),
        ({"group_by": "colour"}, 422, "details_invalid", "group_by"),
        ({"filter[colour]": "red"}, 422, "details_invalid", "filter"),
        # A misspelt or doubled word would be answered with a figure of something else.
        ({"windows": "hour"}, 422, "details_invalid", "windows"),
        ({"group_by[]": "region"}, 422, "details_invalid", "group_by[]"),
        ({"filter": "eu"}, 422, "details_invalid", "filter"),
        ({"data[region]": "eu"}, 422, "details_invalid", "data[region]"),
        ({"customer": ["other", "acme"]}, 422, "details_invalid", "customer"),
        ({"month\0": "x"}, 422, "details_invalid", ""),
        (
            {"month": "", "start": "2024-01-01", "end": "2026-10-01", "window": "hour"},
            422,
            "usage_asked_too_large",
            None,
        ),
        ({"month": "", "start": "1900-01-01", "end": "9999-12-31", "window": "none"}, 200, None, None),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    acme: Customer, read: Read, words: dict[str, Any], status: int, code: str | None, field: str | None
) -> None:
    answer = read(USAGE, **{"customer": "acme", "meter": "gpu", "month": "2026-10", "window": "day", **words})

    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert field is None or list(answer.json()["errors"]) == [field]


def test_an_answer_of_too_many_rows_is_refused(acme: Customer, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_questions, "MAX_ROWS", 1)
    make.ingested(make.event(seconds="1", region="eu"), make.event(seconds="2", region="us"))
    asked = {"customer": "acme", "meter": "gpu", "month": "2026-10"}

    assert read(USAGE, **asked).status_code == HTTPStatus.OK
    assert read(USAGE, **asked, group_by="region").json()["code"] == "usage_asked_too_large"


def test_reading_takes_the_same_queries_at_one_and_at_fifty_events(acme: Customer, read: Read) -> None:
    counts = []
    for number in (1, 50):
        make.ingested(*[make.event(seconds="1", region=f"r{index}") for index in range(number)])
        with CaptureQueriesContext(connection) as usage_queries:
            rows = read(USAGE, customer="acme", meter="gpu", month="2026-10", group_by="region").json()["rows"]
        with CaptureQueriesContext(connection) as event_queries:
            events = read(EVENTS, customer="acme", month="2026-10", limit=1000).json()["events"]
        counts.append((len(usage_queries), len(event_queries)))
        assert (len(rows), len(events)) == (number, number + number // 50)

    assert counts[0][1] == counts[1][1]
    # The first use of the key is noted.
    assert counts[0][0] - 1 == counts[1][0] <= 7


def test_events_are_read_as_they_came_page_by_page_while_others_come_in(acme: Customer, read: Read) -> None:
    make.ingested(*[make.event(f"e{n}", time=f"2026-10-15T10:0{n}:00Z", seconds=f"{n}.50") for n in range(5)])

    first = read(EVENTS, customer="acme", month="2026-10", limit=2).json()
    make.ingested(make.event("before", time="2026-10-15T09:00:00Z"), make.event("e9", time="2026-10-15T10:09:00Z"))
    second = read(EVENTS, customer="acme", month="2026-10", limit=2, cursor=first["next"]).json()
    third = read(EVENTS, customer="acme", month="2026-10", limit=2, cursor=second["next"]).json()

    pages = [[event["id"] for event in found["events"]] for found in (first, second, third)]
    assert (pages, third["next"]) == ([["e0", "e1"], ["e2", "e3"], ["e4", "e9"]], None)
    event = first["events"][1]
    assert event.pop("received_at").startswith("20")
    assert event.pop("batch")
    assert event.pop("series")[0]["meter"] == "gpu"
    assert event == {
        "id": "e1",
        "source": "cluster/1",
        "type": make.GPU_USED,
        "subject": "project-1",
        "time": "2026-10-15T10:01:00Z",
        "data": {"seconds": "1.50"},
        "state": "counted",
        "amended_by": [],
        "late": False,
        "correction": None,
        "stands_in_by": None,
    }


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ({"type": make.GPU_USED}, ["one", "two"]),
        ({"type": "other"}, []),
        ({"id": "two"}, ["two"]),
        ({"source": "cluster/1", "id": "one"}, ["one"]),
        ({"source": "cluster/2", "id": "one"}, []),
        ({"subject": "project-1", "data[region]": "eu"}, ["one"]),
        ({"data[seconds]": "12345678901234567890.123456789"}, ["two"]),
        ({"meter": "gpu"}, ["one", "two"]),
        ({"meter": "gpu", "filter[region]": "us"}, ["two"]),
        ({"start": "2026-10-15T10:30:00Z", "end": "2026-10-15T10:30:01Z", "month": ""}, ["one"]),
        # An event exactly at the end of a period is in the next one.
        ({"start": "2026-10-15T10:30:00Z", "end": "2026-10-15T11:30:00Z", "month": ""}, ["one"]),
    ],
)
def test_events_are_found_by_what_they_say(acme: Customer, read: Read, words: dict[str, str], ids: list[str]) -> None:
    one = make.event("one", region="eu", seconds="1")
    two = make.event("two", time="2026-10-15T11:30:00Z", region="us", seconds="12345678901234567890.123456789")
    make.ingested(one, two)

    found = read(EVENTS, **{"customer": "acme", "month": "2026-10", **words}).json()

    assert [event["id"] for event in found["events"]] == ids


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"limit": "0"}, "details_invalid"),
        ({"limit": "00000000010000"}, "details_invalid"),
        ({"limit": "000000001" + "0" * 5000}, "details_invalid"),
        ({"filter[region]": "eu"}, "details_invalid"),
        ({"meter": "gpu", "filter[colour]": "red"}, "details_invalid"),
        ({"events": "x"}, "details_invalid"),
        ({"limit": "1001"}, "details_invalid"),
        ({"cursor": "x"}, "cursor_invalid"),
        ({"cursor": "é"}, "cursor_invalid"),
        ({"meter": "no"}, "meter_unknown"),
        ({"type": "\0"}, "details_invalid"),
    ],
)
def test_a_page_that_cannot_be_given_says_why(acme: Customer, read: Read, words: dict[str, str], code: str) -> None:
    answer = read(EVENTS, **{"customer": "acme", "month": "2026-10", **words})

    assert answer.json()["code"] == code


def test_a_corrected_event_says_what_became_of_it(acme: Customer, read: Read) -> None:
    make.ingested(make.event("gone", seconds="1"), make.event("mended", seconds="2"), make.event("kept", seconds="4"))
    voided("gone")
    replaced("mended", seconds="3")

    events = read(EVENTS, customer="acme", month="2026-10", meter="gpu").json()["events"]
    usage = read(USAGE, customer="acme", meter="gpu", month="2026-10").json()["rows"]

    states = {event["id"]: (event["state"], len(event["series"]), len(event["amended_by"])) for event in events}
    assert [states.pop(name) for name in ("gone", "mended", "kept")] == [
        ("voided", 0, 1),
        ("replaced", 0, 1),
        ("counted", 1, 0),
    ]
    assert list(states.values()) == [("counted", 1, 0)]
    assert (usage[0]["quantity"], usage[0]["events"]) == ("7", 2)


def test_a_search_that_takes_too_long_is_refused_and_says_what_to_do(
    acme: Customer, read: Read, settings: Settings
) -> None:
    make.ingested(make.event(seconds="1"))
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO usage_event
                (customer_id, time, key, batch_id, source, event_id, type, subject, data, series_ids)
            SELECT customer_id, time, gen_random_uuid(), batch_id, source, 'n-' || number, type, subject, data,
                   series_ids
            FROM usage_event CROSS JOIN generate_series(1, 20000) AS number
            """
        )
    settings.USAGE_EVENTS_TIMEOUT_SECONDS = 0.001

    answer = read(EVENTS, customer="acme", month="2026-10", **{"data[nothing]": "x"})

    assert (answer.status_code, answer.json()["code"]) == (422, "events_searched_too_long")
    assert "shorter period" in answer.json()["detail"]
