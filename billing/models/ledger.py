"""The ledger: accounts, journal entries and their lines; balanced and append-only."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Func, Q

from accounts.models import CURRENCY_CODE, Customer, LegalEntity
from accounts.triggers import append_only
from billing import triggers
from billing.models.invoices import Invoice


class LedgerAccount(models.Model):
    """An account of a legal entity's books in one currency."""

    class Kind(models.TextChoices):
        ASSET = "asset", "Asset"
        LIABILITY = "liability", "Liability"
        REVENUE = "revenue", "Revenue"

    class Code(models.TextChoices):
        RECEIVABLE = "receivable", "Accounts receivable"
        REVENUE = "revenue", "Revenue"
        TAX_PAYABLE = "tax_payable", "Tax payable"

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="ledger_accounts")
    code = models.CharField(max_length=30, choices=Code)
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    kind = models.CharField(max_length=20, choices=Kind)

    class Meta:
        ordering = ("legal_entity", "code", "currency")
        constraints = (
            models.UniqueConstraint(fields=["legal_entity", "code", "currency"], name="ledger_account_is_unique"),
            models.UniqueConstraint(
                fields=["id", "legal_entity", "currency"],
                name="ledger_account_currency_can_be_referenced",
            ),
            models.CheckConstraint(
                condition=Q(code__in=["receivable", "revenue", "tax_payable"]),
                name="ledger_account_code_is_known",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["asset", "liability", "revenue"]),
                name="ledger_account_kind_is_known",
            ),
        )
        triggers = append_only("ledger_account", "A ledger account never changes.")

    def __str__(self) -> str:
        return f"{self.get_code_display()} {self.currency}"


class JournalEntry(models.Model):
    """One posting: two lines or more, balanced per currency, never changed, reversed at most once."""

    class Kind(models.TextChoices):
        INVOICE = "invoice", "Invoice issued"
        REVERSAL = "reversal", "Reversal"

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="journal_entries")
    kind = models.CharField(max_length=20, choices=Kind)
    posted_on = models.DateField()
    posted_at = models.DateTimeField()
    description = models.CharField(max_length=254)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, null=True, related_name="journal_entries")
    reversal_of = models.OneToOneField("self", on_delete=models.PROTECT, null=True, related_name="reversal")

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "journal entries"
        constraints = (
            models.UniqueConstraint(fields=["id", "legal_entity"], name="journal_entry_entity_can_be_referenced"),
            models.UniqueConstraint(
                fields=["invoice"],
                condition=Q(kind="invoice"),
                name="invoice_is_posted_once",
            ),
            models.CheckConstraint(
                condition=Q(kind="invoice", invoice__isnull=False, reversal_of__isnull=True)
                | Q(kind="reversal", reversal_of__isnull=False),
                name="journal_entry_names_its_cause",
            ),
        )
        triggers = (
            *append_only("journal_entry", "A journal entry never changes; reverse it."),
            triggers.ENTRY_IS_BALANCED,
            triggers.REVERSAL_MIRRORS_ITS_ENTRY,
        )

    def __str__(self) -> str:
        return self.description


class JournalLine(models.Model):
    """A debit or a credit of one account; the amount is positive, in the account's currency."""

    class Side(models.TextChoices):
        DEBIT = "debit", "Debit"
        CREDIT = "credit", "Credit"

    entry = models.ForeignKey(JournalEntry, on_delete=models.PROTECT, related_name="lines")
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="+")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="lines")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, null=True, related_name="+")
    side = models.CharField(max_length=10, choices=Side)
    amount = models.DecimalField()
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])

    class Meta:
        ordering = ("entry", "id")
        constraints = (
            models.CheckConstraint(condition=Q(amount__gt=0), name="journal_line_amount_is_positive"),
            models.CheckConstraint(condition=Q(side__in=["debit", "credit"]), name="journal_line_side_is_known"),
            models.CheckConstraint(
                condition=Q(
                    amount=Func(F("amount"), Func(F("currency"), function="currency_exponent"), function="round"),
                ),
                name="journal_line_amount_is_exact_to_the_minor_unit",
            ),
        )
        triggers = (
            *append_only("journal_line", "A journal line never changes; reverse its entry."),
            triggers.LINES_ARE_BALANCED,
            triggers.ENTRY_POSTS_ITS_INVOICE,
        )
        indexes = (models.Index(fields=["customer", "account"], name="journal_line_by_customer"),)

    def __str__(self) -> str:
        return f"{self.side} {self.account} {self.amount}"
