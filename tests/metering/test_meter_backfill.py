"""A meter counts events that had come in before it was there: each once, whatever happens."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from accounts.access import Role
from accounts.errors import ApprovalNeedsAPerson, PermissionMissing, ReasonMissing
from accounts.models import ApprovalRequest, AuditEntry, Customer
from accounts.periods import PeriodInvalid
from metering import rollups
from metering.errors import BackfillNotReadable, BackfillOpen, MeterRests, MeterUnknown
from metering.meters import meter_backfill
from metering.meters.meter_backfill import count_chunk, request_backfill
from metering.meters.meters import change_meter, define_meter
from metering.models import ArchivedMonth, Meter, MeterBackfill, UsageAmendment, UsageBatch, UsageEvent
from metering.reading.quantities import quantities
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_backfills import ALL, END, START, asked, counted, customer_with_events, late_meter, sum_of
from tests.make_corrections import replaced, reverted, voided
from tests.make_metering import NOON, SYSTEM
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db

Status = MeterBackfill.Status


@pytest.fixture
def shop() -> Customer:
    return customer_with_events()


def test_stored_events_count_in_the_meter_as_new_facts(shop: Customer) -> None:
    meter = late_meter()
    before = list(UsageEvent.objects.order_by("key").values())

    done = counted(asked(meter))

    assert (done.status, done.read, done.counted, done.done_at) == (Status.DONE, 60, 60, NOON)
    assert sum_of(meter, shop) == ALL
    assert list(UsageEvent.objects.order_by("key").values()) == before
    assert UsageAmendment.objects.filter(sign=1).count() == 60
    batches = UsageBatch.objects.filter(door="backfill")
    assert sum(batch.amended for batch in batches) == 60
    assert {batch.origin for batch in batches} == {f"back-fill {done.pk}"}
    assert AuditEntry.objects.filter(verb="meter_backfill.done").count() == 1
    assert_everything_ties()


@pytest.mark.parametrize("aggregation", Meter.Aggregation.values)
def test_a_back_filled_meter_says_what_one_says_that_was_there_before(shop: Customer, aggregation: str) -> None:
    meter = late_meter(aggregation)
    early = make.meter(code="early", event_type="copy", aggregation=aggregation, value_path="gb", dimensions=["region"])
    make.ingested(
        *[
            {
                **make.event(each.event_id, event_type="copy", source="copy", time=each.time.isoformat()),
                "data": each.data,
            }
            for each in UsageEvent.objects.all()
        ]
    )

    counted(asked(meter))
    rollups.fold()

    late, reference = quantities([make.ask(shop, each, [START, END]) for each in (meter, early)])
    assert late[2:] == reference[2:]
    assert_everything_ties()


def test_only_the_period_counts_its_start_included(shop: Customer) -> None:
    meter = late_meter()
    make.ingested(
        make.event("at start", time="2026-10-03T00:00:00Z", gb=100, region="eu"),
        make.event("at end", time="2026-10-04T00:00:00Z", gb=1000, region="eu"),
    )
    # Both were counted as they came, for the meter was there.
    done = counted(asked(meter, start=datetime(2026, 10, 3, tzinfo=UTC), end=datetime(2026, 10, 4, tzinfo=UTC)))

    inside = UsageEvent.objects.filter(time__gte=done.starts_at, time__lt=done.ends_at).count()
    assert (done.read, done.counted, done.counted_before) == (inside, inside - 1, 1)
    assert_everything_ties()


def test_what_counts_already_is_left_as_it_is_however_often_it_is_asked_for(shop: Customer) -> None:
    meter = late_meter()
    counted(asked(meter))

    again = counted(asked(meter))

    assert (again.counted, again.counted_before) == (0, 60)
    assert sum_of(meter, shop) == ALL
    assert_everything_ties()


def test_a_chunk_that_dies_has_done_nothing_and_the_rest_goes_on(shop: Customer) -> None:
    meter = late_meter()
    backfill = asked(meter)
    count_chunk(backfill_id=backfill.pk, limit=25, at=NOON)

    with transaction.atomic():
        count_chunk(backfill_id=backfill.pk, limit=25, at=NOON)
        transaction.set_rollback(True)
    backfill.refresh_from_db()
    half = backfill.read
    done = counted(backfill)

    assert (half, done.read, done.counted) == (25, 60, 60)
    assert sum_of(meter, shop) == ALL
    assert_everything_ties()


def test_the_filter_leaves_out_and_what_cannot_be_read_is_told_by_reason(shop: Customer) -> None:
    make.ingested(
        make.event("no value", time="2026-10-02T00:00:00Z", region="eu"),
        make.event("no number", time="2026-10-02T00:00:00Z", gb="much", region="eu"),
    )
    meter = late_meter(event_filter={"region": "eu"})

    done = counted(asked(meter))

    assert (done.read, done.counted, done.left_out) == (62, 30, 30)
    assert done.not_read == {"missing_value": 1, "invalid_value": 1}
    assert_everything_ties()


def test_events_beyond_the_limit_of_series_are_left_and_counted_once_it_is_raised(shop: Customer) -> None:
    meter = late_meter()
    limit(meter, 1)

    first = counted(asked(meter))
    limit(meter, 2)
    second = counted(asked(meter))

    assert first.not_read == {"too_many_series": first.read - first.counted}
    assert (first.counted, second.counted, second.counted_before) == (30, 30, 30)
    assert sum_of(meter, shop) == ALL
    assert_everything_ties()


def limit(meter: Meter, allowed: int, *, is_active: bool = True) -> None:
    change_meter(
        meter_id=meter.pk,
        name=meter.name,
        is_active=is_active,
        series_limit=allowed,
        reason="as agreed",
        actor=SYSTEM,
        at=NOON,
    )


def test_a_voided_event_stays_voided(shop: Customer) -> None:
    voided("e5", "e6")

    done = counted(asked(late_meter()))

    assert (done.counted, done.voided) == (58, 2)
    assert_everything_ties()


@pytest.mark.parametrize("aggregation", [Meter.Aggregation.SUM, Meter.Aggregation.UNIQUE, Meter.Aggregation.GAUGE])
def test_what_counts_again_after_a_back_fill_counts_as_if_it_had_never_been_voided(
    shop: Customer, aggregation: str
) -> None:
    reference = counted(asked(late_meter(aggregation, code="reference"))).meter
    before = sum_of(reference, shop)
    void, replacement = voided("e5", "e6"), replaced("e7", gb="100")
    meter = late_meter(aggregation, code="late")
    assert counted(asked(meter)).voided == 3

    reverted(void)
    reverted(replacement)

    assert sum_of(reference, shop) == before
    assert sum_of(meter, shop) == before
    assert counted(asked(meter)).counted_before == 60
    assert_everything_ties()


def test_what_counts_again_counts_in_no_meter_that_leaves_it_out_or_was_not_back_filled_over_its_time(
    shop: Customer,
) -> None:
    void = voided("e5")
    other_time = late_meter(code="other-time")
    counted(asked(other_time, end=datetime(2026, 10, 6, tzinfo=UTC)))
    filtered = late_meter(code="filtered", event_filter={"region": "eu"})
    counted(asked(filtered))
    later = late_meter(code="later", counts_from=datetime(2026, 11, 1, tzinfo=UTC))
    before = [sum_of(meter, shop) for meter in (other_time, filtered, later)]

    reverted(void)

    assert [sum_of(meter, shop) for meter in (other_time, filtered, later)] == before
    assert_everything_ties()


def test_an_event_that_is_voided_after_a_back_fill_counts_in_no_meter(shop: Customer) -> None:
    meter = late_meter()
    counted(asked(meter))

    voided("e5", "e6")
    again = counted(asked(meter))

    assert (again.counted, again.voided) == (0, 2)
    assert sum_of(meter, shop) == (ALL[0] - 5 - 6, 58)
    assert_everything_ties()


def test_events_of_before_the_meter_count_by_its_first_version(shop: Customer) -> None:
    meter = define_meter(
        code="from-november",
        name="From November",
        event_type=make.GPU_USED,
        aggregation="sum",
        value_path="gb",
        conversion=Decimal(2),
        unit="half GB",
        counts_from=datetime(2026, 11, 1, tzinfo=UTC),
        actor=SYSTEM,
        at=NOON,
    )

    done = counted(asked(meter))

    assert done.counted == 60
    assert sum_of(meter, shop) == (ALL[0] * 2, 60)
    assert_everything_ties()


def test_a_large_one_waits_for_a_second_person(shop: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_backfill, "EVENTS_WITHOUT_APPROVAL", 59)
    manager, meter = make_accounts.actor(Role.PRODUCT_MANAGER), late_meter()
    backfill = asked(meter, actor=manager)
    request = ApprovalRequest.objects.get(kind="meter_backfill", subject_id=backfill.pk)

    assert backfill.status == Status.IN_REVIEW
    assert count_chunk(backfill_id=backfill.pk, at=NOON) is False
    assert sum_of(meter, shop) == (Decimal(0), 0)
    assert request.permission == "approve_prices"


def test_no_job_asks_for_a_large_one(shop: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_backfill, "EVENTS_WITHOUT_APPROVAL", 59)

    with pytest.raises(ApprovalNeedsAPerson):
        asked(late_meter())


def test_one_of_a_meter_is_open_at_a_time(shop: Customer) -> None:
    meter = late_meter()
    first = asked(meter)

    assert asked(meter) == first
    with pytest.raises(BackfillOpen):
        asked(meter, end=END + timedelta(days=1))
    with refused("meter_has_one_open_backfill"):
        MeterBackfill.objects.create(
            meter=meter, starts_at=START, ends_at=END, reason="x", status="running", expected=0, requested_at=NOON
        )


def test_what_it_takes_to_ask(shop: Customer) -> None:
    meter = late_meter()

    with pytest.raises(PermissionMissing):
        asked(meter, actor=make_accounts.actor(Role.PRICING_APPROVER))
    with pytest.raises(ReasonMissing):
        asked(meter, reason="  ")
    with pytest.raises(PeriodInvalid):
        asked(meter, end=START)
    with pytest.raises(PeriodInvalid):
        asked(meter, start=datetime(2026, 10, 1))  # noqa: DTZ001 -- that is what is refused
    with pytest.raises(MeterUnknown):
        request_backfill(meter_id=0, start=START, end=END, reason="x", actor=SYSTEM, at=NOON)
    limit(meter, 10, is_active=False)
    with pytest.raises(MeterRests):
        asked(meter)


def test_archived_months_are_not_back_filled(shop: Customer) -> None:
    meter = late_meter()
    ArchivedMonth.objects.create(
        month=date(2026, 10, 1), status="dropped", folder="x", planned_at=NOON, planned_by="x", detached_at=NOON,
        verified_at=NOON, file_sha256="x", manifest_sha256="x", rows_sha256="x",
    )  # fmt: skip

    with pytest.raises(BackfillNotReadable, match="October 2026"):
        asked(meter)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("backfill_keeps_what_was_asked_for", "reason = 'other'"),
        ("backfill_keeps_what_was_asked_for", "ends_at = ends_at + interval '1 hour'"),
        ("backfill_goes_step_by_step", "status = 'in_review'"),
        ("backfill_is_done_at_a_time", "status = 'done'"),
        ("backfill_counts_what_it_read", "counted = read + 1"),
        ("backfill_status_is_known", "status = 'gone'"),
    ],
)
def test_the_database_refuses_to_change_a_back_fill(shop: Customer, rule: str, change: str) -> None:
    asked(late_meter())

    with refused(f"{rule}|backfill_goes_step_by_step" if "gone" in change else rule):
        execute(f"UPDATE metering_meterbackfill SET {change}")  # noqa: S608 -- written above


def test_the_database_refuses_to_forget_or_reopen_a_back_fill(shop: Customer) -> None:
    counted(asked(late_meter()))

    with refused("backfill_goes_step_by_step"):
        execute("UPDATE metering_meterbackfill SET read = read + 1")
    with refused("backfill_is_never_deleted"):
        execute("DELETE FROM metering_meterbackfill")
    with refused("backfills_are_never_emptied"):
        execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE metering_meterbackfill")
