"""Takes old months of events into files and brings them back; totals, identities and series stay all the time.

A month goes step by step (`ArchivedMonth.Status`): planned, its files written, the files verified against the events,
the events' table detached from `usage_event`, and dropped. What takes long goes file by file, each in a transaction of
its own: killed it has done nothing but perhaps written a file that the next run overwrites; repeated it finds its work
done. Detaching and dropping are each asked for by a person; the jobs do what takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from accounts.constraints import named
from metering.errors import (
    MonthChanged,
    MonthHasWaitingEvents,
    MonthNotArchivable,
    MonthNotInState,
    MonthOnHold,
    MonthUnknown,
)
from metering.ingestion import earliest_acceptable
from metering.models import ArchivedMonth, ArchivedPart
from metering.retention import archive_parts, archive_tables, legal_holds
from metering.retention.archive_files import EventRow, Manifest
from metering.retention.partitions import first_of_month

Status = ArchivedMonth.Status
# The events of these months are not in `usage_event`.
AWAY = (Status.DETACHED, Status.DROPPED, Status.RESTORING)


def plan_archive(*, month: date, folder: Path | None = None, actor: Actor, at: datetime) -> ArchivedMonth:
    """Let a month begin its way into the archive; one that is on its way already is returned as it is.

    `month` is its first day. `folder` is where its file goes, the archive's own unless given.

    Raises: PermissionMissing, MonthNotArchivable, MonthInProgress.
    """
    actor.require(Permission.MANAGE_RETENTION)
    _require_old_enough(month, at=at)
    if not archive_tables.exists(archive_tables.partition_of(month)):
        msg = f"There are no events of {month:%B %Y}."
        raise MonthNotArchivable(msg)
    return _plan(month, folder=(folder or Path(settings.ARCHIVE_DIR)).resolve(), actor=actor, at=at)


@transaction.atomic
def _plan(month: date, *, folder: Path, actor: Actor, at: datetime) -> ArchivedMonth:
    _, is_new = ArchivedMonth.objects.get_or_create(
        month=month, defaults={"folder": str(folder), "planned_at": at, "planned_by": actor.label}
    )
    archived = _locked(month)
    if not is_new and archived.status != Status.RESTORED:
        return archived
    if not is_new:
        _start_over(archived, folder=str(folder))
    audit.record(actor=actor, verb="archived_month.planned", subject=archived, at=at)
    return archived


def _start_over(archived: ArchivedMonth, *, folder: str = "") -> None:
    archived.status = Status.PLANNED
    archived.revision += 1
    archived.folder = folder or archived.folder
    archived.rows = 0
    archived.save(update_fields=["status", "revision", "folder", "rows"])
    ArchivedPart.objects.filter(month=archived).delete()


def _never() -> bool:
    return False


def export_month(*, month: date, is_time_up: Callable[[], bool] = _never, actor: Actor, at: datetime) -> ArchivedMonth:
    """Write a planned month's events into its files, each with its manifest, until all are written or the time is up.

    Each file is a step of its own; cut off, the next run goes on behind the last whole one.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress.
    """
    actor.require(Permission.MANAGE_RETENTION)
    while True:
        archived = _export_part(month, actor=actor, at=at)
        if archived.status != Status.PLANNED or is_time_up():
            return archived


@transaction.atomic
def _export_part(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status in {Status.EXPORTED, Status.VERIFIED}:
        return archived
    _require(archived, Status.PLANNED)
    is_last = archive_parts.write_next(archived, table=archive_tables.partition_of(month))
    archive_parts.add_up(archived)
    archived.last_error = ""
    if not is_last:
        archived.save()
        return archived
    archived.status = Status.EXPORTED
    archived.exported_at = at
    archived.save()
    audit.record(
        actor=actor,
        verb="archived_month.exported",
        subject=archived,
        at=at,
        data={
            "events": archived.rows,
            "sha256": archived.file_sha256,
            "files": [part.file for part in archive_parts.parts_of(archived)],
        },
    )
    return archived


def verify_month(*, month: date, is_time_up: Callable[[], bool] = _never, actor: Actor, at: datetime) -> ArchivedMonth:
    """Read the written files back, work out all that their manifests say anew, and compare it with the events.

    Each file is a step of its own, until all are verified or the time is up; a file that was verified is not read
    again. Nothing can be added to the month meanwhile: one that changed since begins anew.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged, MonthChanged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    with _beginning_anew_if_changed(month):
        while True:
            archived = _verify_part(month, actor=actor, at=at)
            if archived.status == Status.VERIFIED or is_time_up():
                return archived


@transaction.atomic
def _verify_part(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.VERIFIED:
        return archived
    _require(archived, Status.EXPORTED)
    table = archive_tables.partition_of(month)
    archive_tables.keep_others_out(table)
    if _compare_one(archived, table=table, noted_in="verified_at", at=at):
        return archived
    # Events are only ever added: as many as were verified, one part after another, are those that were verified.
    _require_count(archived, table=table)
    archive_parts.keep_batches(archived)
    archived.status = Status.VERIFIED
    archived.verified_at = at
    archived.last_error = ""
    archived.save()
    archive_parts.remove_superseded(archived)
    audit.record(actor=actor, verb="archived_month.verified", subject=archived, at=at, data={"events": archived.rows})
    return archived


def _compare_one(archived: ArchivedMonth, *, table: str, noted_in: str, at: datetime) -> bool:
    """Compare the next file that was not, and note when; return whether more wait."""
    waiting = ArchivedPart.objects.filter(month=archived, **{f"{noted_in}__isnull": True}).order_by("number")
    part = waiting.first()
    if part is not None:
        archive_parts.compare(part, archived, table=table)
        setattr(part, noted_in, at)
        part.save(update_fields=[noted_in])
    return waiting.exists()


def _require_count(archived: ArchivedMonth, *, table: str) -> None:
    if archive_tables.count(table) != archived.rows:
        raise MonthChanged


def detach_month(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Take a verified month's table out of `usage_event`; it lies beside it until it is dropped.

    Refused while a legal hold covers the month or events of it wait in quarantine, by the database too.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, MonthNotArchivable, MonthOnHold,
    MonthHasWaitingEvents, MonthChanged, ArchiveFileDamaged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    _require_old_enough(month, at=at)
    with _beginning_anew_if_changed(month):
        return _detach(month, actor=actor, at=at)


@transaction.atomic
def _detach(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.DETACHED:
        return archived
    _require(archived, Status.VERIFIED)
    archive_parts.require_whole(archived)
    archive_tables.keep_others_out(archive_tables.partition_of(month))
    _require_count(archived, table=archive_tables.partition_of(month))
    archived.status = Status.DETACHED
    archived.detached_at = at
    ArchivedPart.objects.filter(month=archived).update(compared_at=None)
    with _on_hold_named(month):
        archived.save()
    with archive_tables.waiting_briefly(), connection.cursor() as cursor:
        cursor.execute("SELECT detach_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.detached", subject=archived, at=at, data={"events": archived.rows})
    return archived


@transaction.atomic
def ask_drop(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Ask that a detached month's table be dropped; the jobs compare its files with it once more, and drop it then.

    Asking twice asks once; a month that is dropped stays so.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, MonthOnHold.
    """
    actor.require(Permission.MANAGE_RETENTION)
    archived = _locked(month)
    if archived.status == Status.DROPPED or archived.drop_asked_at is not None:
        return archived
    _require(archived, Status.DETACHED)
    if legal_holds.of_month(month):
        raise _held(month)
    archived.drop_asked_at = at
    archived.save(update_fields=["drop_asked_at"])
    audit.record(actor=actor, verb="archived_month.drop_asked", subject=archived, at=at)
    return archived


def drop_month(*, month: date, is_time_up: Callable[[], bool] = _never, actor: Actor, at: datetime) -> ArchivedMonth:
    """Drop a detached month's table, after each of its files was compared with it once more.

    Each file is a step of its own, until all are compared or the time is up.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, MonthOnHold, ArchiveFileDamaged,
    MonthChanged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    while True:
        archived = _drop_once_compared(month, actor=actor, at=at)
        if archived.status == Status.DROPPED or is_time_up():
            return archived


@transaction.atomic
def _drop_once_compared(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.DROPPED:
        return archived
    _require(archived, Status.DETACHED)
    table = archive_tables.detached_of(month)
    archive_tables.keep_others_out(table)
    if _compare_one(archived, table=table, noted_in="compared_at", at=at):
        return archived
    archive_parts.require_whole(archived)
    _require_count(archived, table=table)
    archived.status = Status.DROPPED
    archived.verified_at = archived.dropped_at = at
    archived.drop_asked_at = None
    archived.last_error = ""
    archived.verified_in_transaction = _transaction_id()
    with _on_hold_named(month):
        archived.save()
    with connection.cursor() as cursor:
        cursor.execute("SELECT drop_detached_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.dropped", subject=archived, at=at, data={"events": archived.rows})
    return archived


def bring_back(*, month: date, is_time_up: Callable[[], bool] = _never, actor: Actor, at: datetime) -> ArchivedMonth:
    """Bring an archived month's events back, equal to what they were; a month that is there already is returned.

    A table that was only detached is attached again; otherwise the events are loaded from the files, each of which is
    a step of its own, until all are loaded or the time is up.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged.
    """
    archived = ask_back(month=month, actor=actor, at=at)
    while archived.status != Status.RESTORED:
        archived = _bring_back(month, actor=actor, at=at)
        if is_time_up():
            break
    return archived


@transaction.atomic
def ask_back(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Ask that an archived month's events come back; asking twice asks once.

    A table that was only detached is attached here and now; from the file the jobs load them.

    Raises: PermissionMissing, MonthUnknown, MonthInProgress.
    """
    actor.require(Permission.MANAGE_RETENTION)
    archived = _locked(month)
    if archived.status == Status.DETACHED:
        return _bring_back(month, actor=actor, at=at)
    if archived.status == Status.DROPPED:
        archived.status = Status.RESTORING
        archived.save(update_fields=["status"])
        ArchivedPart.objects.filter(month=archived).update(loaded_at=None)
        audit.record(actor=actor, verb="archived_month.asked_back", subject=archived, at=at)
    return archived


@transaction.atomic
def _bring_back(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.RESTORED:
        return archived
    _require(archived, Status.DETACHED, Status.RESTORING)
    if archived.status == Status.RESTORING:
        waiting = ArchivedPart.objects.filter(month=archived, loaded_at__isnull=True).order_by("number")
        part = waiting.first()
        if part is not None:
            archive_parts.load(part, archived)
            part.loaded_at = at
            part.save(update_fields=["loaded_at"])
        if waiting.exists():
            return archived
        _require_count(archived, table=archive_tables.detached_of(month))
    archived.status = Status.RESTORED
    archived.restored_at = at
    archived.drop_asked_at = None
    archived.last_error = ""
    archived.save()
    with archive_tables.waiting_briefly(), connection.cursor() as cursor:
        cursor.execute("SELECT attach_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.restored", subject=archived, at=at, data={"events": archived.rows})
    return archived


def check_archive(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Verify that the files of a month that is away are, byte for byte, those that were compared with its events.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    with transaction.atomic():
        archived = _locked(month)
        _require(archived, *AWAY)
        archive_parts.require_whole(archived)
        archived.verified_at = at
        archived.save(update_fields=["verified_at"])
    return archived


def rewrite_file(
    *,
    month: date,
    customer_id: int,
    through: Callable[[Iterable[EventRow]], Iterator[EventRow]],
    empty_table: Callable[[str], None],
    erasure_id: int,
    actor: Actor,
    at: datetime,
) -> tuple[ArchivedMonth, bool]:
    """Write a month's next file anew for an erasure, inside its transaction, and tell whether there may be more.

    The caller takes the old one off the disk. Files without the customer's events stay. `empty_table` does the same to
    a table that lies beside `usage_event`. A month that is not away yet begins anew, also one that is planned, of which
    a killed export may have left a file.

    Raises: MonthInProgress, ArchiveFileDamaged, MonthChanged.
    """
    archived = _locked(month)
    if archived.status in {Status.PLANNED, Status.EXPORTED, Status.VERIFIED}:
        _start_over(archived)
        return archived, False
    rewritten = archive_parts.rewrite(archived, customer_id=customer_id, through=through, erasure_id=erasure_id, at=at)
    if rewritten is None:
        return archived, False
    part, before = rewritten
    archived.revision += 1
    archive_parts.add_up(archived)
    table = archive_tables.detached_of(month)
    if archived.status in {Status.DETACHED, Status.RESTORING} and archive_tables.exists(table):
        empty_table(table)
        if archived.status == Status.DETACHED or part.loaded_at is not None:
            archive_parts.compare(part, archived, table=table)
    archived.verified_at = at
    archived.save()
    audit.record(
        actor=actor,
        verb="archived_month.rewritten",
        subject=archived,
        at=at,
        data={
            "erasure": erasure_id,
            "file": part.file,
            "sha256": part.file_sha256,
            "replaces": before.file_sha256,
        },
    )
    return archived, True


@dataclass(frozen=True, slots=True)
class AwayMonth:
    """A month whose events are in the archive: `[start, end)`, how many, since when, and how it stands."""

    month: date
    start: datetime
    end: datetime
    events: int
    archived_at: datetime
    status: str


def archived_months(start: datetime, end: datetime) -> list[AwayMonth]:
    """Return the months of `[start, end)` whose events were archived, so that a page can say so; in order of time."""
    last = first_of_month(end - timedelta(microseconds=1))
    found = ArchivedMonth.objects.filter(status__in=AWAY, month__gte=first_of_month(start), month__lte=last)
    return [
        AwayMonth(each.month, start_of(each.month), end_of(each.month), each.rows, each.detached_at, each.status)
        for each in found.order_by("month")
        if each.detached_at is not None
    ]


def start_of(month: date) -> datetime:
    """Return the first moment of a month, UTC."""
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def end_of(month: date) -> datetime:
    """Return the first moment after a month, UTC."""
    return start_of(first_of_month(start_of(month), months_later=1))


def _require_old_enough(month: date, *, at: datetime) -> None:
    if month.day != 1 or end_of(month) > earliest_acceptable(at):
        msg = (
            f"{month:%B %Y} may still take events: usage is accepted for {settings.USAGE_ACCEPTANCE_MONTHS} months, "
            "and only older months are archived."
        )
        raise MonthNotArchivable(msg)


def _locked(month: date) -> ArchivedMonth:
    """Return the month's row, locked for the step. Raises: MonthUnknown, MonthInProgress."""
    with archive_tables.waiting_briefly():
        found = ArchivedMonth.objects.select_for_update(nowait=True).filter(month=month).first()
    if found is None:
        raise MonthUnknown
    return found


def _require(archived: ArchivedMonth, *states: str) -> None:
    if archived.status not in states:
        msg = (
            f"{archived.month:%B %Y} is not ready for this step. It stands at: {archived.get_status_display().lower()}."
        )
        raise MonthNotInState(msg)


def _held(month: date) -> MonthOnHold:
    holds = ", ".join(f"“{hold.reason}”" for hold in legal_holds.of_month(month))
    return MonthOnHold(f"A legal hold covers {month:%B %Y}: {holds or 'it was set a moment ago'}.")


@contextmanager
def _on_hold_named(month: date) -> Iterator[None]:
    with named("month_on_hold_stays", _held(month)), named("month_with_waiting_events_stays", MonthHasWaitingEvents):
        yield


@contextmanager
def _beginning_anew_if_changed(month: date) -> Iterator[None]:
    try:
        yield
    except MonthChanged:
        with transaction.atomic():
            archived = _locked(month)
            if archived.status in {Status.EXPORTED, Status.VERIFIED}:
                _start_over(archived)
        raise


def manifests_of(archived: ArchivedMonth) -> list[Manifest]:
    """Return the manifests of a month's files, in order. Raises: ArchiveFileDamaged."""
    return [archive_parts.manifest_of(part, archived) for part in archive_parts.parts_of(archived)]


def files_of(archived: ArchivedMonth) -> list[Path]:
    """Return where a month's files lie, in order."""
    return [archive_parts.file_of(part, archived) for part in archive_parts.parts_of(archived)]


def _transaction_id() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT (pg_current_xact_id()::text)::bigint")
        (transaction_id,) = cursor.fetchone()
    return int(transaction_id)
