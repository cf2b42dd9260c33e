"""What must never be, tried as SQL by somebody who has the database open, in the middle of an honest month."""

from __future__ import annotations

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction

from tests import make_billing as make

pytestmark = pytest.mark.django_db

REFUSED = {
    "a run is approved while its request still waits": """
        UPDATE billing_billrun SET status = 'approved', approved_at = now()
    """,
    "a run is approved by the request of another kind": """
        UPDATE billing_billrun SET status = 'approved', approved_at = now(), approval_id = (
            SELECT id FROM accounts_approvalrequest WHERE kind = 'price_book_version' AND status = 'approved' LIMIT 1
        )
    """,
    "invoices are approved before their run": "UPDATE billing_invoice SET status = 'approved'",
    "an invoice is issued without approval": """
        UPDATE billing_invoice SET status = 'issued', number = 'X', sequence = 1, issued_at = now()
    """,
    "a request is approved without a decision": """
        UPDATE accounts_approvalrequest SET status = 'approved', closed_at = now() WHERE status = 'pending'
    """,
    "the requester decides": """
        INSERT INTO accounts_approvaldecision (request_id, requested_by_id, decided_by_id, outcome, comment, decided_at)
        SELECT id, requested_by_id, requested_by_id, 'approve', '', now()
        FROM accounts_approvalrequest WHERE status = 'pending'
    """,
    "the requester decides under another name": """
        INSERT INTO accounts_approvaldecision (request_id, requested_by_id, decided_by_id, outcome, comment, decided_at)
        SELECT request.id, person.id, request.requested_by_id, 'approve', '', now()
        FROM accounts_approvalrequest request, accounts_user person
        WHERE request.status = 'pending' AND person.id <> request.requested_by_id LIMIT 1
    """,
    "a line is added after submission": """
        INSERT INTO billing_invoiceline (invoice_id, currency, "position", kind, product_id, price_id, "group",
            description, unit, service_period, quantity, quantity_before, exact_amount, amount, steps, series_ids,
            event_count)
        SELECT invoice_id, currency, 99, 'fee', product_id, price_id, "group", description, unit, service_period,
            quantity, 0, exact_amount, amount, steps, series_ids, 0 FROM billing_invoiceline
    """,
    "a submitted contract is billed for the same month again": """
        INSERT INTO billing_invoice (legal_entity_id, customer_id, contract_id, bill_run_id, kind, status, currency,
            period, time_zone, net_amount, tax_name, tax_rate, tax_note, tax_amount, total_amount, usage_watermark,
            issue_problem, created_at)
        SELECT legal_entity_id, customer_id, contract_id, bill_run_id, kind, 'draft', currency, period, time_zone,
            net_amount, tax_name, tax_rate, tax_note, tax_amount, total_amount, usage_watermark, '', now()
        FROM billing_invoice
    """,
    "the price that was billed changes": 'UPDATE pricing_price SET spec = \'{"model": "flat", "amount": "1"}\'',
    "the meter counts something else": "UPDATE metering_meter SET aggregation = 'max'",
    "a version reads something else": "UPDATE metering_meterversion SET value_path = 'other'",
    "an event is forgotten": "DELETE FROM usage_event",
    "an identity is free again": "DELETE FROM usage_identity",
    "a customer is billed in another currency": "UPDATE accounts_customer SET currency = 'JPY'",
    "the months begin elsewhere": "UPDATE accounts_legalentity SET time_zone = 'Asia/Tokyo'",
}


@pytest.mark.parametrize("statement", REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_the_database_refuses_that(statement: str) -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "150", on=make.OCT_10)
    make.submitted_run(shop)

    with pytest.raises(DatabaseError) as refusal:
        _execute(statement)

    # Refused by a rule: not because a column is missing (42) or a value has the wrong form (22).
    assert isinstance(refusal.value.__cause__, psycopg.Error)
    assert str(refusal.value.__cause__.sqlstate)[:2] in {"23", "P0", "0A"}


@transaction.atomic
def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
