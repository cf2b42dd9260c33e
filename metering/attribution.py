"""Whose usage it is: subjects belong to customers for periods of time, one customer at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from psycopg.types.range import Range

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.errors import CustomerUnknown
from accounts.models import Customer
from accounts.validation import require_reason
from metering.counting import Ownership
from metering.errors import AssignmentEndsEarlier, AssignmentPeriodEmpty, SubjectAlreadyAssigned, SubjectNameInvalid
from metering.events import MAX_NAME_LENGTH
from metering.models import Subject, SubjectAssignment


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAssignment:
    """A subject to be given to a customer during `[starts_at, ends_at)`; without an end it lasts."""

    name: str
    customer_id: int
    starts_at: datetime
    ends_at: datetime | None = None

    @property
    def period(self) -> Range[datetime]:
        """The period as the database keeps it."""
        period: Range[datetime] = DateTimeTZRange(self.starts_at, self.ends_at, "[)")
        return period


def assign_subject(
    *,
    name: str,
    customer_id: int,
    starts_at: datetime,
    ends_at: datetime | None = None,
    actor: Actor,
    at: datetime,
) -> SubjectAssignment:
    """Give a subject to a customer for a period; the same assignment twice is one.

    Usage that was counted before stays where it was counted.

    Raises: PermissionMissing, CustomerUnknown, SubjectNameInvalid, AssignmentPeriodEmpty, SubjectAlreadyAssigned.
    """
    wanted = NewAssignment(name=name, customer_id=customer_id, starts_at=starts_at, ends_at=ends_at)
    return assign_subjects(assignments=[wanted], actor=actor, at=at)[0]


@transaction.atomic
def assign_subjects(
    *,
    assignments: Sequence[NewAssignment],
    actor: Actor,
    at: datetime,
) -> list[SubjectAssignment]:
    """Give many subjects to customers, all or none; assignments that stand already are returned as they are.

    Raises: PermissionMissing, CustomerUnknown, SubjectNameInvalid, AssignmentPeriodEmpty, SubjectAlreadyAssigned.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    for wanted in assignments:
        _require_valid(wanted)
    customers = Customer.objects.in_bulk({wanted.customer_id for wanted in assignments})
    if any(wanted.customer_id not in customers for wanted in assignments):
        raise CustomerUnknown
    names = {wanted.name for wanted in assignments}
    Subject.objects.bulk_create([Subject(name=name) for name in sorted(names)], ignore_conflicts=True, batch_size=1000)
    subjects = {
        subject.name: subject
        for subject in Subject.objects.select_for_update(no_key=True).filter(name__in=names).order_by("name")
    }
    standing = {
        (assignment.subject.name, assignment.customer_id, assignment.valid_during): assignment
        for assignment in SubjectAssignment.objects.select_related("subject").filter(subject__in=subjects.values())
    }
    fresh = {
        (wanted.name, wanted.customer_id, wanted.period): SubjectAssignment(
            subject=subjects[wanted.name],
            customer=customers[wanted.customer_id],
            valid_during=wanted.period,
        )
        for wanted in assignments
        if (wanted.name, wanted.customer_id, wanted.period) not in standing
    }
    created = _create(list(fresh.values()), actor=actor, at=at)
    standing |= dict(zip(fresh, created, strict=True))
    return [standing[wanted.name, wanted.customer_id, wanted.period] for wanted in assignments]


@transaction.atomic
def end_assignment(
    *,
    assignment_id: int,
    ends_at: datetime | None,
    reason: str,
    actor: Actor,
    at: datetime,
) -> SubjectAssignment:
    """Let an assignment end, or end earlier; usage that was counted stays where it was counted.

    A subject that comes back, or stays longer after all, is assigned anew from the end on.

    Raises: PermissionMissing, ReasonMissing, AssignmentPeriodEmpty, AssignmentEndsEarlier.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    assignment = SubjectAssignment.objects.select_for_update(no_key=True).get(pk=assignment_id)
    starts_at, ended_at = assignment.valid_during.lower, assignment.valid_during.upper
    if ended_at == ends_at:
        return assignment
    if ends_at is None or (ended_at is not None and ends_at > ended_at):
        raise AssignmentEndsEarlier
    if starts_at is not None and ends_at <= starts_at:
        raise AssignmentPeriodEmpty
    assignment.valid_during = DateTimeTZRange(starts_at, ends_at, "[)")
    history.save(assignment, update_fields=["valid_during"], reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="subject.assignment_ended", subject=assignment, at=at, reason=reason)
    return assignment


def owners_of(cursor: psycopg.Cursor[Any], names: Collection[str]) -> dict[str, list[Ownership]]:
    """Return who owns these subjects and when."""
    cursor.execute(
        """
        SELECT subject.name, assignment.customer_id, lower(valid_during), upper(valid_during)
        FROM metering_subject AS subject
        JOIN metering_subjectassignment AS assignment ON assignment.subject_id = subject.id
        WHERE subject.name = ANY(%s)
        """,
        [list(names)],
        # Moments are read many times faster from their eight bytes than from a text.
        binary=True,
    )
    owners: dict[str, list[Ownership]] = {}
    for name, customer_id, starts_at, ends_at in cursor:
        owners.setdefault(name, []).append(Ownership(customer_id, starts_at, ends_at))
    return owners


def _require_valid(wanted: NewAssignment) -> None:
    if not (wanted.name and len(wanted.name) <= MAX_NAME_LENGTH and wanted.name.isprintable()):
        raise SubjectNameInvalid
    if wanted.ends_at is not None and wanted.ends_at <= wanted.starts_at:
        raise AssignmentPeriodEmpty


def _create(assignments: list[SubjectAssignment], *, actor: Actor, at: datetime) -> list[SubjectAssignment]:
    with named("subject_belongs_to_one_customer_at_a_time", SubjectAlreadyAssigned):
        created = history.bulk_create(assignments, model=SubjectAssignment, actor=actor, at=at)
    audit.record_many(actor=actor, verb="subject.assigned", subjects=created, at=at)
    return created
