"""Recounts while events come in and the fold runs, and one that is killed: the totals stay those of the events."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from accounts.models import Customer
from metering import recount, rollups, verification
from metering.models import UsageEvent, UsageHour
from metering.recount import Span
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute
from tests.parallel import in_parallel
from tests.programs import killed_in_a_step

pytestmark = pytest.mark.django_db(transaction=True)

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    for aggregation in ("sum", "max", "latest", "unique", "gauge", "p95"):
        make.meter(aggregation=aggregation)
    make.subject("project-1", customer=customer)
    return customer


def differences() -> list[verification.Difference]:
    return [each for chunk in verification.plan(start=START, end=END) for each in verification.verify(chunk).shown]


def test_recounts_while_senders_and_folds_are_at_work_leave_exact_totals(shop: Customer) -> None:
    done = threading.Event()
    seen: list[list[verification.Difference]] = []

    def send(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 -- any events will do
        for _ in range(20):
            make.ingested(
                *[
                    make.event(
                        time=f"2026-10-10T{chance.randint(0, 5):02}:{chance.randint(0, 59):02}:00Z",
                        seconds=f"{chance.randint(0, 99)}.{chance.randint(0, 9)}",
                    )
                    for _ in range(10)
                ]
            )

    def send_all() -> None:
        try:
            in_parallel(lambda: send(1), lambda: send(2))
        finally:
            done.set()

    def keep(work: Callable[[], object]) -> None:
        while not done.is_set():
            work()

    def recount_one_hour() -> None:
        hour = random.choice(range(6))  # noqa: S311 -- any hour will do
        start = datetime(2026, 10, 10, hour, tzinfo=UTC)
        recount.recount(spans=[Span(shop.pk, start, start + recount.HOUR)])

    in_parallel(
        send_all,
        lambda: keep(recount_one_hour),
        lambda: keep(lambda: rollups.fold(limit=20)),
        lambda: keep(lambda: seen.append(differences())),
    )

    assert UsageEvent.objects.count() == 400
    assert seen
    assert [found for found in seen if found] == []
    assert differences() == []
    while rollups.fold():
        pass
    assert differences() == []


REBUILD_BY_TENS = """
from datetime import UTC, datetime
from accounts.access import Actor
from metering import recount, verification
recount.CHUNK_EVENTS = 10
recount.chunks.__kwdefaults__["chunk_events"] = 10
order = verification.Rebuild(
    start=datetime(2026, 10, 1, tzinfo=UTC), end=datetime(2026, 11, 1, tzinfo=UTC), customer_id=None, reason="killed"
)
rebuilding = verification.rebuild(order=order, actor=Actor.system("test"), at=datetime(2026, 11, 2, tzinfo=UTC))
step_by_step(lambda: next(rebuilding, None) is not None)
"""


def test_a_rebuild_killed_in_the_middle_goes_on_when_it_is_asked_for_again(shop: Customer) -> None:
    make.ingested(*[make.event(time=f"2026-10-{day:02}T{hour:02}:10:00Z", seconds=day)
                    for day in range(1, 15) for hour in range(24)])  # fmt: skip
    rollups.fold()
    expected = [(total.sum, total.count) for total in make.totals(shop)]
    execute("UPDATE usage_hour SET sum = 0")

    killed_in_a_step(REBUILD_BY_TENS, after=3)

    assert 0 < UsageHour.objects.filter(sum=Decimal(0)).count() < UsageHour.objects.count()
    order = verification.Rebuild(start=START, end=END, customer_id=None, reason="killed")
    list(verification.rebuild(order=order, actor=make.SYSTEM, at=make.NOON))

    assert [(total.sum, total.count) for total in make.totals(shop)] == expected
    assert differences() == []
