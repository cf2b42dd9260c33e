"""A month of many events goes into several files, each a step of its own: cut off, it goes on behind the last one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from accounts import approvals
from accounts.access import Role
from accounts.models import ApprovalRequest
from metering import rollups
from metering.errors import ArchiveFileDamaged, MonthChanged, MonthOnHold
from metering.models import ArchivedMonth, ArchivedPart, UsageErasure, UsageEvent
from metering.retention import archive_files, erasure, legal_holds, retention
from metering.retention.retention_jobs import archive, work
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import SYSTEM, broken_rules

pytestmark = pytest.mark.django_db

AUGUST = date(2024, 8, 1)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
SEPTEMBER_2 = datetime(2024, 9, 2, tzinfo=UTC)
SECRET = "anna@example.org"
Status = ArchivedMonth.Status
ASKED = {"month": AUGUST, "actor": SYSTEM, "at": LATER}


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25
    settings.ARCHIVE_PART_EVENTS = 4


@pytest.fixture
def august() -> tuple[int, int]:
    """Two customers with ten events in all, so that three files are needed; returns their ids."""
    first, second = make_accounts.customer(), make_accounts.customer()
    make.meter()
    make.subject("first", customer=first)
    make.subject("second", customer=second)
    make.ingested(
        *[make.event(f"f{day}", subject="first", time=f"2024-08-{day:02}T10:00:00Z") for day in range(1, 8)],
        *[
            make.event(f"s{day}", subject="second", time=f"2024-08-{day:02}T10:00:00Z", seconds="2", note=SECRET)
            for day in range(1, 4)
        ],
        at=SEPTEMBER_2,
    )
    rollups.fold()
    return first.pk, second.pk


def all_events() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT event::text FROM usage_event AS event ORDER BY 1")
        return list(cursor.fetchall())


def planned() -> None:
    retention.plan_archive(**ASKED)  # type: ignore[arg-type]


def away(*steps: Callable[..., ArchivedMonth]) -> ArchivedMonth:
    planned()
    row = archive(**ASKED)  # type: ignore[arg-type]
    for step in steps:
        row = step(**ASKED)
    return row


def step_by_step(step: Callable[..., ArchivedMonth]) -> list[str]:
    """Take a step with no time left after each file, and return how the month stood each time."""
    seen = []
    for _ in range(6):
        row = step(**ASKED, is_time_up=lambda: True)
        seen.append(row.status)
        if row.status != seen[0]:
            break
    return seen


def test_a_large_month_takes_several_files_and_comes_back_equal(august: tuple[int, int]) -> None:
    before = all_events()

    row = away(retention.detach_month, retention.drop_month)
    manifests = retention.manifests_of(row)
    while_away, rules_while_away = all_events(), broken_rules()
    retention.bring_back(**ASKED)  # type: ignore[arg-type]

    assert [part.rows for part in ArchivedPart.objects.all()] == [4, 4, 2]
    assert [(each.part, each.is_last, each.contents.rows) for each in manifests] == [
        (1, False, 4),
        (2, False, 4),
        (3, True, 2),
    ]
    assert [path.name for path in retention.files_of(row)] == [
        "usage-2024-08.r1.parquet",
        "usage-2024-08.r1.p0002.parquet",
        "usage-2024-08.r1.p0003.parquet",
    ]
    assert (row.rows, while_away) == (10, [])
    assert all_events() == before
    assert rules_while_away == broken_rules() == []


def test_a_month_that_fills_its_files_has_no_empty_one(august: tuple[int, int], settings: Settings) -> None:
    settings.ARCHIVE_PART_EVENTS = 5

    away()

    assert [part.rows for part in ArchivedPart.objects.all()] == [5, 5]


def test_each_step_goes_on_behind_the_last_file_that_was_done(august: tuple[int, int]) -> None:
    before = all_events()
    planned()

    written = step_by_step(retention.export_month)
    kept = {path: path.stat().st_mtime_ns for path in Path(ArchivedMonth.objects.get().folder).iterdir()}
    verified = step_by_step(retention.verify_month)
    retention.detach_month(**ASKED)  # type: ignore[arg-type]
    compared = step_by_step(retention.drop_month)
    retention.ask_back(**ASKED)  # type: ignore[arg-type]
    loaded = step_by_step(retention.bring_back)

    assert written == ["planned", "planned", "exported"]
    assert verified == ["exported", "exported", "verified"]
    assert compared == ["detached", "detached", "dropped"]
    assert loaded == ["restoring", "restoring", "restored"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all_events() == before
    assert broken_rules() == []


def test_the_jobs_do_as_much_as_there_is_time_for(august: tuple[int, int]) -> None:
    planned()
    stood = []

    for _ in range(7):
        work(is_time_up=iter([False, True, True, True]).__next__, at=LATER)
        stood.append((ArchivedMonth.objects.get().status, ArchivedPart.objects.count()))
    retention.detach_month(**ASKED)  # type: ignore[arg-type]
    retention.ask_drop(**ASKED)  # type: ignore[arg-type]
    work(at=LATER)

    assert stood[:3] == [("planned", 1), ("planned", 2), ("exported", 3)]
    assert stood[-1] == ("verified", 3)
    assert ArchivedMonth.objects.get().status == Status.DROPPED


def test_an_event_that_came_to_a_file_that_was_verified_begins_the_month_anew(
    august: tuple[int, int], settings: Settings
) -> None:
    planned()
    retention.export_month(**ASKED)  # type: ignore[arg-type]
    retention.verify_month(**ASKED, is_time_up=lambda: True)  # type: ignore[arg-type]
    settings.USAGE_ACCEPTANCE_MONTHS = 1_200
    make.ingested(make.event("late", subject="first", time="2024-08-01T00:00:00Z"), at=LATER)
    settings.USAGE_ACCEPTANCE_MONTHS = 25

    with pytest.raises(MonthChanged):
        retention.verify_month(**ASKED)  # type: ignore[arg-type]
    begun_anew = ArchivedMonth.objects.get()
    parts = ArchivedPart.objects.count()
    row = archive(**ASKED)  # type: ignore[arg-type]

    assert (begun_anew.status, parts) == (Status.PLANNED, 0)
    assert (row.status, row.rows, row.revision) == (Status.VERIFIED, 11, 2)
    assert {path.name.split(".")[1] for path in Path(row.folder).iterdir()} == {"r2"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_damaged_file_stops_the_drop(august: tuple[int, int], number: int) -> None:
    row = away(retention.detach_month)
    retention.drop_month(**ASKED, is_time_up=lambda: True)  # type: ignore[arg-type]
    file = retention.files_of(row)[number - 1]

    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(ArchiveFileDamaged):
        retention.drop_month(**ASKED)  # type: ignore[arg-type]
    assert ArchivedMonth.objects.get().status == Status.DETACHED


def test_a_hold_that_comes_between_the_files_keeps_the_table(august: tuple[int, int]) -> None:
    away(retention.detach_month)
    retention.ask_drop(**ASKED)  # type: ignore[arg-type]
    retention.drop_month(**ASKED, is_time_up=lambda: True)  # type: ignore[arg-type]
    hold = legal_holds.set_hold(first_month=AUGUST, last_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)

    work(at=LATER)
    held = ArchivedMonth.objects.get()
    with pytest.raises(MonthOnHold):
        retention.drop_month(**ASKED)  # type: ignore[arg-type]
    legal_holds.lift_hold(hold_id=hold.pk, reason="Closed", actor=SYSTEM, at=LATER)
    work(at=LATER)

    assert (held.status, "Case 7" in held.last_error) == (Status.DETACHED, True)
    assert ArchivedMonth.objects.get().status == Status.DROPPED


def erased(customer_id: int) -> UsageErasure:
    asked_for = erasure.erase_raw_events(
        customer_id=customer_id,
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
    return erasure.carry_out(erasure_id=asked_for.pk, actor=SYSTEM, at=LATER)


def test_an_erasure_writes_only_the_files_anew_that_hold_the_customer(august: tuple[int, int]) -> None:
    before = away(retention.detach_month, retention.drop_month)
    hashes = [part.manifest_sha256 for part in ArchivedPart.objects.all()]

    done = erased(august[1])

    row = ArchivedMonth.objects.get()
    manifests = retention.manifests_of(row)
    assert (done.status, done.archived_events) == (UsageErasure.Status.DONE, 3)
    assert [part.revision for part in ArchivedPart.objects.all()] == [1, 2, 3]
    assert [each.replaces for each in manifests] == ["", *hashes[1:]]
    assert [each.is_last for each in manifests] == [False, False, True]
    assert len(list(Path(row.folder).iterdir())) == 6
    assert not any(SECRET in str(event) for file in retention.files_of(row) for event in archive_files.read(file))
    assert row.rows == before.rows
    retention.bring_back(**ASKED)  # type: ignore[arg-type]
    assert UsageEvent.objects.filter(event_id="").count() == 3
    assert broken_rules() == []


def test_an_erasure_reaches_what_is_loaded_already_of_a_month_on_its_way_back(august: tuple[int, int]) -> None:
    away(retention.detach_month, retention.drop_month)
    retention.ask_back(**ASKED)  # type: ignore[arg-type]
    for _ in range(2):
        retention.bring_back(**ASKED, is_time_up=lambda: True)  # type: ignore[arg-type]

    erased(august[1])
    retention.bring_back(**ASKED)  # type: ignore[arg-type]

    assert UsageEvent.objects.filter(event_id="").count() == 3
    assert UsageEvent.objects.count() == 10
    assert broken_rules() == []


def test_the_database_refuses_to_forget_a_file(august: tuple[int, int]) -> None:
    away()

    with refused("goes when the month begins anew"):
        execute("DELETE FROM metering_archivedpart")
