"""Erasure by law: what a customer's events said goes, what they added up to stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalOfOwnRequest, PermissionMissing
from accounts.models import ApprovalRequest, Customer
from metering import rollups
from metering.errors import ErasureInvalid, ErasureOpen, UsageOnHold
from metering.models import ArchivedMonth, QuarantinedEvent, RefusedEvent, UsageErasure, UsageEvent, UsageHour
from metering.quarantine.quarantine import discard, release
from metering.retention import archive_files, erasure, legal_holds, retention
from metering.retention.retention_jobs import archive, work
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import SYSTEM, broken_rules

pytestmark = pytest.mark.django_db

AUGUST = date(2024, 8, 1)
SEPTEMBER_2 = datetime(2024, 9, 2, tzinfo=UTC)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
SECRET = "anna@example.org"
Status = UsageErasure.Status


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25


@pytest.fixture
def administrator() -> Actor:
    return make_accounts.actor(Role.ADMINISTRATOR)


@pytest.fixture
def anna() -> Customer:
    """A customer with events in two months, some of them in quarantine or refused; another one beside them."""
    customer = make_accounts.customer()
    make.meter()
    make.subject(SECRET, customer=customer)
    make.subject("other")
    make.ingested(
        make.event("a1", time="2024-08-10T10:00:00Z", subject=SECRET, seconds="1.5", note=SECRET),
        make.event("a2", time="2024-09-01T10:00:00Z", subject=SECRET, seconds="2"),
        make.event("o1", time="2024-08-10T10:00:00Z", subject="other", seconds="4"),
        make.event("q1", time="2024-08-11T10:00:00Z", subject=SECRET, wrong=SECRET),
        make.event("q2", time="2024-08-11T10:00:00Z", subject="nobody", wrong="x"),
        {"id": "r1", "subject": SECRET},
        {"id": "r2", "subject": "other"},
        at=SEPTEMBER_2,
    )
    make.ingested(make.event("a1", time="2024-08-10T10:00:00Z", subject=SECRET, seconds="99"), at=SEPTEMBER_2)
    rollups.fold()
    return customer


def asked(customer: Customer, actor: Actor, *, before: datetime | None = None) -> UsageErasure:
    return erasure.erase_raw_events(
        customer_id=customer.pk, before=before, reason="She asked", legal_basis="GDPR Art. 17", actor=actor, at=LATER
    )


def approved(customer: Customer, actor: Actor, *, before: datetime | None = None) -> UsageErasure:
    asked_for = asked(customer, actor, before=before)
    approvals.decide(
        request_id=request_of(asked_for).pk,
        outcome="approve",
        actor=make_accounts.actor(Role.FINANCE_CONTROLLER),
        at=LATER,
    )
    asked_for.refresh_from_db()
    return asked_for


def request_of(asked_for: UsageErasure) -> ApprovalRequest:
    return ApprovalRequest.objects.get(kind="usage_erasure", subject_id=asked_for.pk)


def erased(customer: Customer, actor: Actor, *, before: datetime | None = None) -> UsageErasure:
    approved(customer, actor, before=before)
    work(at=LATER)
    return UsageErasure.objects.latest("pk")


def tables_that_name(text: str) -> list[str]:
    """Every table of usage in which a row still holds the text; who owns a subject, and the audit log, are kept."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND (relname LIKE 'usage%%' OR relname LIKE 'detached%%' OR relname LIKE 'metering%%')"
            " AND relname NOT LIKE 'metering_%%subject%%'",
        )
        for (table,) in cursor.fetchall():
            held = f"SELECT 1 FROM {table} AS held WHERE held::text LIKE %s LIMIT 1"  # noqa: S608 -- from the catalogue
            cursor.execute(held, [f"%{text}%"])
            if cursor.fetchone():
                found.append(table)
    return sorted(found)


def test_nothing_is_erased_before_a_second_person_approves(anna: Customer, administrator: Actor) -> None:
    asked_for = asked(anna, administrator)

    work(at=LATER)
    with pytest.raises((ApprovalOfOwnRequest, PermissionMissing)):
        approvals.decide(request_id=request_of(asked_for).pk, outcome="approve", actor=administrator, at=LATER)

    assert UsageErasure.objects.get().status == Status.IN_REVIEW
    assert UsageEvent.objects.exclude(event_id="").count() == 3
    assert request_of(asked_for).summary["events in the database"] == 2


def test_what_events_said_goes_and_what_they_add_up_to_stays(anna: Customer, administrator: Actor) -> None:
    hours = list(UsageHour.objects.order_by("pk").values())
    named_before = tables_that_name(SECRET)

    done = erased(anna, administrator)

    assert (done.status, done.events, done.quarantined_events, done.refused_events) == (Status.DONE, 2, 1, 2)
    assert named_before == [
        "metering_quarantinedevent",
        "metering_quarantinetally",
        "metering_refusedevent",
        "usage_event_2024_08",
        "usage_event_2024_09",
    ]
    assert tables_that_name(SECRET) == []
    assert list(UsageHour.objects.order_by("pk").values()) == hours
    assert broken_rules() == []
    assert UsageEvent.objects.filter(event_id="o1", data={"seconds": "4"}).exists()
    assert RefusedEvent.objects.exclude(payload="").count() == 1
    assert QuarantinedEvent.objects.get(event_id="q2").status == QuarantinedEvent.Status.OPEN


def test_an_erased_event_sent_again_is_a_duplicate_and_says_nothing_new(anna: Customer, administrator: Actor) -> None:
    erased(anna, administrator)

    again = make.ingested(
        make.event("a2", time="2024-09-01T10:00:00Z", subject=SECRET, seconds="2"), at=datetime(2024, 9, 3, tzinfo=UTC)
    )

    assert (again.accepted, again.duplicates) == (0, 1)
    assert tables_that_name(SECRET) == []


def test_only_events_before_the_moment_go(anna: Customer, administrator: Actor) -> None:
    done = erased(anna, administrator, before=datetime(2024, 9, 1, 10, tzinfo=UTC))

    assert done.events == 1
    assert UsageEvent.objects.filter(event_id="a2", subject=SECRET).exists()
    assert broken_rules() == []


def test_what_was_released_from_quarantine_goes_too(anna: Customer, administrator: Actor) -> None:
    make.ingested(
        make.event("q3", time="2024-08-12T00:00:00Z", subject="stranger", seconds="3", note="secret-note"),
        at=SEPTEMBER_2,
    )
    make.subject("stranger", customer=anna)
    release(event_ids=[QuarantinedEvent.objects.get(event_id="q3").pk], actor=SYSTEM, at=SEPTEMBER_2)

    erased(anna, administrator)

    assert tables_that_name("secret-note") == []
    assert broken_rules() == []


def away(state: str) -> ArchivedMonth:
    steps: dict[str, Callable[..., ArchivedMonth]] = {
        "detached": retention.detach_month,
        "dropped": retention.drop_month,
    }
    retention.plan_archive(month=AUGUST, actor=SYSTEM, at=LATER)
    row = archive(month=AUGUST, actor=SYSTEM, at=LATER)
    for name, step in steps.items():
        if state in {name, "dropped"}:
            row = step(month=AUGUST, actor=SYSTEM, at=LATER)
    return row


@pytest.fixture
def _no_quarantine(anna: Customer) -> None:
    waiting = QuarantinedEvent.objects.values_list("pk", flat=True)
    discard(event_ids=list(waiting), reason="Not usage", actor=SYSTEM, at=SEPTEMBER_2)


@pytest.mark.usefixtures("_no_quarantine")
@pytest.mark.parametrize("state", ["detached", "dropped"])
def test_archived_files_are_written_anew_and_the_old_ones_go(anna: Customer, administrator: Actor, state: str) -> None:
    before = away(state)
    old = retention.manifests_of(before)[0]

    done = erased(anna, administrator)
    row = ArchivedMonth.objects.get()
    new = retention.manifests_of(row)[0]
    rules_while_away = broken_rules()

    assert (done.archived_events, done.status, done.last_error) == (1, Status.DONE, "")
    assert new.replaces == before.manifest_sha256
    assert (new.contents.rows, new.contents.erased, old.contents.erased) == (2, 1, 0)
    assert (new.contents.key_high, new.contents.key_low) == (old.contents.key_high, old.contents.key_low)
    assert sorted(path.name for path in Path(row.folder).iterdir()) == [
        "usage-2024-08.r2.json",
        "usage-2024-08.r2.parquet",
    ]
    assert not any(SECRET in str(each) for each in archive_files.read(Path(row.folder) / new.file))
    assert tables_that_name(SECRET) == []
    retention.bring_back(month=AUGUST, actor=SYSTEM, at=LATER)
    assert UsageEvent.objects.filter(event_id="").count() == 2
    assert rules_while_away == broken_rules() == []


@pytest.mark.usefixtures("_no_quarantine")
def test_a_file_that_was_not_alone_yet_is_given_up(anna: Customer, administrator: Actor) -> None:
    away("verified")

    erased(anna, administrator)
    row = ArchivedMonth.objects.get()
    left = list(Path(row.folder).iterdir())
    work(at=LATER)

    assert (row.status, left) == (ArchivedMonth.Status.PLANNED, [])
    assert ArchivedMonth.objects.get().status == ArchivedMonth.Status.VERIFIED
    assert broken_rules() == []


def test_asking_twice_asks_once_and_another_has_to_wait(anna: Customer, administrator: Actor) -> None:
    first = asked(anna, administrator)

    second = asked(anna, administrator)

    assert first == second
    with pytest.raises(ErasureOpen):
        asked(anna, administrator, before=datetime(2024, 9, 1, tzinfo=UTC))


def test_a_rejected_erasure_erases_nothing(anna: Customer, administrator: Actor) -> None:
    asked_for = asked(anna, administrator)

    approvals.decide(
        request_id=request_of(asked_for).pk,
        outcome="reject",
        comment="We need them",
        actor=make_accounts.actor(Role.FINANCE_CONTROLLER),
        at=LATER,
    )
    work(at=LATER)

    assert UsageErasure.objects.get().status == Status.REFUSED
    assert UsageEvent.objects.exclude(event_id="").count() == 3


def test_an_erasure_says_why_and_by_which_law(anna: Customer, administrator: Actor) -> None:
    with pytest.raises(ErasureInvalid, match="legal basis"):
        erasure.erase_raw_events(
            customer_id=anna.pk, reason="She asked", legal_basis=" ", actor=administrator, at=LATER
        )
    with pytest.raises(ErasureInvalid, match="hour"):
        asked(anna, administrator, before=datetime(2024, 9, 1, 10, 30, tzinfo=UTC))
    with pytest.raises(ErasureInvalid, match="hour"):
        asked(anna, administrator, before=datetime(2027, 1, 1, tzinfo=UTC))
    with pytest.raises(PermissionMissing):
        asked(anna, make_accounts.actor(Role.FINANCE_CONTROLLER))


def test_usage_on_hold_is_not_erased(anna: Customer, administrator: Actor) -> None:
    approved(anna, administrator)
    hold = legal_holds.set_hold(customer_id=anna.pk, reason="Case 7", actor=SYSTEM, at=LATER)

    work(at=LATER)
    held_back = UsageErasure.objects.get()
    legal_holds.lift_hold(hold_id=hold.pk, reason="Closed", actor=SYSTEM, at=LATER)
    work(at=LATER)

    assert (held_back.status, held_back.events) == (Status.APPROVED, 0)
    assert "hold" in held_back.last_error
    assert UsageErasure.objects.get().status == Status.DONE


def test_nothing_on_hold_is_asked_to_be_erased_nor_approved(anna: Customer, administrator: Actor) -> None:
    asked_for = asked(anna, administrator)
    legal_holds.set_hold(first_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)

    with pytest.raises(UsageOnHold):
        approvals.decide(
            request_id=request_of(asked_for).pk,
            outcome="approve",
            actor=make_accounts.actor(Role.FINANCE_CONTROLLER),
            at=LATER,
        )
    with pytest.raises(UsageOnHold):
        asked(make_accounts.customer(), administrator)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_event SET data = '{}', source = '', event_id = '', subject = '' WHERE customer_id <> {customer}",
        "UPDATE usage_event SET data = '{{}}', source = '', event_id = '' WHERE customer_id = {customer}",
        "UPDATE usage_event SET data = '{{}}', source = '', event_id = '', subject = '', series_ids = '{{}}'",
        "DELETE FROM usage_event",
    ],
)
def test_the_database_refuses_anything_but_what_was_approved(
    anna: Customer, administrator: Actor, statement: str
) -> None:
    asked_for = approved(anna, administrator)
    execute("SELECT set_config('countinghouse.erasure', %s, true)", str(asked_for.pk))

    with refused("never changes"):
        execute(statement.replace("'{}'", "'{{}}'").format(customer=anna.pk))


def test_the_database_refuses_an_erasure_that_nobody_approved(anna: Customer, administrator: Actor) -> None:
    asked_for = asked(anna, administrator)
    execute("SELECT set_config('countinghouse.erasure', %s, true)", str(asked_for.pk))

    with refused("never changes"):
        execute("UPDATE usage_event SET data = '{}', source = '', event_id = '', subject = ''")
    with refused("second person"):
        UsageErasure.objects.update(status=Status.APPROVED, approved_at=LATER)
    with refused("step by step|asked for, approved"):
        UsageErasure.objects.update(status=Status.DONE, approved_at=LATER)
    with refused("what is approved"):
        UsageErasure.objects.update(reason="Another")


def test_the_database_refuses_to_amend_what_was_erased(anna: Customer, administrator: Actor) -> None:
    erased(anna, administrator)

    with refused("cannot be amended"):
        execute(
            "INSERT INTO usage_amendment (customer_id, time, key, batch_id, sign, series_ids)"
            " SELECT customer_id, time, key, 1, -1, series_ids FROM usage_event WHERE customer_id = %s",
            anna.pk,
        )


def test_the_database_refuses_to_erase_what_is_on_hold(anna: Customer, administrator: Actor) -> None:
    asked_for = approved(anna, administrator)
    legal_holds.set_hold(customer_id=anna.pk, reason="Case 7", actor=SYSTEM, at=LATER)
    execute("SELECT set_config('countinghouse.erasure', %s, true)", str(asked_for.pk))

    with refused("never changes"):
        execute("UPDATE usage_event SET data = '{}', source = '', event_id = '', subject = ''")
    with refused("hold covers usage"):
        UsageErasure.objects.update(status=Status.DONE)
