"""Meters: how events of a type become a quantity."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import (
    ArrayField,
)
from django.db import models
from django.db.models import Q

from accounts.models import history
from accounts.triggers import refuse


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
