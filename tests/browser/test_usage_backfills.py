"""A backfill in the browser: opened, filled by a file, previewed, closed by two people, and reverted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from billing.demo.people import ANALYST, CONTROLLER, hire_staff
from tests import make_accounts, make_metering
from tests.browser.person import Person

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]


@pytest.fixture(scope="module")
def world(empty_database: None) -> None:
    """A house with one meter and one project, of which ten wrong events were counted."""
    hire_staff(at=datetime.now(UTC))
    make_metering.meter(code="gpu")
    make_metering.subject("project-1", customer=make_accounts.customer(name="Aurora Labs"))
    make_metering.ingested(*week(10, seconds="50"))


def week(count: int, *, seconds: str, subject: str = "project-1") -> list[dict[str, object]]:
    return [
        make_metering.event(
            f"{subject}/{number}", time=f"2026-10-{number % 7 + 5:02}T10:30:00Z", subject=subject, seconds=seconds
        )
        for number in range(count)
    ]


def approve(carl: Person, title: str) -> None:
    carl.go("/approvals/")
    carl.press(title)
    carl.press("Approve")
    carl.press("Approve", within="#approve-dialog")
    carl.sees("Approved by Carl Controller")


def open_one(anna: Person) -> list[str]:
    """Open a backfill that replaces a week, and return what is wrong with the pages on the way."""
    anna.go("/usage/backfills/")
    anna.sees("Nothing was filled in yet")
    faults = anna.faults(picture="backfills/none")
    anna.press("New backfill")
    anna.page.get_by_label("Source").fill("cluster/1")
    anna.page.get_by_label("From (UTC)").fill("2026-10-05T00:00")
    anna.page.get_by_label("Before (UTC)").fill("2026-10-12T00:00")
    anna.page.get_by_text("It is replaced.").click()
    anna.page.get_by_label("Reason").fill("The exporter counted in minutes.")
    faults += anna.faults(picture="backfills/form")
    anna.press("Open the backfill")
    anna.sees("How to fill it", "manage.py load_usage --backfill")
    return faults + anna.faults(picture="backfills/open")


def fill_by_file(anna: Person, file: Path) -> list[str]:
    """Send a file, choose the backfill, and have it loaded."""
    lines = [*week(20, seconds="2"), *week(1, seconds="2", subject="nobody")]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    anna.go("/usage/files/")
    anna.page.set_input_files("#file-to-send", file)
    anna.page.wait_for_url("**/usage/files/*/")
    anna.settle()
    anna.page.get_by_label("Its events").select_option(index=1)
    anna.sees("This is how the first rows would be taken.")
    faults = anna.faults(picture="backfills/file")
    anna.press("Load the file")
    anna.sees("the whole file", "Filled into")
    return faults


def test_a_week_is_filled_in_looked_at_closed_by_two_and_reverted(sit_down: SitDown, tmp_path: Path) -> None:
    anna, carl = sit_down(ANALYST.email), sit_down(CONTROLLER.email)
    faults = open_one(anna)
    backfill = anna.page.url
    faults += fill_by_file(anna, tmp_path / "week.jsonl")

    anna.go(backfill)
    anna.press("Preview")
    anna.sees("What would change, and for whom", "Aurora Labs", "500", "−460", "Cannot be counted as things stand")
    faults += anna.faults(picture="backfills/preview")
    anna.press("Submit for approval")
    anna.page.locator("#close-dialog").get_by_role("button", name="Submit").click()
    anna.sees("It waits for a second person")
    approve(carl, "Close the backfill of cluster/1")
    anna.go(backfill)
    anna.sees("What became of the events", "Take the place of one that said something else")
    faults += anna.faults(picture="backfills/closed")

    anna.press("Preview a revert")
    anna.sees("What the revert would change", "+460")
    anna.press("Revert it")
    anna.page.locator("#revert-dialog").get_by_label("Reason").fill("They were minutes after all.")
    faults += anna.faults(picture="backfills/revert")
    anna.page.locator("#revert-dialog").get_by_role("button", name="Submit").click()
    anna.sees("It waits for a second person")
    approve(carl, "Revert the backfill of cluster/1")
    anna.go(backfill)
    anna.sees("It was reverted", "They were minutes after all.")
    faults += anna.faults(picture="backfills/reverted")

    assert not faults, "\n".join(faults)
