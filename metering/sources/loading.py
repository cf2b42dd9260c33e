"""Load a usage file: read it row by row, ingest it batch by batch, and report what became of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import BinaryIO

from django.db import transaction

from accounts.access import Actor, Permission
from metering import refusals
from metering.ingestion import ingest
from metering.models import UsageBatch
from metering.sources.cloudevents import read_cloudevents
from metering.sources.focus import read_focus
from metering.sources.rows import UsageRow

BATCH_SIZE = 1_000


class FileFormat(StrEnum):
    """The layouts of usage files that can be loaded."""

    CLOUDEVENTS = "cloudevents"
    FOCUS = "focus"


READERS: dict[FileFormat, Callable[[BinaryIO], Iterator[UsageRow]]] = {
    FileFormat.CLOUDEVENTS: read_cloudevents,
    FileFormat.FOCUS: read_focus,
}


@dataclass
class LoadReport:
    """What became of a file's rows; the four counts sum to `rows`."""

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def detect_format(head: bytes) -> FileFormat:
    """Tell the layout from a file's first bytes: JSON lines begin with a brace, FOCUS with a header."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return FileFormat.CLOUDEVENTS if text.startswith((b"{", b"[")) else FileFormat.FOCUS


def load_usage(
    *,
    stream: BinaryIO,
    file_format: FileFormat,
    origin: str,
    on_progress: Callable[[int], object] = lambda _rows: None,
    actor: Actor,
    at: datetime,
) -> LoadReport:
    """Ingest every row of a file and return what became of each.

    Each batch is one transaction, so that a load that was cut off leaves whole batches behind; loading the same file
    again counts those as duplicates and goes on with the rest. `on_progress` is told the number of rows done.

    Raises: PermissionMissing, UsageFileUnreadable (rows before the unreadable place are kept).
    """
    actor.require(Permission.LOAD_USAGE)
    report = LoadReport()
    for rows in _batches(READERS[file_format](stream)):
        _load_batch(rows, origin=origin, report=report, actor=actor, at=at)
        on_progress(len(rows))
    return report


def _batches(rows: Iterable[UsageRow]) -> Iterator[list[UsageRow]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_SIZE)):
        yield batch


@transaction.atomic
def _load_batch(rows: list[UsageRow], *, origin: str, report: LoadReport, actor: Actor, at: datetime) -> None:
    events = [row for row in rows if row.event is not None]
    result = ingest(
        events=[row.event for row in events],
        positions=[row.position for row in events],
        contradictions={index: row.contradiction for index, row in enumerate(events) if row.contradiction},
        door=UsageBatch.Door.FILE,
        origin=origin,
        actor=actor,
        at=at,
    )
    refused = [row for row in rows if row.refusal]
    refusals.record(
        batch_id=result.batch_id,
        refused=[refusals.Refusal(row.position, row.refusal, row.detail, row.payload) for row in refused],
        at=at,
    )

    report.rows += len(rows)
    report.accepted += result.accepted
    report.duplicates += result.duplicates
    report.quarantined += result.quarantined
    report.refused += len(refused) + len(result.rejected)
    report.reasons.update(row.refusal for row in refused)
    report.reasons.update(rejection.reason for rejection in result.rejected)
