"""The append-only audit log."""

from __future__ import annotations

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import Q

from accounts.models.api_keys import ApiKey
from accounts.models.staff import User
from accounts.triggers import append_only


class AuditEntry(models.Model):
    """One verb that somebody did to something; append-only, written in the transaction of the act."""

    at = models.DateTimeField(db_index=True)
    actor = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="+")
    actor_label = models.CharField(max_length=254)
    verb = models.CharField(max_length=80, db_index=True)
    subject_type = models.CharField(max_length=80)
    subject_id = models.CharField(max_length=64)
    subject_label = models.CharField(max_length=254, blank=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    data = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "audit entries"
        constraints = (
            models.CheckConstraint(condition=~Q(actor_label=""), name="audit_entry_names_its_actor"),
            models.CheckConstraint(
                condition=Q(verb__regex=r"^[a-z0-9_]+(\.[a-z0-9_]+)+$"),
                name="audit_entry_verb_is_a_noun_and_what_was_done",
            ),
        )
        indexes = (
            models.Index(fields=["subject_type", "subject_id", "-id"], name="audit_by_subject"),
            models.Index(fields=["request_id"], name="audit_by_request", condition=~Q(request_id="")),
        )
        triggers = append_only("audit_entry", sentence="Audit entries are only ever added.")

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_label} {self.verb} {self.subject_label}"
