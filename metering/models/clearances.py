"""Decisions about all quarantined events that fit a rule, carried out by workers chunk by chunk."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import F, Q

from accounts.models import User
from accounts.triggers import refuse, refuse_truncate
from metering.models.files import UsageFile

_RULE = "act, reason, type, subject, source, time_from, time_until, file_id, last_event_id, events, explanation"
# An erasure takes the name of a subject out of a rule that was carried out.
_ERASED_BY_LAW = (
    "usage_erasure_is_running() AND OLD.state <> 'running' AND NEW.subject = 'erased by law'"
    " AND to_jsonb(OLD) - 'subject' = to_jsonb(NEW) - 'subject'"
)


class QuarantineClearance(models.Model):
    """One decision to release or discard every waiting event that fits a rule; an empty part of the rule fits all.

    It is about the events that were there when it was decided (ids up to `last_event_id`). `position` is the last one
    that was looked at, written in the transaction of each chunk.
    """

    class Act(models.TextChoices):
        RELEASE = "release", "Release"
        DISCARD = "discard", "Discard"

    class State(models.TextChoices):
        RUNNING = "running", "Under way"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"

    act = models.CharField(max_length=20, choices=Act)
    reason = models.CharField(max_length=30, blank=True)
    type = models.CharField(max_length=200, blank=True)
    subject = models.CharField(max_length=200, blank=True)
    source = models.CharField(max_length=200, blank=True)
    time_from = models.DateTimeField(null=True)
    time_until = models.DateTimeField(null=True)
    file = models.ForeignKey(UsageFile, on_delete=models.PROTECT, null=True, related_name="+")
    explanation = models.TextField("why they are discarded", blank=True)
    state = models.CharField(max_length=20, choices=State, default=State.RUNNING)
    events = models.BigIntegerField("events that fitted when it was decided")
    last_event_id = models.BigIntegerField()
    position = models.BigIntegerField(default=0)
    closed = models.BigIntegerField("released or discarded", default=0)
    still_waiting = models.BigIntegerField("looked at and left in quarantine", default=0)
    decided_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    actor_label = models.CharField(max_length=254)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=Q(act__in=["release", "discard"]), name="clearance_act_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=["running", "done", "stopped"]), name="clearance_state_is_known"
            ),
            models.CheckConstraint(
                condition=Q(state="running", finished_at__isnull=True)
                | ~Q(state="running") & Q(finished_at__isnull=False),
                name="clearance_ends_with_a_time",
            ),
            models.CheckConstraint(
                condition=Q(act="release", explanation="") | Q(act="discard") & ~Q(explanation=""),
                name="clearance_discards_for_a_reason",
            ),
            models.CheckConstraint(
                condition=Q(time_from__isnull=True) | Q(time_until__isnull=True) | Q(time_from__lt=F("time_until")),
                name="clearance_covers_some_time",
            ),
            models.UniqueConstraint(
                fields=["act", "reason", "type", "subject", "source", "time_from", "time_until", "file"],
                condition=Q(state="running"),
                nulls_distinct=False,
                name="clearance_of_a_rule_runs_once",
            ),
        )
        triggers = (
            refuse(
                "clearance_keeps_its_rule",
                "What was decided stays as it was decided.",
                operation=pgtrigger.Update,
                condition=f"(({', '.join(f'OLD.{name.strip()}' for name in _RULE.split(','))}) IS DISTINCT FROM"
                f" ({', '.join(f'NEW.{name.strip()}' for name in _RULE.split(','))})) AND NOT ({_ERASED_BY_LAW})",
            ),
            refuse(
                "clearance_ends_once",
                "A clearance that has ended stays so.",
                operation=pgtrigger.Update,
                condition=f"(OLD.state <> 'running' OR NEW.position < OLD.position) AND NOT ({_ERASED_BY_LAW})",
            ),
            refuse("clearance_is_never_deleted", "A decision is kept.", operation=pgtrigger.Delete),
            refuse_truncate("clearances_are_never_emptied"),
        )

    def __str__(self) -> str:
        return f"{self.get_act_display()} {self.events:,} quarantined events"
