"""The monthly tables of events: made ahead of time, and what lies in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from django.conf import settings
from django.db import connection, transaction

# A table of up to this many pages (of 8 kB) is counted; of a larger one the planner's figure is good enough.
_COUNTED_UP_TO_PAGES = 12_800


@dataclass(frozen=True, slots=True)
class Partition:
    """One month's table: about how many events (exactly, if `is_exact`), and its size with indexes in bytes."""

    month: date
    table: str
    events: int
    is_exact: bool
    size_bytes: int


def first_of_month(moment: datetime, *, months_later: int = 0) -> date:
    """Return the first day of the moment's month in UTC, or of a month some months later or (below zero) earlier."""
    moment = moment.astimezone(UTC)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months_later, 12)
    return date(year, month + 1, 1)


def months_ahead(*, at: datetime) -> list[date]:
    """Return the months whose tables shall be there: this one and those ahead (`USAGE_PARTITIONS_AHEAD`)."""
    return [first_of_month(at, months_later=number) for number in range(settings.USAGE_PARTITIONS_AHEAD + 1)]


def missing_months(*, at: datetime) -> list[date]:
    """Return those of the months ahead that have no table yet; ingestion would make each at its first event."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT month FROM unnest(%s::date[]) AS month
            WHERE to_regclass(usage_event_partition(month)) IS NULL ORDER BY month
            """,
            [months_ahead(at=at)],
        )
        return [month for (month,) in cursor.fetchall()]


def make_ahead(*, at: datetime) -> list[date]:
    """Make the tables of the months ahead and return those that were missing; safe to run at any time.

    Each month is a transaction of its own, so that no lock is held longer than one takes.
    """
    missing = missing_months(at=at)
    for month in missing:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT make_usage_event_partition(%s)", [month])
    return missing


def partitions() -> list[Partition]:
    """Return every month's table that is part of `usage_event`, the newest first; two queries however many."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT to_date(right(relname, 7), 'YYYY_MM'), relname, reltuples::bigint,
                   pg_total_relation_size(pg_class.oid), pg_relation_size(pg_class.oid) / 8192
            FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'usage_event'::regclass ORDER BY relname DESC
            """,
        )
        rows = cursor.fetchall()
        small = [table for _, table, _, _, pages in rows if pages <= _COUNTED_UP_TO_PAGES]
        counts = _counts(small)
    return [
        Partition(month, table, counts.get(table, max(estimate, 0)), table in counts, size)
        for month, table, estimate, size, _ in rows
    ]


def _counts(tables: list[str]) -> dict[str, int]:
    if not tables:
        return {}
    quote = connection.ops.quote_name
    parts = [f"SELECT '{table}', count(*) FROM {quote(table)}" for table in tables]  # noqa: S608 -- names of ours
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts))
        return dict(cursor.fetchall())
