"""Reading CloudEvents as JSON lines."""

from __future__ import annotations

import io
from decimal import Decimal

from metering.sources.cloudevents import read_cloudevents
from metering.sources.rows import UsageRow


def rows_of(content: bytes) -> list[UsageRow]:
    return list(read_cloudevents(io.BytesIO(content)))


def test_a_line_is_an_event_and_blank_lines_are_nothing() -> None:
    rows = rows_of(b'{"id": "1"}\n\n  \n{"id": "2"}')

    assert [(row.position, row.event) for row in rows] == [(1, {"id": "1"}), (4, {"id": "2"})]


def test_a_number_keeps_every_digit_as_written() -> None:
    (row,) = rows_of(b'{"data": {"value": 0.1000000000000000055511151231257827}}')

    assert row.event == {"data": {"value": Decimal("0.1000000000000000055511151231257827")}}


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    rows = rows_of(b'\xef\xbb\xbf{"id": "1"}\r\n{"id": "2"}\r\n')

    assert [row.event for row in rows] == [{"id": "1"}, {"id": "2"}]


def test_what_is_no_json_object_is_refused_with_its_line_and_the_rest_goes_on() -> None:
    rows = rows_of(b'{"id": "1"}\n{"id": \n[1]\n\xff\xfe\n{"id": "2"}\n')

    assert [(row.position, row.refusal) for row in rows] == [
        (1, ""),
        (2, "malformed"),
        (3, "malformed"),
        (4, "malformed"),
        (5, ""),
    ]


def test_half_of_a_surrogate_pair_is_left_to_the_event_that_holds_it() -> None:
    (row,) = rows_of(rb'{"id": "1", "data": {"note": "\ud800"}}')

    assert (row.refusal, row.event) == ("", {"id": "1", "data": {"note": "\0"}})


def test_a_number_too_long_to_read_is_said_to_be_one() -> None:
    (row,) = rows_of(b'{"id": "1", "data": {"seconds": %s}}' % (b"9" * 6_000))

    assert (row.refusal, row.detail) == ("malformed", "data: a number with more digits than can be read")
