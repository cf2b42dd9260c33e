"""The API's door for events, over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol

import psycopg
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.api_keys import revoke_api_key
from accounts.models import Customer
from metering.door import admission
from metering.models import RefusedEvent, UsageBatch, UsageEvent
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

EVENTS = "/api/v1/events"


class Send(Protocol):
    def __call__(self, body: object, *, secret: str | None = None) -> Any: ...


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def send(client: Client) -> Send:
    own = make_accounts.api_key("events:write").secret

    def post(body: object, *, secret: str | None = None) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {own if secret is None else secret}"}
        return client.post(EVENTS, content, content_type="application/json", headers=headers)

    return post


def recent(event_id: str = "", *, seconds: object = "1", **data: object) -> dict[str, object]:
    moment = timezone.now() - timedelta(minutes=5)
    return {**make.event(event_id, time=moment.isoformat()), "data": {"seconds": seconds, **data}}


def test_one_object_and_an_array_are_taken(acme: Customer, send: Send) -> None:
    one = send(recent("e1"))
    many = send([recent("e2"), recent("e3")])

    assert (one.status_code, one.json()["accepted"]) == (200, 1)
    assert (many.status_code, many.json()["accepted"]) == (200, 2)
    assert UsageEvent.objects.filter(customer_id=acme.pk).count() == 3


def test_the_answer_says_what_became_of_each_event(acme: Customer, send: Send) -> None:
    first = recent("e1", seconds="1")
    send(first)

    answer = send([first, {**first, "data": {"seconds": "2"}}, {"id": "bad"}, recent("e9", seconds=None), recent("e2")])

    assert answer.status_code == HTTPStatus.OK
    body = answer.json()
    assert (body["accepted"], body["duplicates"], body["quarantined"]) == (1, 1, 1)
    assert [(each["index"], each["id"], each["reason"]) for each in body["rejected"]] == [
        (1, "e1", "conflict"),
        (2, "bad", "malformed"),
    ]
    assert UsageBatch.objects.get(pk=body["batch"]).door == "api"


def test_numbers_arrive_with_every_digit_sent(acme: Customer, send: Send) -> None:
    event = json.dumps(recent("e1", seconds=0)).replace(
        '"seconds": 0', '"seconds": 0.10000000000000000000000000000000001'
    )

    send(event.encode())

    with connection.cursor() as cursor:
        cursor.execute("SELECT data ->> 'seconds', (SELECT sum FROM usage_delta)::text FROM usage_event")
        assert cursor.fetchone() == ("0.10000000000000000000000000000000001",) * 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "body_not_json"),
        (b'{"id": "e1", ', 400, "body_not_json"),
        (b"[{},]", 400, "body_not_json"),
        (b"\x1f\x8b\x08\x00", 400, "body_not_json"),
        (b'"event"', 400, "body_not_events"),
        (b"[" + b"{}," * 10_000 + b"{}]", 413, "too_many_events"),
        (b" " * (16 * 1024 * 1024 + 1), 413, "body_too_large"),
    ],
)
def test_a_body_that_cannot_be_taken_as_a_whole_is_answered_with_a_problem(
    send: Send,
    body: bytes,
    status: int,
    code: str,
) -> None:
    answer = send(body)

    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["code"] == code
    assert answer.json()["detail"]
    assert not UsageBatch.objects.exists()


@pytest.mark.parametrize("half", [r"\ud800", r"\uDC00", r"\ud800\u0041", r"\ud83d\ud83d\ude00", r"\\\udfff"])
@pytest.mark.parametrize("place", ["id", "subject", "value", "name"])
def test_half_a_surrogate_pair_costs_its_event_and_not_the_batch(
    acme: Customer, send: Send, half: str, place: str
) -> None:
    bad = json.dumps(
        {
            "id": {**recent("e2"), "id": "HALF"},
            "subject": {**recent("e2"), "subject": "HALF"},
            "value": recent("e2", note=["HALF"]),
            "name": recent("e2", note={"HALF": 1}),
        }[place]
    ).replace("HALF", half)
    # A whole pair, and what only looks like half of one.
    good = json.dumps(recent("e3", note="😀 \\ud800"))

    answer = send(f"[{json.dumps(recent('e1'))},{bad},{good}]".encode())

    body = answer.json()
    assert (answer.status_code, body["accepted"]) == (200, 2)
    assert [(each["index"], each["reason"]) for each in body["rejected"]] == [(1, "malformed")]
    assert UsageEvent.objects.get(event_id="e3").data["note"] == "😀 \\ud800"


def test_half_a_surrogate_pair_in_the_only_event_or_beside_another_fault_is_told(acme: Customer, send: Send) -> None:
    alone = send(json.dumps(recent("e1", note="\ud800")).encode())
    broken = send(rb'[{"id": "\ud800"}, ?]')
    odd_type = send([{"id": 5}, recent("e2", note="\ud800"), recent("e3")])

    assert [each["index"] for each in alone.json()["rejected"]] == [0]
    assert (broken.json()["code"], "byte 19" in broken.json()["detail"]) == ("body_not_json", True)
    assert [each["index"] for each in odd_type.json()["rejected"]] == [0, 1]


def test_another_method_is_answered_with_a_problem_that_names_the_right_one(client: Client) -> None:
    answer = client.put(EVENTS)

    assert (answer.status_code, answer["Content-Type"]) == (405, "application/problem+json")
    assert "POST" in answer["Allow"].split(", ")
    assert answer.json()["code"] == "method_not_allowed"
    assert "PUT" in answer.json()["detail"]


def test_the_place_where_json_breaks_is_named(send: Send) -> None:
    assert "byte 5" in send(b'{"id"?').json()["detail"]


@pytest.mark.parametrize("secret", ["", "ch_000000000000_" + "0" * 64, "not a key"])
def test_without_a_key_that_is_known_nothing_is_taken(acme: Customer, send: Send, secret: str) -> None:
    answer = send(recent(), secret=secret)

    assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")
    assert answer["WWW-Authenticate"].startswith("Bearer ")
    assert answer.json()["code"].startswith("api_key_")
    assert not UsageBatch.objects.exists()


def test_an_expired_a_revoked_and_an_under_scoped_key_are_refused(acme: Customer, send: Send) -> None:
    expired = make_accounts.api_key("events:write", expires_at=datetime(2024, 6, 1, tzinfo=UTC))
    revoked = make_accounts.api_key("events:write")
    revoke_api_key(key_id=revoked.key.pk, reason="lost", actor=make.SYSTEM, at=timezone.now())
    reader = make_accounts.api_key("usage:read")

    answers = [send(recent(), secret=key.secret) for key in (expired, revoked, reader)]

    assert [answer.status_code for answer in answers] == [401, 401, 403]
    assert not UsageBatch.objects.exists()


def test_a_customers_key_sends_for_that_customer_only(acme: Customer, send: Send) -> None:
    make.subject("rival")
    key = make_accounts.api_key("events:write", customer=acme)

    answer = send([recent("mine"), {**recent("theirs"), "subject": "rival"}], secret=key.secret).json()

    assert (answer["accepted"], [each["reason"] for each in answer["rejected"]]) == (1, ["foreign_subject"])


def test_a_key_of_a_source_sends_events_of_that_source_only(acme: Customer, send: Send) -> None:
    key = make_accounts.api_key("events:write", source="cluster/1")
    others = {**recent("theirs"), "source": "cluster/2"}

    first = send([recent("mine"), others, others], secret=key.secret).json()
    of_another_key = send(others).json()

    assert (first["accepted"], [(each["index"], each["reason"]) for each in first["rejected"]]) == (
        1,
        [(1, "foreign_source"), (2, "foreign_source")],
    )
    assert RefusedEvent.objects.get().reason == "foreign_source"
    assert of_another_key["accepted"] == 1


def test_the_door_is_described_in_the_apis_own_description(client: Client) -> None:
    described = client.get("/api/schema/", headers={"Accept": "application/json"}).json()

    operation = described["paths"][EVENTS]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "403", "404", "409", "413", "415", "422", "429", "503"}
    assert {each["name"] for each in operation["parameters"]} == {"Content-Encoding", "backfill"}
    assert "apiKey" in described["components"]["securitySchemes"]


def test_a_key_that_sends_does_not_read(client: Client) -> None:
    sender = make_accounts.api_key("events:write").secret

    answer = client.get(EVENTS, headers={"Authorization": f"Bearer {sender}"})

    assert (answer.status_code, answer.json()["code"]) == (HTTPStatus.FORBIDDEN, "api_key_scope_missing")


def test_fifty_events_take_as_many_queries_as_one(acme: Customer, send: Send) -> None:
    send(recent())
    counts = []
    for number in (1, 50):
        admission.backlog.forget()  # which is asked once a second, whatever comes
        with CaptureQueriesContext(connection) as queries:
            send([recent() for _ in range(number)])
        counts.append(len(queries))

    assert counts[0] == counts[1]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_goes_away_in_the_middle_is_answered_with_503_and_nothing_is_half_done(
    acme: Customer,
    send: Send,
) -> None:
    def end_the_session_first(execute: Any, sql: str, *args: Any) -> Any:
        if "metering_refusedevent" in sql:  # written after identities, events and deltas, before the commit
            _end_session(connection.connection.info.backend_pid)
        return execute(sql, *args)

    with connection.execute_wrapper(end_the_session_first):
        answer = send([recent("e1"), {"id": "bad"}])
    connection.close()

    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert int(answer["Retry-After"]) > 0
    assert not UsageEvent.objects.exists()
    assert send(recent("e1")).json()["accepted"] == 1


def _end_session(backend_pid: int) -> None:
    parameters = connection.get_connection_params()
    with psycopg.connect(
        host=parameters.get("host"),
        port=parameters.get("port"),
        user=parameters.get("user"),
        password=parameters.get("password"),
        dbname=parameters["dbname"],
    ) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend_pid])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
almost_events = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=5) | json_values,
        "source": st.just("fuzz") | json_values,
        "type": st.just(make.GPU_USED) | json_values,
        "time": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat) | st.text() | json_values,
    },
    optional={
        "subject": st.just("project-1") | json_values,
        "data": st.fixed_dictionaries({"seconds": json_values}) | json_values,
        "specversion": st.just("1.0") | json_values,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200)
    | st.lists(almost_events, max_size=6).map(lambda events: json.dumps(events).encode())
    | almost_events.map(lambda event: json.dumps(event).encode())
    | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_whatever_is_sent_the_door_never_breaks_and_every_event_is_accounted_for(
    acme: Customer,
    send: Send,
    body: bytes,
) -> None:
    answer = send(body)

    assert answer.status_code in {200, 400}, answer.content
    if answer.status_code == HTTPStatus.OK:
        sent, became = json.loads(body), answer.json()
        events = sent if isinstance(sent, list) else [sent]
        outcomes = became["accepted"] + became["duplicates"] + became["quarantined"] + len(became["rejected"])
        assert outcomes == len(events)
        indexes = [each["index"] for each in became["rejected"]]
        assert indexes == sorted(set(indexes))
