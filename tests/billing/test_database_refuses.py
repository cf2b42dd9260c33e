"""Each rule that Postgres keeps about runs and invoices, broken on purpose behind the verbs' back."""
# ruff: noqa: S608 -- the statements are built from the constants of these tests

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from billing.models import Invoice, InvoiceLine
from tests import make_accounts
from tests import make_billing as make
from tests.behind_the_back import execute, refused

pytestmark = pytest.mark.django_db

ADD_A_LINE = """
    INSERT INTO billing_invoiceline (invoice_id, currency, "position", kind, product_id, price_id, "group", description,
        unit, service_period, quantity, quantity_before, exact_amount, amount, steps, series_ids, event_count)
    SELECT invoice_id, currency, 2, 'fee', product_id, price_id, "group", description, unit, service_period, 1, 0, 1, 1,
        '[]', '[]', 0
    FROM billing_invoiceline
"""


@pytest.fixture
def shop() -> make.Shop:
    shop = make.shop()
    make.use(shop, make.subscriber(shop, email="ap@acme.example"), "100", on=make.OCT_10)
    return shop


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("billing_billrun", "bill_runs_are_never_emptied"),
        ("billing_billrunitem", "bill_run_items_are_never_emptied"),
        ("billing_unbilledusage", "unbilled_usage_is_never_emptied"),
        ("billing_invoice", "invoices_are_never_emptied"),
        ("billing_invoiceline", "invoice_lines_are_never_emptied"),
        ("billing_invoiceseries", "invoice_series_are_never_emptied"),
        ("billing_invoicedocument", "documents_are_never_emptied"),
        ("billing_invoicedelivery", "deliveries_are_never_emptied"),
        ("billing_ledgeraccount", "ledger_account_is_never_emptied"),
        ("billing_journalentry", "journal_entry_is_never_emptied"),
        ("billing_journalline", "journal_line_is_never_emptied"),
    ],
)
def test_the_database_refuses_to_empty_a_table(table: str, what: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        execute(f"TRUNCATE {table} CASCADE")

    with connection.cursor() as cursor:
        cursor.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass", [table])
        assert any(what in name for (name,) in cursor.fetchall())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("status = 'approved'", "bill_run_status_follows_its_order"),
        ("status = 'issued'", "bill_run_status_follows_its_order"),
        ("status = 'lost'", "bill_run_status_follows_its_order|bill_run_status_is_known"),
        ("month = '2026-09-01'", "bill_run_keeps_what_it_bills"),
    ],
)
def test_the_database_refuses_to_change_a_draft_run(shop: make.Shop, change: str, rule: str) -> None:
    run = make.drafted_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_billrun SET {change} WHERE id = %s", run.pk)


def test_the_database_refuses_a_run_that_begins_approved(shop: make.Shop) -> None:
    with refused("bill_run_begins_as_draft"):
        execute(
            "INSERT INTO billing_billrun (legal_entity_id, month, kind, status, created_at)"
            " VALUES (%s, '2026-10-01', 'regular', 'approved', now())",
            shop.entity.pk,
        )


@pytest.mark.parametrize(
    ("month", "rule"),
    [
        ("2026-10-01", "bill_run_is_unique_per_entity_and_month"),
        ("2026-11-01", "legal_entity_has_one_open_bill_run"),
        ("2026-11-02", "bill_run_month_is_its_first_day"),
    ],
)
def test_the_database_refuses_a_second_run(shop: make.Shop, month: str, rule: str) -> None:
    make.drafted_run(shop)

    with refused(rule):
        execute(
            "INSERT INTO billing_billrun (legal_entity_id, month, kind, status, created_at)"
            " VALUES (%s, %s, 'regular', 'draft', now())",
            shop.entity.pk,
            month,
        )


def test_the_database_refuses_to_approve_a_run_by_another_request(shop: make.Shop) -> None:
    run = make.submitted_run(shop)

    with refused("bill_run_names_its_own_approval"):
        execute(
            "UPDATE billing_billrun SET status = 'approved', approved_at = now(), approval_id ="
            " (SELECT min(id) FROM accounts_approvalrequest WHERE kind <> 'bill_run') WHERE id = %s",
            run.pk,
        )


def test_the_database_refuses_to_exchange_the_approval_of_an_approved_run(shop: make.Shop) -> None:
    run = make.approved_run(shop)

    with refused("approved_bill_run_keeps_its_approval"):
        execute("UPDATE billing_billrun SET approval_id = NULL WHERE id = %s", run.pk)


def test_the_database_refuses_to_call_a_run_issued_while_invoices_are_left(shop: make.Shop) -> None:
    run = make.approved_run(shop)

    with refused("issued_bill_run_has_nothing_left"):
        execute(
            "UPDATE billing_billrun SET status = 'issued', issued_at = now(), issuing_started_at = now() WHERE id = %s",
            run.pk,
        )


def test_the_database_refuses_to_delete_a_run(shop: make.Shop) -> None:
    run = make.drafted_run(shop)

    with refused("bill_run_is_never_deleted"):
        execute("DELETE FROM billing_billrun WHERE id = %s", run.pk)


def test_the_database_refuses_to_change_the_items_of_a_submitted_run(shop: make.Shop) -> None:
    run = make.submitted_run(shop)

    with refused("bill_run_items_change_only_in_a_draft"):
        execute("UPDATE billing_billrunitem SET reason = 'x' WHERE run_id = %s", run.pk)
    with refused("bill_run_items_change_only_in_a_draft"):
        execute("DELETE FROM billing_billrunitem WHERE run_id = %s", run.pk)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("state = 'parked', reason = ''", "parked_item_has_a_reason"),
        ("state = 'lost'", "bill_run_item_state_is_known"),
        ("state = 'pending'", "bill_run_item_is_pending_or_finished_with_a_time"),
        ("usage_watermark = ''", "billed_item_has_a_watermark"),
        ("period = 'empty'", "bill_run_item_period_is_not_empty"),
    ],
)
def test_the_database_refuses_an_item_that_contradicts_itself(shop: make.Shop, change: str, rule: str) -> None:
    run = make.drafted_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_billrunitem SET {change} WHERE run_id = %s", run.pk)


def test_the_database_refuses_a_contract_twice_in_a_run(shop: make.Shop) -> None:
    run = make.drafted_run(shop)

    with refused("contract_is_billed_once_per_run"):
        execute(
            "INSERT INTO billing_billrunitem (run_id, contract_id, period, state, reason, usage_watermark)"
            " SELECT run_id, contract_id, period, 'pending', '', '' FROM billing_billrunitem WHERE run_id = %s",
            run.pk,
        )


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("1, -1, 'no_price'", "only_billed_usage_is_taken_off_the_unbilled_list"),
        ("1, 1, 'lost'", "unbilled_reason_is_known"),
    ],
)
def test_the_database_refuses_unbilled_usage_that_contradicts_itself(shop: make.Shop, values: str, rule: str) -> None:
    run = make.drafted_run(shop)

    with refused(rule):
        execute(
            "INSERT INTO billing_unbilledusage (run_id, customer_id, series_id, period, quantity, event_count, reason)"
            f" SELECT bill_run_id, customer_id, 1, period, {values} FROM billing_invoice WHERE bill_run_id = %s",
            run.pk,
        )


def test_the_database_refuses_to_list_unbilled_usage_twice_or_in_a_submitted_run(shop: make.Shop) -> None:
    run = make.drafted_run(shop)
    listing = (
        "INSERT INTO billing_unbilledusage (run_id, customer_id, series_id, period, quantity, event_count, reason)"
        " SELECT bill_run_id, customer_id, 1, period, 1, 1, 'no_price' FROM billing_invoice WHERE bill_run_id = %s"
    )
    execute(listing, run.pk)

    with refused("unbilled_usage_is_listed_once"):
        execute(listing, run.pk)
    make.submitted_run(shop)
    with refused("unbilled_usage_changes_only_in_a_draft"):
        execute("DELETE FROM billing_unbilledusage WHERE run_id = %s", run.pk)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("net_amount = 50.005, total_amount = 59.505", "invoice_amounts_are_exact_to_the_minor_unit"),
        ("tax_amount = 9.51, total_amount = 59.51", "invoice_tax_is_the_rate_on_the_net_amount"),
        ("total_amount = 59.51", "invoice_total_is_net_plus_tax"),
        ("net_amount = -50, tax_amount = -9.50, total_amount = -59.50", "invoice_total_is_not_negative"),
        ("number = 'X-1'", "only_issued_invoices_have_a_number"),
        ("kind = 'lost'", "invoice_kind_is_known"),
        ("status = 'lost'", "invoice_status_follows_its_order|invoice_status_is_known"),
        ("status = 'approved'", "invoice_status_follows_its_order|invoice_is_approved_with_its_run"),
        ("status = 'issued'", "invoice_status_follows_its_order|only_issued_invoices_have_a_number"),
        ("period = 'empty'", "invoice_period_is_not_empty"),
        ("currency = 'USD'", "invoice_currency_is_that_of_its_customer|invoice_line_currency_is_that_of_its_invoice"),
    ],
)
def test_the_database_refuses_a_draft_invoice_that_contradicts_itself(shop: make.Shop, change: str, rule: str) -> None:
    make.drafted_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_invoice SET {change}")


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ("legal_entity_id", "invoice_legal_entity_is_that_of_its"),
        ("customer_id", "invoice_(currency|legal_entity)_is_that_of_its_customer"),
    ],
)
def test_the_database_refuses_an_invoice_across_legal_entities(shop: make.Shop, column: str, rule: str) -> None:
    make.drafted_run(shop)
    stranger = make_accounts.customer(name="Stranger Ltd")
    key = stranger.pk if column == "customer_id" else stranger.legal_entity_id

    with refused(rule):
        execute(f"UPDATE billing_invoice SET {column} = %s", key)


def test_the_database_refuses_to_bill_a_contract_and_period_twice(shop: make.Shop) -> None:
    make.drafted_run(shop)
    invoice = Invoice.objects.get()
    invoice.pk = None

    with refused("contract_period_is_billed_once"):
        invoice.save(force_insert=True)


def test_the_database_refuses_an_invoice_that_begins_submitted(shop: make.Shop) -> None:
    make.drafted_run(shop)
    invoice = Invoice.objects.get()
    invoice.pk, invoice.status = None, Invoice.Status.IN_REVIEW

    with refused("invoice_begins_as_draft"):
        invoice.save(force_insert=True)


def test_the_database_refuses_to_submit_an_invoice_whose_lines_do_not_add_up(shop: make.Shop) -> None:
    make.drafted_run(shop)
    execute("UPDATE billing_invoice SET net_amount = 100, tax_amount = 19, total_amount = 119")

    with refused("invoice_header_matches_its_lines"):
        execute("UPDATE billing_invoice SET status = 'in_review'")


def test_the_database_refuses_to_change_a_submitted_invoice(shop: make.Shop) -> None:
    make.submitted_run(shop)

    with refused("submitted_invoice_keeps_its_content"):
        execute("UPDATE billing_invoice SET net_amount = 100, tax_amount = 19, total_amount = 119")
    with refused("only_draft_invoices_are_deleted|violates foreign key"):
        execute("DELETE FROM billing_invoice")


def test_the_database_refuses_to_approve_an_invoice_without_its_run(shop: make.Shop) -> None:
    make.submitted_run(shop)

    with refused("invoice_is_approved_with_its_run"):
        execute("UPDATE billing_invoice SET status = 'approved'")


@pytest.mark.parametrize(
    "change", ["net_amount = 1", "buyer = '{}'", "number = 'X-1'", "status = 'void'", "due_on = '2027-01-01'"]
)
def test_the_database_refuses_to_change_an_issued_invoice(shop: make.Shop, change: str) -> None:
    make.issued_run(shop)

    with refused("issued_invoice_never_changes|invoice_status_follows_its_order"):
        execute(f"UPDATE billing_invoice SET {change}")


def test_the_database_refuses_to_delete_an_issued_invoice(shop: make.Shop) -> None:
    make.issued_run(shop)

    with refused("only_draft_invoices_are_deleted"):
        execute("DELETE FROM billing_invoice")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("amount = 49.99", "invoice_line_amount_is_the_exact_amount_rounded_once"),
        ("kind = 'lost'", "invoice_line_kind_is_known"),
        ("usage_digest = NULL", "usage_line_has_a_digest"),
        ("service_period = 'empty'", "invoice_line_service_period_is_not_empty"),
        ("currency = 'USD'", "invoice_line_currency_is_that_of_its_invoice"),
    ],
)
def test_the_database_refuses_a_line_that_contradicts_itself(shop: make.Shop, change: str, rule: str) -> None:
    make.drafted_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_invoiceline SET {change}")


@pytest.mark.parametrize("stage", [make.submitted_run, make.approved_run, make.issued_run])
@pytest.mark.parametrize(
    "write",
    [
        "UPDATE billing_invoiceline SET quantity = 1",
        "DELETE FROM billing_invoiceline",
        ADD_A_LINE,
    ],
    ids=["change", "delete", "add"],
)
def test_the_database_refuses_to_write_lines_after_the_draft(shop: make.Shop, stage: object, write: str) -> None:
    stage(shop)  # type: ignore[operator]

    with refused("invoice_lines_change_only_in_a_draft"):
        execute(write)


def test_the_database_refuses_two_lines_in_one_place(shop: make.Shop) -> None:
    make.drafted_run(shop)
    line = InvoiceLine.objects.get()
    line.pk = None

    with refused("invoice_line_position_is_unique"):
        line.save(force_insert=True)
