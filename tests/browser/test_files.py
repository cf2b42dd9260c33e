"""A file of usage in the browser: sent, mapped, looked at, loaded with progress, reported; and what waits, by rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect

from billing.demo.people import ANALYST, SUPPORT, hire_staff
from tests import make_accounts, make_metering
from tests.browser.person import Person
from tests.browser.running_site import Site

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]
ROWS = 3_000


@pytest.fixture(scope="module")
def world(empty_database: None) -> None:
    """A house with one meter and one project; what a second project sends waits in quarantine."""
    hire_staff(at=datetime.now(UTC))
    make_metering.meter(value_path="kwh")
    customer = make_accounts.customer()
    make_metering.subject("project-1", customer=customer)


def readings(folder: Path, *, rows: int = ROWS, name: str = "readings_berlin.csv") -> Path:
    """Write a file as a German power company might: semicolons, decimal commas, times on the wall."""
    lines = ["Zähler;Project;Read at;kWh"]
    for number in range(rows):
        project = "project-2" if number % 10 == 7 else "project-1"
        amount = "n/a" if number % 100 == 3 else "1.234,5"
        lines.append(f"z-{number};{project};15.10.2026 12:{number % 60:02};{amount}")
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def send(person: Person, file: Path) -> None:
    person.go("/usage/files/")
    person.page.set_input_files("#file-to-send", file)
    person.page.wait_for_url("**/usage/files/*/")
    person.settle()


def test_a_file_is_sent_mapped_loaded_and_reported_and_what_waits_is_released(
    sit_down: SitDown, site: Site, tmp_path: Path
) -> None:
    anna = sit_down(ANALYST.email)
    send(anna, readings(tmp_path))
    anna.sees("What the columns are", "is the subject", "1.234,5")
    faults = anna.faults(picture="files/mapping")

    anna.page.get_by_label("What Zähler is").select_option("ignore")
    anna.page.get_by_label("Zähler is part of the id").check()
    anna.page.get_by_label("Read at is part of the id").check()
    anna.page.get_by_label("Source of every row").fill("meters/berlin")
    anna.page.get_by_label("Type of every row").fill(make_metering.GPU_USED)
    anna.press("Keep the mapping and look at the rows")
    anna.sees("A time without an offset needs a time zone")
    expect(anna.page.get_by_label("Source of every row")).to_have_value("meters/berlin")
    expect(anna.page.get_by_label("Read at is part of the id")).to_be_checked()
    anna.page.get_by_label("Time zone").fill("Europe/Berlin")
    anna.press("Keep the mapping and look at the rows")
    anna.sees("17 accepted, 2 quarantined, 1 refused", "kwh: 1234.5", "'n/a' is not a number")
    faults += anna.faults(picture="files/preview")

    with site.worker_held():
        anna.press("Load the file")
        anna.sees("Loading", "0 rows, 0%")
        faults += anna.faults(picture="files/loading")
        anna.press("Stop")
        anna.sees("Stopped")
        anna.press("Resume")
        anna.sees("0 rows, 0%")
    anna.sees("the whole file", "Loaded", "3,000", "2,670", "300")
    faults += anna.faults(picture="files/report")

    with anna.page.expect_download() as download:
        anna.press("Refused rows")
    csv = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert len(csv) == 1 + ROWS // 100
    assert csv[1].startswith("5,malformed,kwh: 'n/a' is not a number")

    anna.page.get_by_role("link", name="see what waits").click()
    anna.sees("project-2", "Only events that first came with the file")
    anna.press("Release or discard by rule")
    anna.page.get_by_label("Subject").fill("project-2")
    anna.press("Count")
    anna.sees("300 events wait and fit")
    faults += anna.faults(picture="files/rule")
    anna.press("Release all 300")
    anna.page.locator("#release-rule").get_by_role("button", name="Release 300 events").click()
    anna.sees("Done", "see what stands in their way")
    faults += anna.faults(picture="files/clearance")
    assert not faults, "\n".join(faults)


def test_the_same_file_again_leads_to_its_report_and_a_wrong_one_says_why(sit_down: SitDown, tmp_path: Path) -> None:
    anna = sit_down(ANALYST.email)
    lines = [make_metering.event(f"e{number}", kwh="1") for number in range(3)]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{line}\n".replace("'", '"') for line in lines))
    send(anna, file)
    anna.sees("3 accepted")
    anna.press("Load the file")
    anna.sees("the whole file")
    first = anna.page.url

    send(anna, file)
    anna.sees("This very file was sent before")
    faults = anna.faults(picture="files/sent-before")
    anna.press("Go to its report")
    anna.sees("This very file was sent before; this is what became of it.")
    assert anna.page.url == first

    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    send(anna, broken)
    anna.sees("No columns were found")
    faults += anna.faults(picture="files/broken")
    anna.press("Discard")
    anna.press("Discard the file", within="#discard-dialog")
    anna.sees("The file is discarded")

    with anna.expecting(422):
        anna.go("/usage/files/")
        anna.page.set_input_files("#file-to-send", {"name": "empty.csv", "mimeType": "text/csv", "buffer": b""})
        anna.sees("The file is empty.")
    faults += anna.faults(picture="files/list")
    assert not faults, "\n".join(faults)


def test_who_may_only_look_sees_the_reports_and_no_way_to_send(sit_down: SitDown) -> None:
    sam = sit_down(SUPPORT.email)

    sam.go("/usage/files/")

    sam.sees("events.jsonl", "Loaded")
    expect(sam.page.get_by_text("Choose a file")).to_have_count(0)
    sam.go(sam.page.locator("main table tbody a").first.evaluate("a => a.href"))
    sam.sees("the whole file")
    sam.sees_no("Stop")
