"""A process that is killed in the middle of its work: what it had not committed is as if it had never been."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from billing import bill_runs, documents, issuing
from billing.models import BillRun, Invoice, InvoiceDocument, JournalEntry
from tests import make_billing as make
from tests.patience import wait_until
from tests.programs import held_up, killed_in_a_step, running

pytestmark = pytest.mark.django_db(transaction=True)

CUSTOMERS = 30

DRAFT_ONE_BY_ONE = """
from django.utils import timezone
from billing import bill_runs
step_by_step(lambda: bill_runs.draft_chunk(run_id=int(sys.argv[1]), limit=1, at=timezone.now()))
"""
ISSUE_ONE_BY_ONE = """
from django.utils import timezone
from accounts.access import Actor
from billing import issuing
test = Actor.system("test")
step_by_step(lambda: issuing.issue_chunk(run_id=int(sys.argv[1]), limit=1, actor=test, at=timezone.now()))
"""
WORKER = ("-m", "celery", "-A", "config", "worker", "--concurrency", "1", "--loglevel", "ERROR")
# What beat does every minute, more often.
BEAT = """
import time
import django; django.setup()
from billing import tasks
while True:
    tasks.sweep()
    time.sleep(1)
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


def shop_with_usage() -> make.Shop:
    shop = make.shop()
    for number in range(CUSTOMERS):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}", email=None), "1", on=make.OCT_10)
    return shop


def test_a_drafter_killed_in_mid_run_leaves_a_run_that_completes_once() -> None:
    shop = shop_with_usage()
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )

    killed_in_a_step(DRAFT_ONE_BY_ONE, str(run.pk), after=3)
    assert bill_runs.progress(run.pk).pending > 0

    make.drafted_run(shop)

    assert bill_runs.progress(run.pk).done == CUSTOMERS
    assert Invoice.objects.count() == CUSTOMERS


def test_an_issuer_killed_in_mid_run_leaves_no_gap_and_posts_each_invoice_once() -> None:
    shop = shop_with_usage()
    run = make.approved_run(shop)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)

    killed_in_a_step(ISSUE_ONE_BY_ONE, str(run.pk), after=3)
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

    with running("-c", BEAT):
        # While nobody may write invoices, it has claimed its contracts and stands in the middle of its transaction.
        with held_up("LOCK TABLE billing_invoice IN SHARE MODE", *WORKER):
            pass
        left = bill_runs.progress(run.pk).pending
        # The message is invisible to others for as long as a task may take; the sweep gives another.
        with running(*WORKER):
            wait_until(lambda: bill_runs.progress(run.pk).pending == 0, "The end of the run")

    assert left == CUSTOMERS
    assert bill_runs.progress(run.pk).done == CUSTOMERS
    assert Invoice.objects.count() == CUSTOMERS


def test_a_document_that_kills_its_worker_waits_and_lets_the_others_pass() -> None:
    shop = shop_with_usage()
    make.issued_run(shop)
    with running("-c", FATAL_PAINTER, make.NOV_2.isoformat()) as painter:
        assert painter.end() == -signal.SIGKILL

    made = documents.make_due_documents(limit=100, at=make.NOV_2)

    fatal = InvoiceDocument.objects.get(state=InvoiceDocument.State.PENDING)
    assert made == CUSTOMERS - 1
    assert (fatal.attempts, fatal.next_attempt_at) == (1, make.NOV_2 + timedelta(minutes=1))
    assert fatal.last_error == "An attempt to make it has begun, and has not ended."
    assert documents.make_due_documents(limit=100, at=make.NOV_3) == 1
