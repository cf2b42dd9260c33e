"""What came in of each source and hour, added up as it comes in, folded, and moved on as quarantine lets events out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from accounts import approvals
from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from metering import tasks
from metering.completeness import receipts
from metering.completeness.receipts import EVENTS
from metering.models import QuarantinedEvent, UsageReceipt, UsageReceiptHour
from metering.quarantine.quarantine import discard, release
from metering.retention import erasure, retention_jobs
from tests import make_accounts, make_backfills, make_corrections
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import GPU_USED, NOON, SYSTEM

pytestmark = pytest.mark.django_db

TEN = datetime(2026, 10, 15, 10, tzinfo=UTC)
Receipt = tuple[Any, ...]


def received() -> list[Receipt]:
    """Read receipts, folded or not, added up and without those that come to nothing."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT source, type, meter_id, hour, sum(count)::bigint, sum(sum), sum(waiting)::bigint,
                   sum(discarded)::bigint
            FROM (SELECT source, type, meter_id, hour, count, sum, waiting, discarded FROM usage_receipt_hour
                  UNION ALL
                  SELECT source, type, meter_id, hour, count, sum, waiting, discarded FROM usage_receipt) AS part
            GROUP BY 1, 2, 3, 4 HAVING (sum(count), sum(waiting), sum(discarded)) <> (0, 0, 0) ORDER BY 1, 2, 4, 3
            """
        )
        return list(cursor.fetchall())


def the_event() -> int:
    return QuarantinedEvent.objects.get().pk


def test_a_batch_leaves_a_receipt_of_its_events_and_one_of_each_meter_that_took_some() -> None:
    seconds, number = make.meter().pk, make.meter(aggregation="count").pk
    make.subject("project-1")

    make.ingested(make.event(seconds="1.5"), make.event(seconds="0.25"), make.event(source="cluster/2", seconds=7))

    assert received() == [
        ("cluster/1", GPU_USED, EVENTS, TEN, 2, 0, 0, 0),
        ("cluster/1", GPU_USED, seconds, TEN, 2, Decimal("1.75"), 0, 0),
        ("cluster/1", GPU_USED, number, TEN, 2, 2, 0, 0),
        ("cluster/2", GPU_USED, EVENTS, TEN, 1, 0, 0, 0),
        ("cluster/2", GPU_USED, seconds, TEN, 1, 7, 0, 0),
        ("cluster/2", GPU_USED, number, TEN, 1, 1, 0, 0),
    ]


def test_an_event_at_the_full_hour_is_of_the_hour_that_begins_then_whatever_its_offset() -> None:
    make.meter()
    make.subject("project-1")

    make.ingested(
        make.event(time="2026-10-15T10:59:59.999999Z"),
        make.event(time="2026-10-15T11:00:00Z"),
        make.event(time="2026-10-15T12:30:00+02:00"),
        make.event(time="2026-10-25T02:30:00+02:00"),
        make.event(time="2026-10-25T02:30:00+01:00"),
        at=datetime(2026, 10, 26, tzinfo=UTC),
    )

    assert [(hour, count) for _, _, meter_id, hour, count, *_ in received() if meter_id == EVENTS] == [
        (TEN, 2),
        (TEN.replace(hour=11), 1),
        (datetime(2026, 10, 25, 0, tzinfo=UTC), 1),
        (datetime(2026, 10, 25, 1, tzinfo=UTC), 1),
    ]


def test_what_is_sent_again_or_refused_is_not_received_again() -> None:
    make.meter()
    make.subject("project-1")
    make.ingested(make.event("e1"))

    make.ingested(make.event("e1"), make.event("e1", seconds=2), {"no": "event"})

    assert [count for _, _, _, _, count, *_ in received()] == [1, 1]


def test_a_quarantined_event_is_received_and_waits_until_it_is_released_and_counts() -> None:
    meter = make.meter().pk
    make.ingested(make.event(subject="later", seconds="3"))
    waiting = received()
    make.subject("later")

    release(event_ids=[the_event()], actor=SYSTEM, at=NOON)
    release(event_ids=[the_event()], actor=SYSTEM, at=NOON)

    assert waiting == [("cluster/1", GPU_USED, EVENTS, TEN, 0, 0, 1, 0)]
    assert received() == [
        ("cluster/1", GPU_USED, EVENTS, TEN, 1, 0, 0, 0),
        ("cluster/1", GPU_USED, meter, TEN, 1, 3, 0, 0),
    ]


def test_what_still_cannot_be_counted_waits_on() -> None:
    make.meter()
    make.ingested(make.event(subject="nobody"))

    release(event_ids=[the_event()], actor=SYSTEM, at=NOON)

    assert received() == [("cluster/1", GPU_USED, EVENTS, TEN, 0, 0, 1, 0)]


def test_a_discarded_event_was_received_and_is_told_apart() -> None:
    make.meter()
    make.ingested(make.event(subject="nobody"))

    discard(event_ids=[the_event()], reason="A test device", actor=SYSTEM, at=NOON)
    discard(event_ids=[the_event()], reason="A test device", actor=SYSTEM, at=NOON)

    assert received() == [("cluster/1", GPU_USED, EVENTS, TEN, 0, 0, 0, 1)]


@pytest.mark.parametrize("is_folded", [True, False])
def test_what_is_corrected_later_was_received_all_the_same(*, is_folded: bool) -> None:
    """The source did send it; what staff put in its place came from no source."""
    make.meter()
    make.subject("project-1")
    make.ingested(make.event("e1", seconds="5"), make.event("e2", seconds="7"), make.event("e3", seconds="9"))
    before = received()
    if is_folded:
        receipts.fold()

    make_corrections.voided("e1")
    replaced = make_corrections.replaced("e2", seconds="70", time="2026-10-15T11:30:00Z")
    make_corrections.replaced(f"e2#{replaced.pk}", seconds="71")
    make_corrections.reverted(make_corrections.voided("e3"))

    assert received() == before
    assert make.broken_rules() == []


def test_what_a_back_fill_counts_was_received_once() -> None:
    first = make.meter(aggregation="count").pk
    make.subject("project-1")
    make.ingested(make.event("e1", time="2026-10-10T10:30:00Z", gb="5"))
    late = make_backfills.late_meter()

    counted = make_backfills.counted(make_backfills.asked(late))
    make.ingested(make.event("e2", time="2026-10-10T10:31:00Z", gb="7"))

    hour = datetime(2026, 10, 10, 10, tzinfo=UTC)
    assert counted.counted == 1
    assert received() == [
        ("cluster/1", GPU_USED, EVENTS, hour, 2, 0, 0, 0),
        ("cluster/1", GPU_USED, first, hour, 2, 2, 0, 0),
        ("cluster/1", GPU_USED, late.pk, hour, 1, 7, 0, 0),
    ]
    assert make.broken_rules() == []


def test_what_waits_and_is_erased_by_law_waits_no_more_and_cannot_be_let_go_twice() -> None:
    anna = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=anna)
    make.ingested(make.event("e1", wrong="1"), make.event("e2", wrong="1"), make.event("e3"))
    waiting = list(QuarantinedEvent.objects.order_by("event_id").values_list("pk", flat=True))
    discard(event_ids=waiting[:1], reason="A test device", actor=SYSTEM, at=NOON)

    erased(anna, before=NOON)
    release(event_ids=waiting, actor=SYSTEM, at=NOON)
    discard(event_ids=waiting, reason="Again", actor=SYSTEM, at=NOON)
    make.ingested(make.event("e1", wrong="1"), make.event("e2", wrong="1"))

    events, _ = received()
    assert events == ("cluster/1", GPU_USED, EVENTS, TEN, 1, 0, 0, 2)
    assert make.broken_rules() == []


def erased(customer: Customer, *, before: datetime) -> None:
    erasure.erase_raw_events(
        customer_id=customer.pk,
        before=before,
        reason="They asked",
        legal_basis="GDPR Art. 17",
        actor=make_accounts.actor(Role.ADMINISTRATOR),
        at=NOON,
    )
    asked = ApprovalRequest.objects.get(kind="usage_erasure")
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    approvals.decide(request_id=asked.pk, outcome="approve", actor=controller, at=NOON)
    retention_jobs.work(at=NOON)


def test_folding_changes_no_figure_and_folding_twice_neither() -> None:
    make.meter()
    make.subject("project-1")
    make.ingested(make.event("e1"), make.event(subject="nobody"))
    receipts.fold()
    make.ingested(make.event("e2", seconds="1e-3"))
    before = received()

    first, second = receipts.fold(), receipts.fold()

    assert (first, second) == (2, 0)
    assert received() == before
    assert not UsageReceipt.objects.exists()
    assert UsageReceiptHour.objects.count() == 2


def test_a_fold_takes_the_oldest_first_and_as_many_as_it_may() -> None:
    make.meter()
    make.subject("project-1")
    make.ingested(make.event(), make.event(time="2026-10-15T11:00:00Z"))
    before = received()

    folded = receipts.fold(limit=1)

    assert folded == 1
    assert UsageReceipt.objects.count() == 3
    assert received() == before


def test_the_job_that_folds_usage_folds_receipts_too() -> None:
    make.meter()
    make.subject("project-1")
    make.ingested(make.event())

    tasks.fold_usage()

    assert not UsageReceipt.objects.exists()
    assert UsageReceiptHour.objects.count() == 2


def test_the_database_refuses_to_rewrite_or_empty_receipts() -> None:
    make.meter()
    make.subject("project-1", customer=make_accounts.customer())
    make.ingested(make.event())
    receipts.fold()
    make.ingested(make.event())

    with refused("stays as it is"):
        UsageReceipt.objects.update(count=7)
    with refused("never thrown away"):
        execute("TRUNCATE usage_receipt")
    with refused("never thrown away"):
        UsageReceiptHour.objects.all().delete()
    with refused("never thrown away"):
        execute("TRUNCATE usage_receipt_hour")


@pytest.mark.django_db(transaction=True)
def test_senders_and_folds_at_once_lose_and_double_nothing() -> None:
    meter = make.meter().pk
    make.subject("project-1")
    batches = [[make.event(seconds="0.5") for _ in range(5)] for _ in range(24)]
    batches += [[make.event(subject="nobody")] for _ in range(6)]

    def send(batch: list[dict[str, object]]) -> None:
        try:
            make.ingested(*batch)
        finally:
            connections.close_all()

    def fold(_: int) -> int:
        try:
            return receipts.fold(limit=3)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, batch) for batch in batches]
        folded = sum(pool.map(fold, range(30)))
        for work in sending:
            work.result()

    assert folded > 0
    assert received() == [
        ("cluster/1", GPU_USED, EVENTS, TEN, 120, 0, 6, 0),
        ("cluster/1", GPU_USED, meter, TEN, 120, 60, 0, 0),
    ]


@transaction.atomic
def fold_and_die() -> None:
    receipts.fold()
    execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.django_db(transaction=True)
def test_a_fold_that_is_killed_has_done_nothing() -> None:
    make.meter()
    make.subject("project-1")
    make.ingested(make.event())
    before = received()

    with pytest.raises(OperationalError):
        fold_and_die()
    connection.close()

    assert received() == before
    assert UsageReceipt.objects.count() == 2
    assert receipts.fold() == 2
