"""The files of an archived month one by one: each is written, verified, compared and loaded in a step of its own.

Every function here is called within the transaction of such a step, which holds the month's row.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from django.conf import settings

from metering.errors import ArchiveFileDamaged, MonthChanged
from metering.models import ArchivedBatch, ArchivedMonth, ArchivedPart
from metering.retention import archive_files, archive_tables
from metering.retention.archive_files import BatchInFile, Contents, Counting, EventRow, Manifest
from metering.retention.archive_tables import Place, Stretch, moment_of, place_of
from metering.retention.archived_values import SeriesValues


def parts_of(archived: ArchivedMonth) -> list[ArchivedPart]:
    """Return the month's files in order."""
    return list(ArchivedPart.objects.filter(month=archived).order_by("number"))


def end_of_part(part: ArchivedPart) -> Place | None:
    """Return the last event of a part; None for the last part, which reaches to the end."""
    if part.until_customer is None or part.until_time is None or part.until_key is None:
        return None
    return Place(part.until_customer, part.until_time, part.until_key)


def stretch_of(part: ArchivedPart) -> Stretch:
    """Return which events of the month a part holds."""
    before = ArchivedPart.objects.filter(month_id=part.month_id, number=part.number - 1).first()
    return Stretch(end_of_part(before) if before else None, end_of_part(part))


def write_next(archived: ArchivedMonth, *, table: str) -> bool:
    """Write the next file of a month; tells whether it was the last."""
    before = ArchivedPart.objects.filter(month=archived).order_by("-number").first()
    number = before.number + 1 if before else 1
    start = end_of_part(before) if before else None
    last: list[Place] = []

    def is_last() -> bool:
        return not last or archive_tables.is_empty(table, Stretch(last[0], None))

    with archive_tables.events(table, Stretch(start, None), limit=settings.ARCHIVE_PART_EVENTS) as rows:
        manifest, manifest_sha256 = archive_files.write(
            _noting_the_last(rows, last),
            folder=Path(archived.folder),
            month=archived.month,
            revision=archived.revision,
            part=number,
            is_last=is_last,
            value_of=SeriesValues(),
        )
    part = ArchivedPart(month=archived, number=number)
    if not manifest.is_last:
        part.until_customer, part.until_time, part.until_key = last[0]
    _take_over(part, manifest, manifest_sha256)
    part.save()
    return manifest.is_last


def _noting_the_last(rows: Iterable[EventRow], last: list[Place]) -> Iterator[EventRow]:
    row = None
    for row in rows:
        yield row
    if row is not None:
        last.append(place_of(row))


def _take_over(part: ArchivedPart, manifest: Manifest, manifest_sha256: str) -> None:
    contents = manifest.contents
    part.revision, part.file = manifest.revision, manifest.file
    part.file_sha256, part.file_bytes = manifest.file_sha256, manifest.file_bytes
    part.manifest_sha256 = manifest_sha256
    part.rows, part.rows_sha256 = contents.rows, contents.rows_sha256
    part.key_high, part.key_low = contents.key_high, contents.key_low


def add_up(archived: ArchivedMonth) -> None:
    """Write into the month's row what its files come to; of several the hashes are those of their hashes in order."""
    parts = parts_of(archived)
    archived.rows = sum(part.rows for part in parts)
    archived.file_bytes = sum(part.file_bytes for part in parts)
    archived.key_high = sum(part.key_high for part in parts)
    archived.key_low = sum(part.key_low for part in parts)
    archived.file_sha256 = _hash_of([part.file_sha256 for part in parts])
    archived.manifest_sha256 = _hash_of([part.manifest_sha256 for part in parts])
    archived.rows_sha256 = _hash_of([part.rows_sha256 for part in parts])


def _hash_of(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def file_of(part: ArchivedPart, archived: ArchivedMonth) -> Path:
    """Return where a file lies."""
    return Path(archived.folder) / part.file


def manifest_of(part: ArchivedPart, archived: ArchivedMonth) -> Manifest:
    """Return the manifest of a file. Raises: ArchiveFileDamaged."""
    path = file_of(part, archived).with_suffix(".json")
    manifest = archive_files.read_manifest(path, sha256=part.manifest_sha256)
    if manifest.file_sha256 != part.file_sha256:
        msg = f"{path.name} names another file than the one that was written."
        raise ArchiveFileDamaged(msg)
    return manifest


def require_whole(archived: ArchivedMonth) -> None:
    """Raise ArchiveFileDamaged unless every file is, byte for byte, the one that was written."""
    for part in parts_of(archived):
        archive_files.require_whole(file_of(part, archived), manifest_of(part, archived))


def verified_manifest(part: ArchivedPart, archived: ArchivedMonth) -> Manifest:
    """Return the manifest of a file that holds, worked out anew, what the manifest says."""
    manifest = manifest_of(part, archived)
    path = file_of(part, archived)
    archive_files.require_whole(path, manifest)
    counting = Counting(SeriesValues())
    for _ in counting.through(archive_files.read(path)):
        pass
    if counting.contents() != manifest.contents:
        msg = f"{manifest.file} does not hold what its manifest says."
        raise ArchiveFileDamaged(msg)
    return manifest


def compare(part: ArchivedPart, archived: ArchivedMonth, *, table: str) -> None:
    """Hold a file, read anew, against its stretch of a table. Raises: ArchiveFileDamaged, MonthChanged."""
    manifest = verified_manifest(part, archived)
    require_same(manifest.contents, archive_tables.contents_of(table, stretch_of(part)))


def load(part: ArchivedPart, archived: ArchivedMonth) -> None:
    """Load a file into the table of a month that comes back. Raises: ArchiveFileDamaged, MonthChanged."""
    manifest = verified_manifest(part, archived)
    archive_tables.load(archived.month, archive_files.read(file_of(part, archived)))
    table = archive_tables.detached_of(archived.month)
    require_same(manifest.contents, archive_tables.contents_of(table, stretch_of(part)))


def require_same(filed: Contents, stored: Contents) -> None:
    """Raise MonthChanged unless a file and a table hold the same events."""
    if filed != stored:
        msg = f"The file holds {filed.rows:,} events and the table {stored.rows:,}, or they differ in content."
        raise MonthChanged(msg)


def keep_batches(archived: ArchivedMonth) -> None:
    """Note how many events of each batch the month's files hold."""
    batches: dict[str, BatchInFile] = defaultdict(lambda: BatchInFile(0, 2**62))
    for part in parts_of(archived):
        for batch_id, found in manifest_of(part, archived).contents.batches.items():
            batches[batch_id].events += found.events
            batches[batch_id].earliest = min(batches[batch_id].earliest, found.earliest)
    ArchivedBatch.objects.filter(month=archived).delete()
    ArchivedBatch.objects.bulk_create(
        [
            ArchivedBatch(
                month=archived, batch_id=int(batch_id), events=found.events, earliest_at=moment_of(found.earliest)
            )
            for batch_id, found in batches.items()
        ],
        batch_size=5_000,
    )


def rewrite(
    archived: ArchivedMonth,
    *,
    customer_id: int,
    through: Callable[[Iterable[EventRow]], Iterator[EventRow]],
    erasure_id: int,
    at: datetime,
) -> tuple[ArchivedPart, Manifest] | None:
    """Write the first file anew that holds events of a customer, and return it with its manifest of before.

    None: there is none (any more), for one that this erasure has rewritten stays as it is. The new manifest names the
    one before.

    Raises: ArchiveFileDamaged.
    """
    for part in parts_of(archived):
        before = manifest_of(part, archived)
        if str(customer_id) not in before.contents.customers or before.erasure == erasure_id:
            continue
        path = file_of(part, archived)
        archive_files.require_whole(path, before)
        manifest, manifest_sha256 = archive_files.write(
            through(archive_files.read(path)),
            folder=Path(archived.folder),
            month=archived.month,
            revision=archived.revision + 1,
            part=part.number,
            is_last=_said(before.is_last),
            value_of=SeriesValues(),
            replaces=part.manifest_sha256,
            erasure=erasure_id,
        )
        _take_over(part, manifest, manifest_sha256)
        verified_manifest(part, archived)
        part.verified_at = at
        part.save()
        return part, before
    return None


def _said(answer: bool) -> Callable[[], bool]:  # noqa: FBT001 -- what is asked for is the answer
    return lambda: answer


def remove_superseded(archived: ArchivedMonth) -> None:
    """Delete the month's files that are not its any more, and what a killed run left behind."""
    files = [part.file for part in parts_of(archived)]
    kept = {*files, *(Path(name).with_suffix(".json").name for name in files)}
    archive_files.remove_superseded(Path(archived.folder), month=archived.month, kept=kept)
