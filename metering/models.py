"""Meters, subjects, and usage: identities, events, deltas, hours, quarantine and refusals.

Usage tables carry `customer_id` in front and no foreign keys, so that the same SQL runs on a distributed Postgres.
"""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import (
    ArrayField,
    DateTimeRangeField,
    RangeOperators,
)
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.expressions import RawSQL

from accounts.models import Customer, User, history
from accounts.triggers import append_only, refuse, refuse_truncate


class Meter(models.Model):
    """How events of one type become a quantity.

    What it counts never changes, or totals would stop agreeing with the events below them; a mended meter is a new one.
    """

    class Aggregation(models.TextChoices):
        SUM = "sum", "Sum of a value"
        COUNT = "count", "Number of events"

    code = models.SlugField(max_length=80)
    name = models.CharField(max_length=150)
    event_type = models.CharField(max_length=200, db_index=True)
    aggregation = models.CharField(max_length=20, choices=Aggregation)
    value_path = models.CharField("name of the value in the event's data", max_length=200, blank=True)
    event_filter = models.JSONField("only events whose data holds", default=dict, blank=True)
    unit = models.CharField(max_length=60)
    dimensions = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    is_active = models.BooleanField("active", default=True)

    history = history()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["code"], name="meter_code_is_unique"),
            models.CheckConstraint(
                condition=Q(aggregation__in=["sum", "count"]),
                name="meter_aggregation_is_known",
            ),
            models.CheckConstraint(
                condition=(Q(aggregation="count") & Q(value_path="")) | (~Q(aggregation="count") & ~Q(value_path="")),
                name="meter_has_a_value_unless_it_counts",
            ),
        )
        triggers = (
            refuse(
                "meter_counts_the_same_for_ever",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    "event_type",
                    "aggregation",
                    "value_path",
                    "event_filter",
                    "unit",
                    "dimensions",
                ),
                sentence="What a meter counts never changes: deactivate it and define another.",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Subject(models.Model):
    """The name under which usage arrives: a project, an organisation, a device."""

    name = models.CharField(max_length=200)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["name"], name="subject_name_is_unique"),)
        triggers = append_only("subject", sentence="Whose usage it is hangs on the name of a subject: it stays.")

    def __str__(self) -> str:
        return self.name


class SubjectAssignment(models.Model):
    """A subject belongs to a customer for a period of time `[start, end)`; what follows it is another assignment."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="assignments")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="subject_assignments")
    valid_during = DateTimeRangeField()

    history = history()

    class Meta:
        ordering = ("subject", "valid_during")
        constraints = (
            ExclusionConstraint(
                name="subject_belongs_to_one_customer_at_a_time",
                expressions=[
                    (
                        Func(
                            F("subject"),
                            F("subject"),
                            Value("[]"),
                            function="int8range",
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                    ("valid_during", RangeOperators.OVERLAPS),
                ],
            ),
            models.CheckConstraint(
                condition=Q(valid_during__isempty=False),
                name="subject_assignment_lasts_some_time",
            ),
        )
        triggers = (
            refuse(
                "subject_assignment_only_ends",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.id, OLD.subject_id, OLD.customer_id, lower(OLD.valid_during))"
                    " IS DISTINCT FROM (NEW.id, NEW.subject_id, NEW.customer_id, lower(NEW.valid_during))"
                    " OR coalesce(upper(NEW.valid_during), 'infinity') > coalesce(upper(OLD.valid_during), 'infinity')"
                ),
                sentence="An assignment only ever ends, or ends earlier: whose usage it is is never rewritten.",
            ),
            refuse(
                "subject_assignment_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="An assignment is ended, never deleted.",
            ),
            refuse_truncate("subject_assignment_is_never_emptied", sentence="An assignment is ended, never deleted."),
        )

    def __str__(self) -> str:
        return f"{self.subject} → {self.customer}"


class UsageBatch(models.Model):
    """One accepted call of the ingestion function: who sent it, through which door, and what became of it.

    `transaction_id` is the writing transaction (xid8 as bigint), so that a bill can say with a snapshot exactly which
    batches it saw, whatever order they committed in.
    """

    class Door(models.TextChoices):
        API = "api", "API"
        FILE = "file", "File"
        QUARANTINE = "quarantine", "Released from quarantine"

    door = models.CharField(max_length=20, choices=Door)
    origin = models.CharField("file name or request id", max_length=254, blank=True)
    api_key_id = models.BigIntegerField(null=True)
    actor_label = models.CharField(max_length=254)
    received_at = models.DateTimeField(db_index=True)
    transaction_id = models.BigIntegerField(db_default=RawSQL("(pg_current_xact_id()::text)::bigint", ()))
    accepted = models.PositiveIntegerField()
    duplicates = models.PositiveIntegerField()
    quarantined = models.PositiveIntegerField()
    rejected = models.PositiveIntegerField()
    earliest_at = models.DateTimeField("earliest accepted event", null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "usage batches"
        indexes = (models.Index(fields=["transaction_id"], name="usage_batch_by_transaction"),)
        constraints = (
            models.CheckConstraint(
                condition=Q(door__in=["api", "file", "quarantine"]),
                name="usage_door_is_known",
            ),
            models.CheckConstraint(
                condition=Q(accepted=0, earliest_at__isnull=True) | Q(accepted__gt=0, earliest_at__isnull=False),
                name="usage_batch_knows_its_earliest_event",
            ),
        )
        triggers = append_only("usage_batch", sentence="A usage batch is a fact: it never changes.")

    def __str__(self) -> str:
        return f"batch {self.pk} ({self.accepted} accepted)"


class UsageIdentity(models.Model):
    """An event's identity, taken once for ever: 128-bit BLAKE2b of source and id, with that of the content.

    A quarantined event holds its identity too, so that one unique key decides between parallel senders whether an
    event is new, a duplicate or a conflict.
    """

    key = models.UUIDField(primary_key=True)
    content_hash = models.UUIDField()

    class Meta:
        db_table = "usage_identity"
        verbose_name_plural = "usage identities"
        triggers = append_only("usage_identity", sentence="An event's identity is taken for ever.")

    def __str__(self) -> str:
        return str(self.key)


class UsageSeries(models.Model):
    """One meter of one customer with one set of dimension values."""

    customer_id = models.BigIntegerField()
    meter_id = models.BigIntegerField()
    dimensions = models.JSONField(default=dict)
    dimensions_key = models.UUIDField()

    class Meta:
        db_table = "usage_series"
        verbose_name_plural = "usage series"
        constraints = (
            models.UniqueConstraint(
                fields=["customer_id", "meter_id", "dimensions_key"],
                name="usage_series_is_unique",
            ),
        )
        triggers = append_only(
            "usage_series",
            sentence="Events and invoice lines name a series: it never changes.",
        )

    def __str__(self) -> str:
        return f"series {self.pk}"


class UsageDelta(models.Model):
    """What one batch adds to one hour of one series; append-only until the fold merges it into the hour."""

    customer_id = models.BigIntegerField()
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()
    sum = models.DecimalField()
    count = models.BigIntegerField()
    min = models.DecimalField()
    max = models.DecimalField()
    last = models.DecimalField()
    last_at = models.DateTimeField()
    batch_id = models.BigIntegerField()

    class Meta:
        db_table = "usage_delta"
        indexes = (models.Index(fields=["customer_id", "hour"], name="usage_delta_by_customer"),)
        triggers = (
            refuse(
                "usage_delta_never_changes",
                operation=pgtrigger.Update,
                sentence="A delta is folded into its hour or stays as it is.",
            ),
            refuse_truncate(
                "usage_delta_is_never_emptied",
                sentence="Deltas are folded, never thrown away.",
            ),
        )

    def __str__(self) -> str:
        return f"delta {self.pk}"


class UsageHour(models.Model):
    """The folded total of one hour of one series; a read adds the deltas that are not folded yet."""

    pk = models.CompositePrimaryKey("customer_id", "series_id", "hour")
    customer_id = models.BigIntegerField()
    hour = models.DateTimeField()
    series_id = models.BigIntegerField()
    sum = models.DecimalField()
    count = models.BigIntegerField()
    min = models.DecimalField()
    max = models.DecimalField()
    last = models.DecimalField()
    last_at = models.DateTimeField()

    class Meta:
        db_table = "usage_hour"
        indexes = (BrinIndex(fields=["hour"], name="usage_hour_by_time"),)
        triggers = (
            refuse(
                "usage_hour_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="A folded hour is never thrown away.",
            ),
            refuse_truncate("usage_hour_is_never_emptied", sentence="Folded hours are never thrown away."),
        )

    def __str__(self) -> str:
        return f"series {self.series_id} at {self.hour:%Y-%m-%d %H:00}"


class UsageEvent(models.Model):
    """One accepted event as it came; append-only, partitioned by month of `time` (the table is made by SQL).

    `series_ids` are the series it was counted in, so that the events behind a total are never guessed.
    """

    pk = models.CompositePrimaryKey("customer_id", "time", "key")
    customer_id = models.BigIntegerField()
    time = models.DateTimeField()
    key = models.UUIDField()
    batch_id = models.BigIntegerField()
    source = models.TextField()
    event_id = models.TextField()
    type = models.TextField()
    subject = models.TextField()
    data = models.JSONField()
    series_ids = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "usage_event"
        triggers = append_only("usage_event", sentence="An accepted event is a fact: it never changes.")

    def __str__(self) -> str:
        return f"{self.source} {self.event_id}"


QUARANTINED_CONTENT = (
    "key",
    "content_hash",
    "source",
    "event_id",
    "type",
    "subject",
    "time",
    "data",
    "first_seen_at",
    "batch_id",
)


class QuarantinedEvent(models.Model):
    """A well-formed event that cannot be counted yet, kept whole, with the reason."""

    class Reason(models.TextChoices):
        UNKNOWN_SUBJECT = (
            "unknown_subject",
            "The subject belongs to no customer at that time",
        )
        UNKNOWN_TYPE = "unknown_type", "No meter takes this type"
        MISSING_VALUE = "missing_value", "The value that the meter reads is missing"
        INVALID_VALUE = "invalid_value", "The value is not a number"
        IN_FUTURE = "in_future", "The time is in the future"
        TOO_OLD = "too_old", "Older than the acceptance age"
        INCONSISTENT = "inconsistent", "The record contradicts itself"

    class Status(models.TextChoices):
        OPEN = "open", "Waiting"
        RELEASED = "released", "Released"
        DISCARDED = "discarded", "Discarded"

    key = models.UUIDField()
    content_hash = models.UUIDField()
    source = models.TextField()
    event_id = models.TextField()
    type = models.TextField()
    subject = models.TextField(blank=True)
    time = models.DateTimeField()
    data = models.JSONField()
    reason = models.CharField(max_length=30, choices=Reason)
    detail = models.TextField(blank=True)
    status = models.CharField(max_length=20, choices=Status, default=Status.OPEN)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    seen_count = models.PositiveIntegerField(default=1)
    batch_id = models.BigIntegerField()
    closed_at = models.DateTimeField(null=True)
    closed_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    closing_reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-last_seen_at", "-id")
        constraints = (
            models.UniqueConstraint(fields=["key"], name="quarantined_event_is_kept_once"),
            models.CheckConstraint(
                condition=Q(
                    reason__in=[
                        "unknown_subject",
                        "unknown_type",
                        "missing_value",
                        "invalid_value",
                        "in_future",
                        "too_old",
                        "inconsistent",
                    ],
                ),
                name="quarantine_reason_is_known",
            ),
            models.CheckConstraint(
                condition=Q(status="open", closed_at__isnull=True)
                | Q(status__in=["released", "discarded"], closed_at__isnull=False),
                name="quarantined_event_is_open_or_closed_with_a_time",
            ),
        )
        indexes = (
            models.Index(
                fields=["status", "reason", "-last_seen_at"],
                name="quarantine_by_status",
            ),
        )
        triggers = (
            refuse(
                "quarantined_event_keeps_its_content",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(*QUARANTINED_CONTENT),
                sentence="A quarantined event's content never changes.",
            ),
            refuse(
                "quarantined_event_closes_once",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__status="open"),
                sentence="A released or discarded event stays so.",
            ),
            refuse(
                "quarantined_event_is_kept",
                operation=pgtrigger.Delete,
                sentence="A quarantined event is never deleted: release or discard it.",
            ),
            refuse_truncate(
                "quarantine_is_never_emptied",
                sentence="A quarantined event is never deleted: release or discard it.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.source} {self.event_id}"


class RefusedEvent(models.Model):
    """An event or a file's row that was refused for good, with its position and why; append-only.

    `fingerprint` is a hash of what was refused and why: a refusal is kept once, however often a sender repeats it.
    """

    class Reason(models.TextChoices):
        CONFLICT = "conflict", "Same identity, other content"
        MALFORMED = "malformed", "Not a valid event"
        NOT_USAGE = "not_usage", "Not a usage record"
        FOREIGN_SUBJECT = (
            "foreign_subject",
            "The sender's key may not send for this subject",
        )

    batch_id = models.BigIntegerField(db_index=True)
    position = models.PositiveIntegerField()
    source = models.TextField(blank=True)
    event_id = models.TextField(blank=True)
    reason = models.CharField(max_length=30, choices=Reason)
    detail = models.TextField()
    payload = models.TextField()
    fingerprint = models.UUIDField()
    refused_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["fingerprint"], name="refusal_is_kept_once"),
            models.CheckConstraint(
                condition=Q(reason__in=["conflict", "malformed", "not_usage", "foreign_subject"]),
                name="refusal_reason_is_known",
            ),
        )
        triggers = append_only("refused_event", sentence="A refused event is a fact: it never changes.")

    def __str__(self) -> str:
        return f"{self.get_reason_display()}: {self.detail}"
