"""FOCUS cost-and-usage files (CSV): each usage record becomes one event.

The layout is the FinOps Foundation's FOCUS 1.0. The event's data is the record as it came, under FOCUS's own column
names, less its empty cells. The time of the usage is the start of the record's charge period, in UTC.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import BinaryIO

from metering.models import RefusedEvent
from metering.sources.csv_records import CsvRecords, Torn
from metering.sources.rows import UsageFileUnreadable, UsageRow

REQUIRED_COLUMNS = (
    "BillingAccountId",
    "ChargeCategory",
    "ChargePeriodStart",
    "Id",
    "ListCost",
    "ListUnitPrice",
    "PricingQuantity",
    "ProviderName",
    "SkuPriceId",
    "SubAccountId",
)

# The providers round each record's cost to ten places; a real unit factor is off by far more than this.
COST_TOLERANCE = Decimal("0.000001")

_EMPTY_CELLS = frozenset({"", "NULL"})
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")
_OFFSET = re.compile(r"([Zz]|[+-]\d\d:\d\d)$", re.ASCII)


def read_focus(stream: BinaryIO, *, skip: int = 0) -> Iterator[UsageRow]:
    """Yield a row for each record; records that are not usage, and torn ones, are refused with their reason.

    Accepts a byte-order mark and Windows line ends. The first `skip` rows are left out.

    Raises: UsageFileUnreadable when the file is not UTF-8, is empty or lacks a required column.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    records = CsvRecords(text)
    try:
        header = records.header()
        if header is None:
            msg = "The file is empty."
            raise UsageFileUnreadable(msg)
        missing = [column for column in REQUIRED_COLUMNS if column not in header]
        if missing:
            msg = f"The FOCUS file lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}."
            raise UsageFileUnreadable(msg)
        while (cells := records.next()) is not None:
            if skip and cells:
                skip -= 1
            elif isinstance(cells, Torn):
                yield _refused(
                    records.position, cells.line, RefusedEvent.Reason.MALFORMED, f"torn record: {cells.fault}"
                )
            elif cells:
                yield _row(records.position, header, cells)
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"The file cannot be read as UTF-8 CSV near line {records.position + 1}: {error}"
        raise UsageFileUnreadable(msg) from error
    finally:
        text.detach()  # the caller opened the stream and closes it


def _row(position: int, header: list[str], cells: list[str]) -> UsageRow:
    payload = json.dumps(cells, ensure_ascii=False)
    if len(cells) != len(header):
        detail = f"torn record: {len(cells)} of {len(header)} cells"
        return _refused(position, payload, RefusedEvent.Reason.MALFORMED, detail)
    record = {name: cell for name, cell in zip(header, cells, strict=True) if cell not in _EMPTY_CELLS}
    if record.get("ChargeCategory") != "Usage":
        detail = f"{record.get('ProviderName', 'unknown provider')}: charge category {record.get('ChargeCategory', '')}"
        return _refused(position, payload, RefusedEvent.Reason.NOT_USAGE, detail)
    return UsageRow(
        position=position,
        event=_event(record),
        payload=payload,
        contradiction=_contradiction(record),
    )


def _refused(position: int, payload: str, reason: str, detail: str) -> UsageRow:
    return UsageRow(position=position, event=None, payload=payload, refusal=reason, detail=detail)


def event_type(provider: str) -> str:
    """Return the event type of a provider's usage records, such as `focus.aws.usage`."""
    return f"focus.{_NOT_A_WORD.sub('-', provider.lower()).strip('-')}.usage"


def _event(record: Mapping[str, str]) -> dict[str, object]:
    provider = record.get("ProviderName", "")
    return {
        "specversion": "1.0",
        "id": record.get("Id", ""),
        "source": f"focus/{provider}/{record.get('BillingAccountId', '')}",
        "type": event_type(provider),
        "subject": record.get("SubAccountId", ""),
        "time": _in_utc(record.get("ChargePeriodStart", "")),
        "data": dict(record),
    }


def _in_utc(text: str) -> str:
    """Return a FOCUS time with the offset that the standard demands and some providers leave out."""
    moment = text.replace(" ", "T")
    return moment if _OFFSET.search(moment) else f"{moment}Z"


def _contradiction(record: Mapping[str, str]) -> str:
    """Say how quantity, unit price and cost contradict each other; empty where they agree or one is absent."""
    columns = ("PricingQuantity", "ListUnitPrice", "ListCost")
    if not all(column in record for column in columns):
        return ""
    try:
        quantity, unit_price, cost = (Decimal(record[column]) for column in columns)
    except InvalidOperation:
        return ""  # ingestion judges the number itself
    if not (quantity.is_finite() and unit_price.is_finite() and cost.is_finite()):
        return ""
    if abs(quantity * unit_price - cost) <= COST_TOLERANCE:
        return ""
    return f"PricingQuantity {quantity} x ListUnitPrice {unit_price} is not ListCost {cost}"
