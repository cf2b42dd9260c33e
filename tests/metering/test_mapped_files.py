"""CSV with a mapping: what each column becomes, and what is said where it cannot."""

from __future__ import annotations

import gzip
import io
from decimal import Decimal
from typing import Any

import pytest

from metering.models import RefusedEvent, UsageEvent, UsageFile
from metering.sources.layouts import FileFormat
from metering.sources.mapping import MappingInvalid, read_mapping
from metering.sources.rows import UsageFileUnreadable, UsageRow
from metering.sources.tables import read_table
from tests import make_files as make
from tests import make_metering


def rows(content: bytes, **changes: Any) -> list[UsageRow]:
    return list(read_table(io.BytesIO(content), make.mapping(**changes)))


def event(line: str, *, header: str = make.HEADER, **changes: Any) -> Any:
    (row,) = rows(f"{header}\n{line}\n".encode(), **changes)
    assert row.event is not None, row.detail
    return row.event


def fault(line: str, **changes: Any) -> str:
    (row,) = rows(f"{make.HEADER}\n{line}\n".encode(), **changes)
    assert row.event is None
    return row.detail


def test_each_column_goes_where_the_mapping_says() -> None:
    assert event("r1,project-1,2026-10-15T10:30:00Z,1.50,eu") == {
        "specversion": "1.0",
        "id": "r1",
        "source": "meters/berlin",
        "type": make_metering.GPU_USED,
        "subject": "project-1",
        "time": "2026-10-15T10:30:00Z",
        "data": {"seconds": Decimal("1.50"), "region": "eu"},
    }


def test_an_empty_cell_and_what_the_mapping_calls_empty_are_left_out() -> None:
    made = event("r1,NULL,2026-10-15T10:30:00Z,,NULL", empty=["NULL"])

    assert made["data"] == {}
    assert made["subject"] == ""


@pytest.mark.parametrize(
    ("text", "layout", "number"),
    [
        ("12", {}, 12),
        ("-0.10", {}, Decimal("-0.10")),
        ("+007", {}, 7),
        (".5", {}, Decimal("0.5")),
        ("1E3", {}, Decimal("1.0E+3")),
        ("1.234.567,80", {"decimal_comma": True, "thousands": ".", "delimiter": ";"}, Decimal("1234567.80")),
        ("1 000", {"thousands": " "}, 1000),
        ("0.12345678901234567890123456789012345678", {}, Decimal("0.12345678901234567890123456789012345678")),
    ],
)
def test_a_number_keeps_every_digit(text: str, layout: dict[str, Any], number: object) -> None:
    delimiter = layout.get("delimiter", ",")
    line, header = (part.replace(",", delimiter) for part in ("r1,p,2026-10-15T10:30:00Z,{},eu", make.HEADER))

    seconds = event(line.format(text), header=header, **layout)["data"]["seconds"]

    assert (seconds, type(seconds)) == (number, type(number))
    assert str(seconds) == str(number)


@pytest.mark.parametrize("text", ["1.2.3", "1_000", "NaN", "Infinity", "0x10", "twelve", "٣", ".", "1e", "- 1", "12,5"])
def test_what_is_no_number_is_refused_and_named(text: str) -> None:
    assert fault(f'r1,p,2026-10-15T10:30:00Z,"{text}",eu').startswith(f"seconds: {text!r} is not a number")


def test_thousands_are_parted_where_they_should_be() -> None:
    assert "is not a number" in fault('r1,p,2026-10-15T10:30:00Z,"12,5",eu', thousands=",")


@pytest.mark.parametrize(
    ("text", "time", "instant"),
    [
        ("15.10.2026 12:30", {"format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"}, "2026-10-15T10:30:00+00:00"),
        ("15/10/2026 12:30 +0200", {"format": "%d/%m/%Y %H:%M %z"}, "2026-10-15T10:30:00+00:00"),
        ("1760524200", {"format": "unix_seconds"}, "2025-10-15T10:30:00+00:00"),
        ("1760524200123", {"format": "unix_milliseconds"}, "2025-10-15T10:30:00.123000+00:00"),
        ("1760524200.1234569", {"format": "unix_seconds"}, "2025-10-15T10:30:00.123456+00:00"),
        ("2026-10-25 02:30", {"time_zone": "Europe/Berlin", "twice": "first"}, "2026-10-25T00:30:00+00:00"),
        ("2026-10-25 02:30", {"time_zone": "Europe/Berlin", "twice": "second"}, "2026-10-25T01:30:00+00:00"),
    ],
)
def test_a_time_is_read_as_the_mapping_says(text: str, time: dict[str, str], instant: str) -> None:
    timed = {"column": "at", "format": "%Y-%m-%d %H:%M", **time}

    assert event(f"r1,p,{text},1,eu", time=timed)["time"] == instant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-10-25 02:30", "was twice in Europe/Berlin"),
        ("2026-03-29 02:30", "never was in Europe/Berlin"),
        ("2026-02-30 02:30", "is not written as"),
        ("2026-10-15", "is not written as"),
    ],
)
def test_a_time_that_is_none_or_two_is_refused(text: str, words: str) -> None:
    timed = {"column": "at", "format": "%Y-%m-%d %H:%M", "time_zone": "Europe/Berlin"}

    assert words in fault(f"r1,p,{text},1,eu", time=timed)


def test_an_id_made_of_columns_is_the_same_each_time_and_another_for_other_texts() -> None:
    hashed = {"hash_of": ["project", "at"]}

    first = event("r1,p,2026-10-15T10:30:00Z,1,eu", id=hashed)
    same = event("r2,p,2026-10-15T10:30:00Z,9,us", id=hashed)
    other = event("r1,p2,2026-10-15T10:30:00Z,1,eu", id=hashed)

    assert first["id"] == same["id"] != other["id"]
    assert len(first["id"]) == 32


def test_a_file_without_a_header_has_its_columns_named() -> None:
    (row,) = rows(b"r1;p;2026-10-15T10:30:00Z;1;eu\n", header=False, columns=make.HEADER.split(","), delimiter=";")

    assert row.event is not None
    assert row.event["subject"] == "p"
    assert row.position == 1


def test_ragged_and_torn_rows_are_refused_with_their_line_and_the_rest_goes_on() -> None:
    content = make.readings(
        make.reading(1), "r2,p", make.reading(3), 'r4,"p,2026-10-15T10:30:00Z,1,eu', make.reading(5)
    )

    told = [(row.position, row.detail.split(";")[0]) for row in rows(content) if row.event is None]

    assert told == [(3, "2 of 5 cells"), (5, "torn record: unexpected end of data")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The file is empty"),
        (b"record,project\nr1,p\n", "lacks the columns at, seconds, region. It has: record, project."),
        (b"record,project,at,seconds,region,seconds\n", "'seconds' 2 times, as columns 4 and 6"),
        ("record,projekt,gerät".encode("cp1252"), "The header holds bytes that are no UTF-8"),
        (b"x" * 1_100_000, "is longer than 1,048,576 characters"),
    ],
    ids=["empty", "columns missing", "a column twice", "another encoding", "no lines"],
)
def test_a_file_that_does_not_fit_its_mapping_says_why(content: bytes, words: str) -> None:
    with pytest.raises(UsageFileUnreadable) as caught:
        rows(content)

    assert words in str(caught.value)


def test_a_row_in_another_encoding_is_refused_with_its_line_and_the_rest_goes_on() -> None:
    content = (
        make.readings(make.reading(1)).strip() + "\nr2,Müller,x,1,eu\n".encode("cp1252") + make.reading(3).encode()
    )

    made = rows(content)

    assert [row.event is not None for row in made] == [True, False, True]
    assert (made[1].position, made[1].detail[:31]) == (3, "holds bytes that are no UTF-8; ")
    assert "M\ufffdller" in made[1].payload


def test_utf_16_that_is_none_stops_the_load() -> None:
    with pytest.raises(UsageFileUnreadable, match="cannot be read as CSV in utf-16"):
        rows(b"\xff\xfea\x00\x00\xd8b\x00", encoding="utf-16")


def test_a_column_twice_that_nobody_reads_does_no_harm() -> None:
    assert event("r1,p,2026-10-15T10:30:00Z,1,eu,a,b", header=f"{make.HEADER},note,note")["id"] == "r1"


def test_other_encodings_are_read_where_the_mapping_says_so() -> None:
    (row,) = rows(
        make.readings("r1,Müller,2026-10-15T10:30:00Z,1,eu").decode().encode("cp1252"), encoding="windows-1252"
    )

    assert row.event is not None
    assert row.event["subject"] == "Müller"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": {}}, "The id comes from one column, or else from columns"),
        ({"id": {"column": "a", "hash_of": ["b"]}}, "The id comes from one column, or else from columns"),
        ({"source": {"column": "a", "constant": "b"}}, "The source comes from a column, or is the same"),
        ({"type": {}}, "The type comes from"),
        ({"time": {"column": ""}}, "The time needs a column"),
        ({"time": {"column": "at", "format": "%H:%M", "time_zone": "UTC"}}, "no directives that name a day"),
        ({"time": {"column": "at", "format": "%Y-%m-%d %Q", "time_zone": "UTC"}}, "no directives that name a day"),
        ({"time": {"column": "at", "format": "%Y-%m-%d"}}, "needs a time zone"),
        ({"time": {"column": "at", "time_zone": "Berlin"}}, "'Berlin' is not a time zone"),
        ({"data": [{"column": "a"}, {"column": "b", "name": "a"}]}, "The data has 'a' twice"),
        ({"data": [{"column": ""}]}, "needs a column"),
        ({"delimiter": "x"}, "parted by a comma"),
        ({"encoding": "klingon"}, "The encoding is one of"),
        ({"decimal_comma": True, "thousands": ","}, "One sign cannot part"),
        ({"columns": ["a"]}, "names its columns itself"),
        ({"header": False}, "needs the names of its columns"),
        ({"header": False, "columns": ["record", "record"]}, "The columns have 'record' twice"),
        ({"header": False, "columns": ["record"]}, "There is no column 'at' among the columns"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"floats": "about"}, "Invalid enum value 'about'"),
    ],
)
def test_a_mapping_that_contradicts_itself_says_how(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MappingInvalid) as caught:
        make.mapping(**changes)

    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff", '{"id": 1}', "[" * 50_000, "x" * 100_001])
def test_what_is_no_mapping_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(MappingInvalid):
        read_mapping(text)


def test_a_mapping_comes_back_from_its_json_as_it_was() -> None:
    mapping = make.mapping(delimiter=";", decimal_comma=True, empty=["-"])

    assert read_mapping(mapping.as_json()) == mapping


@pytest.mark.django_db
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_mapped_file_is_loaded_packed_or_not(pack: Any) -> None:
    make_metering.meter()
    make_metering.subject("project-1")

    report = make.loaded(pack(make.many_readings(2_500)))

    assert (report.rows, report.accepted, report.state) == (2_500, 2_500, "done")
    assert UsageEvent.objects.count() == 2_500
    assert UsageFile.objects.get().batches.count() == 3


@pytest.mark.django_db
def test_gzip_that_is_cut_off_keeps_the_rows_before_and_says_so() -> None:
    make_metering.meter()
    make_metering.subject("project-1")
    # Bytes that gzip cannot make much smaller, so that a half of them holds rows.
    packed = gzip.compress(make.many_readings(20_000))

    with pytest.raises(UsageFileUnreadable, match="cut off or damaged"):
        make.loaded(packed[: len(packed) // 2])

    file = UsageFile.objects.get()
    assert file.state == "failed"
    assert 1_000 < file.rows_done == file.accepted < 20_000


@pytest.mark.django_db
def test_the_same_reading_by_another_door_is_a_duplicate() -> None:
    make_metering.meter()
    make_metering.subject("project-1")
    make_metering.ingested(make_metering.event("r1", source="meters/berlin", seconds=Decimal("1.50"), region="eu"))

    report = make.loaded(make.readings(make.reading(1, seconds="1.50")))

    assert (report.duplicates, report.refused) == (1, 0)


@pytest.mark.django_db
def test_a_row_without_an_id_is_refused_as_every_event_without_one() -> None:
    report = make.loaded(make.readings(",project-1,2026-10-15T10:30:00Z,1,eu"))

    assert (report.rows, report.refused) == (1, 1)
    assert "id" in RefusedEvent.objects.get().detail


def test_a_csv_without_a_mapping_is_not_begun() -> None:
    assert FileFormat.CSV.needs_mapping
