"""Each rule that Postgres keeps about runs, invoices, papers and the ledger, broken on purpose behind the verbs' back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, connection, transaction

from billing import documents
from billing.models import Invoice, InvoiceLine, InvoiceSeries, JournalEntry, JournalLine, LedgerAccount
from tests import make_accounts
from tests import make_billing as make

pytestmark = pytest.mark.django_db


@contextmanager
def refused(rule: str) -> Iterator[None]:
    with pytest.raises(IntegrityError, match=rule) as caught, transaction.atomic():
        yield
    assert caught.value.__cause__ is not None


def execute(sql: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, list(parameters))
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")


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
        ("billing_ledgeraccount", "ledger_account_never_changes_nor_is_emptied"),
        ("billing_journalentry", "journal_entry_never_changes_nor_is_emptied"),
        ("billing_journalline", "journal_line_never_changes_nor_is_emptied"),
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
        'INSERT INTO billing_invoiceline (invoice_id, currency, "position", kind, product_id, price_id, "group",'
        " description, unit, service_period, quantity, quantity_before, exact_amount, amount, steps, series_ids,"
        ' event_count) SELECT invoice_id, currency, 2, \'fee\', product_id, price_id, "group", description, unit,'
        " service_period, 1, 0, 1, 1, '[]', '[]', 0 FROM billing_invoiceline",
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


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("next_number = 1", "invoice_series_only_counts_up"),
        ("last_issued_on = '2026-11-01'", "invoice_series_only_counts_up"),
        ("last_issued_on = NULL", "invoice_series_only_counts_up"),
        ("prefix = 'OTHER'", "invoice_series_keeps_its_name"),
        ("year = 2027", "invoice_series_keeps_its_name"),
    ],
)
def test_the_database_refuses_to_set_a_series_back(shop: make.Shop, change: str, rule: str) -> None:
    make.issued_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_invoiceseries SET {change}")


def test_the_database_refuses_a_second_series_of_a_year_and_to_delete_one(shop: make.Shop) -> None:
    make.issued_run(shop)

    with refused("legal_entity_has_one_series_per_year"):
        InvoiceSeries.objects.create(legal_entity=shop.entity, prefix="SECOND", year=2026)
    with refused("invoice_series_is_never_deleted"):
        execute("DELETE FROM billing_invoiceseries")


def test_the_database_refuses_a_number_twice(shop: make.Shop) -> None:
    make.use(shop, make.subscriber(shop), "1", on=make.OCT_10)
    run = make.approved_run(shop)
    first, second = run.invoices.order_by("pk")
    make.issue(shop, run)

    taken = Invoice.objects.get(pk=first.pk).number
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(IntegrityError, match="invoice_number_is_unique"), transaction.atomic():
        Invoice.objects.filter(pk=second.pk).update(number=taken)
    with pytest.raises(IntegrityError, match="invoice_sequence_is_unique_per_series"), transaction.atomic():
        Invoice.objects.filter(pk=second.pk).update(sequence=1)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE billing_journalentry SET description = 'x'",
        "DELETE FROM billing_journalentry",
        "UPDATE billing_journalline SET amount = 1",
        "DELETE FROM billing_journalline",
        "UPDATE billing_ledgeraccount SET currency = 'USD'",
        "DELETE FROM billing_ledgeraccount",
    ],
)
def test_the_database_refuses_to_change_the_ledger(shop: make.Shop, write: str) -> None:
    make.issued_run(shop)

    with refused("never_changes"):
        execute(write)


def new_entry(shop: make.Shop, *lines: tuple[str, str, str]) -> int:
    """Post an entry of these lines (account, side, amount) behind the ledger's back, without settling it yet."""
    original = JournalEntry.objects.get(kind="invoice")
    entry = JournalEntry.objects.create(
        legal_entity=shop.entity,
        kind="reversal",
        posted_on="2026-11-03",
        posted_at=make.NOV_3,
        description="Forged",
        reversal_of=original,
    )
    for code, side, amount in lines:
        account = LedgerAccount.objects.get(legal_entity=shop.entity, code=code)
        JournalLine.objects.create(
            entry=entry,
            legal_entity=shop.entity,
            account=account,
            customer=original.lines.all()[0].customer,
            side=side,
            amount=amount,
            currency="EUR",
        )
    return entry.pk


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        ([], "journal_entry_is_balanced"),
        ([("receivable", "credit", "59.50")], "journal_entry_is_balanced"),
        ([("receivable", "credit", "59.50"), ("revenue", "debit", "59.49")], "journal_entry_is_balanced"),
        ([("receivable", "credit", "59.50"), ("revenue", "debit", "59.50")], "reversal_mirrors_its_entry"),
    ],
    ids=["no line", "one line", "a cent off", "not the mirror"],
)
def test_the_database_refuses_an_entry_that_does_not_balance(
    shop: make.Shop, lines: list[tuple[str, str, str]], rule: str
) -> None:
    make.issued_run(shop)

    with refused(rule):
        new_entry(shop, *lines)
        execute("SELECT 1")


def test_the_database_refuses_a_line_that_unbalances_an_old_entry(shop: make.Shop) -> None:
    make.issued_run(shop)
    execute("SELECT 1")

    with refused("journal_lines_are_balanced"):
        execute(
            "INSERT INTO billing_journalline (entry_id, legal_entity_id, account_id, customer_id, side, amount, currency)"
            " SELECT entry_id, legal_entity_id, account_id, customer_id, side, amount, currency FROM billing_journalline"
            " WHERE side = 'debit'"
        )


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ("'debit', 0, 'EUR'", "journal_line_amount_is_positive"),
        ("'debit', -1, 'EUR'", "journal_line_amount_is_positive"),
        ("'debit', 0.001, 'EUR'", "journal_line_amount_is_exact_to_the_minor_unit"),
        ("'left', 1, 'EUR'", "journal_line_side_is_known"),
        ("'debit', 1, 'USD'", "journal_line_currency_is_that_of_its_account"),
    ],
)
def test_the_database_refuses_a_journal_line_that_contradicts_itself(shop: make.Shop, values: str, rule: str) -> None:
    make.issued_run(shop)

    with refused(rule):
        execute(
            "INSERT INTO billing_journalline (entry_id, legal_entity_id, account_id, customer_id, side, amount, currency)"
            f" SELECT entry_id, legal_entity_id, account_id, customer_id, {values} FROM billing_journalline"
            " WHERE side = 'debit'"
        )


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ("legal_entity_id", "journal_line_(legal_entity_is_that_of_its_entry|currency_is_that_of_its_account)"),
        ("customer_id", "journal_line_customer_is_of_its_legal_entity"),
    ],
)
def test_the_database_refuses_a_journal_line_across_legal_entities(shop: make.Shop, column: str, rule: str) -> None:
    make.issued_run(shop)
    stranger = make_accounts.customer(name="Stranger Ltd")
    columns = {"legal_entity_id": "legal_entity_id", "customer_id": "customer_id"}
    columns[column] = str(stranger.pk if column == "customer_id" else stranger.legal_entity_id)

    with refused(rule):
        execute(
            "INSERT INTO billing_journalline (entry_id, legal_entity_id, account_id, customer_id, side, amount, currency)"
            f" SELECT entry_id, {columns['legal_entity_id']}, account_id, {columns['customer_id']}, side, amount, currency"
            " FROM billing_journalline WHERE side = 'debit'"
        )


def test_the_database_refuses_to_post_an_invoice_twice_or_an_entry_without_a_cause(shop: make.Shop) -> None:
    make.issued_run(shop)
    entry = JournalEntry.objects.get()
    entry.pk = None

    with refused("invoice_is_posted_once"):
        entry.save(force_insert=True)
    entry.invoice = None
    with refused("journal_entry_names_its_cause"):
        entry.save(force_insert=True)


def test_the_database_refuses_an_unknown_ledger_account(shop: make.Shop) -> None:
    make.issued_run(shop)

    with refused("ledger_account_code_is_known"):
        LedgerAccount.objects.create(legal_entity=shop.entity, code="pocket", currency="EUR", kind="asset")
    with refused("ledger_account_kind_is_known"):
        LedgerAccount.objects.create(legal_entity=shop.entity, code="revenue", currency="USD", kind="pocket")
    with refused("ledger_account_is_unique"):
        LedgerAccount.objects.create(legal_entity=shop.entity, code="revenue", currency="EUR", kind="revenue")


def test_the_database_refuses_to_make_a_document_differently(shop: make.Shop) -> None:
    make.issued_run(shop)
    documents.make_due_documents(limit=1, at=make.NOV_2)

    with refused("made_document_never_changes"):
        execute("UPDATE billing_invoicedocument SET content = 'x', sha256 = sha256('x')")
    with refused("document_is_never_deleted"):
        execute("DELETE FROM billing_invoicedocument")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("state = 'made'", "document_is_pending_or_made_with_its_hash"),
        (
            "state = 'made', made_at = now(), content = 'x', sha256 = sha256('y')",
            "document_hash_is_that_of_its_content",
        ),
    ],
)
def test_the_database_refuses_a_document_that_contradicts_itself(shop: make.Shop, change: str, rule: str) -> None:
    make.issued_run(shop)

    with refused(rule):
        execute(f"UPDATE billing_invoicedocument SET {change}")


def test_the_database_refuses_to_rewrite_the_mail_log(shop: make.Shop) -> None:
    make.issued_run(shop)

    with refused("failed_delivery_says_why"):
        execute("UPDATE billing_invoicedelivery SET state = 'failed'")
    with refused("delivery_is_sent_with_a_time"):
        execute("UPDATE billing_invoicedelivery SET state = 'sent'")
    execute("UPDATE billing_invoicedelivery SET state = 'sent', sent_at = now()")
    with refused("finished_delivery_never_changes"):
        execute("UPDATE billing_invoicedelivery SET state = 'waiting', sent_at = NULL")
    with refused("delivery_is_never_deleted"):
        execute("DELETE FROM billing_invoicedelivery")
