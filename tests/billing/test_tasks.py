"""The background jobs, called where they stand: each finds its work in a table and leaves nothing behind."""

from __future__ import annotations

import pytest
from django.core import mail

from billing import bill_runs, issuing, tasks
from billing.models import BillRun, Invoice, InvoiceDelivery
from tests import make_billing as make

pytestmark = pytest.mark.django_db


def test_the_jobs_bring_a_run_from_its_start_to_the_sent_mail() -> None:
    shop = make.shop()
    for number in range(3):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}"), "1", on=make.OCT_10)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )

    tasks.draft_run(run_id=run.pk)
    run = bill_runs.submit_bill_run(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)
    make.approve(shop, run)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
    tasks.issue_run(run_id=run.pk)
    tasks.make_documents()
    tasks.deliver_invoices()

    run.refresh_from_db()
    assert run.status == BillRun.Status.ISSUED
    assert InvoiceDelivery.objects.filter(state="sent").count() == 3
    assert len(mail.outbox) == 3


def test_jobs_that_find_nothing_do_nothing() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.drafted_run(shop)
    bill_runs.cancel_bill_run(run_id=run.pk, reason="Late nudge", actor=shop.analyst, at=make.NOV_2)

    tasks.draft_run(run_id=run.pk)
    tasks.issue_run(run_id=run.pk)
    tasks.make_documents()
    tasks.deliver_invoices()

    assert not Invoice.objects.exclude(status="void").exists()
    assert mail.outbox == []
