"""Events that cannot be counted yet, and what was refused for good."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import Q

from accounts.models import User
from accounts.triggers import refuse, refuse_truncate

_REFUSAL_IS_A_FACT = "A refused event is a fact: it never changes."

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
# What an erasure by law leaves of an event: its identity, its kind and when it was.
_KEPT = ("key", "content_hash", "type", "time", "first_seen_at", "batch_id")
_ERASED_BY_LAW = (
    "usage_erasure_is_running()"
    " AND NEW.source = '' AND NEW.event_id = '' AND NEW.subject = '' AND NEW.data = '{}'::jsonb AND NEW.detail = ''"
)


def _changed(columns: tuple[str, ...]) -> str:
    return " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in columns)


# What a statement changed, added up by what events have in common. A line of no change is left out.
_TALLY = """
    INSERT INTO metering_quarantinetally
        (status, reason, type, subject, events, seen, first_seen_at, last_seen_at, is_folded)
    SELECT status, reason, type, subject, sum(events), sum(seen), min(first_seen_at), max(last_seen_at), false
    FROM ({changes}) AS change
    GROUP BY status, reason, type, subject HAVING sum(events) <> 0 OR sum(seen) <> 0;
    RETURN NULL;
"""
_ADDED = "SELECT status, reason, type, subject, 1 AS events, seen_count AS seen, first_seen_at, last_seen_at FROM added"
_GONE = "SELECT status, reason, type, subject, -1, -seen_count, NULL, NULL FROM gone"


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
        TOO_MANY_SERIES = "too_many_series", "The customer has as many series in the meter as it allows"

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
                        "too_many_series",
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
            # The page adds up groups from this index alone.
            models.Index(
                fields=["status", "reason", "type", "subject"],
                include=["seen_count", "first_seen_at", "last_seen_at"],
                name="quarantine_by_group",
            ),
            models.Index(fields=["source", "time"], name="quarantine_by_source"),
            models.Index(fields=["batch_id"], name="quarantine_by_batch"),
        )
        triggers = (
            refuse(
                "quarantined_event_keeps_its_content",
                operation=pgtrigger.Update,
                condition=f"({_changed(QUARANTINED_CONTENT)}) AND NOT ({_ERASED_BY_LAW} AND NOT ({_changed(_KEPT)}))",
                sentence="A quarantined event's content never changes.",
            ),
            refuse(
                "quarantined_event_closes_once",
                operation=pgtrigger.Update,
                condition=f"OLD.status <> 'open' AND NOT ({_ERASED_BY_LAW} AND OLD.status = NEW.status)",
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
            pgtrigger.Trigger(
                name="quarantined_event_is_tallied",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                func=_TALLY.format(changes=_ADDED),
            ),
            pgtrigger.Trigger(
                name="quarantined_event_is_tallied_anew",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Update,
                referencing=pgtrigger.Referencing(old="gone", new="added"),  # type: ignore[no-untyped-call]
                func=_TALLY.format(changes=f"{_ADDED} UNION ALL {_GONE}"),
            ),
        )

    def __str__(self) -> str:
        return f"{self.source} {self.event_id}"


class QuarantineTally(models.Model):
    """How many events of one state, reason, type and subject there are: the sum over its lines, which triggers write.

    `first_seen_at` and `last_seen_at` are the earliest and the latest of all that were in the group since it was last
    empty; None where a line only takes away.
    """

    status = models.CharField(max_length=20)
    reason = models.CharField(max_length=30)
    type = models.TextField()
    subject = models.TextField()
    events = models.BigIntegerField()
    seen = models.BigIntegerField()
    first_seen_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    is_folded = models.BooleanField()

    class Meta:
        indexes = (
            models.Index(fields=["status", "reason"], name="quarantine_tally_by_status"),
            models.Index(fields=["id"], condition=Q(is_folded=False), name="quarantine_tally_to_fold"),
        )
        triggers = (
            refuse(
                "quarantine_tally_never_changes",
                operation=pgtrigger.Update,
                sentence="A line of the quarantine's tally is folded or stays as it is.",
            ),
            refuse_truncate("quarantine_tally_never_emptied", sentence="The quarantine's tally is never thrown away."),
        )

    def __str__(self) -> str:
        return f"{self.events:+d} {self.status} {self.reason}"


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
        FOREIGN_SOURCE = (
            "foreign_source",
            "The sender's key may not send for this source",
        )

    batch_id = models.BigIntegerField(db_index=True)
    position = models.PositiveBigIntegerField()
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
                condition=Q(reason__in=["conflict", "malformed", "not_usage", "foreign_subject", "foreign_source"]),
                name="refusal_reason_is_known",
            ),
        )
        triggers = (
            refuse(
                "refused_event_never_changes",
                operation=pgtrigger.Update,
                condition=(
                    "NOT (usage_erasure_is_running()"
                    " AND NEW.source = '' AND NEW.event_id = '' AND NEW.payload = '' AND NEW.detail = 'erased by law'"
                    " AND (OLD.batch_id, OLD.position, OLD.reason, OLD.fingerprint, OLD.refused_at)"
                    " = (NEW.batch_id, NEW.position, NEW.reason, NEW.fingerprint, NEW.refused_at))"
                ),
                sentence=_REFUSAL_IS_A_FACT,
            ),
            refuse("refused_event_is_never_deleted", operation=pgtrigger.Delete, sentence=_REFUSAL_IS_A_FACT),
            refuse_truncate("refused_event_is_never_emptied", sentence=_REFUSAL_IS_A_FACT),
        )

    def __str__(self) -> str:
        return f"{self.get_reason_display()}: {self.detail}"
