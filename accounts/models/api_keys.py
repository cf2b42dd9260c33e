"""API keys, of which only the hash of the secret is kept."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from accounts.models.columns import is_sha256
from accounts.models.parties import Customer
from accounts.models.staff import User
from accounts.triggers import refuse


class ApiKey(models.Model):
    """A secret by which a program speaks for the operator or for one customer; only its hash is kept."""

    class Scope(models.TextChoices):
        EVENTS_WRITE = "events:write", "Send usage events"
        USAGE_READ = "usage:read", "Read usage"
        INVOICES_READ = "invoices:read", "Read invoices"

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    secret_hash = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=40, choices=Scope))
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys")
    source = models.CharField(
        max_length=200,
        blank=True,
        db_default="",
        default="",
        help_text="The only source whose events the key may send, as the events name it. Left empty: any source.",
    )
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API key"
        constraints = (
            models.UniqueConstraint(fields=["prefix"], name="api_key_prefix_is_unique"),
            models.CheckConstraint(
                condition=Q(scopes__len__gt=0)
                & Q(scopes__contained_by=["events:write", "usage:read", "invoices:read"]),
                name="api_key_scopes_are_known",
            ),
            models.CheckConstraint(
                condition=Q(source="") | Q(scopes__contains=["events:write"]),
                name="api_key_of_a_source_sends_events",
                violation_error_message="Only a key that sends events is tied to a source.",
            ),
            models.CheckConstraint(
                # No event has another one: metering.events refuses them in attributes.
                condition=~Q(source__regex="[[:cntrl:]]"),
                name="api_key_source_is_one_that_events_can_have",
                violation_error_message="A source holds no control characters.",
            ),
            models.CheckConstraint(condition=is_sha256("secret_hash"), name="api_key_secret_is_kept_as_a_hash"),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("created_at")),
                name="api_key_expires_after_it_was_made",
            ),
        )
        triggers = (
            refuse(
                "api_key_only_notes_use_and_revocation",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(exclude=["revoked_at", "last_used_at"]),
                sentence="A key that may do something else is another key.",
            ),
            refuse(
                "api_key_revocation_is_final",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__revoked_at__isnull=False)
                & pgtrigger.Q(old__revoked_at__df=pgtrigger.F("new__revoked_at")),
                sentence="A revoked API key stays revoked.",
            ),
            refuse(
                "api_key_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="API keys are revoked, never deleted.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"
