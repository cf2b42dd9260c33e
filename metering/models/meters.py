"""Meters: how events of one type become a quantity, version by version."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import pgtrigger
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.lookups import Exact

from accounts.models import history
from accounts.triggers import append_only, refuse, require_on_insert
from metering.aggregations import sum_unit

# Among the dimensions to group by: whose usage it is, by the customer's id. No dimension has this name.
BY_CUSTOMER: Final = "(customer)"


class Meter(models.Model):
    """How events of one type become a quantity. What exactly it reads from them is said by its versions.

    Type, aggregation, unit and divisor never change, or a total would add up what cannot be added; such a meter is a
    new one. What its values come to is divided by `divisor` once, as it is read: 300 where a total of five minutes is
    to be a rate a second, for which no factor is exact. `series_limit` is how many series one customer may have in it.
    """

    class Aggregation(models.TextChoices):
        SUM = "sum", "Sum of a value"
        COUNT = "count", "Number of events"
        MIN = "min", "Smallest value"
        MAX = "max", "Greatest value"
        LATEST = "latest", "Latest value"
        UNIQUE = "unique", "Number of different values"
        GAUGE = "gauge", "Level over time (unit-hours)"
        P95 = "p95", "95th percentile of 5-minute totals"

    code = models.SlugField(max_length=80)
    name = models.CharField(max_length=150)
    event_type = models.CharField(max_length=200, db_index=True)
    aggregation = models.CharField(max_length=20, choices=Aggregation)
    unit = models.CharField(max_length=60)
    divisor = models.DecimalField("the result divided by", default=Decimal(1), db_default=Decimal(1))
    series_limit = models.PositiveIntegerField("series a customer may have", default=10_000, db_default=10_000)
    is_active = models.BooleanField("active", default=True)

    history = history()

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["code"], name="meter_code_is_unique"),
            models.CheckConstraint(
                condition=Q(aggregation__in=["sum", "count", "min", "max", "latest", "unique", "gauge", "p95"]),
                name="meter_aggregation_is_known",
            ),
            models.CheckConstraint(condition=Q(series_limit__gte=1), name="meter_takes_at_least_one_series"),
            # Postgres takes NaN for greater than any number.
            models.CheckConstraint(
                condition=Q(divisor__gt=0, divisor__lt=Decimal(10) ** 38), name="meter_divisor_is_positive"
            ),
            models.CheckConstraint(
                condition=~Q(aggregation__in=["count", "unique"]) | Q(divisor=1),
                name="meter_divides_no_number_of_things",
            ),
        )
        triggers = (
            refuse(
                "meter_counts_the_same_for_ever",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange("event_type", "aggregation", "unit", "divisor"),
                sentence="Type, aggregation, unit and divisor of a meter never change: define another meter.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def sum_unit(self) -> str:
        """What sums of the meter's values are in, which nothing has divided yet."""
        return sum_unit(self.unit, self.divisor)


class MeterVersion(models.Model):
    """What a meter reads from events whose own time is at or after `valid_from`, until its next version begins.

    `value_path`, the names in `event_filter` and `dimensions` are names in the event's data; where no such name is
    there, dots lead into nested objects. `conversion` is what each value is multiplied by, exactly.
    """

    meter = models.ForeignKey(Meter, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    valid_from = models.DateTimeField("valid for events from")
    value_path = models.CharField("name of the value in the event's data", max_length=200, blank=True)
    event_filter = models.JSONField("only events whose data holds", default=dict, blank=True)
    conversion = models.DecimalField("each value times", default=1, db_default=1)
    dimensions = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("meter", "number")
        constraints = (
            models.UniqueConstraint(fields=["meter", "number"], name="meter_version_number_is_unique"),
            models.UniqueConstraint(fields=["meter", "valid_from"], name="meter_version_begins_alone"),
            # Usage is added up by the hour of UTC.
            models.CheckConstraint(
                condition=Exact(
                    Func(
                        F("valid_from"),
                        template="mod(extract(epoch FROM %(expressions)s), 3600)",
                        output_field=models.IntegerField(),
                    ),
                    0,
                ),
                name="meter_version_begins_on_the_hour",
            ),
            # Postgres takes NaN for greater than any number.
            models.CheckConstraint(
                condition=Q(conversion__gt=0, conversion__lt=Decimal(10) ** 38), name="meter_conversion_is_positive"
            ),
            # Usage is grouped by customer under this name, as if it were a dimension.
            models.CheckConstraint(
                condition=~Q(dimensions__contains=[BY_CUSTOMER]), name="meter_dimension_is_not_the_customer"
            ),
        )
        triggers = (
            *append_only("meter_version", sentence="Usage was counted by this version: it never changes."),
            require_on_insert(
                "meter_has_a_value_unless_it_counts",
                "Only a meter that counts events reads no value.",
                holds="(NEW.value_path = '') = "
                "(SELECT aggregation = 'count' FROM metering_meter WHERE id = NEW.meter_id)",
            ),
            require_on_insert(
                "meter_version_follows_the_others",
                "A version begins after those before it.",
                holds="NOT EXISTS (SELECT FROM metering_meterversion WHERE meter_id = NEW.meter_id"
                " AND (number >= NEW.number OR valid_from >= NEW.valid_from))",
            ),
        )

    def __str__(self) -> str:
        return f"{self.meter} version {self.number}"
