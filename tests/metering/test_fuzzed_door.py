"""Whatever comes through the door for events: it never breaks, each event has an outcome, a retry changes nothing."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.door.bodies import CONTENT_TYPES
from metering.models import Meter, UsageBackfill, UsageDelta, UsageEvent
from tests import make_accounts, make_usage_backfills
from tests import make_metering as make

pytestmark = pytest.mark.django_db

EVENTS = "/api/v1/events"
ANSWERS = {200, 400, 413, 415}
MANY = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Texts of JSON, not objects: much of this no encoder would write.
TIMES = [
    '"2026-10-15T10:30:00Z"',
    '"1970-01-01T00:00:00Z"',
    '"1969-12-31T23:59:59.999999Z"',
    '"9999-12-31T23:59:59.999999Z"',
    '"9999-12-31T23:59:59-12:00"',
    '"0001-01-01T00:00:00+12:00"',
    '"0000-01-01T00:00:00Z"',
    '"2016-12-31T23:59:60Z"',
    '"2026-10-15T10:30:00.1234567890123Z"',
    '"2026-10-15T24:00:00Z"',
    '"2026-02-29T00:00:00+23:59"',
    '"2026-10-15T10:30:00+24:00"',
    "1791974400",
    "null",
]
VALUES = [
    "1",
    '"1"',
    "0",
    "-0",
    "-0.0",
    '"-1"',
    "1e-400",
    "1e400",
    "1E+38",
    '"1e37"',
    "9" * 38,
    "9" * 39,
    '"' + "9" * 38 + '"',
    '"' + "9" * 39 + '"',
    "0." + "0" * 37 + "1",
    "0." + "0" * 38 + "1",
    '"' + "9" * 19 + "." + "9" * 19 + '"',
    "9" * 5_000,
    "1." + "9" * 5_000,
    "1e99999999999999999999",
    "NaN",
    "Infinity",
    "-Infinity",
    '"NaN"',
    '"sNaN"',
    '"Infinity"',
    '"-inf"',
    '"1_000"',
    '"٣"',
    '" 1 "',
    '""',
    "true",
    "null",
    "[]",
    "{}",
    '"\\u0000"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\x01"',
    "[" * 40 + "]" * 40,
    '{"a":' * 1_200 + "1" + "}" * 1_200,
]
NAMES = [
    '"e1"',
    '"e2"',
    '"é"',
    '""',
    '"' + "x" * 201 + '"',
    '"a\\u0000"',
    '"\\udfff"',
    '"a\\tb"',
    '"\\u202e"',
    "7",
    "null",
]
ODD_MEMBERS = [
    '"id":"twice"',
    '"time":"never"',
    '"data":{"seconds":2}',
    '"specversion":"0.3"',
    '"extension":{"a":[1]}',
    '"":0',
]

event_texts = st.builds(
    "{{{}}}".format,
    st.permutations(range(6))
    .flatmap(
        lambda order: st.tuples(
            st.sampled_from(NAMES).map('"id":{}'.format),
            st.sampled_from(['"fuzz"', '"fuzz"', *NAMES]).map('"source":{}'.format),
            st.sampled_from([f'"{make.GPU_USED}"', f'"{make.GPU_USED}"', '"other"', *NAMES]).map('"type":{}'.format),
            st.sampled_from(['"project-1"', '"project-1"', '"nobody"', *NAMES]).map('"subject":{}'.format),
            st.sampled_from(TIMES).map('"time":{}'.format),
            st.sampled_from(VALUES).map('"data":{{"seconds":{}}}'.format),
        ).map(lambda members: [members[place] for place in order])
    )
    .flatmap(
        lambda members: st.sampled_from(["", *ODD_MEMBERS]).map(
            lambda odd: ",".join([*members, odd] if odd else members)
        )
    ),
)
lines_of_events = st.lists(event_texts, max_size=6)


@pytest.fixture
def secret() -> str:
    for aggregation in Meter.Aggregation:
        make.meter(aggregation=aggregation)
    make.subject("project-1")
    return make_accounts.api_key("events:write").secret


def post(client: Client, secret: str, body: bytes, content_type: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(EVENTS, body, content_type=content_type, headers={"Authorization": f"Bearer {secret}", **named})


def assert_kept_its_word(client: Client, secret: str, body: bytes, content_type: str, **headers: str) -> int | None:
    """Send twice; return how many events the door found in the body, None where it refused it as a whole."""
    counted = UsageEvent.objects.count()

    first = post(client, secret, body, content_type, **headers)
    again = post(client, secret, body, content_type, **headers)

    assert first.status_code in ANSWERS, first.content
    assert again.status_code == first.status_code
    if first.status_code != 200:
        assert first["Content-Type"] == "application/problem+json"
        assert first.json()["detail"]
        assert UsageEvent.objects.count() == counted
        return None
    one, two = first.json(), again.json()
    assert UsageEvent.objects.count() == counted + one["accepted"]
    assert (two["accepted"], two["duplicates"]) == (0, one["accepted"] + one["duplicates"])
    assert (two["quarantined"], two["rejected"]) == (one["quarantined"], one["rejected"])
    indexes = [each["index"] for each in one["rejected"]]
    assert indexes == sorted(set(indexes))
    return int(one["accepted"] + one["duplicates"] + one["quarantined"] + len(indexes))


@MANY
@given(texts=lines_of_events, separator=st.sampled_from(["\n", "\r\n", "\n\n \n"]))
def test_every_line_is_accounted_for(client: Client, secret: str, texts: list[str], separator: str) -> None:
    body = f"{separator.join(texts)}\n".encode()

    assert assert_kept_its_word(client, secret, body, "application/x-ndjson") == len(texts)


@MANY
@given(texts=lines_of_events)
def test_every_element_of_an_array_is_accounted_for_or_all_are_refused(
    client: Client, secret: str, texts: list[str]
) -> None:
    body = f"[{','.join(texts)}]".encode()

    found = assert_kept_its_word(client, secret, body, "application/json")

    assert found in {len(texts), None}


@MANY
@given(
    content=st.binary(max_size=300)
    | lines_of_events.map(lambda texts: "\n".join(texts).encode())
    | lines_of_events.map(lambda texts: f"[{','.join(texts)}]".encode()),
    cuts=st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 3), st.binary(max_size=3)), max_size=4),
    content_type=st.sampled_from([*CONTENT_TYPES, "", "text/plain", ";;=", "a/b/c"]),
    encoding=st.sampled_from(["", "identity", "gzip", "br", "gzip, gzip", "\t"]),
    is_packed=st.booleans(),
    packed_cut=st.integers(0, 40),
)
def test_torn_and_garbled_bodies_are_answered(
    client: Client,
    secret: str,
    content: bytes,
    cuts: list[tuple[int, int, bytes]],
    content_type: str,
    encoding: str,
    is_packed: bool,  # noqa: FBT001 -- hypothesis hands it over by name
    packed_cut: int,
) -> None:
    for place, length, instead in cuts:
        content = content[:place] + instead + content[place + length :]
    if is_packed:
        content = gzip.compress(content)[: -packed_cut or None]

    assert_kept_its_word(client, secret, content, content_type, Content_Encoding=encoding)


header_texts = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12) | st.sampled_from(
    ["1.0", "e1", "%", "%zz", "%00", "%ff", "%ED%A0%80", "2026-10-15T10:30:00Z", make.GPU_USED, "project-1"]
)


@MANY
@given(
    attributes=st.dictionaries(
        st.sampled_from(["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_x"]),
        header_texts,
    ),
    data=st.sampled_from(["", *VALUES, *(f'{{"seconds":{value}}}' for value in VALUES)]),
    content_type=st.sampled_from(["application/json", "", "application/cloudevents+json", "text/plain"]),
)
def test_binary_mode_takes_any_headers(
    client: Client, secret: str, attributes: dict[str, str], data: str, content_type: str
) -> None:
    headers = {"ce_specversion": "1.0", "ce_id": "e1", "ce_source": "fuzz", **attributes}

    found = assert_kept_its_word(client, secret, data.encode(), content_type, **headers)

    assert found in {1, None} or content_type == "application/cloudevents+json"


@MANY
@given(
    headers=st.dictionaries(
        st.sampled_from(["Authorization", "Content_Length", "X_Request_ID", "Content_Type"]), header_texts
    )
)
def test_any_headers_are_answered(client: Client, secret: str, headers: dict[str, str]) -> None:
    answer = post(client, secret, b"[]", "application/json", **headers)

    assert answer.status_code in ANSWERS | {401}
    assert json.loads(answer.content)


@MANY
@given(texts=lines_of_events, is_array=st.booleans())
def test_what_is_filled_into_a_backfill_is_accounted_for(
    client: Client,
    secret: str,
    texts: list[str],
    is_array: bool,  # noqa: FBT001 -- hypothesis hands it over by name
) -> None:
    backfill = UsageBackfill.objects.first() or make_usage_backfills.opened(
        source="fuzz",
        start=datetime(2026, 10, 15, tzinfo=UTC),
        end=datetime(2026, 10, 16, tzinfo=UTC),
        at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    body = f"[{','.join(texts)}]" if is_array else "\n".join(texts) + "\n"
    before = backfill.events.count()

    first, again = [
        client.post(
            f"{EVENTS}?backfill={backfill.pk}",
            body.encode(),
            content_type="application/json" if is_array else "application/x-ndjson",
            headers={"Authorization": f"Bearer {secret}"},
        )
        for _ in range(2)
    ]

    assert first.status_code in ANSWERS, first.content
    assert again.status_code == first.status_code
    if first.status_code == 200:
        one, two = first.json(), again.json()
        assert backfill.events.count() == before + one["staged"]
        assert one["staged"] + one["duplicates"] + len(one["rejected"]) == len(texts)
        assert (two["staged"], two["duplicates"]) == (0, one["staged"] + one["duplicates"])
        assert two["rejected"] == one["rejected"]
    assert not UsageEvent.objects.exists()


def test_totals_are_those_of_the_events(client: Client, secret: str) -> None:
    lines = [
        f'{{"id":"n{number}","source":"s","type":"{make.GPU_USED}","subject":"project-1",'
        f'"time":"2026-10-15T10:30:00Z","data":{{"seconds":{value}}}}}'
        for number, value in enumerate(VALUES)
    ]

    answer = post(client, secret, "\n".join(lines).encode(), "application/x-ndjson").json()

    counts = UsageDelta.objects.values_list("count", flat=True)
    assert answer["accepted"] == UsageEvent.objects.count()
    assert sum(counts) == len(Meter.Aggregation) * answer["accepted"]
    kept = {event.event_id: event.data["seconds"] for event in UsageEvent.objects.all()}
    assert f"n{VALUES.index('9' * 38)}" in kept
    assert f"n{VALUES.index('9' * 39)}" not in kept
    assert VALUES.index("NaN") in {each["index"] for each in answer["rejected"]}
