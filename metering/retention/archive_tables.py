"""The tables of months on their way into the archive: their events in order, their locks, filling one from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import DatabaseError, connection, transaction
from psycopg.errors import LockNotAvailable

from metering.errors import MonthInProgress
from metering.retention.archive_files import COLUMNS, Contents, Counting, EventRow
from metering.retention.archived_values import SeriesValues

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_AT_ONCE = 1_000
# Detaching keeps every sender out while it happens; it takes milliseconds, and gives up rather than let them queue.
_LOCK_TIMEOUT = "3s"


@contextmanager
def waiting_briefly() -> Iterator[None]:
    """Give up a lock that others hold. Raises: MonthInProgress."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
            yield
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    except DatabaseError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise MonthInProgress from error
        raise


def keep_others_out(table: str) -> None:
    """Let nobody add events to a table until the transaction ends. Raises: MonthInProgress."""
    with waiting_briefly(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table} IN SHARE MODE")


class Place(NamedTuple):
    """An event's place in the order of the files: the primary key of `usage_event`."""

    customer_id: int
    time: datetime
    key: UUID


class Stretch(NamedTuple):
    """Events behind one place, up to and including another; None: from the beginning, to the end."""

    after: Place | None = None
    until: Place | None = None

    @property
    def condition(self) -> str:
        """The stretch in SQL."""
        behind = "(customer_id, time, key) > (%s, %s, %s)" if self.after else "true"
        up_to = "(customer_id, time, key) <= (%s, %s, %s)" if self.until else "true"
        return f"{behind} AND {up_to}"

    @property
    def values(self) -> list[int | datetime | UUID]:
        """The values of the condition."""
        return [*(self.after or ()), *(self.until or ())]


EVERYTHING = Stretch()


def place_of(row: EventRow) -> Place:
    """Return where an event lies."""
    return Place(row.customer_id, moment_of(row.time), UUID(bytes=row.key))


@contextmanager
def events(table: str, stretch: Stretch = EVERYTHING, *, limit: int | None = None) -> Iterator[Iterator[EventRow]]:
    """Read a month's events, or a stretch of them, in the order of the files, some at a time."""
    with connection.wrap_database_errors, connection.connection.cursor(name="events_of_a_month") as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        cursor.execute(
            f"""
            SELECT customer_id, (extract(epoch FROM time) * 1000000)::bigint, uuid_send(key), batch_id, source,
                   event_id, type, subject, data::text, series_ids
            FROM {table} WHERE {stretch.condition} ORDER BY customer_id, time, key LIMIT %s
            """,  # noqa: S608 -- a name of ours
            [*stretch.values, limit],
        )
        yield (EventRow(*row) for row in cursor)


def partition_of(month: date) -> str:
    """Return the name of a month's table of `usage_event`."""
    return f"usage_event_{month:%Y_%m}"


def detached_of(month: date) -> str:
    """Return the name of a month's table while it lies beside `usage_event`."""
    return f"detached_usage_event_{month:%Y_%m}"


def exists(table: str) -> bool:
    """Tell whether there is such a table."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table])
        (found,) = cursor.fetchone()
    return bool(found)


def count(table: str) -> int:
    """Return how many events a table holds."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 -- a name of ours
        (found,) = cursor.fetchone()
    return int(found)


def is_empty(table: str, stretch: Stretch) -> bool:
    """Tell whether a table has no event in a stretch."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT NOT EXISTS (SELECT FROM {table} WHERE {stretch.condition})",  # noqa: S608 -- a name of ours
            stretch.values,
        )
        (empty,) = cursor.fetchone()
    return bool(empty)


def contents_of(table: str, stretch: Stretch = EVERYTHING) -> Contents:
    """Return what a table's events, or a stretch of them, come to, as a manifest would say it."""
    counting = Counting(SeriesValues())
    with events(table, stretch) as rows:
        for _ in counting.through(rows):
            pass
    return counting.contents()


def load(month: date, rows: Iterable[EventRow]) -> None:
    """Add events to the table of a month that comes back; nobody sees it before it is attached."""
    if not exists(detached_of(month)):
        with connection.cursor() as cursor:
            cursor.execute("SELECT make_detached_usage_event_partition(%s)", [month])
    with (
        connection.wrap_database_errors,
        connection.connection.cursor() as cursor,
        cursor.copy(f"COPY {detached_of(month)} ({', '.join(COLUMNS)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row((row.customer_id, moment_of(row.time), UUID(bytes=row.key), *row[3:]))


def moment_of(microseconds: int) -> datetime:
    """Return the moment so many microseconds after the beginning of 1970, UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)
