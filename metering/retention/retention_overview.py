"""What the page of retention shows: every month with its table or its file, the holds, the erasures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from django.db import connection
from django.db.models import QuerySet

from metering.ingestion import earliest_acceptable
from metering.models import ArchivedMonth, ArchivedPart, LegalHold, UsageErasure
from metering.retention import legal_holds, partitions
from metering.retention.partitions import Partition
from metering.retention.retention import AWAY, end_of

Status = ArchivedMonth.Status


@dataclass(frozen=True, slots=True)
class MonthRow:
    """One month: its table and its way into the archive, as far as there is either; what keeps it; what may be done.

    `waiting` is how many of its events are in quarantine.
    """

    month: date
    partition: Partition | None
    archived: ArchivedMonth | None
    holds: list[LegalHold]
    waiting: int
    is_old_enough: bool
    files: list[str]

    @property
    def code(self) -> str:
        """The month as addresses name it."""
        return f"{self.month:%Y-%m}"

    @property
    def events(self) -> int:
        """How many events it has, about so many where the table is large."""
        if self.is_away and self.archived is not None:
            return self.archived.rows
        return self.partition.events if self.partition else 0

    @property
    def is_about(self) -> bool:
        """Whether the number of events is the planner's estimate."""
        return not self.is_away and self.partition is not None and not self.partition.is_exact

    @property
    def size_bytes(self) -> int:
        """How much room it takes, in the database or else in its file."""
        if self.partition is not None:
            return self.partition.size_bytes
        return self.archived.file_bytes if self.archived else 0

    @property
    def is_away(self) -> bool:
        """Whether its events are not in the tables that are read."""
        return self.archived is not None and self.archived.status in AWAY

    @property
    def file(self) -> str:
        """The name of its file, or of the first of several, if all were written."""
        if self.archived is None or not self.files or self.archived.status == Status.PLANNED:
            return ""
        return self.files[0] + (f" and {len(self.files) - 1:,} more" if len(self.files) > 1 else "")

    @property
    def step(self) -> str:
        """What a person may ask for next."""
        if self.archived is None or self.archived.status == Status.RESTORED:
            return "archive" if self.is_old_enough and self.events else ""
        return {Status.VERIFIED: "detach", Status.DETACHED: "drop", Status.DROPPED: "bring-back"}.get(
            Status(self.archived.status), ""
        )

    @property
    def may_come_back(self) -> bool:
        """Whether its events can be asked back."""
        return self.archived is not None and self.archived.status in {Status.DETACHED, Status.DROPPED}

    @property
    def is_kept(self) -> bool:
        """Whether its next step would be refused as things stand."""
        return bool(self.holds) or (self.step == "detach" and self.waiting > 0)

    @property
    def is_at_work(self) -> bool:
        """Whether the jobs are to do the next step."""
        return (
            self.archived is not None
            and self.archived.status
            in {
                Status.PLANNED,
                Status.EXPORTED,
                Status.RESTORING,
            }
        ) or (self.archived is not None and self.archived.drop_asked_at is not None and not self.archived.last_error)


def months(*, at: datetime) -> list[MonthRow]:
    """Return every month that has a table or was ever on its way into the archive, the newest first."""
    tables = {each.month: each for each in partitions.partitions()}
    archived = {each.month: each for each in ArchivedMonth.objects.all()}
    found = sorted(tables.keys() | archived.keys(), reverse=True)
    holds = _holds_by_month(found)
    waiting = _waiting_by_month()
    files: dict[date, list[str]] = {}
    for month, file in ArchivedPart.objects.order_by("number").values_list("month__month", "file"):
        files.setdefault(month, []).append(file)
    earliest = earliest_acceptable(at)
    return [
        MonthRow(
            month,
            tables.get(month),
            archived.get(month),
            holds.get(month, []),
            waiting.get(month, 0),
            end_of(month) <= earliest,
            files.get(month, []),
        )
        for month in found
    ]


def _waiting_by_month() -> dict[date, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT date_trunc('month', time, 'UTC'), count(*) FROM metering_quarantinedevent
            WHERE status = 'open' GROUP BY 1
            """,
        )
        return {start.astimezone(UTC).date(): waiting for start, waiting in cursor.fetchall()}


def _holds_by_month(wanted: list[date]) -> dict[date, list[LegalHold]]:
    active = {hold.pk: hold for hold in legal_holds.active()}
    if not active:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT month, hold FROM unnest(%s::date[]) AS month, LATERAL legal_holds_of_month(month) AS hold", [wanted]
        )
        found: dict[date, list[LegalHold]] = {}
        for month, hold_id in cursor.fetchall():
            if hold_id in active:
                found.setdefault(month, []).append(active[hold_id])
    return found


@dataclass(frozen=True, slots=True)
class RetentionFigures:
    """The figures at the top of the page."""

    months_here: int
    events_here: int
    bytes_here: int
    is_about: bool
    months_away: int
    events_away: int
    bytes_away: int
    missing: list[date]


def figures(rows: list[MonthRow], *, at: datetime) -> RetentionFigures:
    """Add up what is in the tables and what in the archive, and name the months ahead that have no table."""
    here = [row for row in rows if row.partition is not None]
    away = [row.archived for row in rows if row.is_away and row.archived is not None]
    return RetentionFigures(
        months_here=len(here),
        events_here=sum(row.partition.events for row in here if row.partition),
        bytes_here=sum(row.size_bytes for row in here),
        is_about=any(row.is_about for row in here),
        months_away=len(away),
        events_away=sum(each.rows for each in away),
        bytes_away=sum(each.file_bytes for each in away),
        missing=partitions.missing_months(at=at),
    )


def holds() -> QuerySet[LegalHold]:
    """Return every hold, lifted ones too, the newest first."""
    return LegalHold.objects.select_related("customer", "lift").order_by("-id")


def erasures() -> QuerySet[UsageErasure]:
    """Return every erasure that was asked for, the newest first."""
    return UsageErasure.objects.select_related("customer").order_by("-id")
