"""What the usage pages show: quarantined events in groups that share a cause, and what became of each batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum

from accounts.models import Customer
from metering.models import (
    QuarantinedEvent,
    QuarantineTally,
    RefusedEvent,
    UsageBatch,
    UsageEvent,
    UsageFile,
    UsageFileBatch,
)

Status = QuarantinedEvent.Status
Reason = QuarantinedEvent.Reason
EVENTS_SHOWN = 20

# What a person can do about each cause, in the order of the steps.
REMEDIES: Mapping[str, str] = {
    Reason.UNKNOWN_SUBJECT: "Say whose the subject is, from the time of its first usage on. Then release the events.",
    Reason.UNKNOWN_TYPE: (
        "If it is sold, have a product manager define a meter for the type, then release the events."
        " If it is not, discard them."
    ),
    Reason.MISSING_VALUE: (
        "If the sender left the value out, have it sent again under another id, and discard these. If the meter reads"
        " the wrong place, give it a new version from that time on, then release them."
    ),
    Reason.INVALID_VALUE: (
        "If the sender wrote it wrong, have it sent again under another id, and discard these. If the meter reads the"
        " wrong place, give it a new version from that time on, then release them."
    ),
    Reason.IN_FUTURE: (
        "Once their time has come they can be released. If the sender's clock is wrong, have them sent again under"
        " another id, and discard these."
    ),
    Reason.TOO_OLD: (
        "They are older than usage is accepted. Discard them, or ask those who run this house to accept older usage,"
        " then release them."
    ),
    Reason.INCONSISTENT: "Ask the source which of it is right, have that sent under another id, and discard these.",
    Reason.TOO_MANY_SERIES: (
        "Have a product manager raise the limit of the meter, or leave out a dimension that has too many values."
        " Then release the events."
    ),
}


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What the events of one group share; with `as_text` and `of_text` it goes through a form and comes back."""

    reason: str
    type: str
    subject: str

    def as_text(self) -> str:
        """Write the key as one text."""
        return json.dumps([self.reason, self.type, self.subject])

    @classmethod
    def of_text(cls, text: str) -> GroupKey | None:
        """Read a key; None where the text is none."""
        try:
            parts = json.loads(text)
        except ValueError:
            return None
        if isinstance(parts, list) and [type(part) for part in parts] == [str, str, str]:
            return cls(*parts)
        return None


@dataclass(frozen=True, slots=True)
class Group:
    """Quarantined events of one reason, type and subject."""

    key: GroupKey
    reason: str
    type: str
    subject: str
    events: int
    seen: int
    first_seen_at: datetime
    last_seen_at: datetime


def groups(
    *, status: str, reason: str = "", search: str = "", file_id: int | None = None, batch_id: int | None = None
) -> QuerySet[Any, Any]:
    """Return the groups of events in a state, the largest first, as rows for `group_of`.

    Those of all events come from the tally, so that a million of one cause cost no more than one; those of a file or a
    batch are counted.
    """
    grouped: QuerySet[Any, Any]
    if file_id or batch_id:
        events = QuarantinedEvent.objects.filter(_fits(reason, search), status=status)
        if file_id:
            events = events.filter(batch_id__in=UsageFileBatch.objects.filter(file_id=file_id).values("batch_id"))
        if batch_id:
            events = events.filter(batch_id=batch_id)
        grouped = events.values("reason", "type", "subject").annotate(
            number=Count("*"), times=Sum("seen_count"), first=Min("first_seen_at"), last=Max("last_seen_at")
        )
    else:
        lines = QuarantineTally.objects.filter(_fits(reason, search), status=status)
        grouped = lines.values("reason", "type", "subject").annotate(
            number=Sum("events"), times=Sum("seen"), first=Min("first_seen_at"), last=Max("last_seen_at")
        )
    return grouped.filter(number__gt=0).order_by("-number", "reason", "type", "subject")


def _fits(reason: str, search: str) -> Q:
    wanted = Q(reason=reason) if reason else Q()
    return wanted & (Q(subject__icontains=search) | Q(type__icontains=search)) if search else wanted


def group_of(row: Mapping[str, Any]) -> Group:
    """Make a group of a row of `groups`."""
    return Group(
        key=GroupKey(row["reason"], row["type"], row["subject"]),
        reason=str(QuarantinedEvent.Reason(row["reason"]).label),
        type=row["type"],
        subject=row["subject"],
        events=row["number"],
        seen=row["times"],
        first_seen_at=row["first"],
        last_seen_at=row["last"],
    )


def events_of(key: GroupKey, *, status: str) -> QuerySet[QuarantinedEvent]:
    """Return the events of one group in a state, the oldest usage first."""
    return QuarantinedEvent.objects.filter(
        status=status,
        reason=key.reason,
        type=key.type,
        subject=key.subject,
    ).order_by("time", "id")


def earliest_of(key: GroupKey, *, status: str) -> datetime | None:
    """Return the time of the first usage of a group."""
    earliest: datetime | None = events_of(key, status=status).aggregate(time=Min("time"))["time"]
    return earliest


def open_ids(keys: list[GroupKey]) -> list[int]:
    """Return the ids of all events that wait in any of the groups."""
    wanted = Q(pk__in=[])
    for key in keys:
        wanted |= Q(reason=key.reason, type=key.type, subject=key.subject)
    waiting = QuarantinedEvent.objects.filter(wanted, status=Status.OPEN)
    return list(waiting.order_by("time", "id").values_list("pk", flat=True))


def counts_by_status() -> dict[str, int]:
    """Return how many events are open, released and discarded; the cost grows with their groups, not with them."""
    rows = QuarantineTally.objects.order_by().values_list("status").annotate(number=Sum("events"))
    return dict.fromkeys(Status.values, 0) | dict(rows)


def batches(*, door: str = "", origin: str = "", file_id: int | None = None) -> QuerySet[UsageBatch]:
    """Return accepted batches, the newest first, narrowed to a door, to where they came from, or to one file."""
    found = UsageBatch.objects.order_by("-id")
    if file_id:
        found = found.filter(pk__in=UsageFileBatch.objects.filter(file_id=file_id).values("batch_id"))
    if door:
        found = found.filter(door=door)
    return found.filter(origin__icontains=origin) if origin else found


def some_events(batch: UsageBatch) -> list[UsageEvent]:
    """Return the first events that a batch brought, by time; those that are in the archive are not among them."""
    if not batch.accepted:
        return []
    return list(UsageEvent.objects.filter(batch_id=batch.pk).order_by("time", "key")[:EVENTS_SHOWN])


def names_of_customers(events: Iterable[UsageEvent]) -> dict[int, Customer]:
    """Return the customers of events by their number; one query."""
    return Customer.objects.in_bulk({event.customer_id for event in events})


def file_of(batch_id: int) -> UsageFile | None:
    """Return the file that a batch took rows of, if any."""
    return UsageFile.objects.filter(batches__batch_id=batch_id).first()


def totals_of(found: QuerySet[UsageBatch]) -> dict[str, int]:
    """Add up what became of the events of some batches."""
    sums = found.order_by().aggregate(
        **{name: Sum(name) for name in ("accepted", "duplicates", "quarantined", "rejected")},
    )
    return {name: value or 0 for name, value in sums.items()}


def refusals_of(batch_id: int) -> QuerySet[RefusedEvent]:
    """Return what a batch refused, in the order of the file or request."""
    return RefusedEvent.objects.filter(batch_id=batch_id).order_by("position", "id")


def refusal_counts(batch_id: int) -> list[tuple[str, int]]:
    """Return how many of a batch were refused for each reason, in words."""
    rows = refusals_of(batch_id).order_by().values_list("reason").annotate(events=Count("id")).order_by("-events")
    return [(str(RefusedEvent.Reason(reason).label), events) for reason, events in rows]
