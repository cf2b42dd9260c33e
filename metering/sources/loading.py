"""Load a usage file: read it row by row, ingest it batch by batch, and keep what became of every row.

How far a load is stands in the file's record and is written in the transaction of each batch. So a load that was cut
off goes on where it was, and any number of loaders may work on one file: who finds that another one was faster goes on
behind its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import BinaryIO

from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.access import Actor, Permission
from metering import refusals
from metering.events import storable_text
from metering.files import usage_files
from metering.ingestion import Rejection, ingest
from metering.models import RefusedEvent, UsageBatch, UsageFile, UsageFileBatch, UsageFilePart, UsageFileRefusal
from metering.sources.layouts import FileFormat, OpenRows, detect_format, open_rows
from metering.sources.mapping import ColumnMapping, read_mapping
from metering.sources.rows import UsageFileUnreadable, UsageRow
from metering.usage_backfills.errors import UsageBackfillNotOpen, UsageBackfillTooLarge
from metering.usage_backfills.staging import stage_events

__all__ = ["BATCH_SIZE", "FileFormat", "LoadReport", "detect_format", "load_file", "load_usage", "report_of"]

BATCH_SIZE = 1_000
LEASE = timedelta(seconds=60)
# A row as it came is kept for the report, not for the archive.
_LONGEST_PAYLOAD = 4_000
# A batch holds fewer rows where they are long, or a few thousand of a megabyte would fill the memory.
_BATCH_CHARACTERS = 8_388_608
# Of a file's refused rows so many are listed; those after them are counted.
MOST_LISTED = 100_000
# A file of which this many rows are refused, and more than are taken, was meant for another mapping.
_MOST_REFUSED = 100_000

State = UsageFile.State


@dataclass
class LoadReport:
    """What became of a file's rows; the four counts sum to `rows`."""

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    file_id: int = 0
    state: str = ""
    loaded_before: bool = False


def report_of(file: UsageFile) -> LoadReport:
    """Return what became of a file's rows so far."""
    return LoadReport(
        rows=file.rows_done,
        accepted=file.accepted,
        duplicates=file.duplicates,
        quarantined=file.quarantined,
        refused=file.refused,
        reasons=Counter(file.reasons),
        file_id=file.pk,
        state=file.state,
    )


def load_usage(
    *,
    stream: BinaryIO,
    file_format: FileFormat,
    origin: str,
    mapping: ColumnMapping | None = None,
    mapping_id: int | None = None,
    backfill_id: int | None = None,
    on_progress: Callable[[int], object] = lambda _rows: None,
    clock: Callable[[], datetime] | None = None,
    actor: Actor,
    at: datetime,
) -> LoadReport:
    """Load a file that lies here, and return what became of every row of it.

    A load that was cut off, here or elsewhere, goes on where it was. The same bytes with the same layout and mapping
    are loaded once: asked again, the report of the first load is returned, as `loaded_before`. With `backfill_id` they
    are filled into that backfill, once as well, and count when it is closed.

    `clock` says when each batch comes in, for a load that takes hours; without it all come in at `at`. `on_progress`
    is told the number of rows done.

    Raises: PermissionMissing, UsageFileUnreadable (rows before the unreadable place are kept), UsageBackfillUnknown,
    UsageBackfillNotOpen.
    """
    content = usage_files.Content.of(stream, name=origin)
    file, is_new = usage_files.begin_here(
        content=content,
        file_format=file_format,
        mapping=mapping,
        mapping_id=mapping_id,
        backfill_id=backfill_id,
        actor=actor,
        at=at,
    )
    if not is_new and file.state == State.DONE:
        report = report_of(file)
        report.loaded_before = True
        return report
    on_progress(file.rows_done)
    load_file(
        file_id=file.pk,
        stream=stream,
        on_progress=on_progress,
        is_unchanged=lambda: content.is_still_in(stream),
        clock=clock or (lambda: at),
        actor=actor,
    )
    file.refresh_from_db()
    if file.state == State.FAILED:
        raise UsageFileUnreadable(file.error)
    return report_of(file)


def load_file(
    *,
    file_id: int,
    stream: BinaryIO,
    on_progress: Callable[[int], object] = lambda _rows: None,
    is_time_up: Callable[[], bool] = lambda: False,
    is_unchanged: Callable[[], bool] = lambda: True,
    clock: Callable[[], datetime] = timezone.now,
    actor: Actor,
) -> None:
    """Go on loading a file from where it is until it is done, stopped or failed, or the time is up.

    Before each batch `is_unchanged` is asked whether the file is still the one whose loading began.

    A file that cannot be read on is failed with the reason; the rows before that place are kept, and counted once
    should the load be resumed.

    Raises: PermissionMissing.
    """
    actor.require(Permission.LOAD_USAGE)
    file = UsageFile.objects.get(pk=file_id)
    mapping = read_mapping(file.mapping_spec) if file.mapping_spec is not None else None
    try:
        with open_rows(stream, FileFormat(file.format), mapping, skip=file.rows_done) as opened:
            _load(
                _Ahead(opened, first=file.rows_done, is_unchanged=is_unchanged),
                file,
                on_progress=on_progress,
                is_time_up=is_time_up,
                clock=clock,
                actor=actor,
            )
    except UsageFileUnreadable as error:
        fail(file_id=file_id, error=str(error), actor=actor, at=clock())


class _Ahead:
    """The rows of a file, read batch by batch; a batch once read can be cut where another loader has come to."""

    def __init__(self, opened: OpenRows, *, first: int, is_unchanged: Callable[[], bool]) -> None:
        self._is_unchanged = is_unchanged
        self._fault: UsageFileUnreadable | None = None
        # One generator for all batches: one that is thrown away would close the rows below it.
        self._rows = self._until_a_fault(opened.rows)
        self.bytes_done = opened.bytes_done
        self.first = first
        self.batch: list[UsageRow] = []

    def go_to(self, first: int) -> None:
        """Have the batch begin with the row of this number; rows before it are read and left out."""
        behind = first - self.first
        if behind >= len(self.batch):
            skipped = behind - len(self.batch)
            for _ in islice(self._rows, skipped):
                pass
            self.batch = self._next_batch()
        else:
            self.batch = self.batch[behind:]
        self.first = first
        if not self._is_unchanged():
            msg = "The file was written to while it was being loaded. Load it again once it is whole."
            raise UsageFileUnreadable(msg)
        if not self.batch and self._fault is not None:
            raise self._fault

    def _next_batch(self) -> list[UsageRow]:
        batch: list[UsageRow] = []
        characters = 0
        for row in islice(self._rows, BATCH_SIZE):
            batch.append(row)
            characters += len(row.payload)
            if characters >= _BATCH_CHARACTERS:
                break
        return batch

    def _until_a_fault(self, rows: Iterator[UsageRow]) -> Iterator[UsageRow]:
        """Keep a fault until the rows before it are loaded."""
        try:
            yield from rows
        except UsageFileUnreadable as fault:
            self._fault = fault


def _load(
    ahead: _Ahead,
    file: UsageFile,
    *,
    on_progress: Callable[[int], object],
    is_time_up: Callable[[], bool],
    clock: Callable[[], datetime],
    actor: Actor,
) -> None:
    position = file.rows_done
    while not is_time_up():
        ahead.go_to(position)
        reached = _load_batch(ahead, file_id=file.pk, actor=actor, at=clock())
        if reached is None:
            return
        on_progress(reached - position)
        position = reached


@transaction.atomic
def _load_batch(ahead: _Ahead, *, file_id: int, actor: Actor, at: datetime) -> int | None:
    """Take in one batch and return how many rows are done then; None once there is nothing left to do.

    Where another loader was faster nothing is written, and its position returned.
    """
    file = UsageFile.objects.select_for_update(no_key=True).get(pk=file_id)
    if file.state != State.LOADING:
        return None
    if file.rows_done != ahead.first:
        return file.rows_done
    if not ahead.batch:
        _finish(file, actor=actor, at=at)
        return None
    _ingest(ahead.batch, file, actor=actor, at=at)
    file.bytes_done = max(file.bytes_done, min(ahead.bytes_done(), file.size))
    file.leased_until = at + LEASE if file.leased_until else None
    file.claims = 0
    file.save()
    unread = file.refused - file.reasons.get(RefusedEvent.Reason.NOT_USAGE, 0)
    if unread >= _MOST_REFUSED and unread > file.rows_done // 2:
        msg = f"{unread:,} of {file.rows_done:,} rows were refused: this is not how the file is to be read."
        raise UsageFileUnreadable(msg)
    return file.rows_done


def _ingest(rows: list[UsageRow], file: UsageFile, *, actor: Actor, at: datetime) -> None:
    """Take in the rows and add to the file's counts, which the caller saves."""
    events = [row for row in rows if row.event is not None]
    refused = [row for row in rows if row.refusal]
    room = max(0, MOST_LISTED - file.refused)
    if file.backfill_id is None:
        rejected = _count(rows, events, refused[:room], file, actor=actor, at=at)
    else:
        rejected = _fill_in(events, file, file.backfill_id, actor=actor, at=at)
    listed = _listed(file, refused, events, rejected)
    UsageFileRefusal.objects.bulk_create(listed[:room])
    file.rows_done += len(rows)
    file.refused += len(listed)
    file.reasons = dict(Counter(file.reasons) + Counter(refusal.reason for refusal in listed))


def _count(
    rows: list[UsageRow],
    events: list[UsageRow],
    refused: list[UsageRow],
    file: UsageFile,
    *,
    actor: Actor,
    at: datetime,
) -> list[Rejection]:
    result = ingest(
        events=[row.event for row in events],
        positions=[row.position for row in events],
        contradictions={index: row.contradiction for index, row in enumerate(events) if row.contradiction},
        door=UsageBatch.Door.FILE,
        origin=file.name,
        actor=actor,
        at=at,
    )
    refusals.record(
        batch_id=result.batch_id,
        refused=[refusals.Refusal(row.position, row.refusal, row.detail, row.payload) for row in refused],
        at=at,
    )
    UsageFileBatch.objects.create(file=file, batch_id=result.batch_id, first_row=file.rows_done, rows=len(rows))
    file.accepted += result.accepted
    file.duplicates += result.duplicates
    file.quarantined += result.quarantined
    return result.rejected


def _fill_in(
    events: list[UsageRow], file: UsageFile, backfill_id: int, *, actor: Actor, at: datetime
) -> list[Rejection]:
    try:
        result = stage_events(
            backfill_id=backfill_id,
            events=[row.event for row in events],
            contradictions={index: row.contradiction for index, row in enumerate(events) if row.contradiction},
            actor=actor,
            at=at,
        )
    except (UsageBackfillNotOpen, UsageBackfillTooLarge) as refusal:
        raise UsageFileUnreadable(str(refusal)) from refusal
    file.accepted += result.staged - len(result.problems)
    file.duplicates += result.duplicates
    file.quarantined += len(result.problems)
    return result.rejected


def _listed(
    file: UsageFile, refused: list[UsageRow], events: list[UsageRow], rejected: list[Rejection]
) -> list[UsageFileRefusal]:
    listed = [
        UsageFileRefusal(
            file=file,
            position=row.position,
            reason=row.refusal,
            detail=storable_text(row.detail),
            payload=storable_text(row.payload)[:_LONGEST_PAYLOAD],
        )
        for row in refused
    ]
    for rejection in rejected:
        row = events[rejection.index]
        listed.append(
            UsageFileRefusal(
                file=file,
                position=row.position,
                event_id=storable_text(rejection.id),
                reason=rejection.reason,
                detail=storable_text(rejection.detail),
                payload=storable_text(row.payload)[:_LONGEST_PAYLOAD],
            )
        )
    return sorted(listed, key=lambda refusal: refusal.position)


def _finish(file: UsageFile, *, actor: Actor, at: datetime) -> None:
    file.state, file.finished_at, file.leased_until, file.bytes_done = State.DONE, at, None, file.size
    file.save()
    UsageFilePart.objects.filter(file=file).delete()
    audit.record(actor=actor, verb="usage_file.loaded", subject=file, at=at, data={"rows": file.rows_done})


@transaction.atomic
def fail(*, file_id: int, error: str, actor: Actor, at: datetime) -> None:
    """Say of a file that is loading why it cannot go on; somebody may resume it."""
    file = UsageFile.objects.select_for_update(no_key=True).get(pk=file_id)
    if file.state != State.LOADING:
        return
    file.state, file.finished_at, file.leased_until = State.FAILED, at, None
    file.error = storable_text(error) or "It could not be read."
    file.save()
    audit.record(actor=actor, verb="usage_file.failed", subject=file, at=at, reason=file.error)
