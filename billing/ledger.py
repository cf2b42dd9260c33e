"""The ledger: posts what happened as balanced journal entries, takes postings back, and tells balances.

Amounts are in the currency of the account, exact to its minor unit; a debit of receivables is what customers owe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Case, F, QuerySet, Sum, When

from accounts import audit
from accounts.access import Actor, Permission
from billing.errors import EntryReversed
from billing.models import JournalEntry, JournalLine, LedgerAccount

Code = LedgerAccount.Code

_KIND_OF_CODE = {
    Code.RECEIVABLE: LedgerAccount.Kind.ASSET,
    Code.REVENUE: LedgerAccount.Kind.REVENUE,
    Code.TAX_PAYABLE: LedgerAccount.Kind.LIABILITY,
}

_ENTRIES_OF_INVOICES = """
    INSERT INTO billing_journalentry (legal_entity_id, kind, posted_on, posted_at, description, invoice_id)
    SELECT invoice.legal_entity_id, 'invoice', invoice.issued_on, invoice.issued_at,
           'Invoice ' || invoice.number, invoice.id
    FROM billing_invoice invoice
    WHERE invoice.id = ANY(%s) AND invoice.status = 'issued' AND invoice.total_amount <> 0
    ORDER BY invoice.series_id, invoice.sequence
    ON CONFLICT (invoice_id) WHERE kind = 'invoice' DO NOTHING
    RETURNING id
"""

# Net and tax may be below zero each while the total is not; an amount is always above zero, so the side turns.
_LINES_OF_INVOICES = """
    INSERT INTO billing_journalline (entry_id, legal_entity_id, account_id, customer_id, side, amount, currency)
    SELECT entry.id, entry.legal_entity_id, account.id, invoice.customer_id,
           CASE WHEN part.debit > 0 THEN 'debit' ELSE 'credit' END, abs(part.debit), invoice.currency
    FROM billing_journalentry entry
    JOIN billing_invoice invoice ON invoice.id = entry.invoice_id
    CROSS JOIN LATERAL (VALUES
        (1, 'receivable', invoice.total_amount),
        (2, 'revenue', -invoice.net_amount),
        (3, 'tax_payable', -invoice.tax_amount)
    ) AS part (position, code, debit)
    JOIN billing_ledgeraccount account
      ON account.legal_entity_id = invoice.legal_entity_id
     AND account.currency = invoice.currency
     AND account.code = part.code
    WHERE entry.id = ANY(%s) AND part.debit <> 0
    ORDER BY entry.id, part.position
"""

_MIRRORED_LINES = """
    INSERT INTO billing_journalline (entry_id, legal_entity_id, account_id, customer_id, side, amount, currency)
    SELECT %s, legal_entity_id, account_id, customer_id,
           CASE side WHEN 'debit' THEN 'credit' ELSE 'debit' END, amount, currency
    FROM billing_journalline WHERE entry_id = %s ORDER BY id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """Debits less credits of one account."""

    code: str
    currency: str
    balance: Decimal


def open_accounts(*, legal_entity_id: int, currency: str) -> None:
    """Make sure that the legal entity has its accounts in a currency; doing it again changes nothing."""
    LedgerAccount.objects.bulk_create(
        [
            LedgerAccount(legal_entity_id=legal_entity_id, code=code, currency=currency, kind=kind)
            for code, kind in _KIND_OF_CODE.items()
        ],
        ignore_conflicts=True,
    )


def post_invoices(*, invoice_ids: Sequence[int]) -> int:
    """Post issued invoices and return the entries made: receivable debit total; revenue and tax payable credit.

    An invoice is posted once, however often this is asked for; one whose total is zero posts nothing. To be called in
    the transaction that issues them, by a verb that has checked the permission; the accounts must be open.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ENTRIES_OF_INVOICES, [list(invoice_ids)])
        entry_ids = [row[0] for row in cursor.fetchall()]
        cursor.execute(_LINES_OF_INVOICES, [entry_ids])
    return len(entry_ids)


@transaction.atomic
def reverse_entry(*, entry_id: int, reason: str, posted_on: date, actor: Actor, at: datetime) -> JournalEntry:
    """Take an entry back by one that mirrors it exactly; asking twice returns the first reversal.

    Raises: PermissionMissing, EntryReversed (where the entry is itself a reversal).
    """
    actor.require(Permission.ISSUE_INVOICES)
    entry = JournalEntry.objects.select_for_update(no_key=True).get(pk=entry_id)
    if entry.kind == JournalEntry.Kind.REVERSAL:
        raise EntryReversed
    earlier = JournalEntry.objects.filter(reversal_of=entry).first()
    if earlier is not None:
        return earlier
    reversal = JournalEntry.objects.create(
        legal_entity_id=entry.legal_entity_id,
        kind=JournalEntry.Kind.REVERSAL,
        posted_on=posted_on,
        posted_at=at,
        description=f"Reversal of {entry.description}",
        invoice_id=entry.invoice_id,
        reversal_of=entry,
    )
    with connection.cursor() as cursor:
        cursor.execute(_MIRRORED_LINES, [reversal.pk, entry.pk])
    audit.record(actor=actor, verb="journal_entry.reversed", subject=entry, at=at, reason=reason)
    return reversal


def balances(*, legal_entity_id: int) -> list[AccountBalance]:
    """Debits less credits of every account of a legal entity, by account and currency."""
    return _balances(JournalLine.objects.filter(legal_entity_id=legal_entity_id))


def receivable_of(*, customer_id: int, currency: str) -> Decimal:
    """What the customer owes by the ledger."""
    found = _balances(JournalLine.objects.filter(customer_id=customer_id, account__code=Code.RECEIVABLE))
    return next((each.balance for each in found if each.currency == currency), Decimal(0))


def _balances(lines: QuerySet[JournalLine]) -> list[AccountBalance]:
    debit_less_credit = Sum(Case(When(side="debit", then=F("amount")), default=-F("amount")))
    rows = (
        lines.values("account__code", "currency")
        .annotate(balance=debit_less_credit)
        .order_by("account__code", "currency")
    )
    return [AccountBalance(code=row["account__code"], currency=row["currency"], balance=row["balance"]) for row in rows]
