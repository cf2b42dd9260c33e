"""Corrections at once, while usage comes in, and killed in the middle: each event is amended once."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest

from accounts.models import Customer
from metering import rollups
from metering.corrections.correction_selection import EventFilter
from metering.corrections.correction_work import apply_some
from metering.models import UsageAmendment, UsageCorrection, UsageCorrectionItem
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.parallel import in_parallel
from tests.programs import killed_in_a_step
from tests.ties import assert_everything_ties_and_recounts

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.meter(aggregation="max")
    make.meter(aggregation="unique")
    make.subject("project-1", customer=customer)
    return customer


def many(count: int, *, seconds: str = "1") -> None:
    make.ingested(
        *[
            make.event(time=f"2026-10-{number % 14 + 1:02}T{number % 24:02}:10:00Z", seconds=seconds)
            for number in range(count)
        ]
    )


def approved(customer: Customer, **changes: str) -> UsageCorrection:
    chosen = EventFilter(customer_id=customer.pk)
    return make_corrections.submitted(make_corrections.drafted(chosen, changes=changes or None))


def test_two_workers_and_a_second_correction_amend_each_event_once_while_usage_comes_in(shop: Customer) -> None:
    many(300)
    first, second = approved(shop), approved(shop, seconds="5")
    done = threading.Event()

    def work(correction: UsageCorrection) -> None:
        for _ in range(200):
            apply_some(correction_id=correction.pk, limit=20, actor=make.SYSTEM, at=make.NOON)
            if UsageCorrection.objects.get(pk=correction.pk).status == "applied":
                return

    def correct() -> None:
        try:
            in_parallel(lambda: work(first), lambda: work(first), lambda: work(second))
        finally:
            done.set()

    def send() -> None:
        while not done.is_set():
            many(10, seconds="1000")
            rollups.fold(limit=100)

    in_parallel(correct, send)

    states = UsageCorrectionItem.objects.filter(state="applied").values_list("key", flat=True)
    assert len(states) == len(set(states)) == 300
    assert UsageAmendment.objects.count() == 300
    assert_everything_ties_and_recounts()


def test_events_that_are_sent_again_while_they_are_corrected_stay_corrected(shop: Customer) -> None:
    events = [make.event(f"e{number}", time=f"2026-10-{number % 14 + 1:02}T10:10:00Z") for number in range(120)]
    make.ingested(*events)
    correction = approved(shop, seconds="5")
    done = threading.Event()
    accepted: list[int] = []

    def correct() -> None:
        try:
            while apply_some(correction_id=correction.pk, limit=10, actor=make.SYSTEM, at=make.NOON):
                pass
        finally:
            done.set()

    def send_again() -> None:
        while not done.is_set():
            result = make.ingested(*events)
            assert (result.duplicates, result.rejected, result.quarantined) == (120, [], 0)
            accepted.append(result.accepted)

    in_parallel(correct, send_again, send_again)

    totals = {each.aggregation: each.quantity for each in make.totals(shop)}
    assert accepted
    assert set(accepted) == {0}
    assert totals == {"sum": 600, "max": 5, "unique": 1}
    assert_everything_ties_and_recounts()


APPLY_BY_TENS = """
from metering.corrections.correction_work import apply_some
from tests import make_metering as make
step_by_step(lambda: apply_some(correction_id=int(sys.argv[1]), limit=10, actor=make.SYSTEM, at=make.NOON))
"""


@pytest.mark.parametrize("steps", [1, 4])
def test_a_correction_killed_in_the_middle_goes_on_and_amends_each_event_once(shop: Customer, steps: int) -> None:
    many(400, seconds="2")
    correction = approved(shop, seconds="3")

    killed_in_a_step(APPLY_BY_TENS, str(correction.pk), after=steps)

    settled = UsageCorrectionItem.objects.filter(correction=correction, state="applied").count()
    assert 0 < settled < 400
    assert_everything_ties_and_recounts()
    apply_some(correction_id=correction.pk, actor=make.SYSTEM, at=make.NOON)

    correction.refresh_from_db()
    assert (correction.status, correction.applied, correction.skipped) == ("applied", 400, 0)
    totals = {total.meter_id: total.sum for total in make.totals(shop)}
    assert totals[min(totals)] == Decimal(1_200)
    assert_everything_ties_and_recounts()
