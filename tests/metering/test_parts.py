"""What an hour keeps for aggregations that do not add up: in whatever order it comes, folded or not, killed or not."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from accounts.models import Customer
from metering import rollups
from metering.models import Meter, PartKind, UsageDelta, UsageHour, UsageLevel, UsagePart, UsagePartDelta
from metering.reading.quantities import quantities
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.parallel import in_parallel
from tests.programs import killed_in_a_step
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db

START, END = datetime(2026, 10, 10, tzinfo=UTC), datetime(2026, 10, 11, tzinfo=UTC)
HOUR = START + timedelta(hours=3)
KEEP_PARTS = (Meter.Aggregation.UNIQUE, Meter.Aggregation.GAUGE, Meter.Aggregation.P95)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def readings(*pairs: tuple[str, object]) -> list[dict[str, object]]:
    """Make events of the hour at these minutes and seconds."""
    return [make.event(time=f"2026-10-10T03:{moment}Z", seconds=value) for moment, value in pairs]


def quantity(meter: Meter, customer: Customer) -> Decimal:
    ask = make.ask(customer, meter, [START, END])
    (found,) = quantities([ask])
    return found.quantity


def fold_all(*, limit: int = 50_000) -> None:
    while rollups.fold(limit=limit):
        pass


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 50_000])
def test_readings_that_come_out_of_order_make_the_same_level(shop: Customer, limit: int, is_reversed: bool) -> None:  # noqa: FBT001
    make.meter(aggregation=Meter.Aggregation.GAUGE)
    events = readings(("10:00", 5), ("20:00", "7.5"), ("20:00", 3), ("59:59.999999", 1))
    for event in reversed(events) if is_reversed else events:
        make.ingested(event)
        rollups.fold(limit=limit)
    fold_all(limit=limit)

    (level,) = UsageLevel.objects.all()
    minute = 60_000_000
    # 5 for ten minutes, the greater of two readings for nearly forty, 1 for the hour's last microsecond.
    assert level.area == 5 * 10 * minute + Decimal("7.5") * (40 * minute - 1) + 1
    assert (level.first_at, level.last) == (HOUR + timedelta(minutes=10), Decimal(1))
    assert_everything_ties()


def test_a_reading_at_the_hours_end_belongs_to_the_next(shop: Customer) -> None:
    make.meter(aggregation=Meter.Aggregation.GAUGE)
    make.ingested(make.event(time="2026-10-10T04:00:00Z", seconds=9), *readings(("00:00", 2)))
    fold_all()

    levels = {level.hour: level.area for level in UsageLevel.objects.all()}

    assert levels == {HOUR: 2 * 3_600_000_000, HOUR + timedelta(hours=1): 9 * 3_600_000_000}


def test_equal_values_are_one_part_however_they_are_written(shop: Customer) -> None:
    meter = make.meter(aggregation=Meter.Aggregation.UNIQUE)
    for value in (1, "1", Decimal("1.0"), True, "true", Decimal("1E+2"), 100, "x", "X", "é"):
        make.ingested(*readings(("00:00", value)))
    fold_all()

    parts = dict(UsagePart.objects.values_list("part", "count"))

    assert parts == {"1": 3, "true": 2, "100": 2, "x": 1, "X": 1, "é": 1}
    assert quantity(meter, shop) == 6
    assert_everything_ties()


def test_five_minutes_add_up_before_the_percentile_is_taken(shop: Customer) -> None:
    make.meter(aggregation=Meter.Aggregation.P95)
    make.ingested(*readings(("00:00", 1), ("04:59.999999", 2), ("05:00", 4)))
    make.ingested(*readings(("03:00", 8)))
    fold_all()

    assert dict(UsagePart.objects.values_list("part", "sum")) == {"00": 11, "05": 4}
    assert set(UsagePart.objects.values_list("kind", flat=True)) == {PartKind.SLOT}


@pytest.mark.parametrize("aggregation", KEEP_PARTS)
def test_folding_twice_or_in_steps_adds_nothing(shop: Customer, aggregation: str) -> None:
    meter = make.meter(aggregation=aggregation)
    make.ingested(*readings(*[(f"{minute:02}:00", minute % 7) for minute in range(60)]))
    before = quantity(meter, shop)
    for limit in (1, 3, 7, 50_000, 50_000):
        rollups.fold(limit=limit)
        assert quantity(meter, shop) == before
        assert_everything_ties()

    assert rollups.fold() == 0


def test_an_hour_that_was_emptied_fills_anew(shop: Customer) -> None:
    """A recount leaves an hour without events at a count of nought; its old bounds must not come back."""
    make.meter()
    make.ingested(*readings(("10:00", 5), ("20:00", 50)))
    fold_all()
    execute("UPDATE usage_hour SET sum = 0, count = 0")
    make.ingested(*readings(("15:00", 7)))
    fold_all()

    hour = UsageHour.objects.get()
    assert hour.count == 1
    assert {hour.sum, hour.min, hour.max, hour.last} == {Decimal(7)}
    assert hour.last_at == HOUR + timedelta(minutes=15)


def many(count: int, *, seed: int) -> list[dict[str, object]]:
    chance = random.Random(seed)  # noqa: S311 -- any events will do
    return [
        make.event(
            f"{seed}-{number}",
            time=f"2026-10-10T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:{chance.randint(0, 59):02}Z",
            seconds=chance.randint(0, 50),
        )
        for number in range(count)
    ]


def all_meters() -> list[Meter]:
    return [make.meter(aggregation=aggregation) for aggregation in KEEP_PARTS]


@pytest.mark.django_db(transaction=True)
def test_a_reader_sees_the_same_while_folds_are_at_work(shop: Customer) -> None:
    meters = all_meters()
    for start in range(5):
        make.ingested(*many(40, seed=start))
    expected = [quantity(meter, shop) for meter in meters]
    done = threading.Event()
    seen: list[Sequence[Decimal]] = []

    def fold_slowly() -> None:
        try:
            fold_all(limit=12)
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            seen.append([quantity(meter, shop) for meter in meters])

    in_parallel(fold_slowly, fold_slowly, read)

    assert seen
    assert all(each == expected for each in seen)
    fold_all()
    assert [quantity(meter, shop) for meter in meters] == expected
    assert_everything_ties()


FOLD_BY_THREES = "from metering import rollups; step_by_step(lambda: rollups.fold(limit=3))"


@pytest.mark.django_db(transaction=True)
def test_a_fold_of_parts_killed_in_the_middle_changes_no_quantity(shop: Customer) -> None:
    meters = all_meters()
    for seed in range(6):
        make.ingested(*many(50, seed=seed))
    expected = [quantity(meter, shop) for meter in meters]

    killed_in_a_step(FOLD_BY_THREES, after=5)

    assert UsagePartDelta.objects.exists()
    assert [quantity(meter, shop) for meter in meters] == expected
    fold_all()
    assert not UsageDelta.objects.exists()
    assert not UsagePartDelta.objects.exists()
    assert [quantity(meter, shop) for meter in meters] == expected
    assert_everything_ties()


def test_the_database_refuses_to_change_or_empty_what_is_to_be_folded(shop: Customer) -> None:
    make.meter(aggregation=Meter.Aggregation.GAUGE)
    make.ingested(*readings(("10:00", 5)))

    with refused("usage_part_delta_never_changes"):
        execute("UPDATE usage_part_delta SET sum = 1")
    with refused("usage_part_delta_is_never_emptied"):
        execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE usage_part_delta")
    with refused("usage_part_is_never_emptied"):
        execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE usage_part")
    with refused("usage_level_is_never_emptied"):
        execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE usage_level")
