"""Approval policies, requests and decisions."""

from __future__ import annotations

import pgtrigger
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q

from accounts.access import Permission
from accounts.models.columns import history, is_sha256
from accounts.models.staff import User
from accounts.triggers import append_only, refusal, refuse, refuse_truncate


class ApprovalPolicy(models.Model):
    """Who may approve a kind of request, how many must, and from which amount on the rule holds."""

    MOST_APPROVALS = 5

    kind = models.CharField(max_length=60)
    from_amount = models.DecimalField(max_digits=20, decimal_places=4, default=0)
    permission = models.CharField(max_length=60, choices=[(p.value, p.label) for p in Permission])
    approvals_required = models.PositiveSmallIntegerField(default=1)

    history = history()

    class Meta:
        ordering = ("kind", "from_amount")
        verbose_name_plural = "approval policies"
        constraints = (
            models.UniqueConstraint(fields=["kind", "from_amount"], name="approval_policy_is_unique_per_amount"),
            models.CheckConstraint(
                condition=Q(approvals_required__gte=1) & Q(approvals_required__lte=5),
                name="approval_policy_needs_one_to_five_approvals",
            ),
            models.CheckConstraint(condition=Q(from_amount__gte=0), name="approval_policy_amount_is_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.kind} from {self.from_amount}: {self.approvals_required} × {self.permission}"


_ENOUGH_APPROVALS = f"""
    IF (SELECT count(*) FROM accounts_approvaldecision WHERE request_id = NEW.id AND outcome = 'approve')
        < NEW.approvals_required
        OR EXISTS (SELECT 1 FROM accounts_approvaldecision WHERE request_id = NEW.id AND outcome = 'reject')
    THEN
        {refusal("approval_request_has_its_approvals", "An approval request is approved only with all its approvals.")}
    END IF;
    RETURN NEW;
"""  # noqa: S608 -- built from constants
# Locks the request, so that a decision cannot slip in beside the transaction that closes it.
_REQUEST_IS_PENDING = f"""
    IF (SELECT status FROM accounts_approvalrequest WHERE id = NEW.request_id FOR NO KEY UPDATE) <> 'pending'
    THEN
        {refusal("approval_decision_needs_a_pending_request", "Only a pending approval request takes decisions.")}
    END IF;
    RETURN NEW;
"""  # noqa: S608 -- built from constants


class ApprovalRequest(models.Model):
    """A request to do one thing, the exact content it covers and the policy it fell under."""

    class Status(models.TextChoices):
        PENDING = "pending", "Waiting"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        WITHDRAWN = "withdrawn", "Withdrawn"
        VOIDED = "voided", "Voided: the subject changed"

    kind = models.CharField(max_length=60)
    subject_id = models.BigIntegerField()
    title = models.CharField(max_length=254)
    summary = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    content_hash = models.BinaryField(max_length=32)
    amount = models.DecimalField(null=True, blank=True)
    currency = models.CharField(max_length=3, blank=True)
    permission = models.CharField(max_length=60)
    approvals_required = models.PositiveSmallIntegerField()
    reason = models.TextField(blank=True)
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="approval_requests")
    requested_at = models.DateTimeField()
    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "subject_id"],
                condition=Q(status="pending"),
                name="approval_request_is_pending_once_per_subject",
            ),
            models.UniqueConstraint(fields=["id", "requested_by"], name="approval_requester_can_be_referenced"),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "approved", "rejected", "withdrawn", "voided"]),
                name="approval_request_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status="pending", closed_at__isnull=True)
                | (~Q(status="pending") & Q(closed_at__isnull=False)),
                name="approval_request_is_closed_with_a_time",
            ),
            models.CheckConstraint(
                condition=Q(approvals_required__gte=1),
                name="approval_request_needs_an_approval",
            ),
            models.CheckConstraint(condition=is_sha256("content_hash"), name="approval_request_content_is_hashed"),
            models.CheckConstraint(
                condition=Q(amount__isnull=True) | Q(currency__regex=r"^[A-Z]{3}$"),
                name="approval_request_amount_has_a_currency",
            ),
        )
        indexes = (models.Index(fields=["kind", "subject_id"], name="approval_by_subject"),)
        triggers = (
            refuse(
                "approval_request_begins_pending",
                operation=pgtrigger.Insert,
                condition=~pgtrigger.Q(new__status="pending"),
                sentence="An approval request begins as pending.",
            ),
            refuse(
                "approval_request_once_closed_never_changes",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__status="pending"),
                sentence="A closed approval request never changes.",
            ),
            refuse(
                "approval_request_only_closes",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(exclude=["status", "closed_at"]),
                sentence="What an approval request covers never changes.",
            ),
            pgtrigger.Trigger(
                name="approval_request_has_its_approvals",
                operation=pgtrigger.Update,
                when=pgtrigger.Before,
                condition=pgtrigger.Q(new__status="approved"),
                func=_ENOUGH_APPROVALS,
            ),
            refuse(
                "approval_request_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="Approval requests are never deleted.",
            ),
            refuse_truncate("approval_request_is_never_emptied", sentence="Approval requests are never deleted."),
        )

    def __str__(self) -> str:
        return self.title


class ApprovalDecision(models.Model):
    """One person's word on a request; append-only.

    `requested_by` repeats the request's own (held equal by a composite foreign key), so that a CHECK can hold what
    matters most: nobody decides what they asked for.
    """

    class Outcome(models.TextChoices):
        APPROVE = "approve", "Approved"
        REJECT = "reject", "Rejected"

    request = models.ForeignKey(ApprovalRequest, on_delete=models.PROTECT, related_name="decisions")
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    decided_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="approval_decisions")
    outcome = models.CharField(max_length=10, choices=Outcome)
    comment = models.TextField(blank=True)
    decided_at = models.DateTimeField()

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["request", "decided_by"], name="approval_is_decided_once_per_person"),
            models.CheckConstraint(
                condition=~Q(decided_by=F("requested_by")),
                name="approval_is_not_decided_by_its_requester",
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["approve", "reject"]),
                name="approval_outcome_is_known",
            ),
        )
        triggers = (
            *append_only("approval_decision", sentence="Approval decisions are only ever added."),
            pgtrigger.Trigger(
                name="approval_decision_needs_a_pending_request",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                func=_REQUEST_IS_PENDING,
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_outcome_display()} by {self.decided_by}"
