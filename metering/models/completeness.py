"""What came in from whom, what a source says that it sent, and what a person said of an odd stretch of usage."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.lookups import Exact

from accounts.models import User
from accounts.triggers import append_only, refuse, refuse_truncate
from metering.models.meters import Meter


class ReceivedUsage(models.Model):
    """What came in of one source, type and hour: as events (meter 0), and once more for each meter that took some.

    `count` events were counted, with `sum` as the meter read them; `waiting` ones are in quarantine, `discarded` ones
    were given up there. These two are known of events only, for no meter has taken them. No customer: a source sends
    for many.
    """

    source = models.TextField()
    type = models.TextField()
    meter_id = models.BigIntegerField()
    hour = models.DateTimeField()
    count = models.BigIntegerField()
    sum = models.DecimalField()
    waiting = models.BigIntegerField()
    discarded = models.BigIntegerField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.source} {self.type} at {self.hour:%Y-%m-%d %H:00}"


class UsageReceipt(ReceivedUsage):
    """What one transaction took or let out of quarantine; append-only until the fold merges it into the hour."""

    batch_id = models.BigIntegerField()

    class Meta:
        db_table = "usage_receipt"
        triggers = (
            refuse(
                "usage_receipt_never_changes",
                operation=pgtrigger.Update,
                sentence="A receipt is folded into its hour or stays as it is.",
            ),
            refuse_truncate(
                "usage_receipt_is_never_emptied",
                sentence="Receipts are folded, never thrown away.",
            ),
        )


class UsageReceiptHour(ReceivedUsage):
    """The folded receipts of one hour; a read adds those that are not folded yet."""

    pk = models.CompositePrimaryKey("hour", "source", "type", "meter_id")

    class Meta:
        db_table = "usage_receipt_hour"
        triggers = (
            refuse(
                "usage_receipt_hour_is_kept",
                operation=pgtrigger.Delete,
                sentence="A folded receipt is never thrown away.",
            ),
            refuse_truncate("usage_receipt_hour_never_emptied", sentence="Folded receipts are never thrown away."),
        )


class ControlTotal(models.Model):
    """How many events a source says it sent of an hour, and what they sum up to; append-only.

    Of one meter, with the sum as that meter counts, or of every event of a type, without. A later statement for the
    same hour has the next number and supersedes the one before.
    """

    source = models.TextField()
    type = models.TextField()
    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, null=True, related_name="+")
    hour = models.DateTimeField()
    number = models.PositiveIntegerField()
    count = models.BigIntegerField()
    sum = models.DecimalField(null=True)
    stated_at = models.DateTimeField()
    api_key_id = models.BigIntegerField(null=True)
    actor_label = models.CharField(max_length=254)

    class Meta:
        ordering = ("hour", "source", "type", "meter_id", "-number")
        constraints = (
            models.UniqueConstraint(
                fields=["hour", "source", "type", "meter", "number"],
                name="control_total_has_its_own_number",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Exact(
                    Func(
                        F("hour"),
                        template="mod(extract(epoch FROM %(expressions)s), 3600)",
                        output_field=models.IntegerField(),
                    ),
                    0,
                ),
                name="control_total_is_for_a_full_hour",
            ),
            models.CheckConstraint(
                condition=Q(count__gte=0) & Q(number__gte=1),
                name="control_total_counts_from_zero",
            ),
            models.CheckConstraint(
                condition=Q(sum__isnull=True) | Q(meter__isnull=False),
                name="control_total_sums_what_a_meter_reads",
            ),
        )
        triggers = append_only("control_total", sentence="A control total is a fact: a later one supersedes it.")

    def __str__(self) -> str:
        return f"{self.source} {self.type} at {self.hour:%Y-%m-%d %H:00}: {self.count}"


class Acknowledgement(models.Model):
    """A person's word that odd usage of a source or a customer during `period` is as it should be; append-only."""

    class Kind(models.TextChoices):
        MISSING = "missing", "Less than the source says it sent"
        SURPLUS = "surplus", "More than the source says it sent"
        SUM_DIFFERS = "sum_differs", "As many events, another sum"
        GAP = "gap", "No usage where there usually is some"
        FALL = "fall", "Far less than usual"
        SPIKE = "spike", "Far more than usual"
        SILENT = "silent", "New, and silent since"

    kind = models.CharField(max_length=20, choices=Kind)
    source = models.TextField(blank=True)
    type = models.TextField(blank=True)
    customer_id = models.BigIntegerField(null=True)
    meter_id = models.BigIntegerField()
    period = DateTimeRangeField()
    reason = models.TextField()
    acknowledged_at = models.DateTimeField()
    acknowledged_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(kind__in=["missing", "surplus", "sum_differs", "gap", "fall", "spike", "silent"]),
                name="acknowledgement_kind_is_known",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="acknowledgement_has_a_reason"),
            models.CheckConstraint(condition=Q(period__isempty=False), name="acknowledgement_lasts_some_time"),
            models.UniqueConstraint(
                fields=["kind", "source", "type", "customer_id", "meter_id", "period"],
                name="finding_is_acknowledged_once",
                nulls_distinct=False,
            ),
        )
        triggers = append_only("acknowledgement", sentence="An acknowledgement is a fact: it never changes.")

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.reason}"
