"""Bill runs: one billing of a legal entity's contracts for a month, its work items, and the usage it could not bill."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import Q

from accounts.models import ApprovalRequest, Customer, LegalEntity, User
from accounts.triggers import refuse, refuse_truncate
from billing import triggers
from pricing.models import Contract

_RUN_STEPS = (
    ("draft", "in_review"),
    ("in_review", "draft"),
    ("in_review", "approved"),
    ("approved", "issued"),
    ("draft", "cancelled"),
    ("in_review", "cancelled"),
    ("approved", "cancelled"),
)


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
            # Two runs that draft at once could each bill the same late usage.
            models.UniqueConstraint(
                fields=["legal_entity"],
                condition=Q(status__in=["draft", "in_review"]),
                name="legal_entity_has_one_open_bill_run",
            ),
            models.UniqueConstraint(fields=["id", "legal_entity"], name="bill_run_legal_entity_can_be_referenced"),
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
            models.CheckConstraint(
                condition=~Q(status__in=["approved", "issued"]) | Q(approved_at__isnull=False),
                name="approved_bill_run_has_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(status="issued") | Q(issued_at__isnull=False, issuing_started_at__isnull=False),
                name="issued_bill_run_has_a_time",
            ),
        )
        triggers = (
            triggers.begins_as("bill_run_begins_as_draft", "draft", "A bill run begins as a draft."),
            triggers.follows_its_order(
                "bill_run_status_follows_its_order",
                _RUN_STEPS,
                "A bill run does not go from this status to that one.",
            ),
            triggers.keeps(
                "bill_run_keeps_what_it_bills",
                ("id", "legal_entity_id", "month", "kind", "created_at", "created_by_id"),
                "A bill run keeps its legal entity and month.",
            ),
            triggers.keeps(
                "approved_bill_run_keeps_its_approval",
                ("approval_id", "approved_at"),
                "An approved run keeps its approval.",
                when="OLD.status IN ('approved', 'issued', 'cancelled')",
            ),
            triggers.RUN_NAMES_ITS_OWN_APPROVAL,
            triggers.ISSUED_RUN_HAS_NOTHING_LEFT,
            refuse(
                "bill_run_is_never_deleted",
                "A bill run is cancelled, not deleted.",
                operation=pgtrigger.Delete,
            ),
            refuse_truncate("bill_runs_are_never_emptied"),
        )

    def __str__(self) -> str:
        return f"{self.legal_entity} {self.month:%Y-%m}"


class BillRunItem(models.Model):
    """One contract's share of a run: a unit of work whose state is the truth about that work.

    A drafted or empty item says that all usage of the contract in the snapshot `usage_watermark`, for its period and
    the periods before, was considered: billed, or listed as unbilled. A contract that has ended gets an item, too,
    where usage of an earlier period came late for it.
    """

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
    usage_watermark = models.TextField("database snapshot whose usage was considered", blank=True)
    contract_ends_on = models.DateField("end of the contract as it was considered", null=True)
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
            models.CheckConstraint(
                condition=Q(state="pending", finished_at__isnull=True)
                | (~Q(state="pending") & Q(finished_at__isnull=False)),
                name="bill_run_item_is_pending_or_finished_with_a_time",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "parked"]) | ~Q(usage_watermark=""),
                name="billed_item_has_a_watermark",
            ),
            models.CheckConstraint(condition=Q(period__isempty=False), name="bill_run_item_period_is_not_empty"),
        )
        triggers = (
            triggers.only_while_draft(
                "bill_run_items_change_only_in_a_draft",
                parent_table="billing_billrun",
                parent_column="run_id",
                message="The items of a run change only while it is a draft.",
            ),
            refuse_truncate("bill_run_items_are_never_emptied"),
        )
        indexes = (
            models.Index(fields=["run", "id"], condition=Q(state="pending"), name="bill_run_item_pending"),
            models.Index(fields=["contract", "run"], name="bill_run_item_by_contract"),
        )

    def __str__(self) -> str:
        return f"{self.run}: {self.contract}"


class UnbilledUsage(models.Model):
    """Usage of a period that no line of the run bills, with the reason.

    Like lines, the rows add up: over all runs that are not cancelled, what a period's rows hold is what no line bills.
    A later run that bills it after all, or finds it under contract, takes it off the list with a row below zero.
    """

    class Reason(models.TextChoices):
        NO_PRODUCT = "no_product", "No product takes this usage"
        NO_PRICE = "no_price", "The product has no price in the price book"
        AMBIGUOUS = "ambiguous", "Several products take this usage"
        NO_CONTRACT = "no_contract", "The customer has no contract at that time"
        PARKED = "parked", "The customer was parked"
        BILLED_NOW = "billed_now", "Listed by an earlier run, billed by this one"
        UNDER_CONTRACT = "under_contract", "Listed as without a contract, which there is by now"

    TAKEN_OFF = (Reason.BILLED_NOW, Reason.UNDER_CONTRACT)

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
                condition=Q(
                    reason__in=[
                        "no_product",
                        "no_price",
                        "ambiguous",
                        "no_contract",
                        "parked",
                        "billed_now",
                        "under_contract",
                    ]
                ),
                name="unbilled_reason_is_known",
            ),
            models.CheckConstraint(
                condition=Q(reason__in=["billed_now", "under_contract"]) | Q(event_count__gte=0),
                name="only_billed_usage_is_taken_off_the_unbilled_list",
            ),
        )
        triggers = (
            triggers.only_while_draft(
                "unbilled_usage_changes_only_in_a_draft",
                parent_table="billing_billrun",
                parent_column="run_id",
                message="What a run could not bill changes only while it is a draft.",
            ),
            refuse_truncate("unbilled_usage_is_never_emptied"),
        )
        indexes = (models.Index(fields=["customer", "series_id"], name="unbilled_usage_by_customer"),)

    def __str__(self) -> str:
        return f"{self.customer}: {self.quantity} ({self.get_reason_display()})"
