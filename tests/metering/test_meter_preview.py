"""What a meter would count, before it is defined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor
from accounts.errors import PermissionMissing
from accounts.models import Customer
from accounts.periods import PeriodInvalid
from metering import rollups
from metering.errors import MeterInvalid, WindowNotOnTheHour
from metering.meters import meter_preview
from metering.meters.meter_preview import MeterDraft, MeterPreview, preview
from metering.meters.meters import MeterReading, define_meter
from metering.models import Meter, QuarantinedEvent, UsageBatch, UsageSeries
from metering.quarantine.quarantine import release
from metering.reading.quantities import quantities
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

START, END = datetime(2026, 10, 14, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def tried(
    *,
    aggregation: str = Meter.Aggregation.SUM,
    event_type: str = "disk.read",
    series_limit: int = 10_000,
    at: datetime = NOON,
    start: datetime = START,
    end: datetime = END,
    actor: Actor = SYSTEM,
    **reading: Any,
) -> MeterPreview:
    if aggregation != Meter.Aggregation.COUNT:
        reading.setdefault("value_path", "gb")
    draft = MeterDraft(
        event_type=event_type,
        aggregation=aggregation,
        unit="GB",
        reading=MeterReading(**reading),
        series_limit=series_limit,
    )
    return preview(draft=draft, start=start, end=end, actor=actor, at=at)


def disk(time: str, subject: str = "project-1", **data: object) -> dict[str, object]:
    return {**make.event(event_type="disk.read", time=f"2026-10-14T{time}Z", subject=subject), "data": data}


def test_events_that_wait_for_a_meter_show_what_it_would_count(shop: Customer) -> None:
    make.ingested(disk("01:00:00", gb="1.50"), disk("02:00:00", gb=2), disk("03:00:00", gb=4, state="idle"))

    found = tried(conversion=Decimal(2), event_filter={"state": "idle"})

    assert (found.stored, found.waiting, found.taken, found.left_out) == (0, 3, 1, 2)
    assert [(each.customer, each.quantity, each.events) for each in found.customers] == [(shop, Decimal(8), 1)]
    assert [(each.value, each.detail) for each in found.examples] == [(Decimal(8), "")]


def test_events_of_another_meter_show_too_and_those_that_cannot_be_read_with_the_reason(shop: Customer) -> None:
    make.meter(event_type="disk.read", aggregation="count")
    make.ingested(disk("01:00:00", gb="1"), disk("02:00:00", tb="1"), disk("03:00:00", gb="much"))

    found = tried()

    assert (found.stored, found.waiting, found.taken) == (3, 0, 1)
    assert [(each.reason, each.events, each.examples[0].detail) for each in found.not_read] == [
        ("missing_value", 1, "'gb' is missing"),
        ("invalid_value", 1, "'gb' is not a decimal number: 'much'"),
    ]


def test_a_waiting_event_of_nobody_is_not_read(shop: Customer) -> None:
    make.ingested(disk("01:00:00", subject="nobody", gb=1))

    assert [(each.reason, each.events) for each in tried().not_read] == [("unknown_subject", 1)]


def test_the_period_includes_its_start_and_leaves_out_its_end(shop: Customer) -> None:
    make.ingested(
        disk("00:00:00", gb=1),
        disk("23:59:59.999999", gb=2),
        make.event(event_type="disk.read", time="2026-10-15T00:00:00Z", gb=4),
        make.event(event_type="disk.read", time="2026-10-13T23:59:59.999999Z", gb=8),
    )

    assert tried().customers[0].quantity == 3


def test_nothing_is_written(shop: Customer) -> None:
    make.ingested(disk("01:00:00", gb=1))
    batches = UsageBatch.objects.count()

    with CaptureQueriesContext(connection) as queries:
        tried(dimensions=["region"])

    assert [query["sql"] for query in queries if query["sql"].startswith(("INSERT", "UPDATE", "DELETE"))] == []
    assert (UsageBatch.objects.count(), UsageSeries.objects.count(), Meter.objects.count()) == (batches, 0, 0)


def test_series_are_counted_against_the_limit(shop: Customer) -> None:
    make.subject("project-2")
    make.ingested(
        *[disk(f"0{number}:00:00", gb=1, region=f"r{number}") for number in range(3)],
        disk("04:00:00", subject="project-2", gb=9),
    )

    found = tried(dimensions=["region"], series_limit=2)

    assert (found.customer_count, found.most_series, found.over_limit) == (2, 3, 1)
    assert [(int(each.quantity), each.series) for each in found.customers] == [(9, 1), (3, 3)]


def test_more_events_than_are_read_are_cut_at_a_moment(shop: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_preview, "MAX_EVENTS_READ", 2)
    make.ingested(*[disk(f"0{number}:00:00", gb=1) for number in range(4)])

    found = tried()

    assert (found.is_cut, found.end, found.taken) == (True, START + timedelta(hours=2), 2)


def test_events_at_the_moment_of_the_cut_are_all_left_out(shop: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_preview, "MAX_EVENTS_READ", 2)
    make.ingested(disk("01:00:00", gb=1), *[disk("02:00:00", gb=1) for _ in range(3)])

    assert tried().taken == 1


@pytest.mark.parametrize("aggregation", Meter.Aggregation.values)
def test_the_meter_then_counts_what_its_preview_said(shop: Customer, aggregation: str) -> None:
    make.ingested(
        *[
            disk(f"{number:02}:{number * 2:02}:07", gb=number % 5, region=("eu", "us")[number % 2])
            for number in range(20)
        ],
        disk("05:00:00", gb="2.5"),
        disk("05:00:00", gb="7.5"),
    )
    value_path = "" if aggregation == Meter.Aggregation.COUNT else "gb"
    found = tried(aggregation=aggregation, dimensions=["region"], value_path=value_path)
    meter = define_meter(
        code="disk",
        name="Disk",
        event_type="disk.read",
        aggregation=aggregation,
        value_path=value_path,
        unit="GB",
        dimensions=["region"],
        actor=SYSTEM,
        at=NOON,
    )

    release(event_ids=list(QuarantinedEvent.objects.values_list("pk", flat=True)), actor=SYSTEM, at=NOON)
    rollups.fold()

    (counted,) = quantities([make.ask(shop, meter, [START, END])])
    assert [(each.quantity, each.events) for each in found.customers] == [(counted.quantity, counted.event_count)]


def test_a_level_holds_until_now_in_a_period_that_runs(shop: Customer) -> None:
    make.ingested(disk("10:00:00", gb=3))

    found = tried(aggregation=Meter.Aggregation.GAUGE, at=START + timedelta(hours=12))

    assert found.customers[0].quantity == 6


def test_a_draft_or_period_that_cannot_be_is_refused() -> None:
    with pytest.raises(MeterInvalid):
        tried(conversion=Decimal(0))
    with pytest.raises(MeterInvalid):
        tried(aggregation="median")
    with pytest.raises(MeterInvalid):
        tried(event_type="")
    with pytest.raises(WindowNotOnTheHour):
        tried(end=END + timedelta(minutes=1))
    for end in (START, START - timedelta(days=1), START + timedelta(days=93)):
        with pytest.raises(PeriodInvalid):
            tried(end=end)
    with pytest.raises(PermissionMissing):
        tried(actor=Actor(label="nobody"))


def test_as_many_queries_for_fifty_customers_as_for_one(shop: Customer) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            tried(dimensions=["region"])
        return len(captured)

    make.ingested(disk("01:00:00", gb=1))
    of_one = queries()
    for number in range(50):
        make.subject(f"other-{number}")
    make.ingested(*[disk("02:00:00", subject=f"other-{number}", gb=number, region=number) for number in range(50)])

    assert queries() == of_one
    assert len(tried().customers) == meter_preview.MAX_CUSTOMERS


def test_late_events_of_a_type_show_how_a_meter_counts_them(shop: Customer) -> None:
    meter = make.meter(event_type="disk.read", value_path="gb", event_filter={"state": "busy"})
    make.meter(event_type="disk.read", aggregation="count")
    make.ingested(disk("01:00:00", gb=1, state="busy"), disk("02:00:00", gb="2", state="idle"))

    found = meter_preview.examples_of(meter, limit=5)

    assert [(each.event.time.hour, each.value, each.detail) for each in found] == [
        (2, None, "left out by the filter"),
        (1, Decimal(1), ""),
    ]
