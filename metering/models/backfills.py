"""Back-fills: a meter counts events that had come in before it was there."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.expressions import RawSQL

from accounts.models import User
from accounts.triggers import refuse, refuse_truncate
from metering.models.meters import Meter


class MeterBackfill(models.Model):
    """One meter's counting of the stored events of `[starts_at, ends_at)`, and how far it has got.

    Events are read in the order of customer, time and identity; `read_to_*` name the last one that was read. `begun_at`
    is by the database's own clock: batches that began before it may not know the meter.
    """

    class Status(models.TextChoices):
        IN_REVIEW = "in_review", "In review"
        REFUSED = "refused", "Refused"
        RUNNING = "running", "Running"
        DONE = "done", "Done"

    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, related_name="backfills")
    starts_at = models.DateTimeField("of events from")
    ends_at = models.DateTimeField("of events before")
    reason = models.TextField()
    status = models.CharField(max_length=20, choices=Status)
    expected = models.PositiveIntegerField("events to read", help_text="as many as there were when it was asked for")
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    requested_by_label = models.CharField(max_length=254)
    requested_at = models.DateTimeField()
    begun_at = models.DateTimeField(db_default=RawSQL("clock_timestamp()", ()))
    done_at = models.DateTimeField(null=True)
    read_to_customer = models.BigIntegerField(null=True)
    read_to_time = models.DateTimeField(null=True)
    read_to_key = models.UUIDField(null=True)
    read = models.PositiveIntegerField(default=0)
    counted = models.PositiveIntegerField(default=0)
    counted_before = models.PositiveIntegerField(default=0)
    left_out = models.PositiveIntegerField(default=0)
    voided = models.PositiveIntegerField(default=0)
    not_read = models.JSONField(default=dict, help_text="events that the meter cannot read, by reason")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["in_review", "refused", "running", "done"]), name="backfill_status_is_known"
            ),
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="backfill_ends_after_it_starts"),
            models.CheckConstraint(condition=~Q(reason=""), name="backfill_has_a_reason"),
            models.UniqueConstraint(
                fields=["meter"],
                condition=Q(status__in=["in_review", "running"]),
                name="meter_has_one_open_backfill",
            ),
            models.CheckConstraint(
                condition=Q(status="done", done_at__isnull=False) | Q(~Q(status="done"), done_at__isnull=True),
                name="backfill_is_done_at_a_time",
            ),
            models.CheckConstraint(
                condition=Q(read__gte=F("counted") + F("counted_before") + F("left_out") + F("voided")),
                name="backfill_counts_what_it_read",
            ),
        )
        triggers = (
            refuse(
                "backfill_keeps_what_was_asked_for",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    "meter", "starts_at", "ends_at", "reason", "expected", "requested_by", "requested_at"
                ),
                sentence="What was asked for is what is approved: ask anew.",
            ),
            refuse(
                "backfill_goes_step_by_step",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status IN ('done', 'refused') OR OLD.status <> NEW.status"
                    " AND (OLD.status || ' ' || NEW.status) NOT IN"
                    " ('in_review running', 'in_review refused', 'running done')"
                ),
                sentence="A back-fill is asked for, approved, and done.",
            ),
            refuse(
                "backfill_is_never_deleted", operation=pgtrigger.Delete, sentence="A back-fill is a fact of record."
            ),
            refuse_truncate("backfills_are_never_emptied", sentence="A back-fill is a fact of record."),
        )

    def __str__(self) -> str:
        return f"Back-fill {self.pk} of {self.meter}"
