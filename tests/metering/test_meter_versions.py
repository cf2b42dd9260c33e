"""A meter reads events otherwise from a moment on, and what it read before stays as it was."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from accounts.access import Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry, Customer
from metering import rollups
from metering.errors import MeterInvalid, MeterUnknown, MeterVersionTooEarly
from metering.meters.meters import VERSION_NOTICE, MeterReading, add_version
from metering.models import Meter, MeterVersion
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import NOON, SYSTEM
from tests.parallel import in_parallel
from tests.patience import PATIENCE_SECONDS
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db

CHANGE = datetime(2026, 10, 15, 14, tzinfo=UTC)
IN_MINUTES = MeterReading(value_path="minutes", conversion=Decimal(60))


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def changed(meter: Meter, reading: MeterReading = IN_MINUTES, **change: Any) -> MeterVersion:
    given: dict[str, Any] = {"valid_from": CHANGE, "reason": "the sender counts minutes", "actor": SYSTEM, "at": NOON}
    return add_version(meter_id=meter.pk, reading=reading, **{**given, **change})


def test_an_event_counts_by_the_version_of_its_own_time_however_late_it_comes(shop: Customer) -> None:
    changed(make.meter())
    after = CHANGE + timedelta(hours=3)

    make.ingested(make.event("new", time="2026-10-15T14:00:00Z", minutes=2), at=after)
    make.ingested(make.event("late", time="2026-10-15T13:59:59.999999Z", seconds=7), at=after)
    make.ingested(make.event("later still", time="2026-10-14T00:00:00Z", seconds=1, minutes=1), at=after)

    assert [total.sum for total in make.totals(shop)] == [128]
    assert_everything_ties()


def test_an_event_ahead_of_time_counts_by_the_version_that_will_be_in_force(shop: Customer) -> None:
    changed(make.meter())

    result = make.ingested(
        make.event(time="2026-10-15T14:15:00Z", minutes=1, seconds=1), at=CHANGE - timedelta(minutes=30)
    )

    assert result.accepted == 1
    assert [total.sum for total in make.totals(shop)] == [60]


def test_an_event_that_only_the_other_version_could_read_waits(shop: Customer) -> None:
    changed(make.meter())

    result = make.ingested(make.event(time="2026-10-15T14:00:00Z", seconds=1), at=CHANGE + timedelta(hours=1))

    assert (result.accepted, result.quarantined) == (0, 1)


def test_a_version_with_other_dimensions_opens_other_series(shop: Customer) -> None:
    changed(make.meter(dimensions=["region"]), MeterReading(value_path="seconds", dimensions=["zone"]))

    for time in ("2026-10-15T13:00:00Z", "2026-10-15T14:00:00Z"):
        make.ingested(make.event(time=time, seconds=1, region="eu", zone="a"), at=CHANGE + timedelta(hours=1))

    assert [total.dimensions for total in make.totals(shop)] == [{"region": "eu"}, {"zone": "a"}]


def test_a_version_is_given_notice() -> None:
    meter = make.meter()

    with pytest.raises(MeterVersionTooEarly):
        changed(meter, at=CHANGE - VERSION_NOTICE + timedelta(microseconds=1))

    assert changed(meter, at=CHANGE - VERSION_NOTICE).number == 2


def test_a_version_begins_after_the_one_before() -> None:
    meter = make.meter()
    changed(meter)

    for valid_from in (CHANGE, CHANGE - timedelta(hours=1)):
        with pytest.raises(MeterVersionTooEarly):
            changed(meter, MeterReading(value_path="hours"), valid_from=valid_from, at=NOON - timedelta(days=1))


def test_the_same_reading_adds_no_version() -> None:
    meter = make.meter()

    first, second = changed(meter), changed(meter, valid_from=CHANGE + timedelta(hours=5))

    assert first == second
    assert AuditEntry.objects.filter(verb="meter.version_added").count() == 1


def test_a_filter_for_true_is_another_reading_than_one_for_1() -> None:
    meter = make.meter(event_filter={"spot": True})

    version = changed(meter, MeterReading(value_path="seconds", event_filter={"spot": 1}))

    assert version.number == 2


@pytest.mark.parametrize(
    ("reading", "change"),
    [
        (MeterReading(), {}),
        (MeterReading(value_path="seconds", conversion=Decimal(0)), {}),
        (MeterReading(value_path="seconds", conversion=Decimal(-1)), {}),
        (MeterReading(value_path="seconds", conversion=Decimal("NaN")), {}),
        (MeterReading(value_path="seconds", conversion=Decimal("Infinity")), {}),
        (MeterReading(value_path="seconds", conversion=Decimal("1e38")), {}),
        (MeterReading(value_path="seconds", conversion=Decimal("1e-39")), {}),
        (MeterReading(value_path="seconds", dimensions=["a", "a"]), {}),
        (IN_MINUTES, {"valid_from": CHANGE + timedelta(minutes=30)}),
        (IN_MINUTES, {"valid_from": CHANGE + timedelta(microseconds=1)}),
    ],
)
def test_a_version_that_contradicts_itself_is_refused(reading: MeterReading, change: dict[str, Any]) -> None:
    with pytest.raises(MeterInvalid):
        changed(make.meter(), reading, **change)


def test_a_gauge_keeps_its_dimensions_for_levels_hold() -> None:
    gauge = make.meter(aggregation=Meter.Aggregation.GAUGE, dimensions=["volume"])

    with pytest.raises(MeterInvalid, match="keeps its dimensions"):
        changed(gauge, MeterReading(value_path="seconds"))

    assert changed(gauge, MeterReading(value_path="gigabytes", dimensions=["volume"])).number == 2


def test_a_version_takes_permission_reason_and_a_meter() -> None:
    meter = make.meter()

    with pytest.raises(PermissionMissing):
        changed(meter, actor=make_accounts.actor(Role.SUPPORT))
    with pytest.raises(ReasonMissing):
        changed(meter, reason=" ")
    with pytest.raises(MeterUnknown):
        add_version(meter_id=0, reading=IN_MINUTES, valid_from=CHANGE, reason="why", actor=SYSTEM, at=NOON)


def test_the_database_refuses_a_version_that_changes_goes_or_does_not_follow() -> None:
    meter = make.meter()
    changed(meter)

    with refused("meter_version_never_changes"):
        MeterVersion.objects.update(value_path="other")
    with refused("meter_version_never_changes"):
        MeterVersion.objects.all()._raw_delete(using="default")
    with refused("meter_version_is_never_emptied"):
        execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE metering_meterversion")


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ("meter_version_follows_the_others", {"number": 2}),
        ("meter_version_follows_the_others", {"valid_from": CHANGE}),
        ("meter_version_begins_on_the_hour", {"valid_from": CHANGE + timedelta(minutes=90)}),
        ("meter_has_a_value_unless_it_counts", {"value_path": ""}),
        ("meter_conversion_is_positive", {"conversion": 0}),
        ("meter_conversion_is_positive", {"conversion": Decimal("1e38")}),
    ],
)
def test_the_database_refuses_a_version(rule: str, fields: dict[str, Any]) -> None:
    meter = make.meter()
    changed(meter)
    sound = {"number": 3, "valid_from": CHANGE + timedelta(days=1), "value_path": "seconds", "created_at": NOON}

    with refused(rule):
        MeterVersion.objects.create(meter=meter, **{**sound, **fields})


def test_the_database_refuses_a_conversion_that_is_no_number() -> None:
    meter = make.meter()

    with refused("meter_conversion_is_positive"):
        execute(
            "INSERT INTO metering_meterversion"
            " (meter_id, number, valid_from, value_path, event_filter, conversion, dimensions, reason, created_at)"
            " VALUES (%s, 2, '2027-01-01Z', 'seconds', '{}', 'NaN', '{}', '', now())",
            meter.pk,
        )


@pytest.mark.django_db(transaction=True)
def test_two_people_who_add_a_version_at_once_add_one_after_the_other_or_are_refused() -> None:
    meter = make.meter()
    start = threading.Barrier(2)
    outcomes: list[object] = []

    def add(path: str) -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        try:
            outcomes.append(changed(meter, MeterReading(value_path=path)).number)
        except MeterVersionTooEarly as refusal:
            outcomes.append(type(refusal))

    in_parallel(lambda: add("minutes"), lambda: add("hours"))

    assert sorted(map(str, outcomes)) == sorted(map(str, [2, MeterVersionTooEarly]))
    assert meter.versions.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_began_before_a_version_was_added_counts_as_one_that_came_after(shop: Customer) -> None:
    """The notice is longer than a batch may look ahead, so neither can hold an event of the version's time."""
    meter = make.meter()
    sender_has_begun, version_is_there = threading.Event(), threading.Event()
    latest = NOON + timedelta(hours=1)

    def send() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        sender_has_begun.set()
        assert version_is_there.wait(timeout=PATIENCE_SECONDS)
        make.ingested(
            make.event(time=latest.isoformat(), seconds=1),
            make.event(time=(latest + timedelta(seconds=1)).isoformat(), seconds=1),
            at=NOON,
        )

    def change() -> None:
        assert sender_has_begun.wait(timeout=PATIENCE_SECONDS)
        with pytest.raises(MeterVersionTooEarly):
            changed(meter, valid_from=latest, at=NOON)
        changed(meter, valid_from=CHANGE, at=NOON)
        version_is_there.set()

    in_parallel(send, change)
    while rollups.fold():
        pass

    assert [total.sum for total in make.totals(shop)] == [1]
    assert_everything_ties()
