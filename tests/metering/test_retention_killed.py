"""A month on its way into the archive and back, killed at the last moment of every step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from pytest_django import Settings

from metering import rollups
from metering.errors import MonthInProgress
from metering.models import ArchivedMonth, ArchivedPart
from metering.retention import retention
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import SYSTEM, broken_rules
from tests.programs import held_up

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("archive")]

AUGUST = date(2024, 8, 1)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
Status = ArchivedMonth.Status


def archiving(*step: str) -> tuple[str, ...]:
    return ("manage.py", "archive_usage", "--month", "2024-08", *step)


def environment(**more: str) -> dict[str, str]:
    return {"USAGE_ACCEPTANCE_MONTHS": "25", "ARCHIVE_DIR": str(settings.ARCHIVE_DIR), **more}


# All that a step does but writing the audit log is done then, not yet committed.
NO_AUDIT = "LOCK TABLE accounts_auditentry IN SHARE MODE"
# The third file's row cannot be written then.
NO_THIRD_FILE = {
    "written": "INSERT INTO metering_archivedpart (month_id, number, revision, file, file_sha256, file_bytes,"
    " manifest_sha256, rows, rows_sha256, key_high, key_low) SELECT id, 3, 1, 'x', 'x', 1, 'x', 1, 'x', 1, 1"
    " FROM metering_archivedmonth",
    "loaded": "SELECT FROM metering_archivedpart WHERE number = 3 FOR UPDATE",
}


def all_events() -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT event::text FROM usage_event AS event ORDER BY 1")
        return list(cursor.fetchall())


def test_killed_at_any_step_nothing_is_lost_and_the_step_is_done_by_asking_again(
    settings: Settings, tmp_path: Path
) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    make.ingested(
        *[make.event(f"a{number}", time=f"2024-08-{number:02}T10:00:00Z") for number in range(1, 32)],
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    rollups.fold()
    before = all_events()
    asked: dict[str, Any] = {"month": AUGUST, "actor": SYSTEM, "at": LATER}
    retention.plan_archive(**asked)
    steps: list[tuple[Callable[..., ArchivedMonth], tuple[str, ...], str]] = [
        (retention.export_month, (), Status.PLANNED),
        (retention.verify_month, (), Status.EXPORTED),
        (retention.detach_month, ("--detach",), Status.VERIFIED),
        (retention.drop_month, ("--drop",), Status.DETACHED),
        (retention.bring_back, ("--bring-back",), Status.RESTORING),
    ]

    for again, arguments, state in steps:
        if again is retention.bring_back:
            retention.ask_back(**asked)
        with held_up(NO_AUDIT, *archiving(*arguments), environment=environment()), pytest.raises(MonthInProgress):
            again(**asked)
        assert ArchivedMonth.objects.get().status == state
        assert broken_rules() == []
        again(**asked)
        assert broken_rules() == []

    assert all_events() == before
    assert not list(settings.ARCHIVE_DIR.glob(".*"))


def test_killed_between_two_files_a_month_goes_on_with_the_next_one(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25
    settings.ARCHIVE_PART_EVENTS = 5
    make.meter()
    make.subject("project-1", customer=make_accounts.customer())
    make.ingested(
        *[make.event(f"a{number}", time=f"2024-08-{number:02}T10:00:00Z") for number in range(1, 32)],
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    rollups.fold()
    before = all_events()
    asked: dict[str, Any] = {"month": AUGUST, "actor": SYSTEM, "at": LATER}
    retention.plan_archive(**asked)

    with held_up(NO_THIRD_FILE["written"], *archiving(), environment=environment(ARCHIVE_PART_EVENTS="5")):
        written = ArchivedPart.objects.count()
    retention.export_month(**asked)
    retention.verify_month(**asked)
    retention.detach_month(**asked)
    retention.drop_month(**asked)
    retention.ask_back(**asked)
    loading = archiving("--bring-back")
    with held_up(NO_THIRD_FILE["loaded"], *loading, environment=environment(ARCHIVE_PART_EVENTS="5")):
        loaded = ArchivedPart.objects.filter(loaded_at__isnull=False).count()
    retention.bring_back(**asked)

    assert written == loaded == 2
    assert ArchivedPart.objects.count() == 7
    assert all_events() == before
    assert broken_rules() == []
