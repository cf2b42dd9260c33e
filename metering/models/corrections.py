"""Corrections of accepted events: what was asked for, of which events, and what became of each."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import Q

from accounts.models import User
from accounts.triggers import refuse, refuse_truncate


class UsageCorrection(models.Model):
    """A decision about accepted events: they no longer count, count as something else, or count again (a revert).

    `changes` are the values that replace those of every event; where events have values of their own, the items hold
    them. `preview` is what it would change, as it stood at `previewed_at`; `fingerprint` is of all that decided it.
    """

    class Kind(models.TextChoices):
        VOID = "void", "Void"
        REPLACE = "replace", "Replace"
        REVERT = "revert", "Revert"

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Being applied"
        APPLIED = "applied", "Applied"
        DROPPED = "dropped", "Dropped"

    kind = models.CharField(max_length=10, choices=Kind)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    reason = models.TextField()
    selection = models.JSONField(default=dict)
    changes = models.JSONField(default=dict)
    reverts = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="reverted_by")
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    requested_by_label = models.CharField(max_length=254)
    requested_at = models.DateTimeField()
    events = models.PositiveIntegerField()
    preview = models.JSONField(null=True)
    previewed_at = models.DateTimeField(null=True)
    preview_asked_at = models.DateTimeField("asked to be previewed by a worker", null=True)
    fingerprint = models.CharField(max_length=64, blank=True, db_default="")
    approved_at = models.DateTimeField(null=True)
    applied_at = models.DateTimeField(null=True)
    applied = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(kind__in=["void", "replace", "revert"]), name="correction_kind_is_known"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["draft", "in_review", "approved", "applied", "dropped"]),
                name="correction_status_is_known",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="correction_has_a_reason"),
            models.CheckConstraint(condition=Q(events__gt=0), name="correction_is_about_events"),
            models.CheckConstraint(
                condition=Q(kind="revert", reverts__isnull=False) | Q(~Q(kind="revert"), reverts__isnull=True),
                name="correction_reverts_one_if_it_is_a_revert",
            ),
            models.UniqueConstraint(
                fields=["reverts"], condition=~Q(status="dropped"), name="correction_is_reverted_once"
            ),
            models.CheckConstraint(
                condition=~Q(status="applied") | Q(applied_at__isnull=False, approved_at__isnull=False),
                name="applied_correction_was_approved",
            ),
            models.CheckConstraint(
                condition=Q(preview_asked_at__isnull=True) | Q(status="draft"), name="only_a_draft_is_being_previewed"
            ),
        )
        triggers = (
            refuse(
                "correction_goes_step_by_step",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status <> NEW.status AND (OLD.status || ' ' || NEW.status) NOT IN ('draft in_review',"
                    " 'draft approved', 'draft dropped', 'in_review draft', 'in_review approved', 'approved applied')"
                ),
                sentence="A correction is drafted, reviewed, approved and applied, in this order.",
            ),
            refuse(
                "correction_stays_what_was_asked_for",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.kind, OLD.reason, OLD.reverts_id, OLD.requested_by_id, OLD.requested_at, OLD.events)"
                    " IS DISTINCT FROM"
                    " (NEW.kind, NEW.reason, NEW.reverts_id, NEW.requested_by_id, NEW.requested_at, NEW.events)"
                    " OR (OLD.selection, OLD.changes) IS DISTINCT FROM (NEW.selection, NEW.changes)"
                    " AND NOT (usage_erasure_is_running() AND NEW.selection = '{}' AND NEW.changes = '{}')"
                ),
                sentence="What a correction asks for never changes: drop it and ask for another.",
            ),
            refuse(
                "correction_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="A correction is dropped, never deleted.",
            ),
            refuse_truncate("corrections_are_never_emptied", sentence="Corrections are never thrown away."),
        )

    def __str__(self) -> str:
        return f"correction {self.pk}"

    @property
    def is_being_worked_on(self) -> bool:
        """Whether a worker has something to do about it: its preview, or what was approved."""
        return self.preview_asked_at is not None or self.status == self.Status.APPROVED


class UsageCorrectionItem(models.Model):
    """One event of a correction, and once it is applied the batch that did it and the event that takes its place."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        APPLIED = "applied", "Applied"
        SKIPPED = "skipped", "Skipped"

    correction = models.ForeignKey(UsageCorrection, on_delete=models.PROTECT, related_name="items")
    customer_id = models.BigIntegerField()
    time = models.DateTimeField("the event's own time")
    key = models.UUIDField("the event's identity")
    changes = models.JSONField(null=True)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    detail = models.TextField(blank=True)
    batch_id = models.BigIntegerField(null=True)
    new_customer_id = models.BigIntegerField(null=True)
    new_time = models.DateTimeField(null=True)
    new_key = models.UUIDField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["correction", "key"], name="correction_names_an_event_once"),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "applied", "skipped"]), name="correction_item_state_is_known"
            ),
            models.CheckConstraint(
                condition=Q(state="applied", batch_id__isnull=False) | Q(~Q(state="applied"), batch_id__isnull=True),
                name="applied_item_names_its_batch",
            ),
        )
        indexes = (
            models.Index(
                fields=["correction", "customer_id", "time", "key"],
                name="correction_item_in_order",
                condition=Q(state="waiting"),
            ),
            models.Index(fields=["key"], name="correction_item_by_event", condition=Q(state="applied")),
            models.Index(fields=["new_key"], name="correction_item_by_new_event", condition=Q(new_key__isnull=False)),
            models.Index(
                fields=["new_customer_id", "new_time"],
                name="correction_item_by_new_place",
                condition=Q(new_key__isnull=False),
            ),
        )
        triggers = (
            refuse(
                "correction_item_is_settled_once",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.state <> 'waiting' OR (OLD.correction_id, OLD.customer_id, OLD.time, OLD.key, OLD.changes)"
                    " IS DISTINCT FROM (NEW.correction_id, NEW.customer_id, NEW.time, NEW.key, NEW.changes))"
                    " AND NOT (usage_erasure_covers(OLD.customer_id, OLD.time) AND NEW.changes = '{}'"
                    " AND to_jsonb(OLD) - 'changes' = to_jsonb(NEW) - 'changes')"
                ),
                sentence="What became of an event of a correction never changes.",
            ),
            refuse(
                "correction_item_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="Corrections keep what they are about.",
            ),
            refuse_truncate("correction_items_are_never_emptied", sentence="Corrections keep what they are about."),
        )

    def __str__(self) -> str:
        return f"{self.key} in correction {self.correction_id}"
