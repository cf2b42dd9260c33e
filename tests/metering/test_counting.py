"""What one event adds to a meter's series, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from metering.counting import (
    Counted,
    CountingRules,
    MeterRule,
    Ownership,
    Part,
    Problem,
    Reason,
    VersionRule,
    add_up,
)
from metering.events import decode_body, read_events
from metering.models import Meter, PartKind

Aggregation = Meter.Aggregation
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
CHANGE = datetime(2026, 10, 15, 12, tzinfo=UTC)


def version(
    number: int = 1,
    *,
    valid_from: datetime = BEGINNING,
    value_path: str = "value",
    event_filter: dict[str, Any] | None = None,
    conversion: str | None = None,
    dimensions: tuple[str, ...] = (),
) -> VersionRule:
    return VersionRule(
        number, valid_from, value_path, event_filter or {}, Decimal(conversion) if conversion else None, dimensions
    )


def meter(*versions: VersionRule, number: int = 1, aggregation: str = Aggregation.SUM) -> MeterRule:
    newest_first = sorted(versions or (version(),), key=lambda each: each.valid_from, reverse=True)
    return MeterRule(number, aggregation, 10_000, newest_first)


def judge(data: str, *meters: MeterRule, time: str = "2026-10-15T10:30:00Z") -> Counted | Problem:
    body = f'{{"id": "1", "source": "s", "type": "t", "subject": "x", "time": "{time}", "data": {data}}}'
    (event,), malformed = read_events(decode_body(body.encode()))
    assert not malformed
    rules = CountingRules(
        meters={"t": list(meters) or [meter()]},
        owners={"x": [Ownership(7, None, None)]},
        earliest=BEGINNING,
        latest=datetime(2100, 1, 1, tzinfo=UTC),
    )
    return rules.judge(event)


def counted(data: str, *meters: MeterRule, time: str = "2026-10-15T10:30:00Z") -> Counted:
    found = judge(data, *meters, time=time)
    assert isinstance(found, Counted), found
    return found


def reason(data: str, *meters: MeterRule, time: str = "2026-10-15T10:30:00Z") -> Reason:
    found = judge(data, *meters, time=time)
    assert isinstance(found, Problem)
    return found.reason


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-10-15T11:59:59.999999Z", 1),
        ("2026-10-15T12:00:00Z", 2),
        ("2026-10-15T14:00:00+02:00", 2),
        ("2026-10-15T13:59:59.999999+02:00", 1),
        ("1900-01-01T00:00:00Z", 1),
        ("2026-10-15T12:30:00Z", 2),
    ],
)
def test_the_version_in_force_at_the_events_own_time_reads_it(time: str, expected: int) -> None:
    changed = meter(version(1), version(2, valid_from=CHANGE))

    assert counted('{"value": 1}', changed, time=time).parts[0].series.version_id == expected


def test_an_event_of_before_the_first_version_is_not_taken() -> None:
    young = meter(version(1, valid_from=CHANGE))

    assert reason('{"value": 1}', young, time="2026-10-15T11:59:59.999999Z") == Reason.UNKNOWN_TYPE
    assert len(counted('{"value": 1}', young, time="2026-10-15T12:00:00Z").parts) == 1


def test_each_version_has_its_own_value_filter_and_dimensions() -> None:
    changed = meter(
        version(1, value_path="mb", conversion="0.001", event_filter={"state": "up"}, dimensions=("zone",)),
        version(2, value_path="gb", valid_from=CHANGE, dimensions=("region", "tier")),
    )
    data = '{"mb": 1500, "gb": 7, "state": "up", "zone": "a", "region": "eu"}'

    before = counted(data, changed, time="2026-10-15T11:00:00Z").parts[0]
    after = counted(data, changed, time="2026-10-15T12:00:00Z").parts[0]

    assert (before.value, before.series.dimensions) == (Decimal("1.500"), ("a",))
    assert (after.value, after.series.dimensions) == (Decimal(7), ("eu", None))


def test_one_event_feeds_every_meter_whose_filter_takes_it() -> None:
    found = counted(
        '{"value": 3, "spot": true}',
        meter(number=1),
        meter(version(value_path=""), number=2, aggregation=Aggregation.COUNT),
        meter(version(event_filter={"spot": False}), number=3),
    )

    assert [(part.series.meter_id, int(part.value)) for part in found.parts] == [(1, 3), (2, 1)]


def test_a_value_that_one_meter_cannot_read_keeps_the_event_from_all() -> None:
    assert reason('{"value": 1}', meter(number=1), meter(version(value_path="gb"), number=2)) == Reason.MISSING_VALUE


@pytest.mark.parametrize(
    ("data", "wanted", "takes"),
    [
        ('{"flag": true}', True, True),
        ('{"flag": 1}', True, False),
        ('{"flag": true}', 1, False),
        ('{"flag": 1}', 1, True),
        ('{"flag": 1.0}', 1, True),
        ('{"flag": "1"}', 1, False),
        ('{"flag": 0}', False, False),
        ('{"flag": false}', False, True),
        ('{"flag": null}', False, False),
        ("{}", "", False),
        ('{"flag": ""}', "", True),
        ('{"flag": {"on": 1}}', 1, False),
    ],
)
def test_a_filter_tells_true_from_one(data: str, wanted: str | int | bool, takes: bool) -> None:  # noqa: FBT001
    data = data[:-1] + (', "value": 1}' if data != "{}" else '"value": 1}')
    found = judge(data, meter(version(event_filter={"flag": wanted})))

    assert isinstance(found, Counted) == takes


@pytest.mark.parametrize(
    ("data", "path", "value"),
    [
        ('{"disk": {"used": 4}}', "disk.used", "4"),
        ('{"disk.used": 5, "disk": {"used": 4}}', "disk.used", "5"),
        ('{"disk.used": null, "disk": {"used": 4}}', "disk.used", "4"),
        ('{"a": {"b": {"c.d": 1, "c": {"d": 6}}}}', "a.b.c.d", "6"),
        ('{"disk.used": 0, "disk": {"used": 4}}', "disk.used", "0"),
    ],
)
def test_a_name_is_looked_for_whole_before_its_dots_lead_inside(data: str, path: str, value: str) -> None:
    assert counted(data, meter(version(value_path=path))).parts[0].value == Decimal(value)


@pytest.mark.parametrize("data", ['{"a": [5]}', '{"a": 5}', '{"a": {}}', '{"a": null}', '{"a": "0"}'])
def test_dots_lead_into_objects_alone(data: str) -> None:
    assert reason(data, meter(version(value_path="a.0"))) == Reason.MISSING_VALUE


def test_filters_and_dimensions_reach_into_nested_objects() -> None:
    nested = meter(version(event_filter={"node.state": "up"}, dimensions=("node.zone", "node.none")))

    found = counted('{"value": 1, "node": {"state": "up", "zone": 3}}', nested)

    assert found.parts[0].series.dimensions == ("3", None)
    assert reason('{"value": 1, "node": {"state": "down"}}', nested) == Reason.UNKNOWN_TYPE


@pytest.mark.parametrize(
    ("value", "conversion", "exact"),
    [
        ("1", "0.000000001", "1E-9"),
        ('"0.1"', "3", "0.3"),
        ("1e2", "0.1", "10.0"),
        ("-2.5", "4", "-10.0"),
        ("9" * 38, "9" * 38, str(int("9" * 38) ** 2)),
        ('"0.' + "9" * 38 + '"', "0." + "9" * 38, f"{int('9' * 38) ** 2}E-76"),
    ],
)
def test_a_conversion_multiplies_exactly(value: str, conversion: str, exact: str) -> None:
    found = counted(f'{{"value": {value}}}', meter(version(conversion=conversion)))

    assert found.parts[0].value == Decimal(exact)


def test_the_largest_and_the_smallest_converted_values_add_up_exactly() -> None:
    large = counted(f'{{"value": {"9" * 38}}}', meter(version(conversion="9" * 19 + "." + "9" * 19)))
    small = counted(f'{{"value": "0.{"0" * 37}1"}}', meter(version(conversion="9" * 19 + "." + "9" * 19)))

    (total,) = add_up([large] * 5_000 + [small] * 5_000).hours.values()

    one_of_each = (int("9" * 38) + Fraction(1, 10**38)) * Fraction(int("9" * 38), 10**19)
    assert Fraction(total.sum) == one_of_each * 5_000


@pytest.mark.parametrize("value", ["9" * 38, "0." + "9" * 38, "1e37", "1e-38", "-" + "9" * 38, "00" + "9" * 38])
def test_thirty_eight_digits_are_taken(value: str) -> None:
    assert counted(f'{{"value": "{value}"}}').parts[0].value == Decimal(value)


@pytest.mark.parametrize("value", ["9" * 39, "1." + "9" * 38, "1e38", "1e-39", "0e-39"])
def test_thirty_nine_digits_are_not(value: str) -> None:
    assert reason(f'{{"value": "{value}"}}') == Reason.INVALID_VALUE


@pytest.mark.parametrize(
    "value", ['"NaN"', '"Infinity"', '"-inf"', '"sNaN"', "true", "[]", "{}", '"1,5"', '" 1"', '"0x1"', '"٣"', "1e999"]
)
def test_what_is_no_number_waits(value: str) -> None:
    assert reason(f'{{"value": {value}}}') == Reason.INVALID_VALUE


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ('"1"', "1"),
        ('"1.0"', "1.0"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e5", "0"),
        ("1.50", "1.5"),
        ("true", "true"),
        ("false", "false"),
        ('"héllo wörld"', "héllo wörld"),
        ('"back\\\\slash"', "back\\slash"),
    ],
)
def test_a_different_value_has_one_way_of_writing(sent: str, text: str) -> None:
    part = counted(f'{{"value": {sent}}}', meter(aggregation=Aggregation.UNIQUE)).parts[0].part

    assert part is not None
    assert (part.kind, part.text) == (PartKind.VALUE, text)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("null", Reason.MISSING_VALUE),
        ('""', Reason.MISSING_VALUE),
        ("[1]", Reason.INVALID_VALUE),
        ("{}", Reason.INVALID_VALUE),
        ('"a\\tb"', Reason.INVALID_VALUE),
        ('"a\\nb"', Reason.INVALID_VALUE),
        (f'"{"x" * 201}"', Reason.INVALID_VALUE),
    ],
)
def test_what_cannot_be_told_apart_waits(sent: str, expected: Reason) -> None:
    assert reason(f'{{"value": {sent}}}', meter(aggregation=Aggregation.UNIQUE)) == expected


@pytest.mark.parametrize(
    ("time", "slot"),
    [
        ("2026-10-15T10:00:00Z", "00"),
        ("2026-10-15T10:04:59.999999Z", "00"),
        ("2026-10-15T10:05:00Z", "05"),
        ("2026-10-15T10:59:59Z", "55"),
        ("2026-10-15T10:12:00+05:45", "25"),
    ],
)
def test_five_minutes_begin_on_the_clock(time: str, slot: str) -> None:
    part = counted('{"value": 1}', meter(aggregation=Aggregation.P95), time=time).parts[0].part

    assert part == Part(PartKind.SLOT, slot)


@pytest.mark.parametrize(
    ("time", "value", "text"),
    [
        ("2026-10-15T10:00:00Z", "1.50", "0000000000 1.5"),
        ("2026-10-15T10:59:59.999999Z", "-0.0", "3599999999 0"),
        ("2026-10-15T10:00:01.5Z", "1e3", "0001500000 1000"),
    ],
)
def test_a_reading_keeps_its_moment_to_the_microsecond(time: str, value: str, text: str) -> None:
    part = counted(f'{{"value": {value}}}', meter(aggregation=Aggregation.GAUGE), time=time).parts[0].part

    assert part == Part(PartKind.READING, text)


def test_readings_of_one_moment_and_level_are_one_part() -> None:
    gauge = meter(aggregation=Aggregation.GAUGE)
    events = [counted(f'{{"value": {value}}}', gauge) for value in ("5", "5.0", "5e0", "6")]

    parts = {key.part.text: total.count for key, total in add_up(events).parts.items()}

    assert parts == {"1800000000 5": 3, "1800000000 6": 1}


def test_the_last_value_is_that_of_the_latest_time_and_of_several_the_greatest() -> None:
    events = [
        counted('{"value": 9}', time="2026-10-15T10:10:00Z"),
        counted('{"value": 2}', time="2026-10-15T10:20:00Z"),
        counted('{"value": 3}', time="2026-10-15T10:20:00Z"),
        counted('{"value": 1}', time="2026-10-15T10:20:00Z"),
    ]

    for order in (events, events[::-1]):
        (total,) = add_up(order).hours.values()
        assert [total.last, total.min, total.max, total.sum] == [Decimal(each) for each in (3, 1, 9, 15)]


def test_an_hour_ends_where_the_next_begins() -> None:
    end = datetime(2026, 10, 15, 11, tzinfo=UTC)
    events = [counted('{"value": 1}', time=moment.isoformat()) for moment in (end - timedelta(microseconds=1), end)]

    assert [hour for _, hour in add_up(events).hours] == ["2026-10-15T10", "2026-10-15T11"]


def test_a_number_too_long_to_read_is_no_value() -> None:
    number = msgspec.json.encode("9" * 2_000).decode()

    assert reason(f'{{"value": {number}}}') == Reason.INVALID_VALUE
