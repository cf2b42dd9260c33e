"""A process that is killed in the middle of its work: what it had not committed is as if it had never been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, transaction

from billing import bill_runs, documents, issuing
from billing.models import BillRun, Invoice, InvoiceDocument, JournalEntry
from tests import make_billing as make
from tests.database_address import url_of_the_test_database

pytestmark = pytest.mark.django_db(transaction=True)

PROJECT = Path(__file__).resolve().parent.parent.parent
PATIENCE_SECONDS = 60.0
CUSTOMERS = 30

DRAFTER = """
import sys, time
import django
django.setup()
from django.utils import timezone
from billing import bill_runs
while bill_runs.draft_chunk(run_id=int(sys.argv[1]), limit=1, at=timezone.now()):
    time.sleep(0.05)
"""
ISSUER = """
import sys, time
import django
django.setup()
from django.utils import timezone
from accounts.access import Actor
from billing import issuing
while issuing.issue_chunk(run_id=int(sys.argv[1]), limit=1, actor=Actor.system("test"), at=timezone.now()):
    time.sleep(0.05)
"""
# A document that takes the whole process with it, as a fault in a native library does.
FATAL_PAINTER = """
import os, signal, sys
import django
django.setup()
from datetime import datetime
from billing import documents
documents.render_invoice_pdf = lambda data: os.kill(os.getpid(), signal.SIGKILL)
documents.make_due_documents(limit=1, at=datetime.fromisoformat(sys.argv[1]))
"""


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start a program of ours on the database of this test."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.local",
        "DATABASE_URL": url_of_the_test_database(),
    }
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, f"{what} did not happen"
        time.sleep(0.02)


def shop_with_usage() -> make.Shop:
    shop = make.shop()
    for number in range(CUSTOMERS):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}", email=None), "1", on=make.OCT_10)
    return shop


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all its children, without warning."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
            " WHERE datname = current_database() AND NOT granted"
        )
        return bool(cursor.fetchone()[0])


def test_a_drafter_killed_in_mid_run_leaves_a_run_that_completes_once() -> None:
    shop = shop_with_usage()
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    process = start("-c", DRAFTER, str(run.pk))
    try:
        wait_until(lambda: bill_runs.progress(run.pk).done >= 3, "a first draft")
    finally:
        kill(process)
    assert bill_runs.progress(run.pk).pending > 0

    make.drafted_run(shop)

    assert bill_runs.progress(run.pk).done == CUSTOMERS
    assert Invoice.objects.count() == CUSTOMERS


def test_an_issuer_killed_in_mid_run_leaves_no_gap_and_posts_each_invoice_once() -> None:
    shop = shop_with_usage()
    run = make.approved_run(shop)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
    process = start("-c", ISSUER, str(run.pk))
    try:
        wait_until(lambda: run.invoices.filter(status="issued").count() >= 3, "a first number")
    finally:
        kill(process)
    assert run.invoices.filter(status="approved").exists()

    # The process took the time of the day; dates never go back.
    latest = Invoice.objects.filter(status="issued").latest("issued_at").issued_at
    assert latest is not None
    make.issue(shop, run, at=latest)

    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == list(
        range(1, CUSTOMERS + 1)
    )
    assert JournalEntry.objects.count() == CUSTOMERS
    assert BillRun.objects.get().status == BillRun.Status.ISSUED


def test_a_celery_worker_killed_in_mid_run_leaves_a_run_that_the_next_one_completes() -> None:
    shop = shop_with_usage()
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    nudge = f"import django; django.setup(); from billing import tasks; tasks.draft_run.delay({run.pk})"
    sweep = "import django; django.setup(); from billing import tasks; tasks.sweep()"
    worker = ("-m", "celery", "-A", "config", "worker", "--concurrency", "1", "--loglevel", "ERROR")
    assert start("-c", nudge).wait(timeout=PATIENCE_SECONDS) == 0

    # While nobody may write invoices, the worker has claimed its contracts and stands in the middle of its transaction.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE billing_invoice IN SHARE MODE")
        first = start(*worker)
        try:
            wait_until(somebody_waits_for_a_lock, "the worker's claim")
        finally:
            kill(first)
    wait_until(lambda: not somebody_waits_for_a_lock(), "the end of the dead worker's transaction")
    assert bill_runs.progress(run.pk).pending == CUSTOMERS

    # The message is invisible to others for as long as a task may take; the sweep gives another.
    assert start("-c", sweep).wait(timeout=PATIENCE_SECONDS) == 0
    second = start(*worker)
    try:
        wait_until(lambda: bill_runs.progress(run.pk).pending == 0, "the end of the run")
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(timeout=30)

    assert bill_runs.progress(run.pk).done == CUSTOMERS
    assert Invoice.objects.count() == CUSTOMERS


def test_a_document_that_kills_its_worker_waits_and_lets_the_others_pass() -> None:
    shop = shop_with_usage()
    make.issued_run(shop)
    process = start("-c", FATAL_PAINTER, make.NOV_2.isoformat())
    assert process.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL

    made = documents.make_due_documents(limit=100, at=make.NOV_2)

    fatal = InvoiceDocument.objects.get(state=InvoiceDocument.State.PENDING)
    assert made == CUSTOMERS - 1
    assert (fatal.attempts, fatal.next_attempt_at) == (1, make.NOV_2 + timedelta(minutes=1))
    assert fatal.last_error == "An attempt to make it has begun, and has not ended."
    assert documents.make_due_documents(limit=100, at=make.NOV_3) == 1
