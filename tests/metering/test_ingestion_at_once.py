"""Many senders at once, and one that is killed: the totals are those of an independent count."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from django.db import close_old_connections, connections, transaction

from accounts.models import Customer
from metering import rollups
from metering.models import QuarantinedEvent, UsageDelta, UsageEvent, UsageIdentity
from metering.quarantine.quarantine import release
from metering.reading import usage
from metering.reading.usage import UnseenWindow
from tests import make_accounts
from tests import make_metering as make
from tests.patience import PATIENCE_SECONDS
from tests.programs import killed_in_a_step
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db(transaction=True)

SENDERS = 4


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=customer)
    return customer


def many_events(count: int, *, seed: int) -> list[dict[str, object]]:
    chance = random.Random(seed)  # noqa: S311 -- any events will do
    return [
        make.event(
            f"event-{seed}-{number}",
            time=f"2026-10-{chance.randint(1, 14):02}T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:00Z",
            seconds=f"{chance.randint(0, 10**6)}.{chance.randint(0, 999):03}",
            region=chance.choice(("eu", "us", "ap")),
        )
        for number in range(count)
    ]


def counted_by_hand(events: Sequence[dict[str, object]]) -> dict[str, tuple[Decimal, int]]:
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    counts: Counter[str] = Counter()
    for event in {str(event["id"]): event for event in events}.values():
        data = event["data"]
        assert isinstance(data, dict)
        sums[data["region"]] += Decimal(data["seconds"])
        counts[data["region"]] += 1
    return {region: (sums[region], counts[region]) for region in counts}


def totals_by_region(customer: Customer) -> dict[str, tuple[Decimal, int]]:
    return {total.dimensions["region"]: (total.sum, total.count) for total in make.totals(customer)}


def in_parallel(*calls: Callable[[], object]) -> None:
    def run(call: Callable[[], object]) -> None:
        try:
            call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(run, call) for call in calls]:
            future.result()


def test_parallel_senders_of_the_same_events_count_each_once_while_the_fold_runs(shop: Customer) -> None:
    events = many_events(3_000, seed=1)
    done = threading.Event()

    def send(seed: int) -> None:
        mine = events.copy()
        random.Random(seed).shuffle(mine)  # noqa: S311 -- any order will do
        for start in range(0, len(mine), 250):
            make.ingested(*mine[start : start + 250])

    def send_all() -> None:
        try:
            in_parallel(*[lambda seed=seed: send(seed) for seed in range(SENDERS)])
        finally:
            done.set()

    def keep_folding() -> None:
        while not done.is_set():
            rollups.fold(limit=50)

    in_parallel(send_all, keep_folding, keep_folding)

    assert totals_by_region(shop) == counted_by_hand(events)
    assert UsageIdentity.objects.count() == UsageEvent.objects.count() == 3_000
    assert_everything_ties()


def test_a_reader_never_sees_a_gap_or_a_double_while_the_fold_runs(shop: Customer) -> None:
    events = many_events(400, seed=2)
    for start in range(0, 400, 20):
        make.ingested(*events[start : start + 20])
    expected = counted_by_hand(events)
    done = threading.Event()
    seen: list[dict[str, tuple[Decimal, int]]] = []

    def fold_slowly() -> None:
        try:
            while rollups.fold(limit=15):
                pass
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            seen.append(totals_by_region(shop))

    in_parallel(fold_slowly, read, read)

    assert seen
    assert all(totals == expected for totals in seen)
    assert not UsageDelta.objects.exists()


def test_senders_of_new_months_make_each_partition_once(shop: Customer) -> None:
    batches = [[make.event(time=f"2025-{month:02}-10T00:00:00Z", region="eu", seconds="1")] for month in range(1, 13)]
    start = threading.Barrier(SENDERS)

    def send(seed: int) -> None:
        mine = batches.copy()
        random.Random(seed).shuffle(mine)  # noqa: S311 -- any order will do
        start.wait(timeout=PATIENCE_SECONDS)
        for batch in mine:
            make.ingested(*batch)

    in_parallel(*[lambda seed=seed: send(seed) for seed in range(SENDERS)])

    assert UsageEvent.objects.count() == 12
    assert_everything_ties()


def test_two_contents_of_one_identity_at_once_leave_one_event_and_one_conflict(shop: Customer) -> None:
    results = []
    start = threading.Barrier(2)

    def send(seconds: str) -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        results.append(make.ingested(make.event("e1", seconds=seconds, region="eu")))

    in_parallel(lambda: send("1"), lambda: send("2"))

    assert sorted(result.accepted for result in results) == [0, 1]
    assert sorted(len(result.rejected) for result in results) == [0, 1]
    assert UsageEvent.objects.count() == 1


def test_an_event_released_twice_at_once_while_it_is_sent_again_counts_once(shop: Customer) -> None:
    make.ingested(make.event("e1", subject="later", seconds="5", region="eu"))
    make.subject("later", customer=shop)
    (waiting,) = QuarantinedEvent.objects.values_list("pk", flat=True)
    start = threading.Barrier(3)

    def release_it() -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        release(event_ids=[waiting], actor=make.SYSTEM, at=make.NOON)

    def send_it() -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        make.ingested(make.event("e1", subject="later", seconds="5", region="eu"))

    in_parallel(release_it, release_it, send_it)

    assert totals_by_region(shop) == {"eu": (Decimal(5), 1)}
    assert_everything_ties()


def test_a_batch_that_commits_after_a_later_one_is_not_taken_for_seen(shop: Customer) -> None:
    make.ingested(make.event(time="2026-10-01T09:00:00Z", region="eu", seconds="4"))
    early_has_begun, snapshot_is_taken = threading.Event(), threading.Event()

    def commit_late() -> None:
        with transaction.atomic():
            make.ingested(make.event(time="2026-10-01T10:00:00Z", region="eu", seconds="1"))
            early_has_begun.set()
            assert snapshot_is_taken.wait(timeout=PATIENCE_SECONDS)
        connections.close_all()

    sender = threading.Thread(target=commit_late)
    sender.start()
    assert early_has_begun.wait(timeout=PATIENCE_SECONDS)
    make.ingested(make.event(time="2026-10-01T11:00:00Z", region="eu", seconds="2"))
    snapshot = usage.current_snapshot()
    billed = totals_by_region(shop)
    snapshot_is_taken.set()
    sender.join()

    window = UnseenWindow(
        customer_id=shop.pk,
        start=make.LONG_AGO,
        end=make.NOON.replace(hour=0),
        snapshot=snapshot,
    )
    assert billed == {"eu": (Decimal(6), 2)}
    assert usage.windows_with_unseen_usage([window]) == [0]


SEND_BY_TWENTIES = """
import json
from pathlib import Path
from django.conf import settings
settings.USAGE_ACCEPTANCE_MONTHS = 25
from tests import make_metering as make
events = iter(json.loads(Path(sys.argv[1]).read_text()))
step_by_step(lambda: make.ingested(*(next(events) for _ in range(20))))
"""


@pytest.mark.parametrize("after_batches", [1, 4, 9])
def test_a_sender_killed_in_the_middle_and_started_again_counts_each_event_once(
    shop: Customer,
    tmp_path: Path,
    after_batches: int,
) -> None:
    events = many_events(1_000, seed=3)
    path = tmp_path / "events.json"
    path.write_bytes(msgspec.json.encode(events))

    killed_in_a_step(SEND_BY_TWENTIES, str(path), after=after_batches)
    close_old_connections()

    assert 0 < UsageEvent.objects.count() < 1_000
    for start in range(0, 1_000, 100):
        make.ingested(*events[start : start + 100])

    assert totals_by_region(shop) == counted_by_hand(events)
    assert_everything_ties()


FOLD_BY_THREES = "from metering import rollups; step_by_step(lambda: rollups.fold(limit=3))"


def test_a_fold_killed_in_the_middle_and_run_again_changes_no_total(shop: Customer) -> None:
    events = many_events(600, seed=4)
    for start in range(0, 600, 100):
        make.ingested(*events[start : start + 100])

    killed_in_a_step(FOLD_BY_THREES, after=5)

    assert UsageDelta.objects.exists()
    assert totals_by_region(shop) == counted_by_hand(events)
    while rollups.fold():
        pass

    assert not UsageDelta.objects.exists()
    assert totals_by_region(shop) == counted_by_hand(events)
    assert_everything_ties()
