"""A worker that is killed in the middle of a file: another one goes on, and nothing is lost or counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone

from metering.files import usage_files
from metering.models import QuarantineClearance, QuarantinedEvent, UsageBatch, UsageFile, UsageFileBatch, UsageFilePart
from metering.quarantine import clearances
from metering.quarantine.clearances import Rule
from tests import make_accounts, make_files, make_metering
from tests.database_address import url_of_the_test_database
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 20_000
PATIENCE_SECONDS = 90
SWEEP = "import django; django.setup(); from metering import tasks; tasks.sweep_files()"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=settings.PROJECT_FOLDER,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "DATABASE_URL": url_of_the_test_database(),
            "C_FORCE_ROOT": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """Have a Celery worker at work, and kill it with all its children at the end without a warning."""
    process = start("-m", "celery", "-A", "config", "worker", "--concurrency", "1", "--loglevel", "ERROR")
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, f"{what} did not happen"
        time.sleep(0.02)


def sweep() -> None:
    """Do what beat does every 20 seconds."""
    assert start("-c", SWEEP).wait(timeout=PATIENCE_SECONDS) == 0


def test_a_worker_killed_in_the_middle_of_a_file_doubles_and_loses_nothing() -> None:
    customer = make_accounts.customer()
    make_metering.meter()
    make_metering.subject("project-1", customer=customer)
    lines = [
        make_files.reading(number, project="nobody" if number % 10 == 3 else "project-1") for number in range(ROWS)
    ]
    file = make_files.ready(make_files.readings(*lines, "torn", make_files.reading(1)))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=timezone.now())
    files = UsageFile.objects.filter(pk=file.pk)

    with worker():
        sweep()
        wait_until(lambda: files.get().rows_done > 0, "the first batch")
    cut_off_at = files.get().rows_done
    # The minute passes after which a worker that says nothing is taken for dead.
    files.update(leased_until=timezone.now() - timedelta(seconds=1))
    with worker():
        sweep()
        wait_until(lambda: files.get().state == UsageFile.State.DONE, "the end of the load")

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


def test_a_worker_killed_in_the_middle_of_a_clearance_counts_each_event_once() -> None:
    customer = make_accounts.customer()
    make_metering.meter()
    for _ in range(5):
        make_metering.ingested(*(make_metering.event(subject="later") for _ in range(1_000)))
    make_metering.subject("later", customer=customer)
    clearance = clearances.decide_clearance(
        act=QuarantineClearance.Act.RELEASE, rule=Rule(subject="later"), actor=SYSTEM, at=NOON + timedelta(days=1)
    )
    decided = QuarantineClearance.objects.filter(pk=clearance.pk)

    with worker():
        sweep()
        wait_until(lambda: decided.get().closed > 0, "the first chunk")
    cut_off_at = decided.get().closed
    decided.filter(state="running").update(leased_until=timezone.now() - timedelta(seconds=1))
    with worker():
        sweep()
        wait_until(lambda: decided.get().state == QuarantineClearance.State.DONE, "the end of the clearance")

    assert 0 < cut_off_at <= 5_000
    assert decided.get().closed == 5_000
    assert make_metering.totals(customer)[0].count == 5_000
