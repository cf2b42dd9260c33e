"""Bill runs: one billing of a legal entity's contracts for a month, its work items, and the usage it could not bill."""

from __future__ import annotations

from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import Q

from accounts.models import ApprovalRequest, Customer, LegalEntity, User
from pricing.models import Contract


class BillRun(models.Model):
    """One billing of a legal entity for a month: every billing period that starts in that month (local time).

    Its life is draft -> in review -> approved -> issued; a run that is not issued may be cancelled.
    """

    class Kind(models.TextChoices):
        REGULAR = "regular", "Regular"

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Approved"
        ISSUED = "issued", "Issued"
        CANCELLED = "cancelled", "Cancelled"

    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="bill_runs")
    month = models.DateField("first day of the month")
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.REGULAR)
    status = models.CharField(max_length=20, choices=Status, default=Status.DRAFT)
    approval = models.ForeignKey(ApprovalRequest, on_delete=models.PROTECT, null=True, related_name="+")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()
    approved_at = models.DateTimeField(null=True)
    issuing_started_at = models.DateTimeField(null=True)
    issued_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-month", "legal_entity", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=["legal_entity", "month", "kind"],
                condition=~Q(status="cancelled"),
                name="bill_run_is_unique_per_entity_and_month",
            ),
            models.CheckConstraint(condition=Q(month__day=1), name="bill_run_month_is_its_first_day"),
            models.CheckConstraint(condition=Q(kind__in=["regular"]), name="bill_run_kind_is_known"),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "in_review", "approved", "issued", "cancelled"]),
                name="bill_run_status_is_known",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["approved", "issued"]) | Q(approval__isnull=False),
                name="approved_bill_run_has_an_approval",
            ),
        )

    def __str__(self) -> str:
        return f"{self.legal_entity} {self.month:%Y-%m}"


class BillRunItem(models.Model):
    """One contract's share of a run: a unit of work whose state is the truth about that work."""

    class State(models.TextChoices):
        PENDING = "pending", "Waiting"
        DONE = "done", "Drafted"
        EMPTY = "empty", "Nothing to bill"
        PARKED = "parked", "Parked"

    run = models.ForeignKey(BillRun, on_delete=models.PROTECT, related_name="items")
    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="+")
    period = DateTimeRangeField("billing period")
    state = models.CharField(max_length=20, choices=State, default=State.PENDING)
    reason = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["run", "contract"], name="contract_is_billed_once_per_run"),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "done", "empty", "parked"]),
                name="bill_run_item_state_is_known",
            ),
            models.CheckConstraint(
                condition=~Q(state="parked") | ~Q(reason=""),
                name="parked_item_has_a_reason",
            ),
        )
        indexes = (
            models.Index(fields=["run", "id"], condition=Q(state="pending"), name="bill_run_item_pending"),
        )

    def __str__(self) -> str:
        return f"{self.run}: {self.contract}"


class UnbilledUsage(models.Model):
    """Usage of a period that no line of the run bills, with the reason."""

    class Reason(models.TextChoices):
        NO_PRODUCT = "no_product", "No product takes this usage"
        NO_PRICE = "no_price", "The product has no price in the price book"
        AMBIGUOUS = "ambiguous", "Several products take this usage"
        NO_CONTRACT = "no_contract", "The customer has no contract at that time"
        PARKED = "parked", "The customer was parked"

    run = models.ForeignKey(BillRun, on_delete=models.PROTECT, related_name="unbilled_usage")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    series_id = models.BigIntegerField()
    period = DateTimeRangeField()
    quantity = models.DecimalField()
    event_count = models.BigIntegerField()
    reason = models.CharField(max_length=20, choices=Reason)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["run", "series_id", "period"], name="unbilled_usage_is_listed_once"),
            models.CheckConstraint(
                condition=Q(reason__in=["no_product", "no_price", "ambiguous", "no_contract", "parked"]),
                name="unbilled_reason_is_known",
            ),
        )

    def __str__(self) -> str:
        return f"{self.customer}: {self.quantity} ({self.get_reason_display()})"
