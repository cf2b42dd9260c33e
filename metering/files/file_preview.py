"""What would become of a file's first rows, were it loaded now: the real thing, rolled back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from uuid import UUID

from django.db import transaction

from accounts.access import Actor, Permission
from metering import refusals
from metering.events import event_key
from metering.files import file_content
from metering.ingestion import Rejection, ingest
from metering.models import QuarantinedEvent, UsageBackfillItem, UsageBatch, UsageFile, UsageIdentity
from metering.sources.layouts import FileFormat, open_rows
from metering.sources.mapping import read_mapping
from metering.sources.rows import UsageFileUnreadable, UsageRow
from metering.usage_backfills.errors import UsageBackfillNotOpen, UsageBackfillTooLarge
from metering.usage_backfills.staging import stage_events

ROWS = 20


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row: its line, its event if it is one, and what would become of it."""

    position: int
    event: Mapping[str, object] | None
    payload: str
    outcome: str
    words: str


@dataclass(frozen=True, slots=True)
class FilePreview:
    """The first rows of a file, and what keeps it from being read, if anything does."""

    rows: list[PreviewRow] = field(default_factory=list)
    fault: str = ""

    @property
    def counts(self) -> list[tuple[str, int]]:
        """How many of the rows have each outcome."""
        outcomes = [row.outcome for row in self.rows]
        kinds = ("accepted", "duplicate", "quarantined", "refused")
        return [(kind, outcomes.count(kind)) for kind in kinds if kind in outcomes]


def preview(*, file: UsageFile, actor: Actor, at: datetime, rows: int = ROWS) -> FilePreview:
    """Judge the first rows of an uploaded file as a load would do now; nothing is kept.

    Raises: PermissionMissing.
    """
    actor.require(Permission.LOAD_USAGE)
    found: list[UsageRow] = []
    fault = ""
    mapping = read_mapping(file.mapping_spec) if file.mapping_spec is not None else None
    try:
        with (
            file_content.open_content(file) as stream,
            open_rows(stream, FileFormat(file.format), mapping) as opened,
        ):
            found.extend(islice(opened.rows, rows))
    except UsageFileUnreadable as unreadable:
        fault = str(unreadable)
    if file.backfill_id is None:
        return FilePreview(_judged(found, actor=actor, at=at), fault)
    try:
        return FilePreview(_filled_in(found, file.backfill_id, actor=actor, at=at), fault)
    except (UsageBackfillNotOpen, UsageBackfillTooLarge) as refusal:
        return FilePreview([], str(refusal))


def _judged(rows: Sequence[UsageRow], *, actor: Actor, at: datetime) -> list[PreviewRow]:
    events = [row for row in rows if row.event is not None]
    keys = [_key(row) for row in events]
    with transaction.atomic():
        known = set(UsageIdentity.objects.filter(key__in=[key for key in keys if key]).values_list("key", flat=True))
        result = ingest(
            events=[row.event for row in events],
            positions=[row.position for row in events],
            contradictions={index: row.contradiction for index, row in enumerate(events) if row.contradiction},
            door=UsageBatch.Door.FILE,
            actor=actor,
            at=at,
        )
        waiting = {
            event.key: f"{event.get_reason_display()}{f': {event.detail}' if event.detail else ''}"
            for event in QuarantinedEvent.objects.filter(key__in=[key for key in keys if key], status="open")
        }
        transaction.set_rollback(True)
    rejected = {rejection.index: rejection for rejection in result.rejected}
    seen: set[UUID] = set(known)
    made: dict[int, PreviewRow] = {}
    for index, (row, key) in enumerate(zip(events, keys, strict=True)):
        outcome, words = _outcome(rejected.get(index), key, waiting, seen)
        made[id(row)] = PreviewRow(row.position, row.event, row.payload, outcome, words)
        if key:
            seen.add(key)
    return [made.get(id(row)) or _refused(row) for row in rows]


def _filled_in(rows: Sequence[UsageRow], backfill_id: int, *, actor: Actor, at: datetime) -> list[PreviewRow]:
    """Judge rows as filling them into a backfill would."""
    events = [row for row in rows if row.event is not None]
    keys = [_key(row) for row in events]
    with transaction.atomic():
        present = UsageBackfillItem.objects.filter(backfill_id=backfill_id, key__in=[key for key in keys if key])
        seen = set(present.values_list("key", flat=True))
        result = stage_events(
            backfill_id=backfill_id,
            events=[row.event for row in events],
            contradictions={index: row.contradiction for index, row in enumerate(events) if row.contradiction},
            actor=actor,
            at=at,
        )
        transaction.set_rollback(True)
    rejected = {rejection.index: rejection for rejection in result.rejected}
    waiting = {
        key: f"{QuarantinedEvent.Reason(problem.reason).label}: {problem.detail}"
        for problem in result.problems
        if (key := keys[problem.index]) is not None
    }
    made: dict[int, PreviewRow] = {}
    for index, (row, key) in enumerate(zip(events, keys, strict=True)):
        outcome, words = _outcome(rejected.get(index), key, waiting, seen)
        words = "Was filled in before" if outcome == "duplicate" else words
        made[id(row)] = PreviewRow(row.position, row.event, row.payload, outcome, words)
        if key:
            seen.add(key)
    return [made.get(id(row)) or _refused(row) for row in rows]


def _outcome(
    rejection: Rejection | None, key: UUID | None, waiting: Mapping[UUID, str], seen: set[UUID]
) -> tuple[str, str]:
    if rejection is not None:
        return "refused", f"{refusals.words_of(rejection.reason)}: {rejection.detail}"
    if key is not None and key in waiting:
        return "quarantined", waiting[key]
    if key in seen:
        return "duplicate", "Was counted before"
    return "accepted", ""


def _refused(row: UsageRow) -> PreviewRow:
    words = f"{refusals.words_of(row.refusal)}: {row.detail}"
    return PreviewRow(row.position, None, row.payload, "refused", words)


def _key(row: UsageRow) -> UUID | None:
    assert row.event is not None
    source, event_id = row.event.get("source"), row.event.get("id")
    if isinstance(source, str) and isinstance(event_id, str):
        return UUID(event_key(source, event_id)) if (source + event_id).isprintable() else None
    return None
