"""The rules that Postgres itself keeps about runs, invoices, their documents and the ledger, as triggers.

Those that say no to a whole operation are declared by `accounts.triggers`; the others look at other rows first.
"""

from __future__ import annotations

import pgtrigger

from accounts.triggers import refusal, refuse


def begins_as(rule: str, status: str, message: str) -> pgtrigger.Trigger:
    """A new row has the first status of its life."""
    return refuse(rule, message, operation=pgtrigger.Insert, condition=f"NEW.status <> '{status}'")


def follows_its_order(rule: str, steps: tuple[tuple[str, str], ...], message: str) -> pgtrigger.Trigger:
    """A status only moves along the given steps."""
    allowed = ", ".join(f"('{old}', '{new}')" for old, new in steps)
    return refuse(
        rule,
        message,
        operation=pgtrigger.Update,
        condition=f"OLD.status <> NEW.status AND (OLD.status, NEW.status) NOT IN ({allowed})",
    )


def _changed(*columns: str) -> str:
    old = ", ".join(f"OLD.{column}" for column in columns)
    new = ", ".join(f"NEW.{column}" for column in columns)
    return f"({old}) IS DISTINCT FROM ({new})"


def keeps(rule: str, columns: tuple[str, ...], message: str, *, when: str = "true") -> pgtrigger.Trigger:
    """Columns that never change (while the condition on OLD and NEW holds)."""
    return refuse(rule, message, operation=pgtrigger.Update, condition=f"({when}) AND {_changed(*columns)}")


def only_while_draft(rule: str, *, parent_table: str, parent_column: str, message: str) -> pgtrigger.Trigger:
    """Rows that are written only while their parent is a draft.

    The parent is locked, for a row that is written while another session submits the parent would otherwise slip in
    behind the approval.
    """
    return pgtrigger.Trigger(
        name=rule,
        when=pgtrigger.Before,
        operation=pgtrigger.Insert | pgtrigger.Update | pgtrigger.Delete,
        declare=[("found", "record")],
        func=f"""
            FOR found IN
                SELECT status FROM {parent_table}
                WHERE id IN (
                    CASE WHEN TG_OP <> 'INSERT' THEN OLD.{parent_column} END,
                    CASE WHEN TG_OP <> 'DELETE' THEN NEW.{parent_column} END
                )
                ORDER BY id
                FOR SHARE
            LOOP
                IF found.status <> 'draft' THEN
                    {refusal(rule, message)}
                END IF;
            END LOOP;
            IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
            RETURN NEW;
        """,  # noqa: S608 -- built from constants
    )


# The request is closed in the same transaction just before, and only with all its approvals.
RUN_NAMES_ITS_OWN_APPROVAL = pgtrigger.Trigger(
    name="bill_run_names_its_own_approval",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status = 'in_review' AND NEW.status = 'approved')"),
    func=f"""
        IF NOT EXISTS (
            SELECT FROM accounts_approvalrequest request
            WHERE request.id = NEW.approval_id AND request.status = 'approved'
              AND request.kind = 'bill_run' AND request.subject_id = NEW.id
        ) THEN
            {refusal("bill_run_names_its_own_approval", "A run is approved by a request of its own.")}
        END IF;
        RETURN NEW;
    """,
)

ISSUED_RUN_HAS_NOTHING_LEFT = pgtrigger.Trigger(
    name="issued_bill_run_has_nothing_left",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status <> 'issued' AND NEW.status = 'issued')"),
    func=f"""
        IF EXISTS (
            SELECT FROM billing_invoice invoice
            WHERE invoice.bill_run_id = NEW.id AND invoice.status NOT IN ('issued', 'void')
        ) THEN
            {refusal("issued_bill_run_has_nothing_left", "The run still has invoices that are not issued.")}
        END IF;
        RETURN NEW;
    """,
)

INVOICE_IS_APPROVED_WITH_ITS_RUN = pgtrigger.Trigger(
    name="invoice_is_approved_with_its_run",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status <> 'approved' AND NEW.status = 'approved')"),
    func=f"""
        IF (SELECT status FROM billing_billrun WHERE id = NEW.bill_run_id) IS DISTINCT FROM 'approved' THEN
            {refusal("invoice_is_approved_with_its_run", "An invoice is approved with its run, not alone.")}
        END IF;
        RETURN NEW;
    """,  # noqa: S608 -- built from constants
)

# Lines can not change any more once the invoice has left the draft, so this one look is enough.
INVOICE_HEADER_MATCHES_ITS_LINES = pgtrigger.Trigger(
    name="invoice_header_matches_its_lines",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status = 'draft' AND NEW.status NOT IN ('draft', 'void'))"),
    func=f"""
        IF NEW.net_amount IS DISTINCT FROM (
            SELECT coalesce(sum(amount), 0) FROM billing_invoiceline WHERE invoice_id = NEW.id
        ) THEN
            {refusal("invoice_header_matches_its_lines", "The net amount is not the sum of the lines.")}
        END IF;
        RETURN NEW;
    """,  # noqa: S608 -- built from constants
)


def _deferred(name: str, func: str, *, condition: str | None = None) -> pgtrigger.Trigger:
    return pgtrigger.Trigger(
        name=name,
        when=pgtrigger.After,
        timing=pgtrigger.Deferred,
        operation=pgtrigger.Insert,
        condition=None if condition is None else pgtrigger.Condition(f"({condition})"),
        func=func,
    )


def _balance_check(rule: str, entry: str) -> str:
    return f"""
        IF (SELECT count(*) FROM billing_journalline WHERE entry_id = {entry}) < 2 OR EXISTS (
            SELECT FROM billing_journalline WHERE entry_id = {entry}
            GROUP BY currency
            HAVING sum(CASE side WHEN 'debit' THEN amount ELSE -amount END) <> 0
        ) THEN
            {refusal(rule, "A journal entry has two lines or more, and debits equal credits in each currency.")}
        END IF;
        RETURN NULL;
    """  # noqa: S608 -- built from constants


# On both tables, for a trigger on lines never fires for an entry that has none.
ENTRY_IS_BALANCED = _deferred("journal_entry_is_balanced", _balance_check("journal_entry_is_balanced", "NEW.id"))
LINES_ARE_BALANCED = _deferred(
    "journal_lines_are_balanced", _balance_check("journal_lines_are_balanced", "NEW.entry_id")
)

# Deferred, for issuing and posting are one act. Asked for debits only, of which an invoice has one: whatever balances,
# be it a whole entry or lines that are added to one that stands, has a debit.
ENTRY_POSTS_ITS_INVOICE = _deferred(
    "journal_entry_posts_its_invoice",
    f"""
        IF EXISTS (
            SELECT FROM billing_journalentry entry
            JOIN billing_invoice invoice ON invoice.id = entry.invoice_id
            WHERE entry.id = NEW.entry_id AND entry.kind = 'invoice' AND (
                invoice.status <> 'issued' OR invoice.legal_entity_id <> entry.legal_entity_id
                OR (
                    SELECT (sum(CASE line.side WHEN 'debit' THEN line.amount ELSE -line.amount END)
                            FILTER (WHERE account.code = 'receivable') = invoice.total_amount
                        AND bool_and(line.currency = invoice.currency AND line.customer_id = invoice.customer_id))
                    FROM billing_journalline line
                    JOIN billing_ledgeraccount account ON account.id = line.account_id
                    WHERE line.entry_id = entry.id
                ) IS NOT TRUE
            )
        ) THEN
            {refusal("journal_entry_posts_its_invoice", "Of an invoice is posted what it says, once it is issued.")}
        END IF;
        RETURN NULL;
    """,  # noqa: S608 -- built from constants
    condition="NEW.side = 'debit'",
)

REVERSAL_MIRRORS_ITS_ENTRY = _deferred(
    "reversal_mirrors_its_entry",
    f"""
        IF EXISTS (
            SELECT FROM (
                SELECT account_id, customer_id, currency, amount, side = 'debit' AS is_debit, 1 AS weight
                FROM billing_journalline WHERE entry_id = NEW.id
                UNION ALL
                SELECT account_id, customer_id, currency, amount, side = 'credit', -1
                FROM billing_journalline WHERE entry_id = NEW.reversal_of_id
            ) line
            GROUP BY account_id, customer_id, currency, amount, is_debit
            HAVING sum(weight) <> 0
        ) THEN
            {refusal("reversal_mirrors_its_entry", "A reversal takes back exactly the lines of its entry.")}
        END IF;
        RETURN NULL;
    """,  # noqa: S608 -- built from constants
    condition="NEW.reversal_of_id IS NOT NULL",
)
