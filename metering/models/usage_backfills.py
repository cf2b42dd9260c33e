"""Backfills of usage: what was opened for which source and period, the events filled in, and what became of each."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.lookups import Exact

from accounts.models import User
from accounts.triggers import refusal, refuse, refuse_truncate

_STEPS = (
    "(OLD.status || ' ' || NEW.status) NOT IN ('open in_review', 'open closing', 'open abandoned', 'in_review open',"
    " 'in_review closing', 'closing closed', 'closed revert_review', 'closed reverting', 'revert_review closed',"
    " 'revert_review reverting', 'reverting reverted')"
)
UNSETTLED = ("open", "in_review", "closing", "revert_review", "reverting")
_WAS_CLOSED = ("closed", "revert_review", "reverting", "reverted")
_DONE = ("counted", "replaced", "brought_back", "voided")


def _is_on_the_hour(name: str) -> Exact:
    hour = Func(Value("hour"), F(name), Value("UTC"), function="date_trunc", output_field=models.DateTimeField())
    return Exact(hour, F(name))


def _hash_of(name: str) -> Func:
    return Func(F(name), Value(0), function="hashtextextended", output_field=models.BigIntegerField())


class UsageBackfill(models.Model):
    """One attempt to get a source's events of `[starts_at, ends_at)` right: filled, previewed, closed, maybe reverted.

    `customer_ids` and `event_types` narrow it down; empty is all. In the mode `add` what was counted before stays; in
    the mode `replace` what of all this is counted and not among the events filled in counts no more. `staged`,
    `problems` and `refused` count what came; the further numbers say what became of it. A preview is kept with the
    fingerprint of what it was taken of.
    """

    class Mode(models.TextChoices):
        ADD = "add", "Add what is missing"
        REPLACE = "replace", "Replace what is there"

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        IN_REVIEW = "in_review", "In review"
        CLOSING = "closing", "Closing"
        CLOSED = "closed", "Closed"
        REVERT_REVIEW = "revert_review", "Revert in review"
        REVERTING = "reverting", "Reverting"
        REVERTED = "reverted", "Reverted"
        ABANDONED = "abandoned", "Abandoned"

    source = models.CharField(max_length=200)
    starts_at = models.DateTimeField("of events from")
    ends_at = models.DateTimeField("of events before")
    customer_ids = ArrayField(models.BigIntegerField(), default=list)
    event_types = ArrayField(models.CharField(max_length=200), default=list)
    mode = models.CharField(max_length=10, choices=Mode)
    lifts_age = models.BooleanField("takes events older than the acceptance age", default=False)
    reason = models.TextField()
    status = models.CharField(max_length=20, choices=Status, default=Status.OPEN)
    opened_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    opened_by_label = models.CharField(max_length=254)
    opened_at = models.DateTimeField()
    staged = models.PositiveIntegerField(default=0)
    problems = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)
    preview_asked_at = models.DateTimeField("asked to be previewed by a worker", null=True)
    preview = models.JSONField(null=True)
    previewed_at = models.DateTimeField(null=True)
    fingerprint = models.CharField(max_length=64, blank=True)
    closing_at = models.DateTimeField(null=True)
    items = models.PositiveIntegerField("events to settle", default=0)
    closed_at = models.DateTimeField(null=True)
    counted = models.PositiveIntegerField(default=0)
    kept = models.PositiveIntegerField(default=0)
    replaced = models.PositiveIntegerField(default=0)
    brought_back = models.PositiveIntegerField(default=0)
    voided = models.PositiveIntegerField(default=0)
    left_out = models.PositiveIntegerField(default=0)
    revert_reason = models.TextField(blank=True)
    revert_preview = models.JSONField(null=True)
    revert_previewed_at = models.DateTimeField(null=True)
    revert_fingerprint = models.CharField(max_length=64, blank=True)
    reverting_at = models.DateTimeField(null=True)
    reverted_at = models.DateTimeField(null=True)
    reverted = models.PositiveIntegerField(default=0)
    revert_left_out = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=[*UNSETTLED, "closed", "reverted", "abandoned"]),
                name="usage_backfill_status_is_known",
            ),
            models.CheckConstraint(condition=Q(mode__in=["add", "replace"]), name="usage_backfill_mode_is_known"),
            models.CheckConstraint(condition=~Q(source=""), name="usage_backfill_names_a_source"),
            models.CheckConstraint(condition=~Q(reason=""), name="usage_backfill_has_a_reason"),
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="usage_backfill_ends_after_it_starts"),
            models.CheckConstraint(
                condition=Q(_is_on_the_hour("starts_at")) & Q(_is_on_the_hour("ends_at")),
                name="usage_backfill_is_of_full_hours",
            ),
            # By a hash of the source, for an index of ranges takes no texts. Two sources of one hash would only have to
            # take turns.
            ExclusionConstraint(
                name="source_and_period_have_one_open_backfill",
                expressions=[
                    (
                        Func(_hash_of("source"), _hash_of("source"), Value("[]"), function="int8range"),
                        RangeOperators.OVERLAPS,
                    ),
                    (Func(F("starts_at"), F("ends_at"), function="tstzrange"), RangeOperators.OVERLAPS),
                ],
                condition=Q(status__in=UNSETTLED),
            ),
            models.CheckConstraint(
                condition=Q(status__in=["open", "in_review", "abandoned"], closing_at__isnull=True)
                | Q(status="closing", closing_at__isnull=False, closed_at__isnull=True)
                | Q(status__in=_WAS_CLOSED, closing_at__isnull=False, closed_at__isnull=False),
                name="usage_backfill_is_closed_at_a_time",
            ),
            models.CheckConstraint(
                condition=Q(status="reverted", reverting_at__isnull=False, reverted_at__isnull=False)
                | ~Q(status="reverted") & Q(reverted_at__isnull=True),
                name="usage_backfill_is_reverted_at_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["revert_review", "reverting", "reverted"]) | ~Q(revert_reason=""),
                name="usage_backfill_is_reverted_for_a_reason",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=_WAS_CLOSED)
                | Q(items=F("counted") + F("kept") + F("replaced") + F("brought_back") + F("voided") + F("left_out")),
                name="closed_usage_backfill_settled_every_event",
            ),
            models.CheckConstraint(
                condition=~Q(status="reverted")
                | Q(
                    reverted=F("counted") + F("replaced") + F("brought_back") + F("voided") - F("revert_left_out"),
                ),
                name="reverted_usage_backfill_undid_every_event",
            ),
        )
        triggers = (
            refuse(
                "usage_backfill_goes_step_by_step",
                operation=pgtrigger.Update,
                condition=f"OLD.status <> NEW.status AND {_STEPS}",
                sentence="A backfill is opened, then closed or abandoned; a closed one may be reverted.",
            ),
            refuse(
                "settled_usage_backfill_never_changes",
                operation=pgtrigger.Update,
                condition="OLD.status IN ('reverted', 'abandoned')",
                sentence="A backfill that was reverted or abandoned stays as it is.",
            ),
            refuse(
                "usage_backfill_keeps_what_it_is_of",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    "source",
                    "starts_at",
                    "ends_at",
                    "customer_ids",
                    "event_types",
                    "mode",
                    "lifts_age",
                    "reason",
                    "opened_by",
                    "opened_at",
                ),
                sentence="What a backfill is of never changes: abandon it and open another.",
            ),
            refuse(
                "closed_usage_backfill_keeps_its_result",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.status NOT IN ('open', 'in_review', 'closing') AND"
                    " (OLD.staged, OLD.preview, OLD.fingerprint, OLD.closing_at, OLD.closed_at, OLD.items, OLD.counted,"
                    " OLD.kept, OLD.replaced, OLD.brought_back, OLD.voided, OLD.left_out) IS DISTINCT FROM"
                    " (NEW.staged, NEW.preview, NEW.fingerprint, NEW.closing_at, NEW.closed_at, NEW.items, NEW.counted,"
                    " NEW.kept, NEW.replaced, NEW.brought_back, NEW.voided, NEW.left_out)"
                ),
                sentence="What a closed backfill did stays on record.",
            ),
            refuse(
                "usage_backfill_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="A backfill is abandoned or reverted, never deleted.",
            ),
            refuse_truncate("usage_backfills_are_never_emptied", sentence="Backfills are never thrown away."),
        )

    def __str__(self) -> str:
        return f"backfill {self.pk}"


def _while_it_is(rule: str, sentence: str, *, rows: str, unless: str) -> str:
    return (
        f"IF EXISTS (SELECT FROM {rows} AS item JOIN metering_usagebackfill AS backfill"
        f" ON backfill.id = item.backfill_id WHERE NOT ({unless})) THEN {refusal(rule, sentence)} END IF; RETURN NULL;"
    )


class UsageBackfillItem(models.Model):
    """One event of a backfill: one that was filled in (`sent`), or a counted one that was not sent again (`there`).

    The latter are noted when a backfill that replaces is being closed. `problem` is why an event could not be counted
    when it was filled in. `there_*` say where the counted event of the same identity lies that is to be replaced or
    brought back. Once an event counts, what it said is in the event alone.
    """

    class Kind(models.TextChoices):
        SENT = "sent", "Filled in"
        THERE = "there", "Counted before, not sent again"

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        COUNTED = "counted", "Counted"
        KEPT = "kept", "Counted before"
        REPLACED = "replaced", "Took another's place"
        BROUGHT_BACK = "brought_back", "Counts again"
        VOIDED = "voided", "Voided"
        LEFT_OUT = "left_out", "Left out"

    # With an index of its own, the planner would look a key up by reading all events of the backfill, of which it knows
    # nothing as long as they are new; the index of the unique constraint begins with the backfill, too.
    backfill = models.ForeignKey(UsageBackfill, on_delete=models.PROTECT, related_name="events", db_index=False)
    kind = models.CharField(max_length=10, choices=Kind)
    key = models.UUIDField("the event's identity")
    content_hash = models.UUIDField(null=True)
    customer_id = models.BigIntegerField(null=True)
    time = models.DateTimeField("the event's own time")
    event_id = models.TextField(blank=True)
    type = models.TextField(blank=True)
    subject = models.TextField(blank=True)
    data = models.JSONField(null=True)
    problem = models.CharField(max_length=30, blank=True)
    detail = models.TextField(blank=True)
    there_customer_id = models.BigIntegerField(null=True)
    there_time = models.DateTimeField(null=True)
    state = models.CharField(max_length=20, choices=State, default=State.WAITING)
    new_key = models.UUIDField("the identity under which it counts", null=True)
    batch_id = models.BigIntegerField(null=True)
    reverted_batch_id = models.BigIntegerField(null=True)
    revert_detail = models.TextField("why it could not be undone", blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["backfill", "key"], name="usage_backfill_names_an_event_once"),
            models.CheckConstraint(condition=Q(kind__in=["sent", "there"]), name="usage_backfill_item_kind_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "kept", "left_out", *_DONE]),
                name="usage_backfill_item_state_is_known",
            ),
            models.CheckConstraint(
                condition=Q(state__in=_DONE, batch_id__isnull=False, customer_id__isnull=False)
                | ~Q(state__in=_DONE) & Q(batch_id__isnull=True),
                name="done_usage_backfill_item_names_its_batch",
            ),
            models.CheckConstraint(
                condition=Q(state="replaced", new_key__isnull=False) | ~Q(state="replaced") & Q(new_key__isnull=True),
                name="replaced_event_of_a_backfill_has_a_new_identity",
            ),
            models.CheckConstraint(
                condition=Q(state__in=_DONE) | Q(reverted_batch_id__isnull=True, revert_detail=""),
                name="only_what_a_backfill_did_is_undone",
            ),
        )
        indexes = (
            models.Index(
                fields=["backfill", "customer_id", "time", "key"],
                name="usage_backfill_item_waiting",
                condition=Q(state="waiting"),
            ),
            models.Index(
                fields=["backfill", "customer_id", "time", "key"],
                name="usage_backfill_item_done",
                condition=Q(state__in=_DONE, reverted_batch_id__isnull=True, revert_detail=""),
            ),
            models.Index(
                fields=["backfill", "id"],
                name="usage_backfill_item_problem",
                condition=Q(state="left_out") | ~Q(problem=""),
            ),
        )
        triggers = (
            refuse(
                "usage_backfill_item_is_settled_once",
                operation=pgtrigger.Update,
                condition=(
                    "OLD.state <> 'waiting' AND (OLD.state, OLD.customer_id, OLD.batch_id, OLD.new_key,"
                    " OLD.there_customer_id, OLD.there_time)"
                    " IS DISTINCT FROM (NEW.state, NEW.customer_id, NEW.batch_id, NEW.new_key,"
                    " NEW.there_customer_id, NEW.there_time)"
                    " OR (OLD.reverted_batch_id IS NOT NULL OR OLD.revert_detail <> '')"
                    " AND (OLD.reverted_batch_id, OLD.revert_detail)"
                    " IS DISTINCT FROM (NEW.reverted_batch_id, NEW.revert_detail)"
                ),
                sentence="What became of an event of a backfill never changes.",
            ),
            # What an event said goes when the event itself holds it, or by law.
            refuse(
                "usage_backfill_item_keeps_what_was_sent",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.backfill_id, OLD.kind, OLD.key, OLD.content_hash, OLD.time, OLD.type)"
                    " IS DISTINCT FROM (NEW.backfill_id, NEW.kind, NEW.key, NEW.content_hash, NEW.time, NEW.type)"
                    " OR (OLD.event_id, OLD.subject, OLD.data) IS DISTINCT FROM (NEW.event_id, NEW.subject, NEW.data)"
                    " AND NOT (NEW.event_id = '' AND NEW.subject = '' AND NEW.data IS NULL)"
                ),
                sentence="An event of a backfill stays as it was sent.",
            ),
            pgtrigger.Trigger(
                name="only_an_open_backfill_is_filled",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                func=_while_it_is(
                    "only_an_open_backfill_is_filled",
                    "Events are filled into a backfill only while it is open.",
                    rows="added",
                    unless="backfill.status = 'open' OR item.kind = 'there' AND backfill.status = 'in_review'",
                ),
            ),
            pgtrigger.Trigger(
                name="only_an_abandoned_backfill_is_emptied",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Delete,
                referencing=pgtrigger.Referencing(old="gone"),  # type: ignore[no-untyped-call]
                func=_while_it_is(
                    "only_an_abandoned_backfill_is_emptied",
                    "Events go only from a backfill that was abandoned.",
                    rows="gone",
                    unless="backfill.status = 'abandoned'",
                ),
            ),
            refuse_truncate("usage_backfill_items_are_never_emptied", sentence="Backfills keep what they did."),
        )

    def __str__(self) -> str:
        return f"{self.event_id or self.key} in {self.backfill}"


class UsageBackfillRefusal(models.Model):
    """An event that a backfill would not take, and why; each is listed once however often it is sent."""

    backfill = models.ForeignKey(UsageBackfill, on_delete=models.PROTECT, related_name="refusals")
    event_id = models.TextField(blank=True)
    reason = models.CharField(max_length=30)
    detail = models.TextField()
    fingerprint = models.UUIDField()
    refused_at = models.DateTimeField()

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=["backfill", "fingerprint"], name="usage_backfill_lists_a_refusal_once"),
        )
        triggers = (
            refuse(
                "usage_backfill_refusal_never_changes",
                operation=pgtrigger.Update,
                condition="NOT (usage_erasure_is_running() AND NEW.event_id = '' AND NEW.detail = 'erased by law')",
                sentence="What was refused is a fact: it never changes.",
            ),
            refuse_truncate("usage_backfill_refusals_are_never_emptied", sentence="Backfills keep what they refused."),
        )

    def __str__(self) -> str:
        return f"{self.event_id}: {self.detail}"
