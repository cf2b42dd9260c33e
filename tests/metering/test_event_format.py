from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import BodyNotEvents, BodyNotJson
from metering.events import decode_body, event_key, read_events

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GOOD = {"id": "1", "source": "s", "type": "t", "time": "2026-10-15T10:30:00Z"}


def one(**changes: object) -> Any:
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        pytest.param(one(id=...), "missing required field `id`", id="no id"),
        pytest.param(one(id=""), "`id`", id="empty id"),
        pytest.param(one(id="x" * 201), "`id`", id="id too long"),
        pytest.param(one(id=7), "`id`", id="id is a number"),
        pytest.param(one(source=...), "`source`", id="no source"),
        pytest.param(one(type=None), "`type`", id="type is null"),
        pytest.param(one(id="a\nb"), "id: holds a control character", id="line end in the id"),
        pytest.param(one(subject="a\0b"), "subject: holds a control character", id="NUL in the subject"),
        pytest.param(one(source="\ud800"), "source: holds a control character", id="half a surrogate pair"),
        pytest.param(one(specversion="0.3"), "specversion", id="another version"),
        pytest.param(one(time=...), "`time`", id="no time"),
        pytest.param(one(time="2026-10-15T10:30:00"), "no offset", id="no offset"),
        pytest.param(one(time="2026-10-15"), "not RFC 3339", id="a date"),
        pytest.param(one(time="15.10.2026 10:30"), "not RFC 3339", id="another format"),
        pytest.param(one(time="2026-02-30T10:30:00Z"), "no moment of the calendar", id="no such day"),
        pytest.param(one(time="2016-12-31T23:59:60Z"), "leap second", id="leap second"),
        pytest.param(one(time="0001-01-01T00:00:00+01:00"), "no moment of the calendar", id="before the year 1"),
        pytest.param(one(time="9999-12-31T23:59:59-01:00"), "no moment of the calendar", id="after the year 9999"),
        pytest.param(one(data=[1]), "data", id="data is an array"),
        pytest.param(one(data=..., data_base64="eyJ4IjogMX0="), "data_base64", id="data as binary"),
        pytest.param(one(data={"x": 1.5}), "float", id="a binary float"),
        pytest.param(one(data={"x": Decimal("NaN")}), "data", id="NaN"),
        pytest.param(one(data={"x": Decimal("1e5000")}), "data", id="a number no database holds"),
        pytest.param(one(data={"x": "a\0b"}), "U+0000", id="NUL in the data"),
        pytest.param(one(data={"a\0b": "x"}), "U+0000", id="NUL in a name of the data"),
        pytest.param(one(data={"x": "y" * 70_000}), "at most 65,536", id="too large"),
        pytest.param(one(data={"x": [Decimal("1e999")] * 66}), "at most 65,536", id="too large once written out"),
        pytest.param(one(data={"x": {"y": [Decimal("1e-999")] * 66}}), "at most 65,536", id="too many places"),
        pytest.param(7, "Expected `object`", id="a number"),
        pytest.param([], "Expected `object`", id="an array"),
        pytest.param(None, "Expected `object`", id="null"),
    ],
)
def test_what_is_no_event_is_refused_with_its_position_and_the_others_go_on(item: object, detail: str) -> None:
    events, malformed = read_events([one(), item, one(id="2")])

    assert [event.index for event in events] == [0, 2]
    assert [(fault.index, detail in fault.detail) for fault in malformed] == [(1, True)], malformed


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-15T10:30:00Z", datetime(2026, 10, 15, 10, 30, tzinfo=UTC)),
        ("2026-10-15t10:30:00z", datetime(2026, 10, 15, 10, 30, tzinfo=UTC)),
        ("2026-10-15 10:30:00.25Z", datetime(2026, 10, 15, 10, 30, 0, 250_000, tzinfo=UTC)),
        ("2026-10-15T10:30:00+05:45", datetime(2026, 10, 15, 4, 45, tzinfo=UTC)),
        ("2026-10-31T23:59:59.9999999Z", datetime(2026, 10, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_to_the_microsecond_and_never_rounded_up(text: str, moment: datetime) -> None:
    (event,), _ = read_events([one(time=text)])

    assert event.time == moment
    assert event.time.tzinfo is UTC


def test_the_content_is_the_same_however_it_is_written() -> None:
    (first, second), _ = read_events(
        [
            *decode_body(b'[{"id":"1","source":"s","type":"t","time":"2026-10-15T10:30:00Z","data":{"a":1.50,"b":2}}]'),
            *decode_body(
                b'{"data": {"b": 2, "a": 1.50}, "time": "2026-10-15T12:30:00.000+02:00", "specversion": "1.0",'
                b' "type": "t", "source": "s", "id": "1", "datacontenttype": "application/json"}',
            ),
        ],
    )

    assert (first.key, first.content_hash) == (second.key, second.content_hash)


def test_source_and_id_cannot_borrow_from_each_other() -> None:
    assert event_key("ab", "c") != event_key("a", "bc")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1.50", '{"x":1.50}'),
        (
            "12345678901234567890123456789012345678901234567890",
            '{"x":12345678901234567890123456789012345678901234567890}',
        ),
        ("0.1", '{"x":0.1}'),
        ("1e3", '{"x":1E+3}'),
        ("1e99999999999999999999", '{"x":"1e99999999999999999999"}'),
    ],
)
def test_numbers_are_kept_to_the_last_digit(written: str, kept: str) -> None:
    body = b'{"id":"1","source":"s","type":"t","time":"2026-10-15T10:30:00Z","data":{"x":%s}}' % written.encode()

    (event,), _ = read_events(decode_body(body))

    assert event.data_text == kept


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1",
        b"[{]",
        b"nope",
        b"\xff\xfe",
        b'{"id": "1"} trailing',
        b"[NaN]",
        b"[" * 100_000,
        b'{"a":' * 5_000,
    ],
)
def test_a_body_that_is_not_json_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(BodyNotJson):
        decode_body(body)


@pytest.mark.parametrize("body", [b"7", b'"x"', b"null", b"true", b" 1.5 "])
def test_a_body_of_something_else_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(BodyNotEvents):
        decode_body(body)


@pytest.mark.parametrize("data", [b'{"a":' * 100 + b"1" + b"}" * 100, b'{"x":%s}' % (b"9" * 6_000)])
def test_data_too_deep_or_a_number_too_long_costs_only_its_own_event(data: bytes) -> None:
    good = b'{"id":"1","source":"s","type":"t","time":"2026-10-15T10:30:00Z"}'
    body = b'[%s,{"id":"2","source":"s","type":"t","time":"2026-10-15T10:30:00Z","data":%s}]' % (good, data)

    events, malformed = read_events(decode_body(body))

    assert [event.index for event in events] == [0]
    assert [fault.index for fault in malformed] == [1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    items=st.lists(
        json_values | st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "data", "subject"], json_values))
    )
)
def test_every_object_is_either_an_event_or_malformed(items: list[object]) -> None:
    events, malformed = read_events(items)

    assert sorted([event.index for event in events] + [fault.index for fault in malformed]) == list(range(len(items)))


@given(
    moment=st.integers(-(10**15), 10**17).map(lambda number: EPOCH + timedelta(microseconds=number)),
    offset=st.integers(-23 * 60, 23 * 60),
)
def test_one_moment_has_one_content_hash_in_every_offset(moment: datetime, offset: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=offset)))

    (here, there), _ = read_events([one(time=moment.isoformat()), one(time=elsewhere.isoformat())])

    assert here.content_hash == there.content_hash
    assert here.time_text == there.time_text


def test_numbers_with_exponents_are_kept_where_they_take_little_room_written_out() -> None:
    (event,), _ = read_events([one(data={"x": [Decimal("1e999"), Decimal("1E-999")] * 30, "y": "E" * 100})])

    assert len(event.data["x"]) == 60
