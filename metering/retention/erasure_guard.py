"""What every step of an erasure does first: it says which erasure it carries out, and minds legal holds."""

from __future__ import annotations

from datetime import datetime

from django.db import connection
from django.db.models import F

from metering.errors import UsageOnHold
from metering.models import UsageErasure
from metering.retention import legal_holds

ERASED = "erased by law"


def name_erasure(erasure: UsageErasure) -> None:
    """Tell the triggers which erasure this transaction carries out; a hold that is set meanwhile waits for its end.

    Raises: UsageOnHold.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT wait_for_legal_holds()")
        cursor.execute("SELECT set_config('countinghouse.erasure', %s, true)", [str(erasure.pk)])
    # Files are written outside the database, where no trigger asks.
    if legal_holds.is_held(customer_id=erasure.customer_id, before=erasure.before):
        raise UsageOnHold


def add(erasure: UsageErasure, **erased: int) -> None:
    """Add to the counts of what was erased."""
    for name, count in erased.items():
        UsageErasure.objects.filter(pk=erasure.pk).update(**{name: F(name) + count})


def reaches_beyond(*, customer_id: int, moment: datetime) -> bool:
    """Tell whether raw events of the customer from this moment on were erased, or are being erased."""
    approved = [UsageErasure.Status.APPROVED, UsageErasure.Status.DONE]
    return UsageErasure.objects.filter(customer_id=customer_id, status__in=approved, before__gt=moment).exists()


def subjects_of(customer_id: int) -> list[str]:
    """Return the names of the subjects that are or were the customer's."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT name FROM metering_subject AS subject JOIN metering_subjectassignment AS assignment
                ON assignment.subject_id = subject.id
            WHERE assignment.customer_id = %s
            """,
            [customer_id],
        )
        return [name for (name,) in cursor.fetchall()]
