"""A preview of a backfill holds up nobody, is of one moment, and says what the closing then does."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from django.db import connection

from accounts.access import Actor, Role
from accounts.models import Customer
from metering import rollups, tasks
from metering.meters.meters import change_meter
from metering.models import Meter, UsageBackfill, UsageEvent, UsageSeries
from metering.usage_backfills import deciding, decisions, preview
from metering.usage_backfills.errors import UsageBackfillBeingPreviewed, UsageBackfillChanged
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM
from tests.make_usage_backfills import closed, opened, previewed, replacing, reverted, staged
from tests.parallel import in_parallel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def event(event_id: str, seconds: str = "1", *, hour: int = 10, **data: str) -> dict[str, object]:
    return make.event(event_id, time=f"2026-10-07T{hour:02}:30:00Z", seconds=seconds, **data)


def all_meters() -> None:
    for aggregation in Meter.Aggregation.values:
        make.meter(aggregation=aggregation, dimensions=["disk"])


def limited(allowed: int) -> None:
    meter = make.meter(dimensions=["disk"])
    change_meter(
        meter_id=meter.pk,
        name=meter.name,
        is_active=True,
        series_limit=allowed,
        reason="as agreed",
        actor=SYSTEM,
        at=NOON,
    )


def told(found: dict[str, Any] | None) -> dict[str, int]:
    """Return what a preview says becomes of the events."""
    assert found is not None
    return {name: found[name] for name in ("counted", "kept", "replaced", "voided", "left_out") if found[name]}


def done(backfill: UsageBackfill) -> dict[str, int]:
    """Return what became of the events."""
    return {
        name: number
        for name in ("counted", "kept", "replaced", "voided", "left_out")
        if (number := getattr(backfill, name))
    }


def work_of_others() -> None:
    """Do what a preview must not hold up, each within a moment."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '20s'")
    assert make.ingested(event("new"), event("other", "7", disk="b"), event("c", disk="c")).accepted == 3
    assert rollups.fold() > 0
    make_corrections.voided("there")
    make.ingested(make.event("of another month", time="2026-08-07T10:30:00Z"))


def test_nobody_waits_for_the_preview_of_a_closing(customer: Customer) -> None:
    all_meters()
    make.ingested(event("there"), event("same", "2"), event("said otherwise", "3"))
    backfill = replacing()
    staged(backfill, event("same", "2"), event("said otherwise", "4"), event("new"), event("other", "7", disk="b"))

    with preview.one_moment(backfill.pk):
        found, _ = preview.preview_closing(backfill, at=NOON)
        in_parallel(work_of_others, lambda: staged(backfill, event("there"), event("more")))

    assert told(found) == {"counted": 2, "kept": 1, "replaced": 1, "voided": 1}


def test_nobody_waits_for_the_preview_of_a_revert(customer: Customer) -> None:
    all_meters()
    make.ingested(event("there"), event("said otherwise", "3"))
    backfill = opened()
    staged(backfill, event("filled in", disk="d"))
    closed(backfill)

    with preview.one_moment(backfill.pk):
        found = preview.preview_revert(UsageBackfill.objects.get(pk=backfill.pk), at=NOON)
        in_parallel(work_of_others, lambda: make_corrections.voided("filled in"))

    assert (found["undone"], found["left_out"]) == (1, 0)


def test_a_preview_is_of_the_moment_at_which_it_began(customer: Customer) -> None:
    make.meter()
    make.ingested(event("there", "100"))
    backfill = opened()
    staged(backfill, event("new", "5"))

    with preview.one_moment(backfill.pk):
        seen = UsageBackfill.objects.get(pk=backfill.pk)
        in_parallel(lambda: make.ingested(event("new", "5"), event("unheard of", "1000")))
        found, _ = preview.preview_closing(seen, at=NOON)

    assert told(found) == {"counted": 1}
    assert [(row["before"], row["after"]) for row in found["rows"]] == [("100", "105")]


def test_a_preview_leaves_nothing_behind(customer: Customer, analyst: Actor) -> None:
    limited(5)
    backfill = replacing()
    staged(backfill, event("new", disk="a"))

    previewed(backfill, actor=analyst)

    assert not UsageSeries.objects.exists()
    assert not UsageEvent.objects.exists()
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname LIKE 'foreseen%'")
        assert cursor.fetchall() == []


def test_two_do_not_preview_one_backfill_at_once(customer: Customer, analyst: Actor) -> None:
    make.meter()
    backfill = opened()
    staged(backfill, event("new"))
    asked_at: list[datetime | None] = []

    def refuse_a_person() -> None:
        with pytest.raises(UsageBackfillBeingPreviewed):
            previewed(backfill, actor=analyst)

    def leave_it_to_the_other() -> None:
        UsageBackfill.objects.filter(pk=backfill.pk).update(preview_asked_at=NOON)
        tasks.preview_usage_backfills()
        asked_at.append(UsageBackfill.objects.get(pk=backfill.pk).preview_asked_at)

    with preview.one_moment(backfill.pk):
        in_parallel(refuse_a_person)
        in_parallel(leave_it_to_the_other)

    assert asked_at == [NOON]
    tasks.preview_usage_backfills()
    backfill.refresh_from_db()
    assert told(backfill.preview) == {"counted": 1}


def test_what_is_filled_in_during_a_preview_makes_it_worthless(
    customer: Customer, analyst: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.meter()
    backfill = opened()
    staged(backfill, event("first"))
    really = preview.preview_closing

    def meanwhile(seen: UsageBackfill, *, at: datetime) -> Any:
        in_parallel(lambda: staged(backfill, event("second")))
        return really(seen, at=at)

    monkeypatch.setattr(preview, "preview_closing", meanwhile)

    with pytest.raises(UsageBackfillChanged):
        previewed(backfill, actor=analyst)
    backfill.refresh_from_db()
    assert backfill.preview is None


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_it_foresees_for_which_events_there_will_be_no_room(
    customer: Customer, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "EVENTS_AT_ONCE", at_once)
    limited(4)
    make.ingested(event("there", disk="a"))
    backfill = opened()
    staged(backfill, *[event(f"e{number}", hour=number, disk="bcdefag"[number % 7]) for number in range(12)])

    done_by_then = closed(backfill, limit=at_once)

    assert told(done_by_then.preview) == done(done_by_then) == {"counted": 7, "left_out": 5}
    reverted(done_by_then)
    assert make.broken_rules() == []


@pytest.mark.parametrize("at_once", [1, 100])
def test_it_foresees_that_an_id_is_taken_by_what_takes_the_place_of_another(
    customer: Customer, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "EVENTS_AT_ONCE", at_once)
    make.meter()
    make.ingested(event("e1", "1", hour=3), event("e2", "1", hour=7))
    backfill = replacing()
    staged(
        backfill,
        event("e1", "2", hour=3),
        event(f"e1#b{backfill.pk}", "3", hour=5),
        event(f"e2#b{backfill.pk}", "4", hour=5),
        event("e2", "5", hour=7),
    )

    done_by_then = closed(backfill, limit=at_once)

    assert told(done_by_then.preview) == done(done_by_then)
    assert [row["after"] for row in (done_by_then.preview or {})["rows"]] == [
        format(sum(total.sum for total in make.totals(customer)), "f")
    ]


def test_a_person_who_asks_twice_learns_that_it_is_being_worked_out(customer: Customer, analyst: Actor) -> None:
    make.meter()
    backfill = opened()
    staged(backfill, event("new"))

    def ask() -> None:
        with pytest.raises(UsageBackfillBeingPreviewed, match="already"):
            decisions.ask_preview(backfill_id=backfill.pk, actor=analyst, at=NOON)

    with preview.one_moment(backfill.pk):
        in_parallel(ask)
