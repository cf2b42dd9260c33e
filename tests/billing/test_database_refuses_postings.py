"""Each rule that Postgres keeps about numbers, the ledger and papers, broken on purpose behind the verbs' back."""
# ruff: noqa: S608 -- the statements are built from the constants of these tests

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from billing import documents, ledger
from billing.models import Invoice, InvoiceSeries, JournalEntry, JournalLine, LedgerAccount
from tests import make_accounts
from tests import make_billing as make
from tests.behind_the_back import execute, refused

pytestmark = pytest.mark.django_db

LINE = "entry_id, legal_entity_id, account_id, customer_id, side, amount, currency"


@pytest.fixture
def shop() -> make.Shop:
    shop = make.shop()
    make.use(shop, make.subscriber(shop, email="ap@acme.example"), "100", on=make.OCT_10)
    return shop


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
            f"INSERT INTO billing_journalline ({LINE})"
            f" SELECT {LINE} FROM billing_journalline WHERE side = 'credit' LIMIT 1"
        )


def post_invoice(invoice: Invoice, *, amount: str, legal_entity_id: int | None = None, currency: str = "EUR") -> None:
    """Post an invoice behind the ledger's back: balanced, of this amount, and settled."""
    entry = JournalEntry.objects.create(
        legal_entity_id=legal_entity_id or invoice.legal_entity_id,
        kind="invoice",
        posted_on="2026-11-03",
        posted_at=make.NOV_3,
        description="Forged",
        invoice=invoice,
    )
    ledger.open_accounts(legal_entity_id=entry.legal_entity_id, currency=currency)
    for code, side in (("receivable", "debit"), ("revenue", "credit")):
        JournalLine.objects.create(
            entry=entry,
            legal_entity=entry.legal_entity,
            account=LedgerAccount.objects.get(legal_entity=entry.legal_entity, code=code, currency=currency),
            customer_id=invoice.customer_id,
            side=side,
            amount=amount,
            currency=currency,
        )
    execute("SELECT 1")


def test_the_database_refuses_to_post_an_invoice_that_is_not_issued(shop: make.Shop) -> None:
    invoice = make.approved_run(shop).invoices.get()

    with refused("journal_entry_posts_its_invoice"):
        post_invoice(invoice, amount=str(invoice.total_amount))


@pytest.mark.parametrize("amount", ["59.49", "59.51"])
def test_the_database_refuses_to_post_another_amount_than_the_invoice_says(shop: make.Shop, amount: str) -> None:
    invoice = unposted(shop)

    with refused("journal_entry_posts_its_invoice"):
        post_invoice(invoice, amount=amount)
    post_invoice(invoice, amount="59.50")


def test_the_database_refuses_to_post_an_invoice_in_another_currency_or_legal_entity(shop: make.Shop) -> None:
    invoice = unposted(shop)

    with refused("journal_entry_posts_its_invoice|currency"):
        post_invoice(invoice, amount="59.50", currency="USD")
    with refused("journal_entry_posts_its_invoice|legal_entity"):
        post_invoice(invoice, amount="59.50", legal_entity_id=make_accounts.customer().legal_entity_id)


def unposted(shop: make.Shop) -> Invoice:
    """An issued invoice over 59.50 whose entry was lost, as only the owner of the database can lose it."""
    invoice = make.issued_run(shop).invoices.get()
    execute("SELECT 1")
    execute("SET LOCAL session_replication_role = replica")
    execute("DELETE FROM billing_journalline")
    execute("DELETE FROM billing_journalentry")
    execute("SET LOCAL session_replication_role = origin")
    return invoice


def test_the_database_refuses_balanced_lines_that_are_added_to_a_posted_invoice(shop: make.Shop) -> None:
    make.issued_run(shop)
    execute("SELECT 1")

    with refused("journal_entry_posts_its_invoice"):
        execute(f"INSERT INTO billing_journalline ({LINE}) SELECT {LINE} FROM billing_journalline")


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
            f"INSERT INTO billing_journalline ({LINE})"
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
            f"INSERT INTO billing_journalline ({LINE})"
            f" SELECT entry_id, {columns['legal_entity_id']}, account_id, {columns['customer_id']}, side, amount,"
            " currency"
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
