"""A worker that is killed in the middle of a file: another one goes on, and nothing is lost or counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone

from metering.files import usage_files
from metering.models import QuarantineClearance, QuarantinedEvent, UsageBatch, UsageFile, UsageFileBatch, UsageFilePart
from metering.quarantine import clearances
from metering.quarantine.clearances import Rule
from tests import make_accounts, make_files, make_metering
from tests.make_metering import NOON, SYSTEM
from tests.patience import wait_until
from tests.programs import held_in_its_second_write, running

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 20_000
WORKER = ("-m", "celery", "-A", "config", "worker", "--concurrency", "1", "--loglevel", "ERROR")
# What beat does every 20 seconds, more often: a message that no worker takes up soon enough expires.
BEAT = """
import time
import django; django.setup()
from metering import tasks
while True:
    tasks.sweep_files()
    time.sleep(1)
"""


@pytest.fixture
def beat() -> Iterator[None]:
    with running("-c", BEAT):
        yield


def test_a_worker_killed_in_the_middle_of_a_file_doubles_and_loses_nothing(beat: None) -> None:
    customer = make_accounts.customer()
    make_metering.meter()
    make_metering.subject("project-1", customer=customer)
    lines = [
        make_files.reading(number, project="nobody" if number % 10 == 3 else "project-1") for number in range(ROWS)
    ]
    file = make_files.ready(make_files.readings(*lines, "torn", make_files.reading(1)))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=timezone.now())
    files = UsageFile.objects.filter(pk=file.pk)

    with held_in_its_second_write("metering_usagebatch", *WORKER):
        pass
    cut_off_at = files.get().rows_done
    # The minute passes after which a worker that says nothing is taken for dead.
    files.update(leased_until=timezone.now() - timedelta(seconds=1))
    with running(*WORKER):
        wait_until(lambda: files.get().state == UsageFile.State.DONE, "The end of the load")

    done = files.get()
    assert 0 < cut_off_at < ROWS
    assert (done.rows_done, done.accepted, done.duplicates) == (ROWS + 2, ROWS * 9 // 10, 1)
    assert (done.quarantined, done.refused) == (ROWS // 10, 1)
    assert make_metering.totals(customer)[0].sum == ROWS * 9 // 10
    assert QuarantinedEvent.objects.count() == ROWS // 10
    assert set(QuarantinedEvent.objects.values_list("seen_count", flat=True)) == {1}
    assert sum(UsageBatch.objects.values_list("accepted", flat=True)) == done.accepted
    assert sum(UsageFileBatch.objects.values_list("rows", flat=True)) == done.rows_done
    assert not UsageFilePart.objects.exists()


def test_a_worker_killed_in_the_middle_of_a_clearance_counts_each_event_once(beat: None) -> None:
    customer = make_accounts.customer()
    make_metering.meter()
    for _ in range(5):
        make_metering.ingested(*(make_metering.event(subject="later") for _ in range(1_000)))
    make_metering.subject("later", customer=customer)
    clearance = clearances.decide_clearance(
        act=QuarantineClearance.Act.RELEASE, rule=Rule(subject="later"), actor=SYSTEM, at=NOON + timedelta(days=1)
    )
    decided = QuarantineClearance.objects.filter(pk=clearance.pk)

    with held_in_its_second_write("metering_usagebatch", *WORKER):
        pass
    cut_off_at = decided.get().closed
    decided.filter(state="running").update(leased_until=timezone.now() - timedelta(seconds=1))
    with running(*WORKER):
        wait_until(lambda: decided.get().state == QuarantineClearance.State.DONE, "The end of the clearance")

    assert 0 < cut_off_at < 5_000
    assert decided.get().closed == 5_000
    assert make_metering.totals(customer)[0].count == 5_000
