"""Previews of corrections: by a worker where there are many events, and what is submitted is what was previewed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest
from django.db import connection
from django.test import Client

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalSubjectChanged, PermissionMissing
from accounts.models import ApprovalRequest, AuditEntry, Customer
from metering import tasks
from metering.corrections import corrections
from metering.corrections.correction_selection import EventFilter
from metering.corrections.errors import CorrectionChanged
from metering.errors import CorrectionNotDraft, CorrectionNotPreviewed, CorrectionTooLarge, CorrectionUnknown
from metering.models import UsageAmendment, UsageCorrection
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.database_address import url_of_the_test_database
from tests.make_corrections import drafted, named
from tests.make_metering import NOON

pytestmark = pytest.mark.django_db

Status = UsageCorrection.Status
# One more than are previewed at once.
MANY = 1_001


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def many_used(count: int = MANY) -> None:
    make.ingested(
        *[make.event(f"e{number}", time=f"2026-10-{number % 14 + 1:02}T10:00:00Z") for number in range(count)]
    )


def asked(customer: Customer, actor: Actor, **changes: str) -> UsageCorrection:
    """Ask for a correction of all events of a customer, and for its preview."""
    draft = corrections.request_correction(
        events=EventFilter(customer_id=customer.pk), changes=changes, reason="wrong", actor=actor, at=NOON
    )
    return corrections.ask_preview(correction_id=draft.pk, actor=actor, at=NOON)


def test_a_few_events_are_previewed_at_once_and_many_by_a_worker(customer: Customer, analyst: Actor) -> None:
    many_used()
    few = corrections.request_correction(events=named("e1", "e2"), reason="two", actor=analyst, at=NOON)

    at_once = corrections.ask_preview(correction_id=few.pk, actor=analyst, at=NOON)
    large = asked(customer, analyst)
    again = corrections.ask_preview(correction_id=large.pk, actor=analyst, at=NOON)

    assert at_once.preview is not None
    assert (large.preview, large.preview_asked_at, again.preview_asked_at) == (None, NOON, NOON)
    assert AuditEntry.objects.filter(verb="usage_correction.preview_asked").count() == 1
    with pytest.raises(CorrectionNotPreviewed):
        corrections.submit_correction(correction_id=large.pk, actor=analyst, at=NOON)
    tasks.preview_corrections()
    large.refresh_from_db()
    assert large.preview is not None
    assert (large.preview["events"], large.preview_asked_at, large.previewed_at is not None) == (MANY, None, True)
    assert [(row["before"], row["after"]) for row in large.preview["rows"]] == [(str(MANY), "0")]
    assert not UsageAmendment.objects.exists()


def test_a_preview_says_what_the_steps_then_do(customer: Customer) -> None:
    make.meter(aggregation="max")
    make.meter(aggregation="unique")
    make.meter(aggregation="gauge")
    many_used()

    correction = drafted(EventFilter(customer_id=customer.pk), changes={"seconds": "3"})
    make_corrections.applied(correction)

    assert correction.preview is not None
    previewed = {Decimal(row["after"]) for row in correction.preview["rows"] if row["unit"] != "s-hours"}
    assert previewed == {Decimal(3 * MANY), Decimal(3), Decimal(1)}
    again = drafted(EventFilter(customer_id=customer.pk), changes={"seconds": "3"}).preview
    assert again is not None
    assert [(row["before"], row["after"]) for row in again["rows"]] == [
        (row["after"], row["after"]) for row in correction.preview["rows"]
    ]


def test_why_a_worker_could_not_preview_is_said_and_it_stays_a_draft(customer: Customer, analyst: Actor) -> None:
    many_used()
    correction = asked(customer, analyst, seconds="many")

    tasks.preview_corrections()

    correction.refresh_from_db()
    assert "not a decimal number" in correction.last_error
    assert (correction.status, correction.preview, correction.preview_asked_at) == (Status.DRAFT, None, None)


def test_what_the_database_refuses_in_one_preview_does_not_hold_up_the_others(
    customer: Customer, analyst: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "EVENTS_PREVIEWED_AT_ONCE", 0)
    make.ingested(make.event("e1"), make.event("e2"))
    ill, well = (
        corrections.request_correction(events=named(name), reason="wrong", actor=analyst, at=NOON)
        for name in ("e1", "e2")
    )
    for each in (ill, well):
        corrections.ask_preview(correction_id=each.pk, actor=analyst, at=NOON)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "ALTER TABLE metering_usagecorrection ADD CONSTRAINT not_this_one CHECK (id <> %s OR preview IS NULL)",
            [ill.pk],
        )

    tasks.preview_corrections()

    ill.refresh_from_db()
    well.refresh_from_db()
    assert "not_this_one" in ill.last_error
    assert (ill.preview_asked_at, ill.preview) == (None, None)
    assert well.preview is not None


def test_a_preview_that_takes_too_long_ends(
    customer: Customer, analyst: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.corrections.correction_preview.LONGEST_SECONDS", -1.0)
    make.ingested(make.event("e1"))

    with pytest.raises(CorrectionTooLarge, match="in time"):
        drafted(named("e1"))


def test_a_draft_that_is_dropped_while_it_waits_is_not_previewed(customer: Customer, analyst: Actor) -> None:
    many_used()
    correction = asked(customer, analyst)

    corrections.drop_correction(correction_id=correction.pk, actor=analyst, at=NOON)
    tasks.preview_corrections()

    correction.refresh_from_db()
    assert (correction.status, correction.preview, correction.preview_asked_at) == (Status.DROPPED, None, None)
    with pytest.raises(CorrectionNotDraft):
        corrections.ask_preview(correction_id=correction.pk, actor=analyst, at=NOON)


def test_a_preview_is_asked_for_by_who_may_correct_and_of_what_is_there(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1"))
    correction = drafted(named("e1"))

    with pytest.raises(PermissionMissing):
        corrections.ask_preview(correction_id=correction.pk, actor=make_accounts.actor(Role.SUPPORT), at=NOON)
    with pytest.raises(CorrectionUnknown):
        corrections.ask_preview(correction_id=0, actor=analyst, at=NOON)


@pytest.mark.django_db(transaction=True)
def test_a_preview_that_another_worker_is_at_is_left_to_it(customer: Customer, analyst: Actor) -> None:
    many_used()
    correction = asked(customer, analyst)
    with psycopg.connect(url_of_the_test_database(), autocommit=True) as other, other.transaction():
        other.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"metering.preview of correction {correction.pk}"]
        )

        tasks.preview_corrections()

        correction.refresh_from_db()
        assert (correction.preview, correction.preview_asked_at) == (None, NOON)
    tasks.preview_corrections()
    correction.refresh_from_db()
    assert correction.preview is not None


def test_what_changed_since_the_preview_is_previewed_again_before_it_is_submitted(
    customer: Customer, analyst: Actor
) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))
    first, second = drafted(named("e1")), drafted(named("e1", "e2"))
    make_corrections.applied(first)

    with pytest.raises(CorrectionChanged):
        corrections.submit_correction(correction_id=second.pk, actor=analyst, at=NOON)
    again = corrections.ask_preview(correction_id=second.pk, actor=analyst, at=NOON)

    assert again.preview is not None
    assert (again.preview["events"], again.preview["skipped"]) == (1, 1)
    assert make_corrections.applied(second).applied == 1


def test_what_changed_since_it_was_submitted_is_not_approved(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))
    first, second = drafted(named("e1")), drafted(named("e1", "e2"))
    corrections.submit_correction(correction_id=second.pk, actor=analyst, at=NOON)
    make_corrections.applied(first)
    request = ApprovalRequest.objects.get(kind=corrections.APPROVAL_KIND, subject_id=second.pk)
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)

    with pytest.raises(ApprovalSubjectChanged):
        approvals.decide(request_id=request.pk, outcome="approve", actor=controller, at=NOON)

    second.refresh_from_db()
    assert second.status == Status.DRAFT


def test_a_replacement_is_previewed_again_where_it_would_count_by_another_meter_or_for_another(
    customer: Customer, analyst: Actor
) -> None:
    november = datetime(2026, 11, 1, tzinfo=UTC)
    make.subject("project-2", customer=customer, ends_at=november)
    make.ingested(make.event("e1", seconds="2"))
    by_meter, by_owner = drafted(named("e1", seconds="3")), drafted(named("e1", subject="project-2"))
    void, small = drafted(named("e1")), drafted(named("e1", seconds="4"))
    make.meter(event_type="disk.used")
    corrections.submit_correction(correction_id=small.pk, actor=analyst, at=NOON)
    make.meter(aggregation="max")
    make.subject("project-2", starts_at=november)

    for each in (by_meter, by_owner):
        with pytest.raises(CorrectionChanged):
            corrections.submit_correction(correction_id=each.pk, actor=analyst, at=NOON)
    corrections.submit_correction(correction_id=void.pk, actor=analyst, at=NOON)


def test_the_database_refuses_that_anything_but_a_draft_waits_for_a_preview(customer: Customer) -> None:
    make.ingested(make.event("e1"))
    make_corrections.voided("e1")

    with refused("only_a_draft_is_being_previewed"):
        execute("UPDATE metering_usagecorrection SET preview_asked_at = now()")


def test_the_page_says_that_a_large_preview_is_being_worked_out(client: Client, customer: Customer) -> None:
    many_used()
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))
    sent = {"way": "shared", "effect": "void", "customer": customer.code, "reason": "a test"}

    waiting = client.post("/usage/corrections/new/", sent, follow=True).text
    correction = UsageCorrection.objects.get()
    address = f"/usage/corrections/{correction.pk}/"
    fragment = client.get(address, headers={"HX-Request": "true"})
    assert "The preview is being worked out" in waiting
    assert "Submit for approval" not in waiting
    assert "hx-get" in fragment.text
    assert "HX-Refresh" not in fragment
    tasks.preview_corrections()

    assert client.get(address, headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    shown = client.get(address).text
    assert "would change, and for whom" in shown
    assert "Submit for approval" in shown
    make.ingested(make.event("late"), at=datetime(2026, 10, 16, tzinfo=UTC))
    assert "being worked out" in client.post(f"{address}preview/", follow=True).text
