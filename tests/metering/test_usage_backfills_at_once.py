"""Backfills at once, while usage comes in, and killed in the middle: each event counts once."""

from __future__ import annotations

import threading
import time
from decimal import Decimal

import pytest

from accounts.access import Actor, Role
from accounts.models import AuditEntry, Customer
from metering import rollups
from metering.models import UsageBackfill, UsageBackfillItem, UsageEvent
from metering.usage_backfills import decisions
from metering.usage_backfills.errors import UsageBackfillNotOpen, UsageBackfillOverlaps
from metering.usage_backfills.work import work_on
from tests import make_accounts, make_usage_backfills
from tests import make_metering as make
from tests.make_usage_backfills import opened, replacing, staged, states
from tests.parallel import in_parallel
from tests.programs import killed_in_a_step
from tests.ties import assert_everything_ties_and_recounts

pytestmark = pytest.mark.django_db(transaction=True)

Status = UsageBackfill.Status


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.meter(aggregation="max")
    make.meter(aggregation="unique")
    make.subject("project-1", customer=customer)
    return customer


def week(count: int, *, prefix: str = "e", seconds: str = "1") -> list[dict[str, object]]:
    return [
        make.event(
            f"{prefix}{number}",
            time=f"2026-10-{number % 7 + 5:02}T{number % 24:02}:10:{number % 60:02}Z",
            seconds=seconds,
        )
        for number in range(count)
    ]


def sum_of(customer: Customer) -> Decimal:
    totals = {total.meter_id: total.sum for total in make.totals(customer)}
    return totals[min(totals)]


def work(backfill: UsageBackfill) -> None:
    for _ in range(500):
        work_on(backfill_id=backfill.pk, limit=20, actor=make.SYSTEM, at=make.NOON)
        if UsageBackfill.objects.get(pk=backfill.pk).status not in {Status.CLOSING, Status.REVERTING}:
            return


def test_two_workers_close_and_revert_it_once_while_the_same_events_come_in(shop: Customer) -> None:
    make.ingested(*week(100, prefix="old", seconds="50"))
    backfill = replacing()
    staged(backfill, *week(300))
    make_usage_backfills.closing(backfill)
    done = threading.Event()

    def close() -> None:
        try:
            in_parallel(lambda: work(backfill), lambda: work(backfill))
        finally:
            done.set()

    def send() -> None:
        for start in range(0, 300, 30):
            make.ingested(*week(300)[start : start + 30])
            rollups.fold(limit=100)
            if done.is_set():
                return

    in_parallel(close, send)

    backfill.refresh_from_db()
    assert (backfill.status, backfill.voided, backfill.counted + backfill.kept) == (Status.CLOSED, 100, 300)
    assert sum_of(shop) == 300
    assert_everything_ties_and_recounts()

    make_usage_backfills.reverting(backfill)
    in_parallel(lambda: work(backfill), lambda: work(backfill))
    backfill.refresh_from_db()
    assert (backfill.status, backfill.revert_left_out) == (Status.REVERTED, 0)
    assert sum_of(shop) == 100 * 50 + backfill.kept
    assert_everything_ties_and_recounts()


def test_senders_who_fill_in_the_same_events_at_once_fill_each_in_once(shop: Customer) -> None:
    backfill = opened()
    events = week(200)

    def send(chosen: list[dict[str, object]]) -> None:
        for start in range(0, 200, 40):
            staged(backfill, *chosen[start : start + 40])

    in_parallel(lambda: send(events), lambda: send(events[::-1]), lambda: send(events))

    backfill.refresh_from_db()
    assert (backfill.staged, UsageBackfillItem.objects.count()) == (200, 200)


def test_people_who_close_it_at_once_close_it_once(shop: Customer) -> None:
    backfill = opened()
    staged(backfill, *week(5))
    make_usage_backfills.previewed(backfill)
    people = [make_accounts.actor(Role.FINANCE_ANALYST), make_accounts.actor(Role.FINANCE_CONTROLLER)]

    def close(actor: Actor) -> None:
        decisions.close_backfill(backfill_id=backfill.pk, actor=actor, at=make.NOON)

    in_parallel(*[lambda actor=actor: close(actor) for actor in people * 2])

    assert AuditEntry.objects.filter(verb="usage_backfill.submitted").count() == 1
    make_usage_backfills.approved(backfill)
    work(backfill)
    assert sum_of(shop) == 5


def test_whoever_fills_in_while_it_is_abandoned_is_refused_or_dropped(shop: Customer) -> None:
    backfill = opened()
    refused: list[UsageBackfillNotOpen] = []

    def fill() -> None:
        for start in range(0, 400, 20):
            try:
                staged(backfill, *week(400)[start : start + 20])
            except UsageBackfillNotOpen as refusal:
                refused.append(refusal)

    def abandon() -> None:
        time.sleep(0.05)
        decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=make.SYSTEM, at=make.NOON)

    in_parallel(fill, abandon)

    assert not UsageBackfillItem.objects.exists()
    assert UsageBackfill.objects.get().status == Status.ABANDONED


def test_two_people_open_the_same_once(shop: Customer) -> None:
    outcomes: list[str] = []

    def open_one() -> None:
        try:
            opened(actor=make.SYSTEM)
            outcomes.append("opened")
        except UsageBackfillOverlaps:
            outcomes.append("overlaps")

    in_parallel(open_one, open_one, open_one)

    assert sorted(outcomes) == ["opened", "overlaps", "overlaps"]


WORK_BY_TENS = """
from metering.usage_backfills.work import work_on
from tests import make_metering as make
step_by_step(lambda: work_on(backfill_id=int(sys.argv[1]), limit=10, actor=make.SYSTEM, at=make.NOON))
"""


@pytest.mark.parametrize("steps", [1, 5])
def test_killed_in_the_middle_of_closing_and_of_reverting_it_goes_on_and_counts_each_event_once(
    shop: Customer, steps: int
) -> None:
    make.ingested(*week(150, prefix="old", seconds="50"), *week(50, seconds="7"))
    before = make.totals(shop)
    backfill = replacing()
    staged(backfill, *week(250, seconds="3"))
    make_usage_backfills.closing(backfill)

    killed_in_a_step(WORK_BY_TENS, str(backfill.pk), after=steps)
    assert 0 < states(backfill)["waiting"] < 400
    assert_everything_ties_and_recounts()
    work(backfill)
    done = UsageBackfill.objects.get()

    assert (done.counted, done.replaced, done.voided, done.left_out) == (200, 50, 150, 0)
    assert sum_of(shop) == 250 * 3
    assert UsageEvent.objects.count() == 200 + 250
    assert_everything_ties_and_recounts()

    make_usage_backfills.reverting(backfill)
    killed_in_a_step(WORK_BY_TENS, str(backfill.pk), after=steps)
    assert 0 < UsageBackfillItem.objects.filter(batch_id__isnull=False, reverted_batch_id=None).count() < 400
    assert_everything_ties_and_recounts()
    work(backfill)
    done = UsageBackfill.objects.get()

    assert (done.status, done.reverted, done.revert_left_out) == (Status.REVERTED, 400, 0)
    assert [each for each in make.totals(shop) if each.count] == before
    assert_everything_ties_and_recounts()
