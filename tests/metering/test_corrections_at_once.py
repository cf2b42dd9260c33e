"""Corrections at once, while usage comes in, and killed in the middle: each event is amended once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.conf import settings
from django.db import connection

from accounts.models import Customer
from metering import rollups, verification
from metering.corrections.correction_selection import EventFilter
from metering.corrections.correction_work import apply_some
from metering.invariants import RULES
from metering.models import UsageAmendment, UsageCorrection, UsageCorrectionItem
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.database_address import url_of_the_test_database
from tests.parallel import in_parallel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.meter(aggregation="max")
    make.meter(aggregation="unique")
    make.subject("project-1", customer=customer)
    return customer


def assert_everything_ties() -> None:
    for rule in RULES:
        with connection.cursor() as cursor:
            cursor.execute(rule.sql)
            assert cursor.fetchall() == [], rule.name
    for chunk in verification.plan(start=make.LONG_AGO, end=datetime(2027, 1, 1, tzinfo=UTC)):
        assert verification.verify(chunk).shown == []


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
    assert_everything_ties()


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
    assert_everything_ties()


APPLY_SLOWLY = """
import sys
import django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from metering.corrections.correction_work import apply_some
from tests import make_metering as make
while apply_some(correction_id=int(sys.argv[2]), limit=10, actor=make.SYSTEM, at=make.NOON):
    print("applied", flush=True)
"""


@pytest.mark.parametrize("steps", [1, 4])
def test_a_correction_killed_in_the_middle_goes_on_and_amends_each_event_once(shop: Customer, steps: int) -> None:
    many(400, seconds="2")
    correction = approved(shop, seconds="3")
    worker = subprocess.Popen(
        [sys.executable, "-c", APPLY_SLOWLY, connection.settings_dict["NAME"], str(correction.pk)],
        stdout=subprocess.PIPE,
        cwd=settings.PROJECT_FOLDER,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.test",
            "DATABASE_URL": url_of_the_test_database(),
        },
    )
    assert worker.stdout
    for _ in range(steps):
        assert worker.stdout.readline()
    time.sleep(steps / 500)
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=20)
    worker.stdout.close()

    settled = UsageCorrectionItem.objects.filter(correction=correction, state="applied").count()
    assert 0 < settled < 400
    assert_everything_ties()
    # The server may need a moment to see that the killed worker is gone, and until then holds the correction for it.
    for _ in range(100):
        if apply_some(correction_id=correction.pk, actor=make.SYSTEM, at=make.NOON):
            break
        time.sleep(0.1)

    correction.refresh_from_db()
    assert (correction.status, correction.applied, correction.skipped) == ("applied", 400, 0)
    totals = {total.meter_id: total.sum for total in make.totals(shop)}
    assert totals[min(totals)] == Decimal(1_200)
    assert_everything_ties()
