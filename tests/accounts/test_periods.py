"""Billing periods, local days and months."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.periods import (
    AnchorDayInvalid,
    Grain,
    Month,
    MonthInvalid,
    Period,
    PeriodInvalid,
    TimeZoneUnknown,
    billing_period,
    billing_period_at,
    clip,
    cut,
    date_period,
    days_in,
    edges,
    local_date,
    month_period,
    parse_month,
    start_of_day,
)

BERLIN = "Europe/Berlin"
ZONES = st.sampled_from(
    ["UTC", BERLIN, "America/New_York", "America/Havana", "America/Asuncion", "Africa/Cairo", "Asia/Kolkata",
     "Australia/Lord_Howe", "Pacific/Kiritimati", "Asia/Beirut"]
)  # fmt: skip
ANCHORS = st.integers(min_value=1, max_value=31)
MONTHS = st.builds(Month, st.integers(min_value=1995, max_value=2090), st.integers(min_value=1, max_value=12))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "month", "time_zone", "start", "end"),
    [
        pytest.param(1, (2026, 10), "UTC", "2026-10-01T00:00", "2026-11-01T00:00", id="calendar month in UTC"),
        pytest.param(1, (2026, 10), BERLIN, "2026-09-30T22:00", "2026-10-31T23:00", id="clocks go back in the month"),
        pytest.param(1, (2026, 3), BERLIN, "2026-02-28T23:00", "2026-03-31T22:00", id="clocks go forward"),
        pytest.param(29, (2026, 3), BERLIN, "2026-03-28T23:00", "2026-04-28T22:00", id="starts on the short day"),
        pytest.param(31, (2026, 1), "UTC", "2026-01-31T00:00", "2026-02-28T00:00", id="the 31st before February"),
        pytest.param(31, (2026, 2), "UTC", "2026-02-28T00:00", "2026-03-31T00:00", id="and springs back after it"),
        pytest.param(30, (2024, 2), "UTC", "2024-02-29T00:00", "2024-03-30T00:00", id="leap year"),
        pytest.param(15, (2026, 12), "UTC", "2026-12-15T00:00", "2027-01-15T00:00", id="over new year"),
        pytest.param(1, (2026, 10), "Asia/Kolkata", "2026-09-30T18:30", "2026-10-31T18:30", id="half an hour"),
        pytest.param(24, (2026, 4), "Africa/Cairo", "2026-04-23T22:00", "2026-05-23T21:00", id="no midnight later"),
    ],
)
def test_a_billing_period_runs_from_anchor_to_anchor(
    anchor: int, month: tuple[int, int], time_zone: str, start: str, end: str
) -> None:
    period = billing_period(anchor, *month, time_zone)

    assert period == Period(utc(start), utc(end))


@given(anchor=ANCHORS, month=MONTHS, time_zone=ZONES)
def test_adjacent_billing_periods_tile_time(anchor: int, month: Month, time_zone: str) -> None:
    following = month.next()

    first = billing_period(anchor, month.year, month.month, time_zone)
    second = billing_period(anchor, following.year, following.month, time_zone)

    assert first.end == second.start


@given(
    anchor=ANCHORS,
    instant=st.datetimes(datetime(1995, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    time_zone=ZONES,
)
def test_every_instant_lies_in_its_billing_period(anchor: int, instant: datetime, time_zone: str) -> None:
    period = billing_period_at(anchor, instant, time_zone)

    assert instant in period


@given(month=MONTHS, time_zone=ZONES)
def test_the_local_days_of_a_month_tile_it(month: Month, time_zone: str) -> None:
    period = month_period(month.year, month.month, time_zone)

    first = date(month.year, month.month, 1)
    days = [first + timedelta(days=offset) for offset in range(days_in(period, time_zone))]

    assert start_of_day(days[0], time_zone) == period.start
    assert start_of_day(days[-1] + timedelta(days=1), time_zone) == period.end
    assert all(local_date(start_of_day(day, time_zone), time_zone) == day for day in days)
    assert all(start_of_day(day, time_zone) < start_of_day(day + timedelta(days=1), time_zone) for day in days)


@pytest.mark.parametrize(
    ("day", "time_zone", "hours"),
    [
        pytest.param(date(2026, 3, 29), BERLIN, 23, id="clocks go forward"),
        pytest.param(date(2026, 10, 25), BERLIN, 25, id="clocks go back"),
        pytest.param(date(2026, 4, 24), "Africa/Cairo", 23, id="there is no midnight"),
        pytest.param(date(2024, 11, 3), "America/Havana", 25, id="midnight comes twice"),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(day: date, time_zone: str, hours: int) -> None:
    period = date_period(day, day + timedelta(days=1), time_zone)

    assert period.end - period.start == timedelta(hours=hours)
    assert local_date(period.start - timedelta(seconds=1), time_zone) == day - timedelta(days=1)
    assert local_date(period.start, time_zone) == day


def test_a_period_holds_its_start_and_not_its_end() -> None:
    period = month_period(2026, 10, "UTC")

    assert period.start in period
    assert period.end not in period
    assert period.end - timedelta(microseconds=1) in period


def test_a_period_is_kept_in_utc() -> None:
    east = timezone(timedelta(hours=2))

    period = Period(datetime(2026, 1, 1, 2, tzinfo=east), datetime(2026, 1, 2, 2, tzinfo=east))

    assert period == Period(utc("2026-01-01"), utc("2026-01-02"))
    assert period.start.tzinfo is UTC


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(utc("2026-01-02"), utc("2026-01-01"), id="backwards"),
        pytest.param(utc("2026-01-01"), utc("2026-01-01"), id="empty"),
        pytest.param(datetime(2026, 1, 1), utc("2026-01-02"), id="without time zone"),  # noqa: DTZ001
    ],
)
def test_a_period_needs_two_instants_in_order(start: datetime, end: datetime) -> None:
    with pytest.raises(PeriodInvalid):
        Period(start, end)


@pytest.mark.parametrize(
    ("starts_on", "ends_on", "expected"),
    [
        pytest.param(date(2026, 1, 1), None, ("2026-09-30T22:00", "2026-10-31T23:00"), id="all of it"),
        pytest.param(date(2026, 10, 16), None, ("2026-10-15T22:00", "2026-10-31T23:00"), id="starts inside"),
        pytest.param(date(2026, 1, 1), date(2026, 10, 16), ("2026-09-30T22:00", "2026-10-15T22:00"), id="ends inside"),
        pytest.param(date(2026, 10, 5), date(2026, 10, 6), ("2026-10-04T22:00", "2026-10-05T22:00"), id="one day"),
        pytest.param(date(2026, 11, 1), None, None, id="starts at the end"),
        pytest.param(date(2026, 1, 1), date(2026, 10, 1), None, id="ends at the start"),
    ],
)
def test_a_period_is_clipped_to_the_contract(
    starts_on: date, ends_on: date | None, expected: tuple[str, str] | None
) -> None:
    clipped = clip(month_period(2026, 10, BERLIN), starts_on, ends_on, BERLIN)

    assert clipped == (None if expected is None else Period(utc(expected[0]), utc(expected[1])))


@given(
    offsets=st.lists(st.integers(min_value=-100, max_value=900)),
    month=MONTHS,
)
def test_the_parts_of_a_cut_period_tile_it(offsets: list[int], month: Month) -> None:
    period = month_period(month.year, month.month, "UTC")

    parts = cut(period, [period.start + timedelta(hours=offset) for offset in offsets])

    assert parts[0].start == period.start
    assert parts[-1].end == period.end
    assert all(one.end == other.start for one, other in pairwise(parts))


def test_a_month_is_read_and_written() -> None:
    assert parse_month("2026-10") == (2026, 10)
    assert str(Month(2026, 3)) == "2026-03"
    assert Month(2026, 12).next() == Month(2027, 1)
    assert Month(2026, 1).previous() == Month(2025, 12)


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-13", "2026-00", "2026-1", "26-10", "2026-10-01", "2026/10", " 2026-10", "0000-01", "9999-01"],
)
def test_what_is_not_a_month_is_refused(text: str) -> None:
    with pytest.raises(MonthInvalid):
        parse_month(text)


@pytest.mark.parametrize("name", ["", "Nowhere/Town", "Europe", "../etc/passwd", "/etc/localtime", "Europe/Berlin\0"])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(TimeZoneUnknown):
        month_period(2026, 10, name)


@pytest.mark.parametrize("anchor", [0, 32, -1])
def test_an_anchor_is_a_day_of_the_month(anchor: int) -> None:
    with pytest.raises(AnchorDayInvalid):
        billing_period(anchor, 2026, 10, "UTC")


@pytest.mark.parametrize(("year", "month"), [(2026, 0), (2026, 13), (1, 1), (9999, 12)])
def test_a_billing_period_needs_a_real_month(year: int, month: int) -> None:
    with pytest.raises(MonthInvalid):
        billing_period(1, year, month, "UTC")


def test_an_instant_without_time_zone_has_no_local_date() -> None:
    with pytest.raises(PeriodInvalid):
        local_date(datetime(2026, 1, 1), "UTC")  # noqa: DTZ001


def test_days_are_cut_at_local_midnight_whatever_the_clocks_do() -> None:
    weekend = Period(utc("2026-10-24T22:00"), utc("2026-10-26T11:00"))

    assert edges(weekend, Grain.DAY, BERLIN) == [
        utc("2026-10-24T22:00"),
        utc("2026-10-25T23:00"),
        utc("2026-10-26T11:00"),
    ]
    assert len(edges(weekend, Grain.HOUR, BERLIN)) == 37 + 1


def test_months_are_cut_at_local_midnight_of_the_first() -> None:
    autumn = Period(utc("2026-09-15T00:00"), utc("2026-11-30T00:00"))

    assert edges(autumn, Grain.MONTH, BERLIN)[1:-1] == [utc("2026-09-30T22:00"), utc("2026-10-31T23:00")]
    assert edges(autumn, Grain.NONE, BERLIN) == [autumn.start, autumn.end]


@given(st.sampled_from(list(Grain)), ZONES, st.datetimes(datetime(1971, 1, 1), datetime(2090, 1, 1)))  # noqa: DTZ001
def test_windows_tile_their_period(grain: Grain, zone: str, start: datetime) -> None:
    period = Period(start.replace(tzinfo=UTC), start.replace(tzinfo=UTC) + timedelta(days=70))

    found = edges(period, grain, zone)

    assert (found[0], found[-1]) == (period.start, period.end)
    assert all(one < other for one, other in pairwise(found))


@pytest.mark.parametrize("grain", list(Grain))
def test_windows_end_with_the_last_instant_there_is(grain: Grain) -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

    assert edges(Period(datetime(9999, 12, 31, tzinfo=UTC), last), grain, BERLIN)[-1] == last
