"""Usage files on their way in: receiving them, saying how they are to be read, starting, stopping, resuming.

What is done with the rows is in `metering.sources.loading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from accounts import audit, canonical, nudges
from accounts.access import Actor, Permission
from metering.errors import (
    MappingMissing,
    UsageFileIncomplete,
    UsageFileNameInvalid,
    UsageFileNotHere,
    UsageFileStateOther,
    UsageFileTooLarge,
    UsageFileUnknown,
)
from metering.files import file_content
from metering.models import UsageFile, UsageFileMapping, UsageFilePart
from metering.models.files import LARGEST_PART
from metering.sources.layouts import HEAD_BYTES, FileFormat, detect_format
from metering.sources.mapping import ColumnMapping
from metering.usage_backfills.records import require_open

LOAD_FILES = "metering.tasks.load_files"
# What nobody starts or resumes is not kept for ever.
_KEPT_FOR = timedelta(days=30)
_UPLOAD_LASTS = timedelta(days=1)
_MOST_CLAIMS = 5
_LONGEST_NAME = 254

State = UsageFile.State
_BEGUN = (State.LOADING, State.DONE, State.STOPPED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is, apart from how it is to be read."""

    name: str
    size: int
    sha256: bytes
    changed_at: int = 0

    @classmethod
    def of(cls, stream: BinaryIO, *, name: str) -> Content:
        """Read a file through to know it."""
        changed_at = file_content.changed_at(stream)
        sha256, size = file_content.sha256_of(stream)
        return cls(name=name, size=size, sha256=sha256, changed_at=changed_at)

    def is_still_in(self, stream: BinaryIO) -> bool:
        """Tell whether nobody has written to the file since it was read through."""
        return file_content.changed_at(stream) == self.changed_at


@transaction.atomic
def begin_here(
    *,
    content: Content,
    file_format: FileFormat,
    mapping: ColumnMapping | None,
    mapping_id: int | None = None,
    backfill_id: int | None = None,
    actor: Actor,
    at: datetime,
) -> tuple[UsageFile, bool]:
    """Return the record of a file that the caller is about to load, and whether it is new.

    One that was stopped or has failed is loading again; one that is done stays so.

    With `backfill_id` its rows are filled into that backfill.

    Raises: PermissionMissing, UsageFileNameInvalid, MappingMissing, UsageBackfillUnknown, UsageBackfillNotOpen.
    """
    actor.require(Permission.LOAD_USAGE)
    if backfill_id is not None:
        require_open(backfill_id)
    if file_format.needs_mapping and mapping is None:
        raise MappingMissing
    spec = mapping.as_json() if mapping is not None and file_format.needs_mapping else None
    file = UsageFile(
        name=_valid_name(content.name),
        size=content.size,
        sha256=content.sha256,
        format=file_format.value,
        mapping_id=mapping_id if spec is not None else None,
        mapping_spec=spec,
        mapping_digest=_digest(spec),
        backfill_id=backfill_id,
        state=State.LOADING,
        sent_by_id=actor.user_id,
        actor_label=actor.label,
        created_at=at,
        started_at=at,
    )
    known = _begun_twin(file)
    if known is None:
        try:
            with transaction.atomic():
                file.save(force_insert=True)
        except IntegrityError:
            # Another one began the same at the same moment.
            known = _begun_twin(file)
            if known is None:
                raise
    if known is not None:
        return _go_on(known, actor=actor, at=at), False
    audit.record(actor=actor, verb="usage_file.started", subject=file, at=at)
    return file, True


@transaction.atomic
def receive_file(*, name: str, size: int, actor: Actor, at: datetime) -> UsageFile:
    """Open the record of a file that is going to be sent in parts of `LARGEST_PART` bytes, the last one shorter.

    Raises: PermissionMissing, UsageFileNameInvalid, UsageFileTooLarge.
    """
    actor.require(Permission.LOAD_USAGE)
    if size > settings.USAGE_FILE_LIMIT_BYTES:
        limit = settings.USAGE_FILE_LIMIT_BYTES // 1_048_576
        msg = (
            f"The file has {size / 1_048_576:,.1f} MiB; at most {limit:,} MiB are taken here. Pack it with gzip,"
            " part it, or load it with manage.py load_usage."
        )
        raise UsageFileTooLarge(msg)
    if size <= 0:
        msg = "The file is empty."
        raise UsageFileIncomplete(msg)
    file = UsageFile.objects.create(
        name=_valid_name(name),
        size=size,
        state=State.RECEIVING,
        sent_by_id=actor.user_id,
        actor_label=actor.label,
        created_at=at,
    )
    audit.record(actor=actor, verb="usage_file.received", subject=file, at=at)
    return file


@transaction.atomic
def receive_part(*, file_id: int, number: int, content: bytes, actor: Actor) -> None:
    """Keep one part of a file that is being sent, counted from 0; the same part again changes nothing.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther, UsageFileIncomplete.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    _require_state(file, State.RECEIVING)
    start = number * LARGEST_PART
    if len(content) != min(LARGEST_PART, file.size - start) or not content:
        wanted = max(0, min(LARGEST_PART, file.size - start))
        msg = f"Part {number} of {file.name} should have {wanted:,} bytes, not {len(content):,}."
        raise UsageFileIncomplete(msg)
    UsageFilePart.objects.bulk_create([UsageFilePart(file=file, number=number, content=content)], ignore_conflicts=True)


@transaction.atomic
def finish_receiving(*, file_id: int, actor: Actor, at: datetime) -> UsageFile:
    """Close a file whose parts are all here: its hash is taken and its layout told from its first bytes.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther, UsageFileIncomplete.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    if file.state == State.WAITING:
        return file
    _require_state(file, State.RECEIVING)
    received = file_content.received_bytes(file.pk)
    if received != file.size:
        msg = f"{received:,} of {file.size:,} bytes of {file.name} have arrived."
        raise UsageFileIncomplete(msg)
    with file_content.open_content(file) as stream:
        file.sha256, _ = file_content.sha256_of(stream)
        stream.seek(0)
        file.format = detect_format(stream.read(HEAD_BYTES)).value
    file.state = State.WAITING
    file.save()
    audit.record(actor=actor, verb="usage_file.arrived", subject=file, at=at)
    return file


@transaction.atomic
def choose_layout(*, file_id: int, file_format: FileFormat, mapping_id: int | None, actor: Actor) -> UsageFile:
    """Say how a file that waits is to be read; the mapping is copied, so that a later change of it changes nothing.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    _require_state(file, State.WAITING)
    mapping = UsageFileMapping.objects.filter(pk=mapping_id or 0).first() if file_format.needs_mapping else None
    file.format = file_format.value
    file.mapping, file.mapping_spec = mapping, mapping.spec if mapping else None
    file.mapping_digest = _digest(file.mapping_spec)
    file.save()
    return file


@transaction.atomic
def choose_backfill(*, file_id: int, backfill_id: int | None, actor: Actor) -> UsageFile:
    """Say into which open backfill the rows of a file that waits are to be filled; None: they count at once.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther, UsageBackfillUnknown, UsageBackfillNotOpen.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    _require_state(file, State.WAITING)
    if backfill_id is not None:
        require_open(backfill_id)
    file.backfill_id = backfill_id
    file.save()
    return file


@transaction.atomic
def start_loading(*, file_id: int, actor: Actor, at: datetime) -> UsageFile:
    """Have the workers load a file that waits, and return the file that is being loaded.

    That is another one where the same file, read in the same way, was begun before: what has just been sent is then
    discarded, and the earlier load goes on if it was not done. Asking again changes nothing.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther, MappingMissing.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    if file.state in _BEGUN:
        return file
    _require_state(file, State.WAITING)
    if FileFormat(file.format).needs_mapping and file.mapping_spec is None:
        raise MappingMissing
    known = _begun_twin(file)
    if known is not None:
        return _join(file, known, actor=actor, at=at)
    file.state, file.started_at = State.LOADING, at
    file.save()
    audit.record(actor=actor, verb="usage_file.started", subject=file, at=at)
    nudges.nudge(LOAD_FILES)
    return file


def _join(file: UsageFile, known: UsageFile, *, actor: Actor, at: datetime) -> UsageFile:
    """Leave the bytes that were sent again to the load that began before, if it still needs them."""
    UsageFilePart.objects.filter(file=file).update(file=known) if _needs_parts(known) else _drop_parts(file)
    file.state, file.finished_at = State.DISCARDED, at
    file.save()
    audit.record(actor=actor, verb="usage_file.discarded", subject=file, at=at, reason=f"the same as file {known.pk}")
    known = _go_on(known, actor=actor, at=at)
    nudges.nudge(LOAD_FILES)
    return known


@transaction.atomic
def stop_loading(*, file_id: int, actor: Actor, at: datetime) -> UsageFile:
    """Have a load stop after the batch that it is at; it may be resumed. What is not loading stays as it is.

    Raises: PermissionMissing, UsageFileUnknown.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    if file.state == State.LOADING:
        file.state, file.leased_until = State.STOPPED, None
        file.save()
        audit.record(actor=actor, verb="usage_file.stopped", subject=file, at=at)
    return file


@transaction.atomic
def resume_loading(*, file_id: int, actor: Actor, at: datetime) -> UsageFile:
    """Go on with a load that was stopped or has failed, where it was.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther, UsageFileNotHere (its bytes were never sent, or
    not kept: load the same file again, which goes on as well).
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    if file.state == State.LOADING:
        return file
    _require_state(file, State.STOPPED, State.FAILED)
    if _needs_parts(file):
        raise UsageFileNotHere
    file = _go_on(file, actor=actor, at=at)
    nudges.nudge(LOAD_FILES)
    return file


@transaction.atomic
def discard_file(*, file_id: int, actor: Actor, at: datetime) -> UsageFile:
    """Give up a file: its bytes go. Of one that was stopped or has failed, the rows that were loaded stay.

    Raises: PermissionMissing, UsageFileUnknown, UsageFileStateOther.
    """
    actor.require(Permission.LOAD_USAGE)
    file = _locked(file_id)
    if file.state == State.DISCARDED:
        return file
    if file.state in {State.STOPPED, State.FAILED}:
        if not _needs_parts(file):
            _drop_parts(file)
            audit.record(actor=actor, verb="usage_file.bytes_discarded", subject=file, at=at)
        return file
    _require_state(file, State.RECEIVING, State.WAITING)
    _discard(file, actor=actor, at=at)
    return file


def sweep_abandoned(*, at: datetime) -> int:
    """Discard what was not sent to its end within a day or not started within 30, and return how many that was.

    The bytes of what has stood still for 30 days after a stop or a failure go as well.
    """
    actor = Actor.system("usage files")
    found = UsageFile.objects.filter(
        Q(state=State.RECEIVING, created_at__lt=at - _UPLOAD_LASTS)
        | Q(state=State.WAITING, created_at__lt=at - _KEPT_FOR)
    )
    forgotten = list(found.values_list("pk", flat=True))
    for file_id in forgotten:
        _discard_forgotten(file_id, actor=actor, at=at)
    UsageFilePart.objects.filter(
        file__state__in=[State.STOPPED, State.FAILED], file__started_at__lt=at - _KEPT_FOR
    ).delete()
    return len(forgotten)


@transaction.atomic
def _discard_forgotten(file_id: int, *, actor: Actor, at: datetime) -> None:
    file = _locked(file_id)
    if file.state in {State.RECEIVING, State.WAITING}:
        _discard(file, actor=actor, at=at)


def claimable(*, at: datetime) -> QuerySet[UsageFile]:
    """Return the files that are loading, lie here, and are nobody's work at the moment."""
    parts = UsageFilePart.objects.filter(file=OuterRef("pk"))
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=at)
    return UsageFile.objects.filter(free, Exists(parts), state=State.LOADING)


@transaction.atomic
def claim_next(*, lease: timedelta, at: datetime) -> UsageFile | None:
    """Take up the next file that waits for a worker; until the lease is over no other worker does.

    A file that was taken up five times without a single batch after it is given up, for it may be what kills them.
    """
    file = claimable(at=at).select_for_update(skip_locked=True, no_key=True, of=("self",)).order_by("pk").first()
    if file is None:
        return None
    file.leased_until = at + lease
    file.claims += 1
    if file.claims > _MOST_CLAIMS:
        file.state, file.finished_at, file.leased_until = State.FAILED, at, None
        file.error = f"{_MOST_CLAIMS} workers have ended over it, at row {file.rows_done + 1:,}, without a word."
        audit.record(
            actor=Actor.system("usage files"), verb="usage_file.failed", subject=file, at=at, reason=file.error
        )
    file.save()
    return file


def renew_claim(file_id: int, *, lease: timedelta, at: datetime) -> datetime:
    """Keep a file that was taken up for so much longer, and return until when."""
    UsageFile.objects.filter(pk=file_id, state=State.LOADING).update(leased_until=at + lease)
    return at + lease


def release_claim(file_id: int) -> None:
    """Let the next worker go on with a file at once."""
    UsageFile.objects.filter(pk=file_id, state=State.LOADING).update(leased_until=None)


def loader_of(file: UsageFile) -> Actor:
    """Return on whose behalf a worker loads a file: who sent it, who was asked for the permission then."""
    return Actor(label=file.actor_label, user_id=file.sent_by_id, permissions=frozenset({Permission.LOAD_USAGE.value}))


def _go_on(file: UsageFile, *, actor: Actor, at: datetime) -> UsageFile:
    if file.state in {State.STOPPED, State.FAILED}:
        file.state, file.error, file.finished_at, file.leased_until, file.claims = State.LOADING, "", None, None, 0
        file.save()
        audit.record(actor=actor, verb="usage_file.resumed", subject=file, at=at)
    return file


def _discard(file: UsageFile, *, actor: Actor, at: datetime) -> None:
    _drop_parts(file)
    file.state, file.finished_at = State.DISCARDED, at
    file.save()
    audit.record(actor=actor, verb="usage_file.discarded", subject=file, at=at)


def _drop_parts(file: UsageFile) -> None:
    UsageFilePart.objects.filter(file=file).delete()


def _needs_parts(file: UsageFile) -> bool:
    return file.state != State.DONE and not UsageFilePart.objects.filter(file=file).exists()


def _begun_twin(file: UsageFile) -> UsageFile | None:
    return (
        UsageFile.objects.select_for_update(no_key=True)
        .filter(
            sha256=file.sha256,
            format=file.format,
            mapping_digest=file.mapping_digest,
            backfill_id=file.backfill_id,
            state__in=_BEGUN,
        )
        .first()
    )


def twin_of(file: UsageFile) -> UsageFile | None:
    """Return the file with the same bytes, layout, mapping and backfill that was begun before this one, if any."""
    return (
        UsageFile.objects.filter(
            sha256=file.sha256,
            format=file.format,
            mapping_digest=file.mapping_digest,
            backfill_id=file.backfill_id,
            state__in=_BEGUN,
        )
        .exclude(pk=file.pk)
        .first()
    )


def _locked(file_id: int) -> UsageFile:
    file = UsageFile.objects.select_for_update(no_key=True).filter(pk=file_id).first()
    if file is None:
        raise UsageFileUnknown
    return file


def _require_state(file: UsageFile, *wanted: UsageFile.State) -> None:
    if file.state not in wanted:
        msg = f"{file.name} is {State(file.state).label.lower()}."
        raise UsageFileStateOther(msg)


def _valid_name(name: str) -> str:
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise UsageFileNameInvalid
    return name


def _digest(spec: Any) -> bytes:
    if spec is None:
        return b""
    return canonical.canonical_hash(spec)
