"""Parquet with a mapping: every digit kept, floats only where somebody says so."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metering.models import UsageDelta
from metering.sources.layouts import FileFormat
from metering.sources.parquet import read_parquet
from metering.sources.rows import UsageFileUnreadable, UsageRow
from tests import make_files as make
from tests import make_metering

AT = datetime(2026, 10, 15, 10, 30, tzinfo=UTC)


def parquet(row_group_size: int | None = None, **columns: Any) -> bytes:
    """Write a file of readings with these columns besides, or instead of, the usual ones."""
    rows = max(len(column) for column in columns.values())
    usual = {
        "record": [f"r{number}" for number in range(1, rows + 1)],
        "project": ["project-1"] * rows,
        "at": pa.array([AT] * rows, pa.timestamp("us", "UTC")),
        "seconds": ["1"] * rows,
        "region": ["eu"] * rows,
    }
    file = io.BytesIO()
    pq.write_table(pa.table({**usual, **columns}), file, row_group_size=row_group_size)
    return file.getvalue()


def rows(content: bytes, **changes: Any) -> list[UsageRow]:
    return list(read_parquet(io.BytesIO(content), make.mapping(**changes)))


def event(content: bytes, **changes: Any) -> Any:
    (row,) = rows(content, **changes)
    assert row.event is not None, row.detail
    return row.event


@pytest.mark.parametrize(
    ("column", "number"),
    [
        (pa.array([Decimal("123456789012345678901234567890.12345678")], pa.decimal128(38, 8)),
         Decimal("123456789012345678901234567890.12345678")),
        (pa.array([Decimal("1.50")], pa.decimal256(60, 2)), Decimal("1.50")),
        (pa.array([2**63 - 1], pa.int64()), 2**63 - 1),
        (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        (pa.array(["12.340"]), Decimal("12.340")),
        (pa.array(["12.340"]).dictionary_encode(), Decimal("12.340")),
    ],
    ids=["decimal", "wide decimal", "int64", "uint64", "text", "dictionary"],
)  # fmt: skip
def test_a_number_keeps_every_digit(column: pa.Array, number: object) -> None:
    seconds = event(parquet(seconds=column))["data"]["seconds"]

    assert str(seconds) == str(number)


def test_floats_are_refused_unless_the_mapping_takes_their_shortest_decimal() -> None:
    double, single = (parquet(seconds=pa.array([0.1], kind)) for kind in (pa.float64(), pa.float32()))

    with pytest.raises(UsageFileUnreadable, match="'seconds' holds binary floats"):
        rows(double)
    assert event(double, floats="shortest")["data"]["seconds"] == Decimal("0.1")
    assert event(single, floats="shortest")["data"]["seconds"] == Decimal("0.1")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_even_as_a_float(value: float) -> None:
    (row,) = rows(parquet(seconds=pa.array([value])), floats="shortest")

    assert row.event is None
    assert "seconds" in row.detail


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("s", 1_760_524_200, "2025-10-15T10:30:00.000000Z"),
        ("ms", 1_760_524_200_001, "2025-10-15T10:30:00.001000Z"),
        ("us", 1_760_524_200_000_001, "2025-10-15T10:30:00.000001Z"),
        ("ns", 1_760_524_200_000_001_999, "2025-10-15T10:30:00.000001Z"),
        ("us", -1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_a_moment_is_exact_to_the_microsecond(unit: str, value: int, text: str) -> None:
    column = pa.array([value], pa.timestamp(unit, "America/New_York"))

    assert event(parquet(at=column))["time"] == text


def test_a_moment_without_a_time_zone_is_one_of_the_mappings() -> None:
    content = parquet(at=pa.array([datetime(2026, 10, 15, 12, 30)], pa.timestamp("us")))  # noqa: DTZ001 -- that is the point

    made = event(content, time={"column": "at", "time_zone": "Europe/Berlin"})

    assert made["time"] == "2026-10-15T10:30:00+00:00"
    with pytest.raises(UsageFileUnreadable, match="have no time zone"):
        rows(content)


def test_a_moment_beyond_the_calendar_costs_its_own_row() -> None:
    column = pa.array([2**62, 1_760_524_200_000_000], pa.timestamp("us", "UTC"))

    made = rows(parquet(at=column, seconds=["1", "2"]))

    assert [row.position for row in made] == [1, 2]
    assert made[0].event is not None
    assert "since 1970" in str(made[0].event["time"])


def test_nulls_are_left_out() -> None:
    made = event(parquet(seconds=pa.array([None], pa.int64()), region=pa.array([None], pa.string())))

    assert made["data"] == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as Parquet"),
        (b"PAR1 and nothing else", "cannot be read as Parquet"),
        (parquet(seconds=["1"])[:-40], "cannot be read as Parquet"),
        (parquet(seconds=[[1]]), "'seconds' is of the type list"),
        (parquet(seconds=[b"1"]), "'seconds' is of the type binary"),
    ],
    ids=["empty", "no Parquet", "cut off", "a list", "bytes"],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, words: str) -> None:
    with pytest.raises(UsageFileUnreadable, match=words):
        rows(content)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UsageFileUnreadable, match="lacks the column used"):
        rows(parquet(seconds=["1"]), data=[{"column": "used", "kind": "number"}])


@pytest.mark.django_db
def test_row_groups_are_loaded_one_after_another() -> None:
    make_metering.meter()
    make_metering.subject("project-1")
    content = parquet(row_group_size=700, seconds=pa.array(range(2_500), pa.int32()))

    report = make.loaded(content, file_format=FileFormat.PARQUET, name="readings.parquet")

    assert (report.rows, report.accepted) == (2_500, 2_500)
    assert sum(UsageDelta.objects.values_list("sum", flat=True)) == sum(range(2_500))
