"""Takes old months of events into files and brings them back; totals, identities and series stay all the time.

A month goes step by step (`ArchivedMonth.Status`): planned, its file written, the file verified against the events,
the events' table detached from `usage_event`, and dropped. Each step is one transaction: killed it has done nothing
but perhaps written a file that the next run overwrites; repeated it finds its work done. Detaching and dropping are
each asked for by a person; the steps before are done by the jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    ArchiveFileDamaged,
    MonthChanged,
    MonthHasWaitingEvents,
    MonthNotArchivable,
    MonthNotInState,
    MonthOnHold,
    MonthUnknown,
)
from metering.ingestion import earliest_acceptable
from metering.models import ArchivedBatch, ArchivedMonth
from metering.retention import archive_files, archive_tables, legal_holds
from metering.retention.archive_files import Contents, Counting, EventRow, Manifest
from metering.retention.archive_tables import moment_of
from metering.retention.archived_values import SeriesValues
from metering.retention.partitions import first_of_month

Status = ArchivedMonth.Status
# The events of these months are not in `usage_event`.
AWAY = (Status.DETACHED, Status.DROPPED, Status.RESTORING)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_AT_ONCE = 1_000
# Detaching keeps every sender out while it happens; it takes milliseconds, and gives up rather than let them queue.
_LOCK_TIMEOUT = "3s"


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
    archived.save(update_fields=["status", "revision", "folder"])


@transaction.atomic
def export_month(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Write a planned month's events into its file, with its manifest.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress.
    """
    actor.require(Permission.MANAGE_RETENTION)
    archived = _locked(month)
    if archived.status in {Status.EXPORTED, Status.VERIFIED}:
        return archived
    _require(archived, Status.PLANNED)
    with archive_tables.events(archive_tables.partition_of(month)) as rows:
        manifest, manifest_sha256 = archive_files.write(
            rows,
            folder=Path(archived.folder),
            month=month,
            revision=archived.revision,
            value_of=SeriesValues(),
        )
    _take_over(archived, manifest, manifest_sha256)
    archived.status = Status.EXPORTED
    archived.exported_at = at
    archived.last_error = ""
    archived.save()
    audit.record(
        actor=actor,
        verb="archived_month.exported",
        subject=archived,
        at=at,
        data={"events": archived.rows, "sha256": archived.file_sha256, "file": manifest.file},
    )
    return archived


def _take_over(archived: ArchivedMonth, manifest: Manifest, manifest_sha256: str) -> None:
    contents = manifest.contents
    archived.manifest_sha256 = manifest_sha256
    archived.file_sha256 = manifest.file_sha256
    archived.file_bytes = manifest.file_bytes
    archived.rows = contents.rows
    archived.rows_sha256 = contents.rows_sha256
    archived.key_high, archived.key_low = contents.key_high, contents.key_low


def verify_month(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Read a written file back, work out all that its manifest says anew, and compare it with the events.

    Nothing can be added to the month meanwhile. A month that changed since begins anew.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged, MonthChanged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    with _beginning_anew_if_changed(month):
        return _verify(month, actor=actor, at=at)


@transaction.atomic
def _verify(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.VERIFIED:
        return archived
    _require(archived, Status.EXPORTED)
    manifest = _verified_manifest(archived)
    archive_tables.keep_others_out(archive_tables.partition_of(month))
    _require_same(manifest.contents, archive_tables.contents_of(archive_tables.partition_of(month)))
    ArchivedBatch.objects.filter(month=archived).delete()
    ArchivedBatch.objects.bulk_create(
        [
            ArchivedBatch(
                month=archived,
                batch_id=int(batch_id),
                events=batch.events,
                earliest_at=moment_of(batch.earliest),
            )
            for batch_id, batch in manifest.contents.batches.items()
        ],
        batch_size=5_000,
    )
    archived.status = Status.VERIFIED
    archived.verified_at = at
    archived.last_error = ""
    archived.save()
    archive_files.remove_superseded(Path(archived.folder), month=month, revision=archived.revision)
    audit.record(actor=actor, verb="archived_month.verified", subject=archived, at=at, data={"events": archived.rows})
    return archived


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
    archive_files.require_whole(file_of(archived), manifest_of(archived))
    archive_tables.keep_others_out(archive_tables.partition_of(month))
    # Events are only ever added: as many as were verified are those that were verified.
    if archive_tables.count(archive_tables.partition_of(month)) != archived.rows:
        raise MonthChanged
    archived.status = Status.DETACHED
    archived.detached_at = at
    with _on_hold_named(month):
        archived.save()
    with archive_tables.waiting_briefly(), connection.cursor() as cursor:
        cursor.execute("SELECT detach_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.detached", subject=archived, at=at, data={"events": archived.rows})
    return archived


@transaction.atomic
def drop_month(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Drop a detached month's table, after its file has been verified against it once more, here and now.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, MonthOnHold, ArchiveFileDamaged,
    MonthChanged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    archived = _locked(month)
    if archived.status == Status.DROPPED:
        return archived
    _require(archived, Status.DETACHED)
    _require_same(_verified_manifest(archived).contents, archive_tables.contents_of(archive_tables.detached_of(month)))
    archived.status = Status.DROPPED
    archived.verified_at = archived.dropped_at = at
    archived.verified_in_transaction = _transaction_id()
    with _on_hold_named(month):
        archived.save()
    with connection.cursor() as cursor:
        cursor.execute("SELECT drop_detached_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.dropped", subject=archived, at=at, data={"events": archived.rows})
    return archived


def bring_back(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Bring an archived month's events back, equal to what they were; a month that is there already is returned.

    A table that was only detached is attached again; otherwise the events are loaded from the file.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged.
    """
    archived = ask_back(month=month, actor=actor, at=at)
    return _bring_back(archived.month, actor=actor, at=at)


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
        audit.record(actor=actor, verb="archived_month.asked_back", subject=archived, at=at)
    return archived


@transaction.atomic
def _bring_back(month: date, *, actor: Actor, at: datetime) -> ArchivedMonth:
    archived = _locked(month)
    if archived.status == Status.RESTORED:
        return archived
    _require(archived, Status.DETACHED, Status.RESTORING)
    if archived.status == Status.RESTORING:
        manifest = _verified_manifest(archived)
        archive_tables.load(month, archive_files.read(file_of(archived)))
        _require_same(manifest.contents, archive_tables.contents_of(archive_tables.detached_of(month)))
    archived.status = Status.RESTORED
    archived.restored_at = at
    archived.last_error = ""
    archived.save()
    with archive_tables.waiting_briefly(), connection.cursor() as cursor:
        cursor.execute("SELECT attach_usage_event_partition(%s)", [month])
    audit.record(actor=actor, verb="archived_month.restored", subject=archived, at=at, data={"events": archived.rows})
    return archived


def check_archive(*, month: date, actor: Actor, at: datetime) -> ArchivedMonth:
    """Verify the file of a month that is away, as of now.

    Raises: PermissionMissing, MonthUnknown, MonthNotInState, MonthInProgress, ArchiveFileDamaged.
    """
    actor.require(Permission.MANAGE_RETENTION)
    with transaction.atomic():
        archived = _locked(month)
        _require(archived, *AWAY)
        _verified_manifest(archived)
        archived.verified_at = at
        archived.save(update_fields=["verified_at"])
    return archived


def rewrite_file(
    *,
    month: date,
    customer_id: int,
    through: Callable[[Iterator[EventRow]], Iterator[EventRow]],
    empty_table: Callable[[str], None],
    erasure_id: int,
    actor: Actor,
    at: datetime,
) -> ArchivedMonth:
    """Write a month's file anew for an erasure, inside its transaction; the caller takes the old one off the disk.

    The new manifest names the one before. `empty_table` does the same to a table that is only detached. A month that
    is not away yet begins anew, also one that is planned, of which a killed export may have left a file. A file without
    the customer's events, or that this erasure has rewritten, stays.

    Raises: MonthInProgress, ArchiveFileDamaged, MonthChanged.
    """
    archived = _locked(month)
    if archived.status in {Status.PLANNED, Status.EXPORTED, Status.VERIFIED}:
        _start_over(archived)
        return archived
    before = manifest_of(archived)
    if str(customer_id) not in before.contents.customers or before.erasure == erasure_id:
        return archived
    archive_files.require_whole(file_of(archived), before)
    manifest, manifest_sha256 = archive_files.write(
        through(archive_files.read(file_of(archived))),
        folder=Path(archived.folder),
        month=month,
        revision=archived.revision + 1,
        value_of=SeriesValues(),
        replaces=archived.manifest_sha256,
        erasure=erasure_id,
    )
    archived.revision += 1
    _take_over(archived, manifest, manifest_sha256)
    _verified_manifest(archived)
    if archived.status == Status.DETACHED:
        empty_table(archive_tables.detached_of(month))
        _require_same(manifest.contents, archive_tables.contents_of(archive_tables.detached_of(month)))
    archived.verified_at = at
    archived.save()
    audit.record(
        actor=actor,
        verb="archived_month.rewritten",
        subject=archived,
        at=at,
        data={"erasure": erasure_id, "replaces": before.file_sha256, "sha256": archived.file_sha256},
    )
    return archived


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


def recountable(*, customer_id: int, moment: datetime) -> bool:
    """Tell whether the events of the hour are all here and whole, so that its total can be worked out anew.

    In SQL: `usage_is_recountable(customer_id, hour)`, or the spans themselves in the view `usage_unrecountable`
    (customer_id, null for all; starts_at; ends_at; reason).
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT usage_is_recountable(%s, %s)", [customer_id, moment])
        (answer,) = cursor.fetchone()
    return bool(answer)


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
        msg = f"{archived.month:%B %Y} is not ready for this step: {archived.get_status_display().lower()}."
        raise MonthNotInState(msg)


@contextmanager
def _on_hold_named(month: date) -> Iterator[None]:
    holds = ", ".join(f"“{hold.reason}”" for hold in legal_holds.of_month(month))
    held = MonthOnHold(f"A legal hold covers {month:%B %Y}: {holds or 'it was set a moment ago'}.")
    with named("month_on_hold_stays", held), named("month_with_waiting_events_stays", MonthHasWaitingEvents):
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


def manifest_of(archived: ArchivedMonth) -> Manifest:
    """Return the manifest of a month's file. Raises: ArchiveFileDamaged."""
    path = Path(archived.folder) / archive_files.manifest_name(archived.month, archived.revision)
    manifest = archive_files.read_manifest(path, sha256=archived.manifest_sha256)
    if manifest.file_sha256 != archived.file_sha256:
        msg = f"{path.name} names another file than the one that was written."
        raise ArchiveFileDamaged(msg)
    return manifest


def file_of(archived: ArchivedMonth) -> Path:
    """Return where a month's file lies, or will."""
    return Path(archived.folder) / archive_files.file_name(archived.month, archived.revision)


def _verified_manifest(archived: ArchivedMonth) -> Manifest:
    """Return the manifest of a file that holds, worked out anew, what the manifest says."""
    manifest = manifest_of(archived)
    archive_files.require_whole(file_of(archived), manifest)
    counting = Counting(SeriesValues())
    for _ in counting.through(archive_files.read(file_of(archived))):
        pass
    if counting.contents() != manifest.contents:
        msg = f"{manifest.file} does not hold what its manifest says."
        raise ArchiveFileDamaged(msg)
    return manifest


def _require_same(filed: Contents, stored: Contents) -> None:
    if filed != stored:
        msg = f"The file holds {filed.rows:,} events and the table {stored.rows:,}, or they differ in content."
        raise MonthChanged(msg)


def _transaction_id() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT (pg_current_xact_id()::text)::bigint")
        (transaction_id,) = cursor.fetchone()
    return int(transaction_id)
