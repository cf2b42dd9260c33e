"""The pages of usage files and of the quarantine by rule, as people see them."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.test import Client
from django.urls import reverse

from accounts.access import Role
from metering.files import file_preview, file_work
from metering.files.file_preview import preview
from metering.models import (
    QuarantineClearance,
    QuarantinedEvent,
    UsageBatch,
    UsageEvent,
    UsageFile,
    UsageFileMapping,
    UsageIdentity,
)
from metering.models.files import LARGEST_PART
from metering.sources.guessing import guess_table
from metering.sources.layouts import FileFormat
from tests import make_files, make_metering
from tests.make_metering import NOON, SYSTEM
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

GERMAN = b"Record;Project;Read at;kWh\nr1;project-1;15.10.2026 12:30;1.234,5\nr2;nobody;15.10.2026 12:31;n/a\n"


@pytest.fixture(autouse=True)
def gpu_seconds() -> None:
    make_metering.meter()
    make_metering.subject("project-1")


@pytest.fixture
def anna() -> Client:
    return signed_in(Role.FINANCE_ANALYST)


def send(client: Client, content: bytes, *, name: str = "readings.csv") -> str:
    """Send a file as the page's script does, and return the address of its page."""
    to = client.post(reverse("metering:receive-file"), {"name": name, "size": len(content)}).json()
    for number in range(0, len(content), LARGEST_PART):
        part = content[number : number + LARGEST_PART]
        address = to["parts"].replace("/0/", f"/{number // LARGEST_PART}/")
        assert client.post(address, part, content_type="application/octet-stream").status_code == 200
    return str(client.post(to["arrived"]).json()["page"])


def filled_in(**changes: Any) -> dict[str, Any]:
    return {
        "column": ["Record", "Project", "Read at", "kWh"],
        "role": ["id", "subject", "time", "number"],
        "key": ["record", "project", "read_at", "seconds"],
        "source": "meters/berlin",
        "type": make_metering.GPU_USED,
        "time_format": "%d.%m.%Y %H:%M",
        "time_zone": "Europe/Berlin",
        "twice": "refuse",
        "delimiter": ";",
        "decimal_comma": "1",
        "thousands": ".",
        "encoding": "utf-8",
        "mapping_name": "Berlin",
        **changes,
    }


def test_a_file_is_sent_mapped_looked_at_loaded_and_reported(anna: Client) -> None:
    address = send(anna, GERMAN)
    asked = words(anna.get(address))
    anna.post(f"{address}mapping/", filled_in())
    shown = words(anna.get(address))
    anna.post(f"{address}start/")
    loading = words(anna.get(address))
    file_work.load_waiting()
    report = words(anna.get(address))
    listed = words(anna.get("/usage/files/"))

    assert "What the columns are" in asked
    assert "1 accepted, 1 refused" in shown
    assert "1,234.5" in shown or "1234.5" in shown
    assert "kWh" not in shown.split("What would become")[0].replace("data: seconds kWh", "")
    assert "Loading 0 rows, 0%" in loading
    assert "Rows 2 the whole file Accepted 1" in report
    assert "seconds: 'n/a' is not a number" in report
    assert "readings.csv" in listed
    assert UsageEvent.objects.get().time.isoformat() == "2026-10-15T10:30:00+00:00"


def test_what_was_filled_in_is_still_there_when_it_was_refused(anna: Client) -> None:
    address = send(anna, GERMAN)

    answer = anna.post(f"{address}mapping/", filled_in(time_zone="Berlin", source="meters/bonn"))

    assert "'Berlin' is not a time zone" in words(answer)
    assert 'value="meters/bonn"' in answer.content.decode()
    assert not UsageFileMapping.objects.exists()


def test_rows_without_a_number_of_their_own_are_known_by_whose_and_when_they_are(anna: Client) -> None:
    lines = [
        b"Project;Read at;kWh",
        b"project-1;15.10.2026 12:30;1",
        b"project-1;15.10.2026 12:31;1",
        b"project-1;15.10.2026 12:30;1",
    ]
    address = send(anna, b"\n".join(lines))
    columns = {
        "column": ["Project", "Read at", "kWh"],
        "role": ["subject", "time", "number"],
        "key": ["", "", "seconds"],
    }

    without = anna.post(f"{address}mapping/", filled_in(**columns))
    with_both = anna.post(f"{address}mapping/", filled_in(**columns, in_id=["0", "1"], time_zone="Berlin"))
    anna.post(f"{address}mapping/", filled_in(**columns, in_id=["0", "1"]))
    shown = words(anna.get(address))

    assert "The id comes from one column, or else from columns that together never repeat" in words(without)
    ticks = re.findall(r'name="in_id" value="(\d)"[^>]*?(checked)?>', with_both.content.decode())
    assert ticks == [("0", "checked"), ("1", "checked"), ("2", "")]
    assert "2 accepted, 1 duplicate" in shown
    assert UsageFileMapping.objects.get().spec["id"] == {"hash_of": ["Project", "Read at"]}


def test_a_mapping_that_is_there_is_chosen(anna: Client) -> None:
    record = make_files.mapping_record("Readings")
    address = send(anna, make_files.many_readings(3))

    anna.post(f"{address}layout/", {"layout": "csv", "mapping": record.pk})

    assert "3 accepted" in words(anna.get(address))


def test_a_preview_keeps_nothing(anna: Client) -> None:
    make_metering.ingested(make_metering.event("r3", source="meters/berlin", seconds="7"))
    known = UsageIdentity.objects.count()
    lines = [make_files.reading(number) for number in (1, 1, 3)]
    file = make_files.ready(make_files.readings(*lines, make_files.reading(4, project="nobody"), "torn"))

    told = preview(file=file, actor=SYSTEM, at=NOON)

    outcomes = [row.outcome for row in told.rows]
    assert outcomes == ["accepted", "duplicate", "refused", "quarantined", "refused"]
    assert "Same identity, other content" in told.rows[2].words
    assert "nobody" in told.rows[3].words
    assert told.counts == [("accepted", 1), ("duplicate", 1), ("quarantined", 1), ("refused", 2)]
    assert UsageIdentity.objects.count() == known
    assert (UsageEvent.objects.count(), UsageBatch.objects.count()) == (1, 1)
    assert not QuarantinedEvent.objects.exists()


def test_a_preview_says_why_a_file_cannot_be_read() -> None:
    file = make_files.ready(b"record;project\n")

    told = preview(file=file, actor=SYSTEM, at=NOON)

    assert (told.rows, told.fault[:25]) == ([], "The file lacks the column")


def test_the_same_file_again_is_said_to_be_and_leads_to_its_report(anna: Client) -> None:
    content = make_files.many_readings(3)
    make_files.loaded(content)
    first = UsageFile.objects.get()
    record = make_files.mapping_record("Readings")
    address = send(anna, content, name="again.csv")
    anna.post(f"{address}layout/", {"layout": "csv", "mapping": record.pk})

    shown = words(anna.get(address))
    answer = anna.post(f"{address}start/")

    assert "This very file was sent before" in shown
    assert answer.headers["Location"] == f"/usage/files/{first.pk}/"
    assert said(answer) == "This very file was sent before; this is what became of it."


def test_a_load_is_stopped_resumed_and_its_progress_shown(anna: Client) -> None:
    file = make_files.ready(make_files.many_readings(3))
    address = reverse("metering:file", args=[file.pk])
    anna.post(f"{address}start/")
    going = anna.get(f"{address}progress/")
    anna.post(f"{address}stop/")
    stopped = anna.get(f"{address}progress/")
    anna.post(f"{address}resume/")
    file_work.load_waiting()

    file.refresh_from_db()
    assert "hx-get" in going.content.decode()
    assert stopped.headers["HX-Refresh"] == "true"
    assert (file.state, file.rows_done) == ("done", 3)


def test_refused_rows_come_as_csv_and_by_reason(anna: Client) -> None:
    make_files.loaded(make_files.readings("torn", make_files.reading(1), make_files.reading(1, seconds="2")))
    address = reverse("metering:file", args=[UsageFile.objects.get().pk])

    csv = anna.get(address, {"format": "csv"}).content.decode().splitlines()
    by_reason = words(anna.get(address, {"reason": "conflict"}))

    assert csv[0] == "line,reason,detail,id,row"
    assert csv[1].startswith("2,malformed,1 of 5 cells,,")
    assert csv[2].startswith("4,conflict,")
    assert "said something else before" in by_reason
    assert "1 of 5 cells" not in by_reason


def test_what_is_refused_on_the_way_is_said_to_the_script(anna: Client) -> None:
    too_large = anna.post(reverse("metering:receive-file"), {"name": "x", "size": 10**15})
    no_file = anna.post(reverse("metering:file-part", args=[0, 0]), b"x", content_type="application/octet-stream")

    assert too_large.status_code == no_file.status_code == 422
    assert "at most" in too_large.json()["error"]
    assert no_file.json()["error"] == "There is no such usage file."


def test_who_may_only_look_sees_the_reports_and_can_send_nothing() -> None:
    client = signed_in(Role.SUPPORT)
    file = make_files.ready(make_files.many_readings(1))
    address = reverse("metering:file", args=[file.pk])

    assert "Choose a file" not in words(client.get("/usage/files/"))
    assert client.get(address).status_code == 200
    for act in ("start", "stop", "resume", "discard", "layout", "mapping", "arrived"):
        assert client.post(f"{address}{act}/").status_code == 403
    assert client.post(reverse("metering:receive-file"), {"name": "x", "size": 1}).status_code == 403
    assert signed_in().get("/usage/files/").status_code == 403


def test_a_file_leads_to_its_batches_and_to_what_waits_of_it(anna: Client) -> None:
    make_metering.ingested(make_metering.event(subject="stranger"))
    make_files.loaded(make_files.readings(make_files.reading(1, project="nobody")))
    file = UsageFile.objects.get()

    waiting = words(anna.get("/usage/quarantine/", {"file": file.pk}))
    batches = words(anna.get("/usage/batches/", {"file": file.pk}))

    assert "nobody" in waiting
    assert "stranger" not in waiting
    assert "1–1 of 1" in batches


def test_the_quarantine_is_released_by_rule_from_its_page(anna: Client) -> None:
    make_metering.ingested(*(make_metering.event(subject="later") for _ in range(3)))
    make_metering.subject("later")

    asked = words(anna.get("/usage/quarantine/rule/", {"reason": "unknown_subject", "subject": "later"}))
    anna.post("/usage/quarantine/rule/decide/", {"act": "release", "subject": "later"})
    clearance = QuarantineClearance.objects.get()
    under_way = words(anna.get(f"/usage/quarantine/rule/{clearance.pk}/"))
    going = anna.get(f"/usage/quarantine/rule/{clearance.pk}/progress/")
    anna.post(f"/usage/quarantine/rule/{clearance.pk}/stop/")
    stopped = anna.get(f"/usage/quarantine/rule/{clearance.pk}/progress/")

    assert "3 events wait and fit" in asked
    assert "Release all 3" in asked
    assert "0% of 3 events" in under_way
    assert "HX-Refresh" not in going.headers
    assert stopped.headers["HX-Refresh"] == "true"


def test_a_rule_that_fits_nothing_offers_nothing(anna: Client) -> None:
    page = words(anna.get("/usage/quarantine/rule/", {"from": "2026-10-01T00:00", "until": "no time"}))
    answer = anna.post("/usage/quarantine/rule/decide/", {"act": "release"})

    assert "0 events" in page
    assert "Release all" not in page
    assert said(answer) == "No waiting event fits this rule."


def test_pages_take_as_many_queries_for_fifty_rows_as_for_one(anna: Client) -> None:
    make_files.loaded(make_files.readings("torn 0"))
    file = UsageFile.objects.get()
    addresses = ["/usage/files/", reverse("metering:file", args=[file.pk]), "/usage/quarantine/rule/"]
    for address in addresses:
        queries(anna, address)
    for_one = [queries(anna, address) for address in addresses]
    for number in range(1, 50):
        make_files.loaded(make_files.readings(*[f"torn {number}"] * number))
    many = reverse("metering:file", args=[UsageFile.objects.latest("pk").pk])

    assert [queries(anna, address) for address in ("/usage/files/", many, "/usage/quarantine/rule/")] == for_one


def test_mappings_are_edited_as_json_with_a_reason(anna: Client) -> None:
    record = make_files.mapping_record("Readings")
    address = f"/admin/metering/usagefilemapping/{record.pk}/change/"
    spec = {**make_files.READINGS, "delimiter": ";"}

    wrong = words(anna.post(address, {"name": "Readings", "spec": "{", "reason": "why", "is_active": "on"}))
    anna.post(address, {"name": "Readings", "spec": json.dumps(spec), "reason": "Semicolons now", "is_active": "on"})
    anna.post("/admin/metering/usagefilemapping/add/", {"name": "Another", "spec": json.dumps(spec)})

    record.refresh_from_db()
    assert "The mapping cannot be read" in wrong
    assert record.spec["delimiter"] == ";"
    assert UsageFileMapping.objects.filter(name="Another").exists()
    assert "data: seconds" in words(signed_in(Role.SUPPORT).get(address))


def test_the_first_rows_of_a_table_say_what_its_columns_may_be() -> None:
    guess = guess_table(io.BytesIO(GERMAN), FileFormat.CSV)

    roles = {column.name: column.role for column in guess.columns}
    assert roles == {"Record": "id", "Project": "subject", "Read at": "time", "kWh": "text"}
    assert (guess.delimiter, guess.decimal_comma, guess.time_format) == (";", True, "%d.%m.%Y %H:%M")


@pytest.mark.parametrize(
    ("text", "time_format"),
    [
        ("2026-10-15T10:30:00Z", "rfc3339"),
        ("1760524200", "unix_seconds"),
        ("1760524200123", "unix_milliseconds"),
        ("2026-10-15 10:30", "%Y-%m-%d %H:%M"),
        ("whenever", "rfc3339"),
    ],
)
def test_how_times_are_written_is_guessed(text: str, time_format: str) -> None:
    assert guess_table(io.BytesIO(f"time,gb\n{text},1.5\n".encode()), FileFormat.CSV).time_format == time_format


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"PAR1", b"\x1f\x8bnothing", b"\xe9t\xe9\n1\n"])
@pytest.mark.parametrize("file_format", [FileFormat.CSV, FileFormat.PARQUET])
def test_what_is_no_table_is_guessed_at_without_a_fault(content: bytes, file_format: FileFormat) -> None:
    guess = guess_table(io.BytesIO(content), file_format)

    assert {column.role for column in guess.columns} <= {"text", "number"}
    assert not guess.has_floats
    assert file_format == FileFormat.CSV or not guess.columns


def test_floats_in_parquet_are_pointed_out() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"time": pa.array([NOON], pa.timestamp("us", "UTC")), "gb": [0.1]}), file)

    guess = guess_table(file, FileFormat.PARQUET)

    assert guess.has_floats
    assert {column.name: column.role for column in guess.columns} == {"time": "time", "gb": "number"}
    assert file_preview.ROWS == 20


HEADERLESS = b"r1;project-1;15.10.2026 12:30;1.234,5\nr2;project-1;15.10.2026 12:31;2\n"


def test_a_file_without_a_header_has_its_columns_named_on_the_page(anna: Client) -> None:
    address = send(anna, HEADERLESS)
    asked = anna.get(address)
    names = ["record", "project", "read", "kwh"]
    refused = anna.post(f"{address}mapping/", filled_in(header="none", column=names, time_zone="Berlin"))

    anna.post(f"{address}mapping/", filled_in(header="none", column=names))
    shown = words(anna.get(address))
    anna.post(f"{address}start/")
    file_work.load_waiting()

    assert "The file has no header" in words(asked)
    assert 'name="column" value="column 4"' in asked.content.decode()
    assert 'name="column" value="kwh"' in refused.content.decode()
    assert "2 accepted" in shown
    assert UsageFileMapping.objects.get().spec["columns"] == names
    assert UsageEvent.objects.count() == 2


def test_whether_the_first_line_names_the_columns_is_for_people_to_say(anna: Client) -> None:
    address = send(anna, b"a;b\nc;d\n")

    guessed, otherwise = anna.get(address), anna.get(f"{address}?header=none")

    assert "The first line names the columns" in words(guessed)
    assert 'value="column 2"' in otherwise.content.decode()
    assert "b, d" in words(otherwise)


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"record;kWh\nr1;1\n", True),
        (b"r1;1,5\n", False),
        (b"r1;2026-10-15T10:30:00Z\n", False),
        (b"r1;2026-10-15 10:30\n", False),
        (b"\xef\xbb\xbfrecord;2026 total\n", True),
        ("record;kWh\r\nr1;1\r\n".encode("utf-16"), True),
        (b"", True),
    ],
)
def test_a_header_is_told_from_data(content: bytes, header: bool) -> None:  # noqa: FBT001
    assert guess_table(io.BytesIO(content), FileFormat.CSV).header is header


def test_of_columns_without_names_the_one_with_times_is_the_time() -> None:
    guess = guess_table(io.BytesIO(HEADERLESS), FileFormat.CSV)

    assert [column.role for column in guess.columns] == ["text", "text", "time", "number"]
    assert guess.time_format == "%d.%m.%Y %H:%M"
