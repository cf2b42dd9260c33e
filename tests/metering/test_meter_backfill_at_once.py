"""Back-fills with others at work at the same time, and one that is killed."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from accounts.access import Role
from accounts.approvals import decide
from accounts.errors import ApprovalOfOwnRequest, PermissionMissing
from accounts.models import ApprovalRequest, Customer
from metering import rollups
from metering.meters import meter_backfill
from metering.meters.meter_backfill import count_chunk, due
from metering.models import MeterBackfill, UsageSeries
from metering.reading import usage
from metering.reading.usage import UnseenWindow
from metering.tasks import back_fill_meters
from tests import make_accounts
from tests import make_metering as make
from tests.make_backfills import ALL, END, START, asked, counted, customer_with_events, late_meter, sum_of
from tests.make_corrections import voided
from tests.make_metering import NOON
from tests.parallel import in_parallel
from tests.patience import PATIENCE_SECONDS
from tests.programs import killed_in_a_step
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db(transaction=True)

Status = MeterBackfill.Status


@pytest.fixture
def shop() -> Customer:
    return customer_with_events()


def test_events_voided_while_a_back_fill_runs_count_in_no_meter(shop: Customer) -> None:
    meter = late_meter()
    backfill = asked(meter)
    start = threading.Barrier(3)

    def fill() -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        while MeterBackfill.objects.filter(pk=backfill.pk, status=Status.RUNNING).exists():
            count_chunk(backfill_id=backfill.pk, limit=4, at=NOON)

    def void() -> None:
        start.wait(timeout=PATIENCE_SECONDS)
        for number in range(0, 60, 3):
            voided(f"e{number}")

    in_parallel(fill, fill, void)
    while rollups.fold():
        pass

    left = [number for number in range(60) if number % 3]
    assert sum_of(meter, shop) == (Decimal(sum(number % 7 for number in left)), len(left))
    assert_everything_ties()


def test_workers_at_once_with_senders_and_the_fold_count_each_event_once(shop: Customer) -> None:
    meter = late_meter()
    backfill = asked(meter)
    sending = threading.Event()

    def work() -> None:
        while MeterBackfill.objects.filter(pk=backfill.pk, status=Status.RUNNING).exists():
            count_chunk(backfill_id=backfill.pk, limit=3, at=NOON)

    def send() -> None:
        for number in range(20):
            make.ingested(make.event(f"new-{number}", time="2026-10-02T00:00:00Z", gb=1, region=f"r{number}"))
        sending.set()

    def keep_folding() -> None:
        while not sending.is_set():
            rollups.fold(limit=5)

    in_parallel(work, work, work, send, keep_folding)
    while rollups.fold():
        pass

    backfill.refresh_from_db()
    assert backfill.counted == 60
    assert sum_of(meter, shop) == (ALL[0] + 20, 80)
    assert UsageSeries.objects.filter(meter_id=meter.pk).count() == 22
    assert_everything_ties()


FILL_BY_TWOS = """
from datetime import UTC, datetime
from metering.meters.meter_backfill import count_chunk, due
step_by_step(lambda: count_chunk(backfill_id=due()[0], limit=2, at=datetime.now(UTC)))
"""


def test_a_worker_killed_in_the_middle_leaves_nothing_twice_and_nothing_out(shop: Customer) -> None:
    meter = late_meter()
    backfill = asked(meter)

    killed_in_a_step(FILL_BY_TWOS, after=3)
    backfill.refresh_from_db()
    assert backfill.status == Status.RUNNING

    back_fill_meters()
    backfill.refresh_from_db()

    assert (backfill.read, backfill.counted) == (60, 60)
    assert sum_of(meter, shop) == ALL
    assert_everything_ties()


def test_it_waits_for_senders_who_may_not_know_the_meter_yet(shop: Customer) -> None:
    sender_has_begun, may_go_on = threading.Event(), threading.Event()
    before: list[bool] = []

    def send() -> None:
        with transaction.atomic():
            make.ingested(make.event("on its way", time="2026-10-02T00:00:00Z", gb=1000, region="eu"))
            sender_has_begun.set()
            assert may_go_on.wait(timeout=PATIENCE_SECONDS)

    def fill() -> None:
        assert sender_has_begun.wait(timeout=PATIENCE_SECONDS)
        backfill = asked(late_meter())
        before.append(count_chunk(backfill_id=backfill.pk, at=NOON))
        before.append(MeterBackfill.objects.get().read > 0)
        may_go_on.set()

    in_parallel(send, fill)
    back_fill_meters()

    assert before == [False, False]
    assert MeterBackfill.objects.get().counted == 61
    assert due() == []
    assert_everything_ties()


@pytest.mark.parametrize(
    ("outcome", "status", "total"), [("approve", Status.DONE, ALL), ("reject", Status.REFUSED, (Decimal(0), 0))]
)
def test_a_second_persons_word_carries_it_out_or_ends_it(
    shop: Customer,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
    status: str,
    total: tuple[Decimal, int],
) -> None:
    monkeypatch.setattr(meter_backfill, "EVENTS_WITHOUT_APPROVAL", 59)
    manager, approver = make_accounts.actor(Role.PRODUCT_MANAGER), make_accounts.actor(Role.PRICING_APPROVER)
    meter = late_meter()
    backfill = asked(meter, actor=manager)
    request = ApprovalRequest.objects.get(kind="meter_backfill", subject_id=backfill.pk)

    with pytest.raises((ApprovalOfOwnRequest, PermissionMissing)):
        decide(request_id=request.pk, outcome="approve", actor=manager, at=NOON)
    decide(request_id=request.pk, outcome=outcome, comment="checked", actor=approver, at=NOON)
    back_fill_meters()

    backfill.refresh_from_db()
    assert backfill.status == status
    assert sum_of(meter, shop) == total


def test_bills_see_what_was_back_filled_as_usage_that_came_after(shop: Customer) -> None:
    meter = late_meter()
    seen = UnseenWindow(customer_id=shop.pk, start=START, end=END, snapshot=usage.current_snapshot())
    elsewhere = UnseenWindow(
        customer_id=shop.pk, start=END, end=END + timedelta(days=9), snapshot=usage.current_snapshot()
    )
    before = usage.windows_with_unseen_usage([seen, elsewhere])

    counted(asked(meter))

    assert before == []
    assert usage.windows_with_unseen_usage([seen, elsewhere]) == [0]
