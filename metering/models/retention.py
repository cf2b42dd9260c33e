"""What becomes of old usage: archived months, legal holds, and what was erased by law."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import F, Q

from accounts.models import Customer
from accounts.triggers import append_only, refusal, refuse, refuse_truncate


class ArchivedMonth(models.Model):
    """One month of events on its way into a file, and back; what its file holds is also in the manifest beside it.

    `key_high` and `key_low` are the sums of the upper and lower 64 bits (signed) of the identities in the file, so that
    identities whose events are away can be told from identities that were lost.
    """

    class Status(models.TextChoices):
        PLANNED = "planned", "Planned"
        EXPORTED = "exported", "File written"
        VERIFIED = "verified", "File verified"
        DETACHED = "detached", "Detached"
        DROPPED = "dropped", "In the archive only"
        RESTORING = "restoring", "Coming back"
        RESTORED = "restored", "Brought back"

    month = models.DateField(help_text="its first day")
    status = models.CharField(max_length=20, choices=Status, default=Status.PLANNED)
    folder = models.TextField()
    revision = models.PositiveIntegerField(default=1)
    manifest_sha256 = models.CharField(max_length=64, blank=True)
    file_sha256 = models.CharField(max_length=64, blank=True)
    rows_sha256 = models.CharField(max_length=64, blank=True)
    file_bytes = models.BigIntegerField(default=0)
    rows = models.BigIntegerField(default=0)
    key_high = models.DecimalField(default=0)
    key_low = models.DecimalField(default=0)
    planned_at = models.DateTimeField()
    planned_by = models.CharField(max_length=254)
    exported_at = models.DateTimeField(null=True)
    verified_at = models.DateTimeField(null=True)
    detached_at = models.DateTimeField(null=True)
    dropped_at = models.DateTimeField(null=True)
    restored_at = models.DateTimeField(null=True)
    verified_in_transaction = models.BigIntegerField(null=True)
    drop_asked_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("-month",)
        constraints = (
            models.UniqueConstraint(fields=["month"], name="month_is_archived_once"),
            models.CheckConstraint(
                condition=Q(
                    status__in=["planned", "exported", "verified", "detached", "dropped", "restoring", "restored"],
                ),
                name="archived_month_status_is_known",
            ),
            models.CheckConstraint(condition=Q(month__day=1), name="archived_month_is_a_first_day"),
            models.CheckConstraint(
                condition=Q(status="planned") | ~Q(file_sha256="") & ~Q(manifest_sha256="") & ~Q(rows_sha256=""),
                name="archived_month_has_a_file",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["planned", "exported"]) | Q(verified_at__isnull=False),
                name="archived_month_was_verified",
            ),
        )
        triggers = (
            refuse(
                "archived_month_goes_step_by_step",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status <> NEW.status AND (OLD.status || ' ' || NEW.status) NOT IN ("
                    "'planned exported', 'exported planned', 'exported verified', 'verified planned',"
                    " 'verified detached', 'detached dropped', 'detached restored', 'dropped restoring',"
                    " 'restoring dropped', 'restoring restored', 'restored planned')"
                    " OR OLD.month <> NEW.month"
                ),
                sentence="A month goes into the archive and back step by step.",
            ),
            pgtrigger.Trigger(
                name="month_on_hold_stays",
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition("OLD.status <> NEW.status AND NEW.status IN ('detached', 'dropped')"),
                func="PERFORM wait_for_legal_holds(); IF usage_month_is_held(NEW.month) THEN "
                + refusal("month_on_hold_stays", "A legal hold covers this month: it stays where it is.")
                + " END IF; RETURN NEW;",
            ),
            pgtrigger.Trigger(
                name="month_with_waiting_events_stays",
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition("OLD.status <> NEW.status AND NEW.status = 'detached'"),
                func="IF usage_month_has_waiting_events(NEW.month) THEN "
                + refusal("month_with_waiting_events_stays", "Events of this month wait in quarantine.")
                + " END IF; RETURN NEW;",
            ),
            refuse(
                "month_is_dropped_once_verified_again",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status = 'detached' AND NEW.status = 'dropped' AND"
                    " NEW.verified_in_transaction IS DISTINCT FROM (pg_current_xact_id()::text)::bigint"
                ),
                sentence="Detached events are dropped only once their file was verified again.",
            ),
            pgtrigger.Trigger(
                name="every_part_was_compared",
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition("OLD.status = 'detached' AND NEW.status = 'dropped'"),
                func="IF EXISTS (SELECT FROM metering_archivedpart AS part WHERE part.month_id = NEW.id"
                " AND part.compared_at IS NULL) THEN "
                + refusal("every_part_was_compared", "Every file of a month is compared with its events once more.")
                + " END IF; RETURN NEW;",
            ),
            refuse(
                "archived_month_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="An archived month is brought back, never forgotten.",
            ),
            refuse_truncate("archived_months_are_never_emptied", sentence="Archived months are never forgotten."),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class ArchivedPart(models.Model):
    """One file of an archived month: so many events in the order of their primary key, from the part before on.

    `until_*` name its last event; without them it is the last part, which reaches to the end of the month. What was
    done with it is noted as soon as it is done, so that no step of a large month has to begin anew: `verified_at`
    against the live table, `compared_at` against the detached one, `loaded_at` on the way back.
    """

    month = models.ForeignKey(ArchivedMonth, on_delete=models.PROTECT, related_name="parts")
    number = models.PositiveIntegerField()
    revision = models.PositiveIntegerField()
    file = models.CharField(max_length=80)
    file_sha256 = models.CharField(max_length=64)
    file_bytes = models.BigIntegerField()
    manifest_sha256 = models.CharField(max_length=64)
    rows = models.BigIntegerField()
    rows_sha256 = models.CharField(max_length=64)
    key_high = models.DecimalField()
    key_low = models.DecimalField()
    until_customer = models.BigIntegerField(null=True)
    until_time = models.DateTimeField(null=True)
    until_key = models.UUIDField(null=True)
    verified_at = models.DateTimeField(null=True)
    compared_at = models.DateTimeField(null=True)
    loaded_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("month", "number")
        constraints = (
            models.UniqueConstraint(fields=["month", "number"], name="part_of_a_month_is_written_once"),
            models.CheckConstraint(
                condition=Q(until_customer__isnull=True, until_time__isnull=True, until_key__isnull=True)
                | Q(until_customer__isnull=False, until_time__isnull=False, until_key__isnull=False),
                name="archived_part_ends_with_an_event",
            ),
            models.CheckConstraint(
                condition=~Q(file_sha256="") & ~Q(manifest_sha256=""), name="archived_part_has_a_file"
            ),
        )
        triggers = (
            pgtrigger.Trigger(
                name="part_of_an_archive_stays",
                when=pgtrigger.Before,
                operation=pgtrigger.Delete,
                func="IF EXISTS (SELECT FROM metering_archivedmonth WHERE id = OLD.month_id AND status <> 'planned')"
                " THEN "
                + refusal("part_of_an_archive_stays", "A file of an archived month goes when the month begins anew.")
                + " END IF; RETURN OLD;",
            ),
            refuse_truncate("parts_are_never_emptied", sentence="Archived months are never forgotten."),
        )

    def __str__(self) -> str:
        return self.file


class ArchivedBatch(models.Model):
    """How many events of one batch an archived month's file holds, so that a batch can be counted without the file."""

    pk = models.CompositePrimaryKey("month_id", "batch_id")
    month = models.ForeignKey(ArchivedMonth, on_delete=models.PROTECT, related_name="batches")
    batch_id = models.BigIntegerField()
    events = models.BigIntegerField()
    earliest_at = models.DateTimeField()

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(events__gt=0), name="archived_batch_has_events"),)

    def __str__(self) -> str:
        return f"batch {self.batch_id} in {self.month_id}"


class LegalHold(models.Model):
    """A duty to keep usage as it is: of a customer, of a span of months, or of a customer in a span of months.

    Months are named by their first day, both inclusive; without one the span is open on that side. A hold is a fact;
    that it was lifted is another (`LegalHoldLift`).
    """

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, null=True, related_name="legal_holds")
    first_month = models.DateField(null=True)
    last_month = models.DateField(null=True)
    reason = models.TextField()
    set_by = models.CharField(max_length=254)
    set_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(customer__isnull=False) | Q(first_month__isnull=False) | Q(last_month__isnull=False),
                name="legal_hold_names_a_customer_or_months",
            ),
            models.CheckConstraint(
                condition=(Q(first_month__isnull=True) | Q(first_month__day=1))
                & (Q(last_month__isnull=True) | Q(last_month__day=1)),
                name="legal_hold_covers_whole_months",
            ),
            models.CheckConstraint(
                condition=Q(first_month__isnull=True)
                | Q(last_month__isnull=True)
                | Q(first_month__lte=F("last_month")),
                name="legal_hold_ends_after_it_begins",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="legal_hold_has_a_reason"),
        )
        triggers = append_only("legal_hold", sentence="A legal hold is a fact: it is lifted, never changed.")

    def __str__(self) -> str:
        return f"legal hold {self.pk}"


class LegalHoldLift(models.Model):
    """That a legal hold ended, with the reason; append-only."""

    hold = models.OneToOneField(LegalHold, on_delete=models.PROTECT, related_name="lift", primary_key=True)
    reason = models.TextField()
    lifted_by = models.CharField(max_length=254)
    lifted_at = models.DateTimeField()

    class Meta:
        constraints = (models.CheckConstraint(condition=~Q(reason=""), name="lifting_has_a_reason"),)
        triggers = append_only("legal_hold_lift", sentence="A lifted hold is a fact: set another one.")

    def __str__(self) -> str:
        return f"lift of hold {self.hold_id}"


class UsageErasure(models.Model):
    """An erasure by law: a customer's raw events before a moment go, the totals stay.

    The counts say what was erased, by where it lay; they are written as it goes.
    """

    class Status(models.TextChoices):
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Erasing"
        DONE = "done", "Erased"
        REFUSED = "refused", "Refused"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="usage_erasures")
    before = models.DateTimeField("of events before")
    reason = models.TextField()
    legal_basis = models.CharField(max_length=254)
    status = models.CharField(max_length=20, choices=Status, default=Status.IN_REVIEW)
    requested_by = models.CharField(max_length=254)
    requested_at = models.DateTimeField()
    approved_at = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)
    events = models.BigIntegerField(default=0)
    archived_events = models.BigIntegerField(default=0)
    quarantined_events = models.BigIntegerField(default=0)
    refused_events = models.BigIntegerField(default=0)
    unique_values = models.BigIntegerField(db_default=0, help_text="different values that unique meters kept")
    other_records = models.BigIntegerField(db_default=0, help_text="corrections, rules and names of subjects")
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["in_review", "approved", "done", "refused"]),
                name="erasure_status_is_known",
            ),
            models.UniqueConstraint(
                fields=["customer"],
                condition=Q(status__in=["in_review", "approved"]),
                name="customer_has_one_open_erasure",
            ),
            models.CheckConstraint(condition=~Q(reason="") & ~Q(legal_basis=""), name="erasure_has_a_legal_basis"),
            models.CheckConstraint(
                condition=Q(status__in=["in_review", "refused"]) | Q(approved_at__isnull=False),
                name="erasure_was_approved",
            ),
        )
        triggers = (
            refuse(
                "erasure_keeps_what_was_approved",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    "customer", "before", "reason", "legal_basis", "requested_by", "requested_at"
                ),
                sentence="What was asked for is what is approved: ask anew.",
            ),
            refuse(
                "erasure_goes_step_by_step",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status <> NEW.status AND (OLD.status || ' ' || NEW.status) NOT IN"
                    " ('in_review approved', 'in_review refused', 'approved done')"
                ),
                sentence="An erasure is asked for, approved, and done.",
            ),
            pgtrigger.Trigger(
                name="erasure_needs_a_second_person",
                when=pgtrigger.Before,
                operation=pgtrigger.Insert | pgtrigger.Update,
                condition=pgtrigger.Condition("NEW.status IN ('approved', 'done')"),
                func="IF NOT EXISTS (SELECT FROM accounts_approvalrequest WHERE kind = 'usage_erasure'"
                " AND subject_id = NEW.id AND status = 'approved') THEN "
                + refusal("erasure_needs_a_second_person", "An erasure is approved by a second person.")
                + " END IF; RETURN NEW;",
            ),
            pgtrigger.Trigger(
                name="usage_on_hold_is_not_erased",
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition("OLD.status <> NEW.status AND NEW.status IN ('approved', 'done')"),
                func="PERFORM wait_for_legal_holds();"
                " IF usage_is_held(NEW.customer_id, '-infinity', NEW.before) THEN "
                + refusal("usage_on_hold_is_not_erased", "A legal hold covers usage of this customer: it stays.")
                + " END IF; RETURN NEW;",
            ),
            refuse(
                "erasure_is_never_deleted", operation=pgtrigger.Delete, sentence="What was erased is never forgotten."
            ),
            refuse_truncate("erasures_are_never_emptied", sentence="What was erased is never forgotten."),
        )

    def __str__(self) -> str:
        return f"erasure {self.pk}"
