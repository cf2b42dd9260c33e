"""Hold currency and legal entity equal from customer to invoice to line, and from entry to line to account.

Django cannot declare foreign keys over several columns; each refers to a unique key made for it.
"""

from typing import ClassVar

from django.db import migrations

KEYS = (
    (
        "billing_invoice",
        "invoice_currency_is_that_of_its_customer",
        "(customer_id, currency) REFERENCES accounts_customer (id, currency)",
    ),
    (
        "billing_invoice",
        "invoice_legal_entity_is_that_of_its_customer",
        "(customer_id, legal_entity_id) REFERENCES accounts_customer (id, legal_entity_id)",
    ),
    (
        "billing_invoice",
        "invoice_legal_entity_is_that_of_its_run",
        "(bill_run_id, legal_entity_id) REFERENCES billing_billrun (id, legal_entity_id)",
    ),
    (
        "billing_invoice",
        "invoice_series_is_of_its_legal_entity",
        "(series_id, legal_entity_id) REFERENCES billing_invoiceseries (id, legal_entity_id)",
    ),
    (
        "billing_invoiceline",
        "invoice_line_currency_is_that_of_its_invoice",
        "(invoice_id, currency) REFERENCES billing_invoice (id, currency)",
    ),
    (
        "billing_journalline",
        "journal_line_legal_entity_is_that_of_its_entry",
        "(entry_id, legal_entity_id) REFERENCES billing_journalentry (id, legal_entity_id)",
    ),
    (
        "billing_journalline",
        "journal_line_currency_is_that_of_its_account",
        "(account_id, legal_entity_id, currency)"
        " REFERENCES billing_ledgeraccount (id, legal_entity_id, currency)",
    ),
    (
        "billing_journalline",
        "journal_line_customer_is_of_its_legal_entity",
        "(customer_id, legal_entity_id) REFERENCES accounts_customer (id, legal_entity_id)",
    ),
)


class Migration(migrations.Migration):
    dependencies: ClassVar = [("billing", "0001_initial")]

    operations: ClassVar = [
        migrations.RunSQL(
            sql=f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY {key}",
            reverse_sql=f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        )
        for table, name, key in KEYS
    ]
