"""What was billed of usage, so that what came after can be told."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from accounts.triggers import append_only


class ClosedUsage(models.Model):
    """What a customer had been billed of a meter and period once an invoice was issued; append-only.

    `snapshot` says which usage the bill saw; `quantity` and `events` are what all bills up to it hold, and `digest` is
    the SHA-256 over those of their lines. A later bill of the same period is a further row.
    """

    customer_id = models.BigIntegerField()
    meter_id = models.BigIntegerField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    snapshot = models.TextField()
    quantity = models.DecimalField()
    events = models.BigIntegerField()
    digest = models.BinaryField()
    invoice_id = models.BigIntegerField()
    closed_at = models.DateTimeField()

    class Meta:
        db_table = "usage_closing"
        verbose_name_plural = "closed usage"
        constraints = (
            models.UniqueConstraint(
                fields=["customer_id", "meter_id", "starts_at", "invoice_id"], name="usage_is_closed_once_an_invoice"
            ),
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="closed_usage_ends_after_it_begins"),
        )
        triggers = append_only("usage_closing", sentence="What was billed is a fact: a later bill is another row.")

    def __str__(self) -> str:
        return f"meter {self.meter_id} of customer {self.customer_id}, {self.starts_at:%Y-%m}"
