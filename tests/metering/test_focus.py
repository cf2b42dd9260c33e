"""Reading FOCUS files: what becomes an event, what is refused, and what contradicts itself."""

from __future__ import annotations

import csv
import io

import pytest

from metering.sources.focus import REQUIRED_COLUMNS, event_type, read_focus
from metering.sources.rows import UsageFileUnreadable, UsageRow

USAGE = {
    "BillingAccountId": "123",
    "ChargeCategory": "Usage",
    "ChargePeriodStart": "2024-09-18 22:00:00",
    "Id": "11472",
    "ListCost": "0.00000080000",
    "ListUnitPrice": "0.0000004",
    "PricingQuantity": "2.00000000000",
    "ProviderName": "AWS",
    "SkuPriceId": "SKU.1",
    "SubAccountId": "51738928782",
}


def focus_file(*records: dict[str, str], columns: tuple[str, ...] = REQUIRED_COLUMNS, line_end: str = "\n") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(
        out,
        fieldnames=columns,
        lineterminator=line_end,
        quoting=csv.QUOTE_ALL,
        extrasaction="ignore",
    )
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def rows_of(content: bytes) -> list[UsageRow]:
    return list(read_focus(io.BytesIO(content)))


def test_a_usage_record_becomes_an_event_that_keeps_every_digit() -> None:
    (row,) = rows_of(focus_file(USAGE))

    assert row.event is not None
    assert row.event["id"] == "11472"
    assert row.event["source"] == "focus/AWS/123"
    assert row.event["type"] == "focus.aws.usage"
    assert row.event["subject"] == "51738928782"
    assert row.event["time"] == "2024-09-18T22:00:00Z"
    assert row.event["data"] == USAGE
    assert row.contradiction == ""


def test_an_empty_cell_and_a_null_are_left_out_of_the_data() -> None:
    (row,) = rows_of(focus_file({**USAGE, "ListCost": "NULL", "ListUnitPrice": ""}))

    assert row.event is not None
    assert row.event["data"] == {
        name: cell for name, cell in USAGE.items() if name not in {"ListCost", "ListUnitPrice"}
    }


@pytest.mark.parametrize("category", ["Credit", "Adjustment", "Tax", "Purchase"])
def test_a_record_that_is_not_usage_is_refused_with_its_category(category: str) -> None:
    (row,) = rows_of(focus_file({**USAGE, "ChargeCategory": category}))

    assert row.event is None
    assert row.refusal == "not_usage"
    assert row.detail == f"AWS: charge category {category}"


def test_a_cost_that_is_off_by_a_unit_factor_contradicts_the_record() -> None:
    (row,) = rows_of(
        focus_file({**USAGE, "PricingQuantity": "0.00000003", "ListUnitPrice": "0.05", "ListCost": "0.000015"}),
    )

    assert row.event is not None
    assert row.contradiction == "PricingQuantity 3E-8 x ListUnitPrice 0.05 is not ListCost 0.000015"


def test_a_missing_column_refuses_the_whole_file_and_names_it() -> None:
    columns = tuple(column for column in REQUIRED_COLUMNS if column not in {"Id", "SkuPriceId"})

    with pytest.raises(UsageFileUnreadable, match="lacks the columns Id, SkuPriceId"):
        rows_of(focus_file(USAGE, columns=columns))


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UsageFileUnreadable, match="empty"):
        rows_of(b"")


def test_a_file_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(UsageFileUnreadable, match="UTF-8"):
        rows_of(focus_file(USAGE) + "Zürich".encode("latin-1"))


@pytest.mark.parametrize("cut", [3, 25, 60])
def test_a_torn_last_line_is_refused_and_the_rest_is_kept(cut: int) -> None:
    whole = focus_file(USAGE, {**USAGE, "Id": "11473"})

    first, torn = rows_of(whole[:-cut])

    assert first.event is not None
    assert torn.event is None
    assert torn.refusal == "malformed"
    assert torn.detail.startswith("torn record")


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    plain = rows_of(focus_file(USAGE, {**USAGE, "Id": "2"}))

    windows = rows_of(b"\xef\xbb\xbf" + focus_file(USAGE, {**USAGE, "Id": "2"}, line_end="\r\n"))

    assert [row.event for row in windows] == [row.event for row in plain]


def test_each_provider_has_an_event_type_of_its_own() -> None:
    assert event_type("Oracle Cloud, Inc.") == "focus.oracle-cloud-inc.usage"
