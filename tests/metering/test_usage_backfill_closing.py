"""What could go wrong between filling a backfill and its closing, and how it is told or kept from happening."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db import connection

from accounts.access import Actor, Role
from accounts.models import Customer
from metering import tasks
from metering.files import file_work, usage_files
from metering.models import UsageBackfill, UsageBackfillItem, UsageEvent, UsageFile
from metering.usage_backfills import decisions
from metering.usage_backfills.errors import UsageBackfillBeingFilled
from tests import make_accounts, make_files, make_usage_backfills
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM
from tests.make_pages import signed_in, words
from tests.make_usage_backfills import WITHIN, closed, opened, previewed, replacing, staged

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
    key = UsageBackfillItem.objects.get(event_id="ill").key
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE usage_identity ADD CONSTRAINT not_this_one CHECK (key <> %s)", [key])

    tasks.work_on_usage_backfills()

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
