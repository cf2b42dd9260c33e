"""Notes what issued invoices have billed of each meter and period, so that what comes after can be told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.db import connection

from metering.corrections import closing
from metering.corrections.closing import Closed

# What the bills of a contract hold of a period up to and with an invoice: its own lines and those of earlier ones.
_BILLED = """
    SELECT invoice.customer_id, product.meter_id, lower(line.service_period), max(upper(line.service_period)),
           item.usage_watermark, sum(line.quantity), sum(line.event_count)::bigint,
           sha256(string_agg(line.usage_digest, '' ORDER BY line.id)), invoice.id
    FROM billing_invoice AS invoice
    JOIN billing_billrunitem AS item ON item.run_id = invoice.bill_run_id AND item.contract_id = invoice.contract_id
    JOIN billing_invoice AS live ON live.contract_id = invoice.contract_id AND live.status <> 'void'
     AND live.bill_run_id <= invoice.bill_run_id
    JOIN billing_invoiceline AS line ON line.invoice_id = live.id AND line.usage_digest IS NOT NULL
    JOIN pricing_product AS product ON product.id = line.product_id AND product.meter_id IS NOT NULL
    WHERE invoice.id = ANY(%s) AND EXISTS (
        SELECT FROM billing_invoiceline AS own JOIN pricing_product AS owned ON owned.id = own.product_id
        WHERE own.invoice_id = invoice.id AND own.usage_digest IS NOT NULL AND owned.meter_id = product.meter_id
          AND lower(own.service_period) = lower(line.service_period)
    )
    GROUP BY invoice.id, item.usage_watermark, product.meter_id, lower(line.service_period)
    ORDER BY invoice.id, product.meter_id, lower(line.service_period)
"""


def close_usage(*, invoice_ids: Sequence[int], at: datetime) -> None:
    """Note what these invoices bill; two statements for any number of them, in the transaction that issues them."""
    with connection.cursor() as cursor:
        cursor.execute(_BILLED, [list(invoice_ids)])
        rows = [Closed(*row) for row in cursor.fetchall()]
    if rows:
        closing.close_usage(rows, at=at)
