"""Searches the audit log: by who, what, whom it was done to, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection
from django.db.models import Model, Q, QuerySet

from accounts.models import AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuestion:
    """What to look for; whatever is empty does not narrow. Both dates are days in UTC and belong to the answer."""

    actor: str = ""
    verb: str = ""
    subject: str = ""
    request_id: str = ""
    since: date | None = None
    until: date | None = None


def entries(question: AuditQuestion) -> QuerySet[AuditEntry]:
    """Return the entries that fit, the newest first."""
    found = with_names(AuditEntry.objects.all())
    if question.actor:
        found = found.filter(Q(actor_label__icontains=question.actor) | Q(actor__name__icontains=question.actor))
    if question.verb:
        found = found.filter(verb=question.verb)
    if question.subject:
        found = found.filter(Q(subject_label__icontains=question.subject) | Q(subject_type__icontains=question.subject))
    if question.request_id:
        found = found.filter(request_id=question.request_id)
    if question.since:
        found = found.filter(at__gte=datetime.combine(question.since, time.min, tzinfo=UTC))
    if question.until:
        found = found.filter(at__lt=datetime.combine(question.until + timedelta(days=1), time.min, tzinfo=UTC))
    return found.order_by("-id")


def about(*subjects: Model) -> QuerySet[AuditEntry]:
    """Return what was done to any of the subjects, the newest first."""
    wanted = Q(pk__in=[])
    for subject in subjects:
        wanted |= Q(subject_type=subject._meta.label_lower, subject_id=str(subject.pk))
    return with_names(AuditEntry.objects.filter(wanted)).order_by("-id")


def with_names(found: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
    """Add to entries who their actor is."""
    return found.select_related("actor")


# Steps from one verb to the next through the index; DISTINCT would read the whole log for a few dozen words.
_VERBS = """
    WITH RECURSIVE known (verb) AS (
        (SELECT verb FROM accounts_auditentry ORDER BY verb LIMIT 1)
        UNION ALL
        SELECT (SELECT entry.verb FROM accounts_auditentry entry WHERE entry.verb > known.verb ORDER BY verb LIMIT 1)
        FROM known WHERE known.verb IS NOT NULL
    )
    SELECT verb FROM known WHERE verb IS NOT NULL
"""


def verbs() -> list[str]:
    """Return every verb that the log holds, in alphabetical order."""
    with connection.cursor() as cursor:
        cursor.execute(_VERBS)
        return [verb for (verb,) in cursor.fetchall()]
