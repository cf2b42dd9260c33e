"""Who decides about a backfill of usage, in which order, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import ApprovalRequest, AuditEntry, Customer
from metering.models import UsageBackfill, UsageBackfillItem
from metering.usage_backfills import decisions, staging
from metering.usage_backfills.errors import (
    UsageBackfillChanged,
    UsageBackfillEmpty,
    UsageBackfillInvalid,
    UsageBackfillNotClosed,
    UsageBackfillNotOpen,
    UsageBackfillNotPreviewed,
    UsageBackfillOverlaps,
    UsageBackfillTooLarge,
    UsageBackfillUnknown,
)
from metering.usage_backfills.work import work_on
from tests import make_accounts, make_corrections, make_usage_backfills
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM, total
from tests.make_usage_backfills import WITHIN, closed, event, opened, previewed, replacing, reverted, staged
from tests.ties import assert_everything_ties_and_recounts

pytestmark = pytest.mark.django_db

Status = UsageBackfill.Status


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def _decide(backfill: UsageBackfill, outcome: str = "approve") -> None:
    request = ApprovalRequest.objects.get(kind=decisions.APPROVAL_KIND, subject_id=backfill.pk, status="pending")
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    approvals.decide(request_id=request.pk, outcome=outcome, comment="why not", actor=controller, at=NOON)


def test_a_second_person_decides_above_the_limit_and_nobody_below(customer: Customer, analyst: Actor) -> None:
    make.ingested(event("base", seconds="100000"))
    few, many = opened(), opened(source="cluster/2")
    staged(few, event("e1"))
    staged(many, *[make.event(f"m{number}", time=WITHIN, source="cluster/2") for number in range(11)])
    for backfill in (few, many):
        previewed(backfill)
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)

    few.refresh_from_db()
    many.refresh_from_db()
    assert (few.status, many.status) == (Status.CLOSING, Status.IN_REVIEW)
    assert work_on(backfill_id=many.pk, actor=SYSTEM, at=NOON) == 0
    _decide(many, "reject")
    many.refresh_from_db()
    assert many.status == Status.OPEN


def test_a_refused_revert_leaves_the_backfill_closed(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, *[event(f"e{number}") for number in range(11)])
    closed(backfill)
    decisions.preview_revert(backfill_id=backfill.pk, actor=analyst, at=NOON)
    decisions.revert_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)
    _decide(backfill, "reject")

    backfill.refresh_from_db()
    assert backfill.status == Status.CLOSED
    reverted(backfill)
    assert total(customer) == (0, 0)


def test_events_older_than_the_acceptance_age_are_taken_only_with_approval(
    customer: Customer, analyst: Actor, settings: Any
) -> None:
    settings.USAGE_ACCEPTANCE_MONTHS = 25
    then = datetime(2024, 3, 1, tzinfo=UTC)
    old: dict[str, Any] = {"start": then, "end": then + timedelta(days=1)}
    with pytest.raises(UsageBackfillInvalid, match="acceptance age"):
        opened(**old)
    backfill = opened(**old, lifts_age=True)
    assert staged(backfill, event("e1", time="2024-03-01T12:00:00Z")).problems == []
    previewed(backfill)

    decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)

    backfill.refresh_from_db()
    assert backfill.status == Status.IN_REVIEW
    make_usage_backfills.approved(backfill)
    make_usage_backfills.worked(backfill)
    assert make.totals(customer, start=make.LONG_AGO)[0].sum == 1
    assert make.ingested(event("e2", time="2024-03-01T12:00:00Z")).quarantined == 1
    assert_everything_ties_and_recounts()


def test_too_many_series_leave_events_out_and_their_identities_free(customer: Customer) -> None:
    meter = make.meter(code="narrow", event_type="disk.used", value_path="gb", dimensions=["disk"])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE metering_meter SET series_limit = 2 WHERE id = %s", [meter.pk])
    backfill = opened()
    staged(
        backfill,
        *[
            make.event(f"e{number}", time=WITHIN, event_type="disk.used", gb="1", disk=f"d{number}")
            for number in range(5)
        ],
    )

    done = closed(backfill)

    assert (done.counted, done.left_out) == (2, 3)
    assert set(UsageBackfillItem.objects.filter(state="left_out").values_list("problem", flat=True)) == {
        "too_many_series"
    }
    assert_everything_ties_and_recounts()


def test_an_abandoned_backfill_drops_its_events_and_stays_on_record(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, *[event(f"e{number}") for number in range(11)])
    previewed(backfill)
    decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    with pytest.raises(ReasonMissing):
        decisions.abandon_backfill(backfill_id=backfill.pk, reason=" ", actor=analyst, at=NOON)

    for _ in range(2):
        decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong week", actor=analyst, at=NOON)

    backfill.refresh_from_db()
    assert (backfill.status, backfill.staged, backfill.events.count()) == (Status.ABANDONED, 11, 0)
    assert ApprovalRequest.objects.get().status == "voided"
    assert AuditEntry.objects.get(verb="usage_backfill.abandoned").reason == "wrong week"
    for refusal in (
        lambda: staged(backfill, event("x")),
        lambda: decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON),
        lambda: decisions.preview_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON),
    ):
        with pytest.raises(UsageBackfillNotOpen):
            refusal()
    assert opened().status == Status.OPEN


def test_each_verb_asked_twice_does_its_work_once(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, event("e1"))
    previewed(backfill)

    for _ in range(2):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
        make_usage_backfills.approved(backfill)
        make_usage_backfills.worked(backfill)
    assert total(customer) == (1, 1)
    decisions.preview_revert(backfill_id=backfill.pk, actor=analyst, at=NOON)
    for _ in range(2):
        decisions.revert_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)
        make_usage_backfills.approved(backfill)
        make_usage_backfills.worked(backfill)

    assert total(customer) == (0, 0)
    verbs = list(AuditEntry.objects.filter(verb__in=["usage_backfill.closed", "usage_backfill.reverted"]))
    assert len(verbs) == 2
    assert ApprovalRequest.objects.count() == 2


def test_what_is_out_of_turn_is_refused(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    with pytest.raises(UsageBackfillNotPreviewed):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotClosed):
        decisions.preview_revert(backfill_id=backfill.pk, actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotClosed):
        decisions.revert_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)
    previewed(backfill)
    with pytest.raises(UsageBackfillEmpty):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    staged(backfill, event("e1"))
    closed(backfill)
    with pytest.raises(UsageBackfillNotOpen):
        decisions.preview_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotOpen):
        decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotPreviewed):
        decisions.revert_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotOpen):
        staged(backfill, event("e2"))
    for verb in (work_on, decisions.preview_backfill, decisions.close_backfill):
        with pytest.raises(UsageBackfillUnknown):
            verb(backfill_id=0, actor=analyst, at=NOON)


def test_a_correction_after_the_preview_of_a_revert_makes_it_old(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, event("e1"), event("e2"))
    closed(backfill)
    decisions.preview_revert(backfill_id=backfill.pk, actor=analyst, at=NOON)
    make_corrections.voided("e1")

    with pytest.raises(UsageBackfillChanged):
        decisions.revert_backfill(backfill_id=backfill.pk, reason="wrong", actor=analyst, at=NOON)


def test_nobody_without_the_permission_may(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, event("e1"))
    support = make_accounts.actor(Role.SUPPORT)

    for verb in (decisions.preview_backfill, decisions.close_backfill, decisions.preview_revert, work_on):
        with pytest.raises(PermissionMissing):
            verb(backfill_id=backfill.pk, actor=support, at=NOON)
    for step in (decisions.abandon_backfill, decisions.revert_backfill):
        with pytest.raises(PermissionMissing):
            step(backfill_id=backfill.pk, reason="why", actor=support, at=NOON)
    with pytest.raises(PermissionMissing):
        opened(actor=support)
    with pytest.raises(PermissionMissing):
        staging.stage_events(backfill_id=backfill.pk, events=[event("e2")], actor=support, at=NOON)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": " "}, "one source"),
        ({"source": "x" * 201}, "one source"),
        ({"event_types": ["a\x07b"]}, "printable characters"),
        ({"mode": "guess"}, "add what is missing"),
        ({"customer_ids": [0]}, "no such customer"),
        ({"end": make_usage_backfills.START}, "end after it starts"),
        ({"start": datetime(2026, 10, 5)}, "in UTC"),  # noqa: DTZ001 -- what is refused
        ({"start": make_usage_backfills.START + timedelta(minutes=1)}, "full hours"),
        ({"end": NOON + timedelta(hours=1)}, "cannot end later"),
        ({"start": datetime(1915, 1, 1, tzinfo=UTC)}, "acceptance age"),
    ],
)
def test_what_could_not_be_opened_is_refused(customer: Customer, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageBackfillInvalid, match=words):
        opened(**change)


def test_a_reason_is_needed(customer: Customer) -> None:
    with pytest.raises(ReasonMissing):
        opened(reason=" ")


def test_one_source_and_period_has_one_open_backfill(customer: Customer) -> None:
    first = opened()
    with pytest.raises(UsageBackfillOverlaps):
        opened(start=first.ends_at - timedelta(hours=1), end=first.ends_at + timedelta(hours=1))
    opened(start=first.ends_at, end=first.ends_at + timedelta(hours=1))
    opened(source="cluster/2")

    staged(first, event("e1"))
    closed(first)

    opened()
    with pytest.raises(UsageBackfillOverlaps):
        make_usage_backfills.reverting(first)


def test_a_backfill_takes_and_voids_only_so_many(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST_EVENTS", 2)
    backfill = opened()
    staged(backfill, event("e1"))
    with pytest.raises(UsageBackfillTooLarge):
        staged(backfill, event("e2"), event("e3"))
    assert staged(backfill, event("e2")).staged == 1


def test_a_preview_takes_only_so_long(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    backfill = opened()
    staged(backfill, event("e1"))
    done = closed(backfill)
    other = opened(source="cluster/2")
    staged(other, make.event("e1", time=WITHIN, source="cluster/2"))
    monkeypatch.setattr("metering.usage_backfills.preview.LONGEST_SECONDS", -1.0)

    with pytest.raises(UsageBackfillTooLarge, match="in time"):
        previewed(other)
    with pytest.raises(UsageBackfillTooLarge, match="in time"):
        decisions.preview_revert(backfill_id=done.pk, actor=make_accounts.actor(Role.FINANCE_ANALYST), at=NOON)
    assert make_usage_backfills.states(other) == {"waiting": 1}


def test_replacing_voids_only_so_many(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    make.ingested(event("a"), event("b"), event("c"))
    monkeypatch.setattr("metering.usage_backfills.plan.MOST_EVENTS", 2)
    backfill = replacing()

    with pytest.raises(UsageBackfillTooLarge):
        previewed(backfill)


def test_all_may_be_taken_out_by_replacing_it_with_nothing(customer: Customer) -> None:
    make.ingested(event("a"), event("b"))
    backfill = replacing()

    done = closed(backfill)

    assert (done.voided, total(customer)) == (2, (0, 0))
    reverted(backfill)
    assert total(customer) == (2, 2)
    assert_everything_ties_and_recounts()
