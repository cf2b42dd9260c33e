"""A customer has as many series in a meter as it allows, whoever sends, and what is beyond waits."""

from __future__ import annotations

import random
import threading

import pytest
from django.db import transaction

from accounts.models import Customer
from metering import series
from metering.meters.meters import change_meter
from metering.models import Meter, QuarantinedEvent, UsageEvent, UsageSeries
from metering.quarantine.quarantine import release
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM
from tests.parallel import in_parallel
from tests.patience import PATIENCE_SECONDS
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def limit(meter: Meter, allowed: int) -> None:
    change_meter(
        meter_id=meter.pk,
        name=meter.name,
        is_active=True,
        series_limit=allowed,
        reason="as agreed",
        actor=SYSTEM,
        at=NOON,
    )


def limited(allowed: int) -> Meter:
    meter = make.meter(dimensions=["disk"])
    limit(meter, allowed)
    return meter


def disks(*names: object, subject: str = "project-1") -> list[dict[str, object]]:
    return [make.event(subject=subject, seconds=1, disk=name) for name in names]


def test_events_of_one_series_too_many_wait_with_the_reason(shop: Customer) -> None:
    meter = limited(2)

    result = make.ingested(*disks("a", "b", "c", "a", "b", "c"))

    assert (result.accepted, result.quarantined) == (4, 2)
    waiting = QuarantinedEvent.objects.first()
    assert waiting is not None
    assert (waiting.reason, waiting.detail) == ("too_many_series", f"meter {meter.code} allows a customer 2 series")
    assert_everything_ties()


def test_known_series_count_on_when_the_limit_is_reached_or_lowered(shop: Customer) -> None:
    meter = limited(2)
    make.ingested(*disks("a", "b"))
    limit(meter, 1)

    result = make.ingested(*disks("a", "b", "c"))

    assert (result.accepted, result.quarantined) == (2, 1)


def test_each_customer_and_each_meter_has_room_of_its_own(shop: Customer) -> None:
    limited(1)
    make.subject("project-2")

    results = [make.ingested(*disks("a", "b")), make.ingested(*disks("a", "b", subject="project-2"))]

    assert [result.accepted for result in results] == [1, 1]


def test_an_event_that_is_one_too_many_for_one_meter_counts_in_none(shop: Customer) -> None:
    limited(1)
    make.meter(aggregation="count")

    result = make.ingested(*disks("a", "b"))

    assert (result.accepted, result.quarantined) == (1, 1)
    assert sorted(total.count for total in make.totals(shop)) == [1, 1]
    assert_everything_ties()


def test_an_event_that_is_one_too_many_for_one_meter_opens_no_series_in_another(shop: Customer) -> None:
    full = limited(1)
    other = make.meter(dimensions=["disk"])

    result = make.ingested(*disks("a", "b"))

    assert (result.accepted, result.quarantined) == (1, 1)
    assert sorted(UsageSeries.objects.values_list("meter_id", "dimensions__disk")) == [(full.pk, "a"), (other.pk, "a")]


def test_the_room_that_a_refused_event_does_not_take_is_there_for_the_next(shop: Customer) -> None:
    limited(1)
    by_rack = make.meter(dimensions=["rack"])
    limit(by_rack, 2)

    result = make.ingested(
        make.event("e1", seconds=1, disk="a", rack="r1"),
        make.event("e2", seconds=1, disk="b", rack="r2"),
        make.event("e3", seconds=1, disk="a", rack="r3"),
        make.event("e4", seconds=1, disk="a", rack="r2"),
    )

    assert (result.accepted, result.quarantined) == (2, 2)
    assert set(UsageEvent.objects.values_list("event_id", flat=True)) == {"e1", "e3"}
    assert QuarantinedEvent.objects.get(event_id="e2").detail.startswith("meter meter-")
    assert_everything_ties()


def test_release_counts_them_once_the_limit_is_raised(shop: Customer) -> None:
    meter = limited(1)
    make.ingested(*disks("a", "b", "c"))
    waiting = list(QuarantinedEvent.objects.values_list("pk", flat=True))

    before = release(event_ids=waiting, actor=SYSTEM, at=NOON)
    limit(meter, 2)
    after = release(event_ids=waiting, actor=SYSTEM, at=NOON)

    assert (before.released, before.still_quarantined) == (0, 2)
    assert (after.released, after.still_quarantined) == (1, 1)
    assert_everything_ties()


def test_series_of_a_transaction_that_was_rolled_back_are_not_remembered(shop: Customer) -> None:
    limited(5)
    with transaction.atomic():
        make.ingested(*disks("a"))
        transaction.set_rollback(True)

    make.ingested(*disks("a"))

    (event,) = UsageEvent.objects.all()
    assert event.series_ids == [UsageSeries.objects.get().pk]


@pytest.mark.django_db(transaction=True)
def test_a_series_is_remembered_only_once_it_is_committed(shop: Customer) -> None:
    limited(5)
    series._known.clear()
    with transaction.atomic():
        make.ingested(*disks("a"))
        transaction.set_rollback(True)
    forgotten = dict(series._known)

    make.ingested(*disks("a"))

    assert forgotten == {}
    assert list(series._known.values()) == [UsageSeries.objects.get().pk]


@pytest.mark.django_db(transaction=True)
def test_parallel_senders_never_exceed_the_limit_and_agree_which_series_there_are(shop: Customer) -> None:
    limited(10)
    start = threading.Barrier(4)

    def send(seed: int) -> None:
        names = list(range(20))
        random.Random(seed).shuffle(names)  # noqa: S311 -- any order will do
        start.wait(timeout=PATIENCE_SECONDS)
        for name in names:
            make.ingested(*disks(name))

    in_parallel(*[lambda seed=seed: send(seed) for seed in range(4)])

    assert UsageSeries.objects.count() == 10
    counts = [total.count for total in make.totals(shop)]
    assert (len(counts), QuarantinedEvent.objects.count()) == (10, 80 - sum(counts))
    assert_everything_ties()


@pytest.mark.django_db(transaction=True)
def test_a_series_that_another_sender_made_meanwhile_is_not_one_too_many(shop: Customer) -> None:
    limited(1)
    first_holds, second_waits = threading.Event(), threading.Event()
    accepted: list[int] = []

    def first() -> None:
        with transaction.atomic():
            accepted.append(make.ingested(*disks("a")).accepted)
            first_holds.set()
            assert second_waits.wait(timeout=PATIENCE_SECONDS)

    def second() -> None:
        assert first_holds.wait(timeout=PATIENCE_SECONDS)
        threading.Timer(0.5, second_waits.set).start()
        accepted.append(make.ingested(*disks("a")).accepted)

    in_parallel(first, second)

    assert accepted == [1, 1]
