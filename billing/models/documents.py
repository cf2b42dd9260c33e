"""The files and the mails of an issued invoice; each row's state is the truth about that work."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q

from accounts.models import User
from accounts.triggers import refuse, refuse_truncate
from billing.models.invoices import Invoice


class InvoiceDocument(models.Model):
    """The PDF of an issued invoice: made once, stored with its SHA-256, never made differently."""

    class State(models.TextChoices):
        PENDING = "pending", "Waiting"
        MADE = "made", "Made"

    invoice = models.OneToOneField(Invoice, on_delete=models.PROTECT, related_name="document")
    state = models.CharField(max_length=20, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    next_attempt_at = models.DateTimeField()
    made_at = models.DateTimeField(null=True)
    content = models.BinaryField(null=True)
    sha256 = models.BinaryField(max_length=32, null=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(state="pending", content__isnull=True, sha256__isnull=True, made_at__isnull=True)
                | Q(state="made", content__isnull=False, sha256__isnull=False, made_at__isnull=False),
                name="document_is_pending_or_made_with_its_hash",
            ),
            models.CheckConstraint(
                condition=Q(sha256__isnull=True) | Q(sha256=Func(F("content"), function="sha256")),
                name="document_hash_is_that_of_its_content",
            ),
        )
        triggers = (
            refuse(
                "made_document_never_changes",
                "A document is made once and never made differently.",
                operation=pgtrigger.Update,
                condition="OLD.state = 'made' OR OLD.invoice_id <> NEW.invoice_id",
            ),
            refuse(
                "document_is_never_deleted",
                "The document of an invoice is never deleted.",
                operation=pgtrigger.Delete,
            ),
            refuse_truncate("documents_are_never_emptied"),
        )
        indexes = (models.Index(fields=["next_attempt_at"], condition=Q(state="pending"), name="document_pending"),)

    def __str__(self) -> str:
        return f"document of {self.invoice}"


class InvoiceDelivery(models.Model):
    """One sending of an issued invoice by e-mail; sending again is a new delivery."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENT = "sent", "Sent"
        FAILED = "failed", "Failed"

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="deliveries")
    recipients = ArrayField(models.EmailField())
    state = models.CharField(max_length=20, choices=State, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    next_attempt_at = models.DateTimeField()
    claimed_until = models.DateTimeField(null=True)
    message_id = models.CharField(max_length=254, blank=True)
    requested_by = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "invoice deliveries"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "failed"], sent_at__isnull=True)
                | Q(state="sent", sent_at__isnull=False),
                name="delivery_is_sent_with_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(state="failed") | ~Q(last_error=""),
                name="failed_delivery_says_why",
            ),
        )
        triggers = (
            refuse(
                "finished_delivery_never_changes",
                "A delivery that was sent or has failed never changes; send the invoice again.",
                operation=pgtrigger.Update,
                condition="OLD.state <> 'waiting'",
            ),
            refuse(
                "delivery_is_never_deleted",
                "The deliveries of an invoice are never deleted.",
                operation=pgtrigger.Delete,
            ),
            refuse_truncate("deliveries_are_never_emptied"),
        )
        indexes = (models.Index(fields=["next_attempt_at"], condition=Q(state="waiting"), name="delivery_waiting"),)

    def __str__(self) -> str:
        return f"{self.invoice} to {', '.join(self.recipients)}"
