"""Invoices and their lines, and the series that number them."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import F, Func, Q

from accounts.models import CURRENCY_CODE, Customer, LegalEntity, history
from accounts.triggers import refuse, refuse_truncate
from billing import triggers
from billing.models.runs import BillRun
from pricing.models import Contract, Price, Product

_INVOICE_STEPS = (
    ("draft", "in_review"),
    ("in_review", "draft"),
    ("in_review", "approved"),
    ("approved", "issued"),
    ("draft", "void"),
    ("in_review", "void"),
    ("approved", "void"),
)
_INVOICE_CONTENT = (
    "legal_entity_id",
    "customer_id",
    "contract_id",
    "bill_run_id",
    "kind",
    "currency",
    "period",
    "time_zone",
    "net_amount",
    "tax_name",
    "tax_rate",
    "tax_note",
    "tax_amount",
    "total_amount",
    "usage_watermark",
    "created_at",
)


def _rounded(exact: models.expressions.Combinable) -> Func:
    """The amount as the database rounds it: half away from zero, to the minor unit of the row's currency."""
    return Func(exact, Func(F("currency"), function="currency_exponent"), function="round")


class InvoiceSeries(models.Model):
    """A gapless run of invoice numbers of one legal entity and year.

    The counter row is updated in the transaction that issues, so a rollback gives the number back.
    """

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="invoice_series")
    prefix = models.CharField(max_length=20)
    year = models.PositiveSmallIntegerField()
    next_number = models.PositiveIntegerField(default=1)
    last_issued_on = models.DateField(null=True)

    history = history()

    class Meta:
        ordering = ("legal_entity", "-year")
        verbose_name_plural = "invoice series"
        constraints = (
            models.UniqueConstraint(fields=["legal_entity", "year"], name="legal_entity_has_one_series_per_year"),
            models.UniqueConstraint(fields=["prefix", "year"], name="invoice_series_prefix_is_unique_per_year"),
            models.UniqueConstraint(
                fields=["id", "legal_entity"],
                name="invoice_series_legal_entity_can_be_referenced",
            ),
            models.CheckConstraint(condition=Q(next_number__gte=1), name="invoice_series_starts_at_one"),
        )
        triggers = (
            # A counter that went back would give a number twice, and a date that did would break the order of numbers.
            refuse(
                "invoice_series_only_counts_up",
                "A series only counts up, and its dates never go back.",
                operation=pgtrigger.Update,
                condition="NEW.next_number < OLD.next_number OR OLD.last_issued_on > NEW.last_issued_on"
                " OR OLD.last_issued_on IS NOT NULL AND NEW.last_issued_on IS NULL",
            ),
            triggers.keeps(
                "invoice_series_keeps_its_name",
                ("id", "legal_entity_id", "prefix", "year"),
                "A series keeps its prefix and year.",
            ),
            refuse(
                "invoice_series_is_never_deleted",
                "A series is never deleted.",
                operation=pgtrigger.Delete,
            ),
            refuse_truncate("invoice_series_are_never_emptied"),
        )

    def __str__(self) -> str:
        return f"{self.prefix}-{self.year}"


class Invoice(models.Model):
    """What one customer owes for one billing period; frozen once issued.

    Amounts are exact to the currency's minor unit. `seller` and `buyer` are copied at issue, so that a document never
    follows a later change of address. Paid and overdue are derived, never stored.
    """

    class Kind(models.TextChoices):
        REGULAR = "regular", "Regular"

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Approved"
        ISSUED = "issued", "Issued"
        VOID = "void", "Void"

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="invoices")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="invoices")
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="invoices")
    bill_run = models.ForeignKey(BillRun, on_delete=models.PROTECT, related_name="invoices")
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.REGULAR)
    status = models.CharField(max_length=20, choices=Status, default=Status.DRAFT)
    currency = models.CharField(max_length=3, validators=[CURRENCY_CODE])
    period = DateTimeRangeField("billing period")
    time_zone = models.CharField(max_length=64)
    net_amount = models.DecimalField()
    tax_name = models.CharField(max_length=40)
    tax_rate = models.DecimalField(max_digits=7, decimal_places=4)
    tax_note = models.CharField(max_length=200, blank=True)
    tax_amount = models.DecimalField()
    total_amount = models.DecimalField()
    usage_watermark = models.TextField("database snapshot whose usage it bills", blank=True)
    issue_problem = models.TextField("why it could not be issued", blank=True)
    created_at = models.DateTimeField()

    series = models.ForeignKey(InvoiceSeries, on_delete=models.PROTECT, null=True, related_name="invoices")
    sequence = models.PositiveIntegerField(null=True)
    number = models.CharField(max_length=40, null=True)  # noqa: DJ001 - null until issued, unique after
    issued_at = models.DateTimeField(null=True)
    issued_on = models.DateField(null=True)
    due_on = models.DateField(null=True)
    seller = models.JSONField(null=True)
    buyer = models.JSONField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["contract", "period", "kind"],
                condition=~Q(status="void"),
                name="contract_period_is_billed_once",
            ),
            models.UniqueConstraint(fields=["series", "sequence"], name="invoice_sequence_is_unique_per_series"),
            models.UniqueConstraint(fields=["number"], name="invoice_number_is_unique"),
            models.UniqueConstraint(fields=["id", "currency"], name="invoice_currency_can_be_referenced"),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "in_review", "approved", "issued", "void"]),
                name="invoice_status_is_known",
            ),
            models.CheckConstraint(condition=Q(kind__in=["regular"]), name="invoice_kind_is_known"),
            models.CheckConstraint(
                condition=Q(total_amount=F("net_amount") + F("tax_amount")),
                name="invoice_total_is_net_plus_tax",
            ),
            models.CheckConstraint(
                condition=Q(net_amount=_rounded(F("net_amount")), tax_amount=_rounded(F("tax_amount"))),
                name="invoice_amounts_are_exact_to_the_minor_unit",
            ),
            models.CheckConstraint(
                condition=Q(tax_amount=_rounded(F("net_amount") * F("tax_rate") / 100)),
                name="invoice_tax_is_the_rate_on_the_net_amount",
            ),
            models.CheckConstraint(condition=Q(total_amount__gte=0), name="invoice_total_is_not_negative"),
            models.CheckConstraint(condition=Q(period__isempty=False), name="invoice_period_is_not_empty"),
            models.CheckConstraint(
                condition=(
                    Q(status="issued")
                    & Q(series__isnull=False)
                    & Q(sequence__isnull=False)
                    & Q(number__isnull=False)
                    & Q(issued_at__isnull=False)
                    & Q(issued_on__isnull=False)
                    & Q(due_on__isnull=False)
                    & Q(seller__isnull=False)
                    & Q(buyer__isnull=False)
                )
                | (~Q(status="issued") & Q(series__isnull=True) & Q(sequence__isnull=True) & Q(number__isnull=True)),
                name="only_issued_invoices_have_a_number",
            ),
        )
        indexes = (
            models.Index(fields=["customer", "-id"], name="invoice_by_customer"),
            models.Index(fields=["bill_run", "status", "id"], name="invoice_by_run"),
        )
        triggers = (
            triggers.begins_as("invoice_begins_as_draft", "draft", "An invoice begins as a draft."),
            refuse(
                "issued_invoice_never_changes",
                "An issued or void invoice never changes.",
                operation=pgtrigger.Update,
                condition="OLD.status IN ('issued', 'void')",
            ),
            triggers.follows_its_order(
                "invoice_status_follows_its_order",
                _INVOICE_STEPS,
                "An invoice does not go from this status to that one.",
            ),
            triggers.keeps(
                "submitted_invoice_keeps_its_content",
                _INVOICE_CONTENT,
                "A submitted invoice does not change.",
                when="OLD.status <> 'draft' OR NEW.status <> 'draft'",
            ),
            triggers.INVOICE_HEADER_MATCHES_ITS_LINES,
            triggers.INVOICE_IS_APPROVED_WITH_ITS_RUN,
            refuse(
                "only_draft_invoices_are_deleted",
                "Only a draft is deleted.",
                operation=pgtrigger.Delete,
                condition="OLD.status <> 'draft'",
            ),
            refuse_truncate("invoices_are_never_emptied"),
        )

    def __str__(self) -> str:
        return self.number or f"draft {self.pk}"


class InvoiceLine(models.Model):
    """One charge: what, when, how much, at which price, and how the amount came about.

    `exact_amount` is the rated amount before the one rounding to `amount`. `usage_digest` is over the hours that it
    bills, so that the line can be recomputed and compared.
    """

    class Kind(models.TextChoices):
        USAGE = "usage", "Usage"
        FEE = "fee", "Fee"
        LATE_USAGE = "late_usage", "Late usage of an earlier period"

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    currency = models.CharField(max_length=3)
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=20, choices=Kind)
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="+")
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="invoice_lines")
    group = models.CharField(max_length=120)
    description = models.CharField(max_length=254)
    unit = models.CharField(max_length=60)
    service_period = DateTimeRangeField()
    quantity = models.DecimalField()
    quantity_before = models.DecimalField(default=0)
    exact_amount = models.DecimalField()
    amount = models.DecimalField()
    steps = models.JSONField(default=list)
    series_ids = models.JSONField("usage series it bills", default=list)
    event_count = models.BigIntegerField(default=0)
    usage_digest = models.BinaryField(max_length=32, null=True)

    class Meta:
        ordering = ("invoice", "position")
        constraints = (
            models.UniqueConstraint(fields=["invoice", "position"], name="invoice_line_position_is_unique"),
            models.CheckConstraint(
                condition=Q(kind__in=["usage", "fee", "late_usage"]),
                name="invoice_line_kind_is_known",
            ),
            # What was voided after its bill comes off on a later one.
            models.CheckConstraint(
                condition=Q(event_count__gte=0) | Q(kind="late_usage"), name="only_late_usage_takes_events_back"
            ),
            models.CheckConstraint(
                condition=Q(kind="fee") | Q(usage_digest__isnull=False),
                name="usage_line_has_a_digest",
            ),
            models.CheckConstraint(
                condition=Q(amount=_rounded(F("exact_amount"))),
                name="invoice_line_amount_is_the_exact_amount_rounded_once",
            ),
            models.CheckConstraint(
                condition=Q(service_period__isempty=False),
                name="invoice_line_service_period_is_not_empty",
            ),
        )
        triggers = (
            triggers.only_while_draft(
                "invoice_lines_change_only_in_a_draft",
                parent_table="billing_invoice",
                parent_column="invoice_id",
                message="The lines of an invoice change only while it is a draft.",
            ),
            refuse_truncate("invoice_lines_are_never_emptied"),
        )

    def __str__(self) -> str:
        return f"{self.description}: {self.amount} {self.currency}"
