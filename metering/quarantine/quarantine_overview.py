"""What the usage pages show: quarantined events in groups that share a cause, and what became of each batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum

from metering.models import QuarantinedEvent, RefusedEvent, UsageBatch, UsageFileBatch

Status = QuarantinedEvent.Status


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
    *, status: str, reason: str = "", search: str = "", file_id: int | None = None
) -> QuerySet[QuarantinedEvent, Any]:
    """Return the groups of events in a state, the largest first, as rows for `group_of`."""
    events = QuarantinedEvent.objects.filter(status=status)
    if file_id:
        events = events.filter(batch_id__in=UsageFileBatch.objects.filter(file_id=file_id).values("batch_id"))
    if reason:
        events = events.filter(reason=reason)
    if search:
        events = events.filter(Q(subject__icontains=search) | Q(type__icontains=search))
    return (
        events.values("reason", "type", "subject")
        .annotate(
            events=Count("*"),
            seen=Sum("seen_count"),
            first=Min("first_seen_at"),
            last=Max("last_seen_at"),
        )
        .order_by("-events", "reason", "type", "subject")
    )


def group_of(row: Mapping[str, Any]) -> Group:
    """Make a group of a row of `groups`."""
    return Group(
        key=GroupKey(row["reason"], row["type"], row["subject"]),
        reason=str(QuarantinedEvent.Reason(row["reason"]).label),
        type=row["type"],
        subject=row["subject"],
        events=row["events"],
        seen=row["seen"],
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


def open_ids(keys: list[GroupKey]) -> list[int]:
    """Return the ids of all events that wait in any of the groups."""
    wanted = Q(pk__in=[])
    for key in keys:
        wanted |= Q(reason=key.reason, type=key.type, subject=key.subject)
    waiting = QuarantinedEvent.objects.filter(wanted, status=Status.OPEN)
    return list(waiting.order_by("time", "id").values_list("pk", flat=True))


def counts_by_status() -> dict[str, int]:
    """Return how many events are open, released and discarded."""
    rows = QuarantinedEvent.objects.order_by().values_list("status").annotate(events=Count("*"))
    return dict.fromkeys(Status.values, 0) | dict(rows)


def batches(*, door: str = "", origin: str = "", file_id: int | None = None) -> QuerySet[UsageBatch]:
    """Return accepted batches, the newest first, narrowed to a door, to where they came from, or to one file."""
    found = UsageBatch.objects.order_by("-id")
    if file_id:
        found = found.filter(pk__in=UsageFileBatch.objects.filter(file_id=file_id).values("batch_id"))
    if door:
        found = found.filter(door=door)
    return found.filter(origin__icontains=origin) if origin else found


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
