"""An erasure by law reaches what events said wherever it was noted, and no total changes by it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from accounts import approvals
from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from metering import rollups
from metering.corrections import correction_work, corrections
from metering.corrections.correction_selection import NamedEvent
from metering.files import usage_files
from metering.ingestion import ingest
from metering.models import (
    ArchivedMonth,
    QuarantineClearance,
    QuarantinedEvent,
    Subject,
    UsageBatch,
    UsageCorrection,
    UsageErasure,
    UsageFile,
    UsagePart,
)
from metering.quarantine import clearances
from metering.quarantine.clearances import Rule
from metering.retention import erasure, legal_holds, retention
from metering.retention.erasure_refusals import names_one_of
from metering.retention.retention_jobs import archive, work
from tests import make_accounts, make_files, make_usage_backfills
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import SYSTEM, broken_rules

pytestmark = pytest.mark.django_db

AUGUST = date(2024, 8, 1)
SEPTEMBER_2 = datetime(2024, 9, 2, tzinfo=UTC)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
SECRET = "anna@example.org"
Status = UsageErasure.Status
# Records of the house: who did what and why, in people's own words.
KEPT = ("accounts_auditentry", "accounts_approvalrequest")


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25


@pytest.fixture
def anna() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


def approved(customer: Customer, *, before: datetime | None = None) -> UsageErasure:
    asked_for = erasure.erase_raw_events(
        customer_id=customer.pk,
        before=before,
        reason="She asked",
        legal_basis="GDPR Art. 17",
        actor=make_accounts.actor(Role.ADMINISTRATOR),
        at=LATER,
    )
    approvals.decide(
        request_id=ApprovalRequest.objects.get(kind="usage_erasure", subject_id=asked_for.pk).pk,
        outcome="approve",
        actor=make_accounts.actor(Role.FINANCE_CONTROLLER),
        at=LATER,
    )
    return asked_for


def erased(customer: Customer, *, before: datetime | None = None) -> UsageErasure:
    approved(customer, before=before)
    work(at=LATER)
    return UsageErasure.objects.latest("pk")


def tables_that_name(text: str) -> list[str]:
    """Every table in which a row still holds the text."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE relkind = 'r' AND nspname = 'public' ORDER BY relname"
        )
        for (table,) in cursor.fetchall():
            held = f'SELECT 1 FROM "{table}" AS held WHERE held::text LIKE %s LIMIT 1'  # noqa: S608 -- from the catalogue
            cursor.execute(held, [f"%{text}%"])
            if cursor.fetchone():
                found.append(table)
    return [table for table in found if table not in KEPT]


def different_values(customer: Customer, start: datetime, end: datetime) -> list[Decimal]:
    return [each.quantity for each in make.totals(customer, start=start, end=end)]


def test_what_was_filled_into_backfills_goes_and_what_is_left_of_it_is_left_out(anna: Customer) -> None:
    make.meter()
    make.subject(SECRET, customer=anna, ends_at=SEPTEMBER_2)
    make.ingested(make.event("e1", time="2024-08-03T10:00:00Z", subject=SECRET), at=SEPTEMBER_2)
    period: dict[str, Any] = {"start": datetime(2024, 8, 1, tzinfo=UTC), "end": datetime(2024, 9, 1, tzinfo=UTC)}
    first = make_usage_backfills.opened(**period, lifts_age=True, at=SEPTEMBER_2)
    make_usage_backfills.staged(
        first,
        make.event("e1", time="2024-08-03T10:00:00Z", subject=SECRET, seconds="9", note=SECRET),
        make.event(f"{SECRET}/2", time="2024-08-04T10:00:00Z", subject=SECRET, seconds="1", note=SECRET),
        at=SEPTEMBER_2,
    )
    make_usage_backfills.closed(first, at=SEPTEMBER_2)
    second = make_usage_backfills.opened(
        **period, lifts_age=True, customer_ids=[make_accounts.customer().pk], at=SEPTEMBER_2
    )
    third = make_usage_backfills.opened(**period, source="cluster/2", lifts_age=True, at=SEPTEMBER_2)
    for backfill in (second, third):
        make_usage_backfills.staged(
            backfill,
            make.event(
                "e3", time="2024-08-03T10:00:00Z", source=backfill.source, subject=SECRET, seconds="1", note=SECRET
            ),
            at=SEPTEMBER_2,
        )
    assert second.refusals.count() == 1
    assert {"metering_usagebackfillitem", "metering_usagebackfillrefusal"} <= set(tables_that_name(SECRET))

    erased(anna)

    assert tables_that_name(SECRET) == []
    found = make_usage_backfills.previewed(third, at=LATER).preview
    assert found is not None
    assert (found["counted"], found["reasons"]) == (0, {"gone": 1})
    assert broken_rules() == []


def test_values_that_were_counted_once_each_go_and_the_counts_stay(anna: Customer) -> None:
    make.meter(aggregation="unique", value_path="user", dimensions=["region"])
    users = ["anna@example.org", "ben@example.org", "anna@example.org", "carl@example.org"]
    make.ingested(
        *[
            make.event(time=f"2024-08-0{number + 1}T10:00:00Z", user=user, region="eu" if number % 2 else "us")
            for number, user in enumerate(users)
        ],
        at=SEPTEMBER_2,
    )
    rollups.fold()
    make.ingested(make.event(time="2024-08-07T10:00:00Z", user="anna@example.org", region="eu"), at=SEPTEMBER_2)
    windows = [(datetime(2024, 8, 1, tzinfo=UTC), datetime(2024, 8, day, tzinfo=UTC)) for day in (2, 3, 4, 5, 31)]
    before = [different_values(anna, *window) for window in windows]

    done = erased(anna)

    assert [different_values(anna, *window) for window in windows] == before
    assert before[-1] == [1, 3]
    assert (done.status, done.unique_values) == (Status.DONE, 3)
    assert tables_that_name("example.org") == []
    assert set(UsagePart.objects.values_list("kind", flat=True)) == {"v"}
    assert broken_rules() == []


def test_a_value_seen_since_the_moment_stays_one(anna: Customer) -> None:
    make.meter(aggregation="unique", value_path="user")
    make.ingested(
        make.event(time="2024-08-10T10:00:00Z", user="ben"),
        make.event(time="2024-08-10T10:00:00Z", user="ottilie"),
        make.event(time="2024-08-20T10:00:00Z", user="ben"),
        at=SEPTEMBER_2,
    )
    window = datetime(2024, 8, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC)

    erased(anna, before=datetime(2024, 8, 15, tzinfo=UTC))

    assert different_values(anna, *window) == [2]
    assert tables_that_name("ottilie") == []
    assert broken_rules() == []


def test_what_replaced_an_event_goes_from_its_correction(anna: Customer, settings: Settings) -> None:
    settings.USAGE_CORRECTION_FREE_SHARE = Decimal(10)
    make.meter()
    make.ingested(make.event("a1", time="2024-08-10T10:00:00Z", seconds="1", note="x"), at=SEPTEMBER_2)
    requested = corrections.request_correction(
        events=[NamedEvent(source="cluster/1", event_id="a1", changes={"note": SECRET, "seconds": "3"})],
        reason="Wrong",
        actor=SYSTEM,
        at=SEPTEMBER_2,
    )
    corrections.preview_correction(correction_id=requested.pk, actor=SYSTEM, at=SEPTEMBER_2)
    corrections.submit_correction(correction_id=requested.pk, actor=SYSTEM, at=SEPTEMBER_2)
    correction_work.apply_some(correction_id=requested.pk, actor=SYSTEM, at=SEPTEMBER_2)
    draft = corrections.request_correction(
        events=[NamedEvent(source="cluster/1", event_id=f"a1#{requested.pk}")],
        changes={"note": SECRET},
        reason="Once more",
        actor=SYSTEM,
        at=SEPTEMBER_2,
    )
    named_before = tables_that_name(SECRET)

    erased(anna)

    assert {"metering_usagecorrection", "metering_usagecorrectionitem"} <= set(named_before)
    assert tables_that_name(SECRET) == []
    assert UsageCorrection.objects.get(pk=draft.pk).selection == {}
    assert broken_rules() == []


def test_a_subject_that_is_nobodys_any_more_loses_its_name(anna: Customer) -> None:
    make.meter()
    other = make_accounts.customer()
    theirs = make.subject(SECRET, customer=anna, ends_at=SEPTEMBER_2)
    make.subject("moved", customer=anna, ends_at=SEPTEMBER_2)
    make.subject("moved", customer=other, starts_at=SEPTEMBER_2)
    make.ingested(make.event(time="2024-08-10T10:00:00Z", subject=SECRET), at=SEPTEMBER_2)
    make.ingested(make.event(time="2027-08-10T10:00:00Z", subject=SECRET), at=SEPTEMBER_2)
    clearances.decide_clearance(
        act=QuarantineClearance.Act.DISCARD,
        rule=Rule(subject=SECRET),
        explanation="Not usage",
        actor=SYSTEM,
        at=SEPTEMBER_2,
    )
    clearances.work(is_time_up=lambda: False, clock=lambda: SEPTEMBER_2)

    erased(anna)

    assert Subject.objects.get(pk=theirs.subject_id).name == f"erased {theirs.subject_id}"
    assert set(Subject.objects.exclude(pk=theirs.subject_id).values_list("name", flat=True)) == {"project-1", "moved"}
    assert "metering_quarantineclearance" not in tables_that_name(SECRET)


def test_an_erasure_is_not_done_while_files_lie_unread(anna: Customer) -> None:
    make.meter()
    waiting = make_files.ready(make_files.many_readings(3), at=LATER)
    failed = make_files.ready(make_files.readings(make_files.reading(7)), name="failed.csv", at=LATER)
    usage_files.start_loading(file_id=failed.pk, actor=SYSTEM, at=LATER)
    usage_files.stop_loading(file_id=failed.pk, actor=SYSTEM, at=LATER)

    held_up = erased(anna)
    usage_files.discard_file(file_id=waiting.pk, actor=SYSTEM, at=LATER)
    usage_files.discard_file(file_id=failed.pk, actor=SYSTEM, at=LATER)
    work(at=LATER)

    assert held_up.status == Status.APPROVED
    assert "readings.csv, failed.csv" in held_up.last_error
    assert UsageErasure.objects.get().status == Status.DONE
    assert UsageFile.objects.get(pk=failed.pk).state == UsageFile.State.STOPPED


def test_a_hold_keeps_the_files_of_archived_months_as_they_are(anna: Customer) -> None:
    make.meter()
    make.ingested(make.event(time="2024-08-10T10:00:00Z", seconds="1", note=SECRET), at=SEPTEMBER_2)
    rollups.fold()
    retention.plan_archive(month=AUGUST, actor=SYSTEM, at=LATER)
    archive(month=AUGUST, actor=SYSTEM, at=LATER)
    retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)
    retention.drop_month(month=AUGUST, actor=SYSTEM, at=LATER)
    approved(anna)
    legal_holds.set_hold(customer_id=anna.pk, reason="Case 7", actor=SYSTEM, at=LATER)
    kept = sorted(Path(ArchivedMonth.objects.get().folder).iterdir())

    work(at=LATER)

    assert sorted(Path(ArchivedMonth.objects.get().folder).iterdir()) == kept
    assert (ArchivedMonth.objects.get().revision, UsageErasure.objects.get().archived_events) == (1, 0)
    assert "hold" in UsageErasure.objects.get().last_error


def test_what_a_killed_export_left_behind_goes_too(anna: Customer) -> None:
    make.meter()
    make.ingested(make.event(time="2024-08-10T10:00:00Z", seconds="1", note=SECRET), at=SEPTEMBER_2)
    row = retention.plan_archive(month=AUGUST, actor=SYSTEM, at=LATER)
    folder = Path(row.folder)
    folder.mkdir(parents=True)
    (folder / "usage-2024-08.r1.parquet").write_text(SECRET)
    (folder / ".usage-2024-08.r1.json.part").write_text(SECRET)
    asked_for = approved(anna)

    erasure.carry_out(erasure_id=asked_for.pk, actor=SYSTEM, at=LATER)

    assert list(folder.iterdir()) == []
    assert UsageErasure.objects.get().status == Status.DONE


def test_the_database_refuses_to_empty_what_no_erasure_is_about(anna: Customer) -> None:
    make.meter()
    make.ingested(make.event("a1", time="2024-08-10T10:00:00Z"), at=SEPTEMBER_2)
    corrections.request_correction(
        events=[NamedEvent(source="cluster/1", event_id="a1")],
        changes={"seconds": "3"},
        reason="Wrong",
        actor=SYSTEM,
        at=SEPTEMBER_2,
    )

    with refused("never changes"):
        execute("UPDATE metering_usagecorrection SET changes = '{}', selection = '{}'")
    with refused("hangs on the name"):
        execute("UPDATE metering_subject SET name = 'erased ' || id")
    with refused("hangs on the name"):
        execute("DELETE FROM metering_subject")


def test_what_waits_of_a_subject_from_before_it_was_theirs_goes_too(anna: Customer) -> None:
    make.meter()
    make.subject(SECRET, customer=anna, starts_at=SEPTEMBER_2)
    make.subject("shared", customer=anna, starts_at=SEPTEMBER_2)
    make.subject("shared", customer=make_accounts.customer(), ends_at=datetime(2024, 7, 1, tzinfo=UTC))
    make.ingested(
        make.event("before", time="2024-08-10T10:00:00Z", subject=SECRET),
        make.event("of-nobody", time="2024-08-10T10:00:00Z", subject="shared"),
        at=SEPTEMBER_2,
    )

    erased(anna)

    assert list(QuarantinedEvent.objects.filter(status="open").values_list("event_id", flat=True)) == ["of-nobody"]
    assert "metering_quarantinedevent" not in tables_that_name(SECRET)


def test_what_waits_and_came_with_their_key_goes_whatever_it_names(anna: Customer) -> None:
    make.meter()
    key = make_accounts.api_key("events:write", customer=anna).key
    ingest(
        events=[make.event(time="2024-08-10T10:00:00Z", event_type="unheard.of", note=SECRET)],
        door=UsageBatch.Door.API,
        api_key_id=key.pk,
        customer_id=anna.pk,
        actor=SYSTEM,
        at=SEPTEMBER_2,
    )

    erased(anna)

    assert tables_that_name(SECRET) == []


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ('["r1", "anna müller", "x"]', True),
        ('{"subject": "anna m\\u00fcller", "data": {"cut o', True),
        ("r1,anna müller,2024", True),
        ('torn "r1;anna müller;', True),
        ("the subject 'anna-1' is not theirs", True),
        ("anna-1\tr2", True),
        ('["anna-10", "xanna-1", "anna müllerin"]', False),
        ("", False),
    ],
)
def test_a_refused_row_is_theirs_where_it_names_them(text: str, is_named: bool) -> None:  # noqa: FBT001
    assert names_one_of(text, {"anna müller", "anna-1"}) is is_named


def test_torn_rows_of_files_that_name_a_subject_of_theirs_go(anna: Customer) -> None:
    make.meter()
    make.subject(SECRET, customer=anna)
    make_files.loaded(make_files.readings(f"torn,{SECRET}", "torn,other@example.org"))

    done = erased(anna)

    assert done.refused_events == 2
    assert set(tables_that_name(SECRET)) == {"metering_subject"}
    assert tables_that_name("other@example.org") == ["metering_refusedevent", "metering_usagefilerefusal"]


def test_the_database_refuses_to_forget_a_subject_that_is_in_use_or_another_customers(anna: Customer) -> None:
    make.subject("theirs", customer=make_accounts.customer(), ends_at=SEPTEMBER_2)
    asked_for = approved(anna)
    execute("SELECT set_config('countinghouse.erasure', %s, true)", str(asked_for.pk))

    for name in ("project-1", "theirs"):
        with refused("hangs on the name"):
            execute("UPDATE metering_subject SET name = 'erased ' || id WHERE name = %s", name)
