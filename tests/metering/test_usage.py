"""Reading usage: totals agree with the events at every moment, folded or not, and know what came after."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Customer
from metering import rollups
from metering.errors import WindowNotOnTheHour
from metering.models import Meter, UsageDelta, UsageHour
from metering.reading import usage
from metering.reading.usage import UnseenWindow, UsageWindow
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture(autouse=True)
def gpu_seconds() -> Meter:
    return make.meter(dimensions=["region"])


def test_a_total_counts_what_lies_in_its_window_and_nothing_else(acme: Customer) -> None:
    make.ingested(
        make.event(time="2026-09-30T23:59:59.999999Z", seconds="1"),
        make.event(time="2026-10-01T00:00:00Z", seconds="2"),
        make.event(time="2026-10-14T23:59:59.999999Z", seconds="4"),
        make.event(time="2026-10-15T00:00:00Z", seconds="8"),
    )

    start, end = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)
    assert [total.sum for total in make.totals(acme, start=start, end=end)] == [6]


def test_folding_changes_no_total_and_no_digest(acme: Customer) -> None:
    make.ingested(make.event(seconds="1.10", region="eu"), make.event(seconds="2", region="us"))
    rollups.fold()
    make.ingested(make.event(seconds="3.9", region="eu"), make.event(seconds="5", region="ap"))
    half_folded = make.totals(acme)

    assert rollups.fold() == 2

    assert make.totals(acme) == half_folded
    assert not UsageDelta.objects.exists()
    assert {total.dimensions["region"]: total.sum for total in half_folded} == {"eu": 5, "us": 2, "ap": 5}


def test_folding_twice_adds_nothing(acme: Customer) -> None:
    make.ingested(make.event(seconds="1"))

    assert (rollups.fold(), rollups.fold()) == (1, 0)

    assert UsageHour.objects.get().sum == 1


def test_a_backlog_is_folded_in_parts(acme: Customer) -> None:
    for hour in range(5):
        make.ingested(make.event(time=f"2026-10-15T0{hour}:00:00Z", seconds="1"))

    assert [rollups.fold(limit=2) for _ in range(4)] == [2, 2, 1, 0]

    assert make.totals(acme)[0].sum == 5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.tuples(st.integers(0, 180), st.decimals(min_value=-99, max_value=99, places=3)),
        min_size=1,
        max_size=20,
    ),
    folds=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_totals_are_those_of_a_plain_count_wherever_the_fold_falls(
    acme: Customer,
    events: list[tuple[int, Decimal]],
    folds: list[bool],
) -> None:
    customer = make_accounts.customer(code="")
    name = f"project-of-{customer.pk}"
    make.subject(name, customer=customer)

    for (minute, value), fold in zip(events, folds, strict=False):
        time = (OCTOBER + timedelta(minutes=minute)).isoformat()
        make.ingested(make.event(subject=name, time=time, seconds=str(value)))
        if fold:
            rollups.fold()

    (total,) = make.totals(customer)
    latest = max(minute for minute, _ in events)
    assert (total.sum, total.count, total.min, total.max, total.last) == (
        sum(value for _, value in events),
        len(events),
        min(value for _, value in events),
        max(value for _, value in events),
        max(value for minute, value in events if minute == latest),
    )


def test_the_digest_is_that_of_the_hours_in_order(acme: Customer) -> None:
    make.ingested(
        make.event(time="2026-10-15T10:00:00Z", seconds="2.500"),
        make.event(time="2026-10-15T09:00:00Z", seconds="1"),
    )

    (total,) = make.totals(acme)
    at_nine, at_ten = (int(datetime(2026, 10, 15, hour, tzinfo=UTC).timestamp()) for hour in (9, 10))
    text = f"{total.series_id}\n{at_nine}|1|1\n{at_ten}|2.5|1"
    assert total.digest == hashlib.sha256(text.encode()).digest()


def test_many_windows_of_many_customers_take_two_queries(acme: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    make.ingested(make.event(seconds="1"), make.event(subject="project-2", seconds="2"))
    windows = [
        UsageWindow(customer_id=other.pk, start=OCTOBER, end=NOVEMBER),
        UsageWindow(customer_id=acme.pk, start=OCTOBER, end=NOVEMBER),
        UsageWindow(customer_id=acme.pk, start=NOVEMBER, end=NOVEMBER + timedelta(days=1)),
    ]

    counts = []
    for times in (1, 50):
        with CaptureQueriesContext(connection) as queries:
            totals = usage.series_totals(windows * times)
        counts.append(len(queries))

    assert counts == [2, 2]
    assert [(total.window, total.customer_id, total.sum) for total in totals[:3]] == [
        (0, other.pk, Decimal(2)),
        (1, acme.pk, Decimal(1)),
        (3, other.pk, Decimal(2)),
    ]


def test_a_window_within_an_hour_is_refused_rather_than_wrong() -> None:
    half_past = datetime(2026, 10, 1, 0, 30, tzinfo=UTC)

    with pytest.raises(WindowNotOnTheHour):
        usage.series_totals([UsageWindow(customer_id=1, start=half_past, end=NOVEMBER)])


def test_the_events_behind_a_total_come_in_pages_by_time(acme: Customer) -> None:
    make.ingested(
        *[
            make.event(f"e{minute}", time=f"2026-10-15T10:{minute}:00Z", region="eu", seconds="1")
            for minute in range(10, 15)
        ]
    )
    make.ingested(make.event(region="us", seconds="1"))
    (series_id,) = (total.series_id for total in make.totals(acme) if total.dimensions == {"region": "eu"})
    asked: dict[str, Any] = {"customer_id": acme.pk, "series_ids": [series_id], "start": OCTOBER, "end": NOVEMBER}

    first = usage.events(**asked, limit=3)
    second = usage.events(**asked, limit=3, after=(first[-1].time, first[-1].key))

    assert [event.event_id for event in first + second] == ["e10", "e11", "e12", "e13", "e14"]


def test_days_are_those_of_the_time_zone_asked_for(acme: Customer, gpu_seconds: Meter) -> None:
    make.subject("project-2")
    make.ingested(
        make.event(time="2026-10-14T21:59:00Z", seconds="1"),
        make.event(time="2026-10-14T22:00:00Z", seconds="2"),
        make.event(time="2026-10-14T22:00:00Z", subject="project-2", seconds="4"),
    )
    asked: dict[str, Any] = {"start": OCTOBER, "end": NOVEMBER, "time_zone": "Europe/Berlin"}

    everybody = usage.daily_totals(**asked)
    one = usage.daily_totals(**asked, customer_id=acme.pk, meter_id=gpu_seconds.pk)

    assert [(each.day, each.sum) for each in everybody] == [
        (date(2026, 10, 14), Decimal(1)),
        (date(2026, 10, 15), Decimal(6)),
    ]
    assert [(each.day, each.sum, each.count) for each in one] == [
        (date(2026, 10, 14), Decimal(1), 1),
        (date(2026, 10, 15), Decimal(2), 1),
    ]


@pytest.mark.django_db(transaction=True)
def test_usage_that_came_after_a_snapshot_is_found_in_its_window_only() -> None:
    acme, quiet = make_accounts.customer(), make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=acme)
    make.subject("project-2", customer=quiet)
    make.ingested(make.event(time="2026-10-01T10:00:00Z"), make.event(subject="project-2", time="2026-10-01T10:00:00Z"))
    snapshot = usage.current_snapshot()
    day = timedelta(days=1)
    windows = [
        UnseenWindow(customer_id=acme.pk, start=OCTOBER, end=OCTOBER + day, snapshot=snapshot),
        UnseenWindow(customer_id=quiet.pk, start=OCTOBER, end=OCTOBER + day, snapshot=snapshot),
        UnseenWindow(customer_id=acme.pk, start=OCTOBER + day, end=OCTOBER + 2 * day, snapshot=snapshot),
    ]
    assert usage.windows_with_unseen_usage(windows) == []

    make.ingested(make.event(time="2026-10-01T23:00:00Z"))
    rollups.fold()

    assert usage.windows_with_unseen_usage(windows) == [0]
    assert usage.windows_with_unseen_usage([]) == []
