"""The tables of months on their way into the archive: their events in order, their locks, filling one from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
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


@contextmanager
def events(table: str) -> Iterator[Iterator[EventRow]]:
    """Read a month's events in the order of the file, some at a time."""
    with connection.wrap_database_errors, connection.connection.cursor(name="events_of_a_month") as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        cursor.execute(
            f"""
            SELECT customer_id, (extract(epoch FROM time) * 1000000)::bigint, uuid_send(key), batch_id, source,
                   event_id, type, subject, data::text, series_ids
            FROM {table} ORDER BY customer_id, time, key
            """,  # noqa: S608 -- a name of ours
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


def contents_of(table: str) -> Contents:
    """Return what a table's events come to, as a manifest would say it."""
    counting = Counting(SeriesValues())
    with events(table) as rows:
        for _ in counting.through(rows):
            pass
    return counting.contents()


def load(month: date, rows: Iterable[EventRow]) -> None:
    """Fill the table of a month that comes back; nobody sees it before it is attached."""
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
