"""What could go wrong between filling a backfill and its closing, and how it is told or kept from happening."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from accounts.access import Actor, Role
from accounts.models import Customer
from metering import tasks
from metering.attribution import assign_subject, end_assignment
from metering.files import file_work, usage_files
from metering.models import SubjectAssignment, UsageBackfill, UsageBackfillItem, UsageEvent, UsageFile
from metering.retention import retention
from metering.retention.retention_jobs import archive
from metering.usage_backfills import decisions
from metering.usage_backfills.errors import UsageBackfillBeingFilled, UsageBackfillChanged
from tests import make_accounts, make_files, make_usage_backfills
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM, broken_rules
from tests.make_pages import signed_in, words
from tests.make_usage_backfills import WITHIN, closed, closing, opened, previewed, replacing, reverted, staged, worked

pytestmark = pytest.mark.django_db

Status = UsageBackfill.Status


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def test_it_is_not_closed_while_a_file_is_being_filled_in(customer: Customer, analyst: Actor) -> None:
    backfill = replacing()
    make.ingested(make.event("old", time=WITHIN))
    staged(backfill, make.event("e1", time=WITHIN))
    file = make_files.sent(b"{}", name="week.jsonl")
    make_usage_backfills.into(backfill, file)
    previewed(backfill, actor=analyst)

    with pytest.raises(UsageBackfillBeingFilled):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)

    file_work.load_waiting()
    assert UsageFile.objects.get(pk=file.pk).state == UsageFile.State.DONE
    closed(backfill)
    assert sum(each.count for each in make.totals(customer)) == 1


def test_replacing_by_nothing_is_warned_of_and_takes_a_second_person_however_small(
    customer: Customer, analyst: Actor
) -> None:
    make.ingested(make.event("other", time=WITHIN, source="cluster/2", seconds="1000000"), make.event("a", time=WITHIN))
    backfill = replacing()
    previewed(backfill, actor=analyst)
    shown = words(signed_in(Role.FINANCE_ANALYST).get(f"/usage/backfills/{backfill.pk}/"))

    done = decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)

    assert "Nothing was filled in, and what is there is to be replaced" in shown
    assert done.status == Status.IN_REVIEW


def test_what_the_database_refuses_in_one_preview_does_not_hold_up_the_others(
    customer: Customer, analyst: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "EVENTS_PREVIEWED_AT_ONCE", 0)
    ill, well = opened(), opened(source="cluster/2")
    staged(ill, make.event("ill", time=WITHIN))
    staged(well, make.event("well", time=WITHIN, source="cluster/2"))
    for each in (ill, well):
        decisions.ask_preview(backfill_id=each.pk, actor=analyst, at=NOON)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "ALTER TABLE metering_usagebackfill ADD CONSTRAINT not_this_one CHECK (id <> %s OR preview IS NULL)",
            [ill.pk],
        )

    tasks.preview_usage_backfills()

    ill.refresh_from_db()
    well.refresh_from_db()
    assert "not_this_one" in ill.last_error
    assert (ill.preview_asked_at, ill.preview) == (None, None)
    assert well.preview is not None


def test_an_event_that_cannot_take_the_place_of_another_says_why(customer: Customer) -> None:
    make.ingested(make.event("e1", time=WITHIN, seconds="5"))
    backfill = replacing()
    staged(backfill, make.event("e1", time=WITHIN, seconds="a lot"), make.event("e2", time=WITHIN, seconds="2"))

    done = closed(backfill)

    left_out = UsageBackfillItem.objects.get(state="left_out")
    assert (done.counted, done.left_out, left_out.problem) == (1, 1, "invalid_value")
    assert "the one that was counted before stays" in left_out.detail
    assert UsageEvent.objects.filter(event_id="e1").exists()
    assert sum((each.sum for each in make.totals(customer)), Decimal(0)) == 7


def test_a_file_that_is_stopped_no_longer_holds_the_closing_up(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    file = make_files.sent(b"{}", name="week.jsonl")
    make_usage_backfills.into(backfill, file)
    usage_files.stop_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    assert closed(backfill).counted == 1


def handed_over(new_owner: Customer) -> None:
    """Let the subject belong to somebody else from the day before the events on."""
    the_day_before = datetime(2026, 10, 6, tzinfo=UTC)
    end_assignment(
        assignment_id=SubjectAssignment.objects.get().pk,
        ends_at=the_day_before,
        reason="sold",
        actor=SYSTEM,
        at=NOON,
    )
    assign_subject(name="project-1", customer_id=new_owner.pk, starts_at=the_day_before, actor=SYSTEM, at=NOON)


def test_a_subject_that_changed_hands_since_the_preview_makes_it_old(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    previewed(backfill, actor=analyst)

    handed_over(make_accounts.customer())

    with pytest.raises(UsageBackfillChanged):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)


def test_a_subject_that_changes_hands_during_the_closing_counts_for_its_owner_at_the_events_time(
    customer: Customer,
) -> None:
    other = make_accounts.customer()
    backfill, narrow = opened(), opened(source="cluster/2", customer_ids=[customer.pk])
    staged(backfill, make.event("e1", time=WITHIN))
    staged(narrow, make.event("e2", time=WITHIN, source="cluster/2"))
    closing(backfill)
    closing(narrow)

    handed_over(other)
    done, left = worked(backfill), worked(narrow)

    assert (done.counted, sum(each.count for each in make.totals(other))) == (1, 1)
    assert (left.left_out, make.totals(customer)) == (1, [])
    reverted(done)
    assert sum(each.count for each in make.totals(other)) == 0
    assert broken_rules() == []


def test_a_month_that_goes_into_the_archive_meanwhile_keeps_its_totals_and_the_rest_is_settled(
    settings: Settings, tmp_path: Path, customer: Customer
) -> None:
    settings.ARCHIVE_DIR, settings.USAGE_ACCEPTANCE_MONTHS = tmp_path, 25
    make.ingested(
        make.event("wrong", time="2024-08-31T10:00:00Z", seconds="5"),
        make.event("surplus", time="2024-08-31T11:00:00Z", seconds="70"),
        make.event("right", time="2024-09-01T10:00:00Z", seconds="300"),
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    backfill = replacing(start=datetime(2024, 8, 31, tzinfo=UTC), end=datetime(2024, 9, 2, tzinfo=UTC), lifts_age=True)
    staged(
        backfill,
        make.event("wrong", time="2024-08-31T10:00:00Z", seconds="6"),
        make.event("new", time="2024-08-31T12:00:00Z", seconds="1000"),
        make.event("more", time="2024-09-01T12:00:00Z", seconds="20000"),
    )
    closing(backfill)

    retention.plan_archive(month=date(2024, 8, 1), actor=SYSTEM, at=NOON)
    archive(month=date(2024, 8, 1), actor=SYSTEM, at=NOON)
    retention.detach_month(month=date(2024, 8, 1), actor=SYSTEM, at=NOON)
    done = worked(backfill)

    assert (done.counted, done.voided, done.left_out) == (1, 1, 3)
    problems = UsageBackfillItem.objects.filter(state="left_out").values_list("problem", flat=True)
    assert sorted(problems) == ["gone", "gone", "too_old"]
    assert sum((each.sum for each in make.totals(customer, start=make.LONG_AGO)), Decimal(0)) == 5 + 70 + 20000
    assert broken_rules() == []
