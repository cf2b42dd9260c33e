"""Subjects, the names under which usage arrives, and whose they are."""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import (
    DateTimeRangeField,
    RangeOperators,
)
from django.db import models
from django.db.models import F, Func, Q, Value

from accounts.models import Customer, history
from accounts.triggers import refuse, refuse_truncate

_NAME_STAYS = "Whose usage it is hangs on the name of a subject: it stays."


class Subject(models.Model):
    """The name under which usage arrives: a project, an organisation, a device."""

    name = models.CharField(max_length=200)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["name"], name="subject_name_is_unique"),)
        triggers = (
            # An erasure takes the name of a subject that is nobody's any more, and was never another customer's.
            refuse(
                "subject_never_changes",
                _NAME_STAYS,
                operation=pgtrigger.Update,
                condition=(
                    "NOT (subject_may_be_forgotten(OLD.id) AND NEW.id = OLD.id AND NEW.name = 'erased ' || OLD.id)"
                ),
            ),
            refuse("subject_is_never_deleted", _NAME_STAYS, operation=pgtrigger.Delete),
            refuse_truncate("subject_is_never_emptied", _NAME_STAYS),
        )

    def __str__(self) -> str:
        return self.name


class SubjectAssignment(models.Model):
    """A subject belongs to a customer for a period of time `[start, end)`; what follows it is another assignment."""

    subject = models.ForeignKey(Subject, on_delete=models.PROTECT, related_name="assignments")
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="subject_assignments")
    valid_during = DateTimeRangeField()

    history = history()

    class Meta:
        ordering = ("subject", "valid_during")
        constraints = (
            ExclusionConstraint(
                name="subject_belongs_to_one_customer_at_a_time",
                expressions=[
                    (
                        Func(
                            F("subject"),
                            F("subject"),
                            Value("[]"),
                            function="int8range",
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                    ("valid_during", RangeOperators.OVERLAPS),
                ],
            ),
            models.CheckConstraint(
                condition=Q(valid_during__isempty=False),
                name="subject_assignment_lasts_some_time",
            ),
        )
        triggers = (
            refuse(
                "subject_assignment_only_ends",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.id, OLD.subject_id, OLD.customer_id, lower(OLD.valid_during))"
                    " IS DISTINCT FROM (NEW.id, NEW.subject_id, NEW.customer_id, lower(NEW.valid_during))"
                    " OR coalesce(upper(NEW.valid_during), 'infinity') > coalesce(upper(OLD.valid_during), 'infinity')"
                ),
                sentence="An assignment only ever ends, or ends earlier: whose usage it is is never rewritten.",
            ),
            refuse(
                "subject_assignment_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="An assignment is ended, never deleted.",
            ),
            refuse_truncate("subject_assignment_is_never_emptied", sentence="An assignment is ended, never deleted."),
        )

    def __str__(self) -> str:
        return f"{self.subject} → {self.customer}"
