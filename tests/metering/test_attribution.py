from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.access import Role
from accounts.errors import CustomerUnknown, PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from metering.attribution import NewAssignment, assign_subject, assign_subjects, end_assignment
from metering.errors import AssignmentEndsEarlier, AssignmentPeriodEmpty, SubjectAlreadyAssigned, SubjectNameInvalid
from metering.models import Subject, SubjectAssignment
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import LONG_AGO, NOON, SYSTEM

pytestmark = pytest.mark.django_db

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)


def test_assigning_writes_history_and_audit_and_twice_is_once() -> None:
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)
    customer = make_accounts.customer()

    first, second = (
        assign_subject(name="p", customer_id=customer.pk, starts_at=LONG_AGO, actor=analyst, at=NOON) for _ in range(2)
    )

    assert first == second
    (history,) = first.history.all()
    assert (history.history_user_id, history.history_date) == (analyst.user_id, NOON)
    assert AuditEntry.objects.filter(verb="subject.assigned", subject_id=str(first.pk)).count() == 1


def test_a_subject_of_somebody_is_not_given_to_another() -> None:
    make.subject("p")

    with pytest.raises(SubjectAlreadyAssigned):
        make.subject("p", customer=make_accounts.customer(), starts_at=OCTOBER)

    assert SubjectAssignment.objects.count() == 1


def test_many_are_assigned_all_or_none() -> None:
    customer = make_accounts.customer()
    make.subject("taken")
    wanted = [
        NewAssignment(name=name, customer_id=customer.pk, starts_at=LONG_AGO) for name in ("free", "taken", "also-free")
    ]

    with pytest.raises(SubjectAlreadyAssigned):
        assign_subjects(assignments=wanted, actor=SYSTEM, at=NOON)

    assert Subject.objects.count() == 1


def test_many_are_assigned_with_as_many_queries_as_one() -> None:
    customer = make_accounts.customer()
    counts = []
    for number in (1, 50):
        wanted = [
            NewAssignment(name=f"p-{number}-{index}", customer_id=customer.pk, starts_at=LONG_AGO)
            for index in range(number)
        ]
        with CaptureQueriesContext(connection) as queries:
            assign_subjects(assignments=wanted, actor=SYSTEM, at=NOON)
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_an_assignment_that_ends_leaves_room_for_the_next() -> None:
    assignment = make.subject("p")

    end_assignment(assignment_id=assignment.pk, ends_at=OCTOBER, reason="moved", actor=SYSTEM, at=NOON)
    end_assignment(assignment_id=assignment.pk, ends_at=OCTOBER, reason="moved", actor=SYSTEM, at=NOON)
    make.subject("p", starts_at=OCTOBER)

    assert assignment.history.count() == 2
    assert AuditEntry.objects.get(verb="subject.assignment_ended").reason == "moved"


def test_an_assignment_can_end_earlier_than_it_did() -> None:
    assignment = make.subject("p", ends_at=NOON)

    ended = end_assignment(assignment_id=assignment.pk, ends_at=OCTOBER, reason="left", actor=SYSTEM, at=NOON)

    assert ended.valid_during.upper == OCTOBER


def test_an_assignment_does_not_end_before_it_starts() -> None:
    assignment = make.subject("p", ends_at=OCTOBER)

    with pytest.raises(AssignmentPeriodEmpty):
        end_assignment(assignment_id=assignment.pk, ends_at=LONG_AGO, reason="moved", actor=SYSTEM, at=NOON)


@pytest.mark.parametrize("ends_at", [NOON, None], ids=["later", "never"])
def test_an_assignment_that_ended_lasts_no_longer_but_another_follows_it(ends_at: datetime | None) -> None:
    first = make.subject("p", ends_at=OCTOBER)

    with pytest.raises(AssignmentEndsEarlier):
        end_assignment(assignment_id=first.pk, ends_at=ends_at, reason="stays", actor=SYSTEM, at=NOON)
    second = assign_subject(
        name="p", customer_id=first.customer_id, starts_at=OCTOBER, ends_at=ends_at, actor=SYSTEM, at=NOON
    )

    assert (second.valid_during.lower, second.valid_during.upper) == (OCTOBER, ends_at)


def test_a_customer_that_does_not_exist_owns_nothing() -> None:
    with pytest.raises(CustomerUnknown):
        assign_subject(name="p", customer_id=0, starts_at=LONG_AGO, actor=SYSTEM, at=NOON)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0b"])
def test_a_name_that_no_event_could_carry_is_refused(name: str) -> None:
    with pytest.raises(SubjectNameInvalid):
        make.subject(name)


def test_an_assignment_for_no_time_is_refused() -> None:
    with pytest.raises(AssignmentPeriodEmpty):
        make.subject("p", starts_at=OCTOBER, ends_at=OCTOBER)


def test_ending_an_assignment_takes_a_reason() -> None:
    with pytest.raises(ReasonMissing):
        end_assignment(assignment_id=make.subject("p").pk, ends_at=OCTOBER, reason="", actor=SYSTEM, at=NOON)


def test_assigning_takes_the_permission() -> None:
    support = make_accounts.actor(Role.SUPPORT)
    assignment = make.subject("p")

    with pytest.raises(PermissionMissing):
        assign_subjects(assignments=[], actor=support, at=NOON)
    with pytest.raises(PermissionMissing):
        end_assignment(assignment_id=assignment.pk, ends_at=NOON, reason="moved", actor=support, at=NOON)
