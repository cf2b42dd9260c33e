"""What the pages of usage files show: the list, how a file is read, how far it is, and its refused rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import Max, Min, QuerySet

from accounts.access import Actor
from metering import refusals
from metering.files import file_content, file_preview, mapping_form, usage_files
from metering.files.file_preview import FilePreview
from metering.files.mapping_form import Column
from metering.models import Meter, UsageBackfill, UsageFile, UsageFileMapping, UsageFileRefusal
from metering.sources.guessing import TableGuess, guess_table
from metering.sources.layouts import FileFormat
from metering.sources.loading import MOST_LISTED
from metering.sources.mapping import read_mapping

CSV_HEADER = ["line", "reason", "detail", "id", "row"]
State = UsageFile.State


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How a file that waits may be read: the layouts and mappings to choose from, and what its columns look like."""

    formats: list[tuple[str, str]]
    mappings: list[UsageFileMapping]
    guess: TableGuess | None
    lines: list[tuple[str, str]]
    suggested_name: str
    types: list[str]
    backfills: list[UsageBackfill]


@dataclass(frozen=True, slots=True)
class FileOutlook:
    """What would become of a file: its first rows, or the one that it is the same as."""

    preview: FilePreview | None
    twin: UsageFile | None


@dataclass(frozen=True, slots=True)
class FileWork:
    """How far a load is."""

    is_going_on: bool
    percent: int
    words: str


@dataclass(frozen=True, slots=True)
class BatchSpan:
    """Which batches took a file's rows in."""

    count: int
    first: int
    last: int


def files() -> QuerySet[UsageFile]:
    """Return every file that was sent to its end, the newest first; discarded ones are left out."""
    return UsageFile.objects.exclude(state__in=[State.DISCARDED, State.RECEIVING]).select_related("mapping", "sent_by")


def layout_of(file: UsageFile, *, columns: Sequence[Column] = (), header: bool | None = None) -> FileLayout:
    """Return how a file that waits may be read; `columns` are what somebody said of them already, in their order.

    `header` is what somebody said of its first line, if anything.
    """
    guess = None
    if FileFormat(file.format).needs_mapping:
        with file_content.open_content(file) as stream:
            guess = _with_what_was_said(guess_table(stream, FileFormat(file.format), header=header), columns)
    return FileLayout(
        formats=[(value, str(label)) for value, label in UsageFile.Format.choices],
        mappings=list(UsageFileMapping.objects.filter(is_active=True)),
        guess=guess,
        lines=mapping_lines(file),
        backfills=list(UsageBackfill.objects.filter(status=UsageBackfill.Status.OPEN)),
        suggested_name=file.name.partition(".")[0].replace("_", " ").strip()[:100],
        types=list(Meter.objects.order_by("event_type").values_list("event_type", flat=True).distinct()),
    )


def _with_what_was_said(guess: TableGuess, columns: Sequence[Column]) -> TableGuess:
    if not guess.header and len(columns) == len(guess.columns):
        named = [replace(column, **each._asdict()) for column, each in zip(guess.columns, columns, strict=True)]
        return replace(guess, columns=tuple(named))
    said = {column.name: column._asdict() for column in columns}
    kept = [replace(column, **said.get(column.name, {})) for column in guess.columns]
    return replace(guess, columns=tuple(kept))


def outlook_of(file: UsageFile, *, actor: Actor, at: datetime) -> FileOutlook:
    """Return what would become of a file if it were started now; nothing, as long as it lacks its mapping."""
    if FileFormat(file.format).needs_mapping and file.mapping_spec is None:
        return FileOutlook(None, None)
    twin = usage_files.twin_of(file)
    return FileOutlook(None if twin else file_preview.preview(file=file, actor=actor, at=at), twin)


def mapping_lines(file: UsageFile) -> list[tuple[str, str]]:
    """Return in words by which mapping a file is read."""
    return mapping_form.lines_of(read_mapping(file.mapping_spec)) if file.mapping_spec is not None else []


def work_of(file: UsageFile) -> FileWork:
    """Return how far a load is."""
    share = file.bytes_done * 100 // file.size if file.size else 0
    if file.state == State.LOADING and file.leased_until is None and not file.parts.exists():
        return FileWork(is_going_on=False, percent=share, words="It is being loaded from the command line.")
    return FileWork(
        is_going_on=file.state == State.LOADING,
        percent=min(share, 99) if file.state == State.LOADING else share,
        words="",
    )


def refusals_of(file: UsageFile, *, reason: str = "") -> QuerySet[UsageFileRefusal]:
    """Return the refused rows of a file by line, of one reason or of all."""
    found = UsageFileRefusal.objects.filter(file=file).order_by("id")
    return found.filter(reason=reason) if reason else found


def reasons_of(file: UsageFile) -> list[tuple[str, str, int]]:
    """Return why rows were refused, in words, and how many for each reason."""
    counted = sorted(file.reasons.items(), key=lambda pair: -pair[1])
    return [(reason, refusals.words_of(reason), count) for reason, count in counted]


def listed_of(file: UsageFile) -> int:
    """Return how many of a file's refused rows are listed; those after them are only counted."""
    return min(file.refused, MOST_LISTED)


def refused_cells(file: UsageFile) -> Iterator[tuple[object, ...]]:
    """Yield the cells of the CSV of a file's refused rows."""
    for refusal in refusals_of(file).iterator(chunk_size=2_000):
        yield refusal.position, refusal.reason, refusal.detail, refusal.event_id, refusal.payload


def batches_of(file: UsageFile) -> BatchSpan:
    """Return the batches of a file."""
    found = file.batches.aggregate(first=Min("batch_id"), last=Max("batch_id"))
    return BatchSpan(file.batches.count(), found["first"] or 0, found["last"] or 0)
