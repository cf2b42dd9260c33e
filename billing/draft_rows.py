"""Stores what a chunk of drafting came to: invoices, lines and unbilled usage through COPY, and the settled items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from django.db import connection

from accounts.periods import Period
from billing.models import BillRunItem
from pricing.money import add
from pricing.rating import steps_as_json

if TYPE_CHECKING:
    from billing.drafting import DraftInvoice, HeldRun, ItemResult

_INVOICE_COLUMNS: Final = (
    "id, legal_entity_id, customer_id, contract_id, bill_run_id, kind, status, currency, period, time_zone, net_amount,"
    " tax_name, tax_rate, tax_note, tax_amount, total_amount, usage_watermark, issue_problem, created_at"
)
_LINE_COLUMNS: Final = (
    'invoice_id, currency, "position", kind, product_id, price_id, "group", description, unit, service_period,'
    " quantity, quantity_before, exact_amount, amount, steps, series_ids, event_count, usage_digest"
)
_UNBILLED_COLUMNS: Final = "run_id, customer_id, series_id, period, quantity, event_count, reason"

_SETTLE_ITEMS: Final = """
    UPDATE billing_billrunitem item
    SET state = settled.state, reason = settled.reason, usage_watermark = settled.watermark,
        contract_ends_on = settled.ends_on, finished_at = %s
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::date[])
         AS settled (id, state, reason, watermark, ends_on)
    WHERE item.id = settled.id
"""

_Value = str | int | Decimal | datetime | bytes | None
_Row = tuple[_Value, ...]

State = BillRunItem.State


def store(*, run: HeldRun, results: Sequence[ItemResult], watermark: str, at: datetime) -> None:
    """Write the results of one chunk; to be called in the transaction that claimed its items."""
    invoices = [result.invoice for result in results if result.invoice is not None]
    ids = _take_invoice_ids(len(invoices))
    _copy(
        "billing_invoice",
        _INVOICE_COLUMNS,
        (_invoice_row(run, pk, invoice, watermark, at) for pk, invoice in zip(ids, invoices, strict=True)),
    )
    _copy(
        "billing_invoiceline",
        _LINE_COLUMNS,
        (row for pk, invoice in zip(ids, invoices, strict=True) for row in _line_rows(pk, invoice)),
    )
    unbilled = [row for result in results for row in _unbilled_rows(run, result)]
    if unbilled:
        copy_unbilled(unbilled)
    states = [_state(result) for result in results]
    with connection.cursor() as cursor:
        cursor.execute(
            _SETTLE_ITEMS,
            [
                at,
                [result.item.item_id for result in results],
                [state.value for state in states],
                [result.parked_because for result in results],
                ["" if state == State.PARKED else watermark for state in states],
                [result.item.terms.ends_on for result in results],
            ],
        )


@lru_cache(maxsize=4096)
def as_range(period: Period) -> str:
    """The period as Postgres writes a range of instants."""
    return f"[{period.start.isoformat()},{period.end.isoformat()})"


def copy_unbilled(rows: Iterable[_Row]) -> None:
    """Add rows to the list of unbilled usage: run, customer, series, range, quantity, event count, reason."""
    _copy("billing_unbilledusage", _UNBILLED_COLUMNS, rows)


def _state(result: ItemResult) -> State:
    if result.parked_because:
        return State.PARKED
    return State.EMPTY if result.invoice is None else State.DONE


def _take_invoice_ids(count: int) -> list[int]:
    """Take ids before the rows are written, so that lines and invoices go in without a round trip between."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('billing_invoice', 'id')) FROM generate_series(1, %s)", [count]
        )
        return [row[0] for row in cursor.fetchall()]


def _copy(table: str, columns: str, rows: Iterable[_Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _invoice_row(run: HeldRun, pk: int, invoice: DraftInvoice, watermark: str, at: datetime) -> _Row:
    item = invoice.item
    return (
        pk,
        run.legal_entity_id,
        item.customer_id,
        item.contract_id,
        run.run_id,
        "regular",
        "draft",
        item.terms.currency,
        as_range(item.period),
        run.time_zone,
        invoice.net,
        run.tax_name,
        invoice.tax_rate,
        invoice.tax_note,
        invoice.tax,
        add(invoice.net, invoice.tax),
        watermark,
        "",
        at,
    )


def _line_rows(invoice_id: int, invoice: DraftInvoice) -> Iterator[_Row]:
    for position, line in enumerate(invoice.lines, start=1):
        charge, product = line.charge, line.product
        yield (
            invoice_id,
            charge.currency,
            position,
            line.kind.value,
            product.product_id,
            product.price_id,
            product.group,
            product.name,
            product.unit,
            as_range(charge.period),
            charge.quantity,
            line.quantity_before,
            charge.exact,
            charge.amount,
            json.dumps(steps_as_json(charge.steps), separators=(",", ":")),
            json.dumps(line.series_ids),
            charge.event_count,
            line.digest,
        )


def _unbilled_rows(run: HeldRun, result: ItemResult) -> Iterator[_Row]:
    for each in result.unbilled:
        yield (
            run.run_id,
            result.item.customer_id,
            each.series_id,
            as_range(each.period),
            each.quantity,
            each.event_count,
            each.reason.value,
        )
