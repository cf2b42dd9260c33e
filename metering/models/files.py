"""Usage files: what was sent, how far its loading is, what became of every row; and the mappings of columns."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.lookups import GreaterThanOrEqual, LessThanOrEqual

from accounts.models import User, history
from accounts.models.columns import is_sha256
from accounts.triggers import append_only, refuse, refuse_truncate

_REFUSAL_IS_A_FACT = "A refused row is a fact: it never changes."
_STEPS = (
    "(OLD.state, NEW.state) IN (('receiving', 'waiting'), ('receiving', 'discarded'), ('waiting', 'loading'),"
    " ('waiting', 'discarded'), ('loading', 'done'), ('loading', 'failed'), ('loading', 'stopped'),"
    " ('failed', 'loading'), ('stopped', 'loading'))"
)
_ENDED = ("done", "failed", "discarded")
_STARTED = ("loading", "done", "failed", "stopped")
LARGEST_PART = 2_097_152
_LENGTH = Func(F("content"), function="octet_length", output_field=models.IntegerField())


class UsageFileMapping(models.Model):
    """Which column of a table becomes which part of an event (`metering.sources.mapping`), under a name of its own."""

    name = models.CharField(max_length=120)
    spec = models.JSONField("mapping")
    is_active = models.BooleanField("offered", default=True)

    history = history()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["name"], name="file_mapping_name_is_unique"),
            models.CheckConstraint(condition=~Q(name=""), name="file_mapping_has_a_name"),
        )
        triggers = (
            refuse(
                "file_mapping_is_never_deleted",
                "A mapping is no longer offered; what was loaded by it keeps its name.",
                operation=pgtrigger.Delete,
            ),
            refuse_truncate("file_mappings_are_never_emptied"),
        )

    def __str__(self) -> str:
        return self.name


class UsageFile(models.Model):
    """One file of usage: where it is on its way in, and what became of each of its rows.

    `rows_done` is the position of its loading, written in the transaction of the batch that it counts. A file is known
    by its bytes, its layout, its mapping and the backfill that it fills, if any: once loading has begun, there is no
    second one of the same. Rows that are filled into a backfill are accepted when they can be counted on its closing,
    and quarantined when they could not be by now.
    """

    class State(models.TextChoices):
        RECEIVING = "receiving", "Being sent"
        WAITING = "waiting", "Waiting to be started"
        LOADING = "loading", "Loading"
        DONE = "done", "Loaded"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"
        DISCARDED = "discarded", "Discarded"

    class Format(models.TextChoices):
        CLOUDEVENTS = "cloudevents", "CloudEvents (JSON lines)"
        FOCUS = "focus", "FOCUS (CSV)"
        CSV = "csv", "CSV with a mapping"
        PARQUET = "parquet", "Parquet with a mapping"

    name = models.CharField(max_length=254)
    size = models.BigIntegerField("bytes")
    sha256 = models.BinaryField(max_length=32, null=True)
    format = models.CharField(max_length=20, choices=Format, blank=True)
    mapping = models.ForeignKey(UsageFileMapping, on_delete=models.PROTECT, null=True, related_name="+")
    mapping_spec = models.JSONField("mapping as it was", null=True)
    mapping_digest = models.BinaryField(max_length=32, default=b"")
    backfill = models.ForeignKey(
        "metering.UsageBackfill", on_delete=models.PROTECT, null=True, related_name="files", verbose_name="filled into"
    )
    state = models.CharField(max_length=20, choices=State)
    sent_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    actor_label = models.CharField(max_length=254)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    claims = models.PositiveIntegerField("times taken up since the last batch", default=0)
    bytes_done = models.BigIntegerField(default=0)
    rows_done = models.BigIntegerField(default=0)
    accepted = models.BigIntegerField(default=0)
    duplicates = models.BigIntegerField(default=0)
    quarantined = models.BigIntegerField(default=0)
    refused = models.BigIntegerField(default=0)
    reasons = models.JSONField("refused, by reason", default=dict)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["receiving", "waiting", "discarded", *_STARTED]),
                name="usage_file_state_is_known",
            ),
            models.CheckConstraint(
                condition=Q(format__in=["", "cloudevents", "focus", "csv", "parquet"]),
                name="usage_file_format_is_known",
            ),
            models.CheckConstraint(condition=Q(size__gte=0), name="usage_file_has_a_size"),
            models.UniqueConstraint(
                fields=["sha256", "format", "mapping_digest", "backfill"],
                condition=Q(state__in=_STARTED),
                nulls_distinct=False,
                name="usage_file_is_loaded_once",
            ),
            models.CheckConstraint(
                condition=Q(rows_done=F("accepted") + F("duplicates") + F("quarantined") + F("refused")),
                name="usage_file_counts_every_row_once",
            ),
            models.CheckConstraint(
                condition=Q(sha256__isnull=True) | Q(is_sha256("sha256")), name="usage_file_hash_is_a_sha256"
            ),
            models.CheckConstraint(
                condition=~Q(state__in=_STARTED)
                | (Q(sha256__isnull=False, started_at__isnull=False) & ~Q(format=""))
                & (~Q(format__in=["csv", "parquet"]) | Q(mapping_spec__isnull=False)),
                name="usage_file_is_known_before_it_is_loaded",
            ),
            models.CheckConstraint(
                condition=Q(state__in=_ENDED, finished_at__isnull=False)
                | ~Q(state__in=_ENDED) & Q(finished_at__isnull=True),
                name="usage_file_ends_with_a_time",
            ),
            models.CheckConstraint(
                condition=Q(state="failed") & ~Q(error="") | ~Q(state="failed") & Q(error=""),
                name="usage_file_fails_with_an_error",
            ),
        )
        indexes = (models.Index(fields=["state", "leased_until"], name="usage_file_by_state"),)
        triggers = (
            refuse(
                "usage_file_state_follows_its_order",
                "A usage file does not go from this state to that one.",
                operation=pgtrigger.Update,
                condition=f"OLD.state <> NEW.state AND NOT {_STEPS}",
            ),
            refuse(
                "usage_file_never_goes_back",
                "Rows that were loaded stay loaded.",
                operation=pgtrigger.Update,
                condition="NEW.rows_done < OLD.rows_done",
            ),
            refuse(
                "usage_file_keeps_what_it_is",
                "A file that is being loaded keeps its bytes, its layout and its mapping.",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.state IN ('loading', 'done', 'failed', 'stopped') AND"
                    " (OLD.name, OLD.size, OLD.sha256, OLD.format, OLD.mapping_spec, OLD.mapping_digest,"
                    " OLD.backfill_id) IS DISTINCT FROM"
                    " (NEW.name, NEW.size, NEW.sha256, NEW.format, NEW.mapping_spec, NEW.mapping_digest,"
                    " NEW.backfill_id)"
                ),
            ),
            refuse(
                "loaded_usage_file_never_changes",
                "The report of a loaded file stays as it is.",
                operation=pgtrigger.Update,
                condition="OLD.state IN ('done', 'discarded')",
            ),
            refuse("usage_file_is_never_deleted", "What was loaded stays on record.", operation=pgtrigger.Delete),
            refuse_truncate("usage_files_are_never_emptied"),
        )

    def __str__(self) -> str:
        return self.name


class UsageFileBatch(models.Model):
    """Which rows of a file a batch took in; append-only."""

    file = models.ForeignKey(UsageFile, on_delete=models.PROTECT, related_name="batches")
    batch_id = models.BigIntegerField()
    first_row = models.BigIntegerField()
    rows = models.PositiveIntegerField()

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["batch_id"], name="batch_is_of_one_file"),
            models.UniqueConstraint(fields=["file", "first_row"], name="row_of_a_file_is_loaded_once"),
        )
        triggers = append_only("usage_file_batch", sentence="Which rows a batch took in is a fact: it never changes.")


class UsageFileRefusal(models.Model):
    """A row of a file that was refused for good, with its line, why, and the row as it came; append-only."""

    file = models.ForeignKey(UsageFile, on_delete=models.PROTECT, related_name="refusals")
    position = models.BigIntegerField("line")
    event_id = models.TextField(blank=True)
    reason = models.CharField(max_length=30)
    detail = models.TextField()
    payload = models.TextField(blank=True)

    class Meta:
        ordering = ("file", "id")
        triggers = (
            refuse(
                "usage_file_refusal_never_changes",
                _REFUSAL_IS_A_FACT,
                operation=pgtrigger.Update,
                condition=(
                    "NOT (usage_erasure_is_running()"
                    " AND NEW.event_id = '' AND NEW.payload = '' AND NEW.detail = 'erased by law'"
                    " AND (OLD.file_id, OLD.position, OLD.reason) = (NEW.file_id, NEW.position, NEW.reason))"
                ),
            ),
            refuse("usage_file_refusal_is_never_deleted", _REFUSAL_IS_A_FACT, operation=pgtrigger.Delete),
            refuse_truncate("usage_file_refusal_is_never_emptied", _REFUSAL_IS_A_FACT),
        )


class UsageFilePart(models.Model):
    """A piece of an uploaded file, kept until the file is loaded; `number` counts from 0."""

    file = models.ForeignKey(UsageFile, on_delete=models.PROTECT, related_name="parts")
    number = models.PositiveIntegerField()
    content = models.BinaryField()

    class Meta:
        ordering = ("file", "number")
        constraints = (
            models.UniqueConstraint(fields=["file", "number"], name="part_of_a_file_is_kept_once"),
            models.CheckConstraint(
                condition=Q(GreaterThanOrEqual(_LENGTH, 1)) & Q(LessThanOrEqual(_LENGTH, LARGEST_PART)),
                name="part_of_a_file_has_a_size",
            ),
        )
        triggers = (
            refuse(
                "part_of_a_file_keeps_its_bytes",
                "The bytes of a file never change on their way in.",
                operation=pgtrigger.Update,
                condition="(OLD.number, OLD.content) IS DISTINCT FROM (NEW.number, NEW.content)",
            ),
        )
