"""Usage files as they come when something went wrong on the way: nothing of them is lost without a word."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import call_command

from metering.models import QuarantinedEvent, RefusedEvent, UsageEvent
from metering.sources.focus import REQUIRED_COLUMNS
from metering.sources.loading import LoadReport, detect_format, load_usage
from tests import make_metering as make

pytestmark = pytest.mark.django_db

HEADER = ",".join(REQUIRED_COLUMNS)


def loaded(content: bytes) -> LoadReport:
    return load_usage(
        stream=io.BytesIO(content),
        file_format=detect_format(content[:64]),
        origin="usage",
        actor=make.SYSTEM,
        at=make.NOON,
    )


def record(number: int, *, provider: str = "AWS", start: str = "2026-10-01 00:00:00") -> str:
    cells = {
        "BillingAccountId": "1",
        "ChargeCategory": "Usage",
        "ChargePeriodStart": start,
        "Id": f"id-{number}",
        "ListCost": "2",
        "ListUnitPrice": "1",
        "PricingQuantity": "2",
        "ProviderName": provider,
        "SkuPriceId": "sku",
        "SubAccountId": "project-1",
    }
    return ",".join(cells[column] for column in REQUIRED_COLUMNS)


@pytest.fixture
def shop() -> None:
    make.meter(event_type="focus.aws.usage", value_path="PricingQuantity")
    make.subject("project-1")


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("torn", [2, 10, 50])
def test_a_quote_that_is_never_closed_costs_its_own_row_and_no_other(torn: int) -> None:
    rows = [record(number) for number in range(1, 51)]
    rows[torn - 1] = rows[torn - 1].replace("AWS", '"AWS')

    report = loaded("\n".join([HEADER, *rows, ""]).encode())

    assert (report.rows, report.accepted, report.refused) == (50, 49, 1)
    assert rows[torn - 1] in RefusedEvent.objects.get().payload


@pytest.mark.usefixtures("shop")
def test_several_torn_quotes_cost_their_own_rows_and_the_rest_is_counted() -> None:
    rows = [record(number) for number in range(1, 41)]
    for torn in (5, 6, 20, 33):
        rows[torn] = rows[torn].replace("AWS", '"A"WS')

    report = loaded("\n".join([HEADER, *rows, ""]).encode())

    assert (report.rows, report.accepted, report.refused) == (40, 36, 4)
    assert RefusedEvent.objects.count() == 4


@pytest.mark.usefixtures("shop")
def test_two_torn_lines_do_not_swallow_what_stands_between_them() -> None:
    rows = [record(number) for number in range(1, 41)]
    rows[4] = rows[4].replace("AWS", '"AWS')
    rows[30] = rows[30].replace("AWS", 'AWS"')

    report = loaded("\n".join([HEADER, *rows, ""]).encode())

    # A quote within a cell that was not opened is a character like any other.
    assert (report.rows, report.accepted, report.refused) == (40, 39, 1)


@pytest.mark.usefixtures("shop")
def test_a_cell_of_several_lines_is_one_cell() -> None:
    rows = [record(1), record(2).replace("sku", '"sku,\r\nof ""two""\r\n\r\nlines"'), record(3)]

    report = loaded("\r\n".join([HEADER, *rows, ""]).encode())

    assert (report.rows, report.accepted, report.refused) == (3, 3, 0)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("start", ["2026-10-01 00:00:00", "2026-10-01T00:00:00Z", "2026-10-01T00:00:00.000Z"])
def test_a_focus_time_may_be_written_as_its_standard_writes_it(start: str) -> None:
    report = loaded(f"{HEADER}\n{record(1, start=start)}\n".encode())

    assert report.accepted == 1
    assert UsageEvent.objects.get().time.isoformat() == "2026-10-01T00:00:00+00:00"


def test_the_same_event_is_one_event_whichever_door_it_comes_through() -> None:
    make.meter()
    make.subject("project-1")
    event = make.event("e1", seconds=Decimal("1.50"))
    line = json.dumps({**event, "data": {"seconds": 1.50}}).replace("1.5", "1.50").encode()

    made = make.ingested(event)
    report = loaded(line)

    assert made.accepted == 1
    assert (report.duplicates, report.refused) == (1, 0)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"id":"x","source":"s","type":"t","time":"2026-10-01T00:00:00Z","data":{"a":' + b"[" * 100_000,
        b'{"id":"x","source":"s","type":"t","time":"2026-10-01T00:00:00Z","data":{"a":' + b"9" * 10_000 + b"}}",
        b'{"id":"x\xff"}',
        b"\x00\x00\x00",
        b'{"id":"x","source":"s\\u0000","type":"t","time":"2026-10-01T00:00:00Z"}',
        b"null",
        b"{",
    ],
    ids=["nested", "nested data", "digits", "not utf-8", "zeros", "nul", "null", "torn"],
)
def test_a_line_that_nobody_can_read_is_refused_and_the_next_ones_are_counted(line: bytes) -> None:
    good = [
        json.dumps(make.event(f"e{number}", event_type="focus.aws.usage", PricingQuantity="1")) for number in (1, 2)
    ]

    report = loaded(b"\n".join([good[0].encode(), line, good[1].encode()]))

    assert (report.rows, report.accepted, report.refused) == (3, 2, 1)
    assert RefusedEvent.objects.count() == 1


def test_a_file_that_is_one_array_says_that_it_wants_one_event_a_line() -> None:
    report = loaded(json.dumps([make.event()]).encode())

    assert report.refused == 1
    assert "not a JSON object" in RefusedEvent.objects.get().detail
    assert not QuarantinedEvent.objects.exists()


def test_the_report_as_json_names_the_reasons_of_what_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(f"{{torn\n{json.dumps(make.event())}\nnull\n")
    out = io.StringIO()

    call_command("load_usage", str(path), json=True, stdout=out)

    report = json.loads(out.getvalue())
    assert (report["rows"], report["quarantined"], report["refused"]) == (3, 1, 2)
    assert report["reasons"] == {"malformed": 2}
