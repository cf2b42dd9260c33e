"""What takes an event's place counts where the event counted, whatever became of meters and months since."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from accounts.access import Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry, Customer
from metering import rollups
from metering.corrections.correction_work import apply_some, leave_out_rest
from metering.errors import CorrectionNeedsReason, CorrectionNotCountable, CorrectionNotStuck, CorrectionUnknown
from metering.meters.meters import change_meter
from metering.models import Meter, UsageCorrection, UsageCorrectionItem, UsageEvent
from metering.retention import retention
from metering.retention.retention_jobs import archive
from tests import make_accounts, make_backfills, make_corrections
from tests import make_metering as make
from tests.make_corrections import drafted, named, replaced
from tests.make_metering import NOON, SYSTEM, broken_rules

pytestmark = pytest.mark.django_db


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.subject("project-1", customer=found)
    return found


def rest(meter: Meter) -> None:
    change_meter(
        meter_id=meter.pk, name=meter.name, is_active=False, series_limit=10, reason="x", actor=SYSTEM, at=NOON
    )


def quantities_of(customer: Customer, *meters: Meter, **window: datetime) -> list[Decimal]:
    found = {each.meter_id: each.quantity for each in make.totals(customer, **window)}
    return [found.get(meter.pk, Decimal(0)) for meter in meters]


def test_a_meter_that_rests_by_now_keeps_counting_what_it_counted(customer: Customer) -> None:
    resting, active = make.meter(), make.meter()
    make.ingested(make.event("e1", seconds="5"))
    rest(resting)
    make.ingested(make.event("e2", seconds="7"))

    make_corrections.applied(drafted(named("e1", "e2", seconds="6")))

    assert quantities_of(customer, resting, active) == [6, 12]
    assert broken_rules() == []


def test_a_meter_that_rests_does_not_refuse_what_it_never_counted(customer: Customer) -> None:
    resting, _ = make.meter(value_path="power"), make.meter()
    make.ingested(make.event("e1", seconds="5", power="1"))
    rest(resting)
    make.ingested(make.event("e2", seconds="7", power="nonsense"))

    make_corrections.applied(drafted(named("e1", "e2", seconds="6")))

    assert quantities_of(customer, resting) == [1]


def test_what_was_back_filled_from_before_a_meters_first_version_stays_in_it(customer: Customer) -> None:
    make.meter()
    make.ingested(make.event("e1", seconds="5"))
    later = make.meter(counts_from=datetime(2026, 10, 16, tzinfo=UTC))
    make_backfills.counted(make_backfills.asked(later, end=datetime(2026, 10, 16, tzinfo=UTC)))
    before = quantities_of(customer, later)

    replaced("e1", seconds="6")

    assert before == [5]
    assert quantities_of(customer, later) == [6]
    assert broken_rules() == []


def test_an_event_is_not_moved_to_where_nothing_can_be_counted_anew(
    customer: Customer, settings: Settings, tmp_path: Path
) -> None:
    settings.ARCHIVE_DIR, settings.USAGE_ACCEPTANCE_MONTHS = tmp_path / "archive", 25
    make.meter()
    make.ingested(make.event("old", time="2024-08-10T10:00:00Z"), at=datetime(2024, 9, 2, tzinfo=UTC))
    make.ingested(make.event("e1"))
    rollups.fold()
    later = datetime(2026, 11, 20, 9, tzinfo=UTC)
    retention.plan_archive(month=date(2024, 8, 1), actor=SYSTEM, at=later)
    archive(month=date(2024, 8, 1), actor=SYSTEM, at=later)
    retention.detach_month(month=date(2024, 8, 1), actor=SYSTEM, at=later)

    with pytest.raises(CorrectionNotCountable, match="archive"):
        drafted(named("e1", time="2024-08-10T10:00:00Z"))

    assert UsageCorrectionItem.objects.filter(state="applied").count() == 0


def test_an_event_with_the_longest_id_is_replaced_and_that_once_more(customer: Customer) -> None:
    meter = make.meter()
    ids = ["x" * 200, "x" * 199 + "y"]
    make.ingested(*[make.event(each) for each in ids])

    make_corrections.applied(drafted(named(*ids, seconds="2")))
    successors = UsageEvent.objects.filter(event_id__contains="#").order_by("event_id")
    make_corrections.applied(drafted(named(*[each.event_id for each in successors], seconds="3")))

    assert quantities_of(customer, meter) == [6]
    assert all(len(event_id) <= 200 for event_id in UsageEvent.objects.values_list("event_id", flat=True))
    assert broken_rules() == []


@pytest.fixture
def stuck(customer: Customer) -> UsageCorrection:
    """A correction of two events, approved, of which the second cannot be replaced any more."""
    make.meter()
    make.ingested(make.event("e1", time="2026-10-15T10:00:00Z"), make.event("e2", time="2026-10-15T11:00:00Z"))
    correction = make_corrections.submitted(drafted(named("e1", "e2", seconds="5")))
    make.ingested(make.event(f"e2#{correction.pk}", time="2026-10-15T11:30:00Z"))
    apply_some(correction_id=correction.pk, limit=1, actor=SYSTEM, at=NOON)
    with pytest.raises(CorrectionNotCountable):
        apply_some(correction_id=correction.pk, limit=1, actor=SYSTEM, at=NOON)
    return correction


def test_of_a_correction_that_cannot_go_on_the_rest_is_left_out_and_it_can_be_reverted(
    customer: Customer, stuck: UsageCorrection
) -> None:
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)

    done = leave_out_rest(correction_id=stuck.pk, reason="the id is taken", actor=analyst, at=NOON)
    again = leave_out_rest(correction_id=stuck.pk, reason="the id is taken", actor=analyst, at=NOON)
    (total,) = make.totals(customer)
    make_corrections.reverted(done)

    assert (done.status, done.applied, done.skipped, again.skipped) == ("applied", 1, 1, 1)
    assert UsageCorrectionItem.objects.get(correction=stuck, state="skipped").detail == "the id is taken"
    assert total.sum == 5 + 1 + 1
    assert make.totals(customer)[0].sum == 3
    entry = AuditEntry.objects.get(verb="usage_correction.rest_left_out")
    assert (entry.reason, entry.data["left_out"]) == ("the id is taken", 1)
    assert broken_rules() == []


def test_nothing_is_left_out_of_a_correction_that_goes_on(customer: Customer) -> None:
    make.meter()
    make.ingested(make.event("e1"))
    draft = drafted(named("e1"))
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)

    with pytest.raises(CorrectionNotStuck):
        leave_out_rest(correction_id=draft.pk, reason="x", actor=analyst, at=NOON)
    make_corrections.submitted(draft)
    with pytest.raises(CorrectionNotStuck):
        leave_out_rest(correction_id=draft.pk, reason="x", actor=analyst, at=NOON)
    with pytest.raises(CorrectionNeedsReason):
        leave_out_rest(correction_id=draft.pk, reason=" ", actor=analyst, at=NOON)
    with pytest.raises(CorrectionUnknown):
        leave_out_rest(correction_id=0, reason="x", actor=analyst, at=NOON)
    with pytest.raises(PermissionMissing):
        leave_out_rest(correction_id=draft.pk, reason="x", actor=make_accounts.actor(Role.AUDITOR), at=NOON)


def test_the_page_of_a_correction_that_cannot_go_on_says_why_and_ends_it(
    client: Client, stuck: UsageCorrection
) -> None:
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))

    shown = client.get(f"/usage/corrections/{stuck.pk}/").text
    ended = client.post(f"/usage/corrections/{stuck.pk}/leave-out/", {"reason": "the id is taken"}, follow=True).text

    assert "an event of this source and id is there" in shown
    assert "Leave the rest out" in shown
    assert "The rest was left out" in ended
    assert "Left out: the id is taken" in ended


@pytest.mark.parametrize("written", ["1_000", "１", " 5", "5 ", "+5", "0x10", "NaN"])
def test_a_number_is_corrected_by_what_would_have_been_taken_for_one(customer: Customer, written: str) -> None:
    make.meter()
    make.ingested(make.event("e1", seconds=Decimal("5.0")))

    with pytest.raises(CorrectionNotCountable, match="not a decimal number"):
        drafted(named("e1", seconds=written))


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ("1e-30", "10000000000", "9999999999999999999999999999999999999999.0000"),
        ("9" * 38, "1e-38", "1.0000"),
        ("1e-38", "-" + "9" * 38, "9" * 38 + "0" * 37 + "1.0000"),
        ("8", "8.0004", "0.0001"),
        ("8", "8.0003", "0.0000"),
        ("5", "5.0", "0"),
        ("0", "1e-30", "1"),
    ],
)
def test_the_share_that_changes_is_told_of_any_quantities(
    customer: Customer, before: str, after: str, share: str
) -> None:
    make.meter()
    make.ingested(make.event("e1", seconds=before))

    correction = drafted(named("e1", seconds=after))

    assert correction.preview is not None
    assert correction.preview["greatest_share"] == share
