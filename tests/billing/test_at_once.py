"""Many at once, each on a connection of its own: numbers, chunks, runs and mails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from threading import Barrier

import pytest
from django.db import connection, transaction

from billing import bill_runs, documents, issuing
from billing.models import (
    BillRun,
    BillRunItem,
    Invoice,
    InvoiceDocument,
    InvoiceSeries,
    JournalEntry,
)
from metering.ingestion import IngestResult
from tests import make_billing as make

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Run the work in so many threads that begin together, and return what each gave, errors included."""
    together = Barrier(count)

    def one(number: int) -> object:
        together.wait()
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def shop_with_customers(count: int) -> make.Shop:
    shop = make.shop()
    for number in range(count):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}", email=None), "1", on=make.OCT_10)
    return shop


def test_eight_who_take_numbers_at_once_leave_no_gap_and_no_double() -> None:
    shop = shop_with_customers(16)
    run = make.approved_run(shop)
    ids = list(run.invoices.order_by("pk").values_list("pk", flat=True))

    def issue_two(number: int) -> None:
        for invoice_id in ids[number * 2 : number * 2 + 2]:
            issuing.issue_invoice(invoice_id=invoice_id, actor=shop.controller, at=make.NOV_2)

    assert at_once(8, issue_two) == [None] * 8

    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == list(range(1, 17))
    assert InvoiceSeries.objects.get().next_number == 17
    assert BillRun.objects.get().status == BillRun.Status.ISSUED


def test_eight_who_take_from_one_series_without_a_common_run_leave_no_gap() -> None:
    shop = make.shop()

    def take(number: int) -> int:
        return _take_in_a_transaction(shop, number + 1)

    firsts = at_once(8, take)

    ends = sorted((int(str(first)), number + 1) for number, first in enumerate(firsts))
    assert [first for first, _ in ends] == [1, *(first + count for first, count in ends[:-1])]
    assert InvoiceSeries.objects.get().next_number == 1 + sum(range(1, 9))


def _take_in_a_transaction(shop: make.Shop, count: int) -> int:
    with transaction.atomic():
        return issuing._take_numbers(shop.entity, count=count, on=date(2026, 11, 2)).first


def test_two_issuers_at_once_issue_each_invoice_once() -> None:
    shop = shop_with_customers(12)
    run = make.approved_run(shop)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)

    def issue_all(_: int) -> int:
        issued = 0
        while taken := issuing.issue_chunk(run_id=run.pk, limit=3, actor=shop.controller, at=make.NOV_2):
            issued += taken
        return issued

    results = at_once(3, issue_all)

    assert sum(int(str(result)) for result in results) == 12
    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == list(range(1, 13))
    assert JournalEntry.objects.count() == 12


def test_three_drafters_at_once_bill_each_contract_once() -> None:
    shop = shop_with_customers(12)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )

    def draft_all(_: int) -> int:
        drafted = 0
        while settled := bill_runs.draft_chunk(run_id=run.pk, limit=2, at=make.NOV_2):
            drafted += settled
        return drafted

    results = at_once(3, draft_all)

    assert sum(int(str(result)) for result in results) == 12
    assert Invoice.objects.count() == 12


def test_two_who_start_a_month_at_once_get_one_run() -> None:
    shop = shop_with_customers(1)

    runs = at_once(
        4,
        lambda _: bill_runs.start_bill_run(
            legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
        ),
    )

    assert runs == [BillRun.objects.get()] * 4
    assert BillRunItem.objects.count() == 1


def test_who_cancels_while_others_draft_leaves_no_live_invoice() -> None:
    shop = shop_with_customers(8)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )

    def draft_or_cancel(number: int) -> object:
        if number == 0:
            return bill_runs.cancel_bill_run(run_id=run.pk, reason="Stop", actor=shop.analyst, at=make.NOV_2)
        while bill_runs.draft_chunk(run_id=run.pk, limit=1, at=make.NOV_2):
            pass
        return None

    results = at_once(3, draft_or_cancel)

    assert not [result for result in results if isinstance(result, Exception)]
    assert not Invoice.objects.exclude(status=Invoice.Status.VOID).exists()


def test_usage_that_commits_while_a_month_is_drafted_is_billed_once_now_or_next() -> None:
    shop = shop_with_customers(6)
    customers = [item.contract.customer for item in make.drafted_run(shop).items.all()]
    bill_runs.redo_bill_run(run_id=BillRun.objects.get().pk, reason="Again", actor=shop.analyst, at=make.NOV_2)

    def send_or_draft(number: int) -> object:
        if number == 0:
            return make.drafted_run(shop)
        return [make.use(shop, customer, "10", on=make.OCT_10) for customer in customers]

    results = at_once(3, send_or_draft)
    assert isinstance(results[1], list)
    assert isinstance(results[1][0], IngestResult)
    run = BillRun.objects.get()
    run = bill_runs.submit_bill_run(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)
    make.approve(shop, run)
    make.issue(shop, run)
    for customer in customers:  # November has usage of its own, so that there is a bill however the race went
        make.use(shop, customer, "100", on=make.NOV_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    for customer in customers:
        invoices = Invoice.objects.filter(customer=customer)
        assert sum(line.quantity for invoice in invoices for line in invoice.lines.all()) == 121
        assert sum(line.event_count for invoice in invoices for line in invoice.lines.all()) == 4


def test_two_who_make_documents_at_once_make_each_once() -> None:
    shop = shop_with_customers(4)
    make.issued_run(shop)

    made = at_once(2, lambda _: documents.make_due_documents(limit=10, at=make.NOV_2))

    assert sum(int(str(each)) for each in made) == 4
    assert InvoiceDocument.objects.filter(state="made", attempts=1).count() == 4
