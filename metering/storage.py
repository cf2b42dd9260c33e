"""The SQL of ingestion: what one batch reads and writes, each set in one statement.

Everything goes through one cursor that binds on the server, inside the transaction that Django opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, NamedTuple

import psycopg
from django.db import connection

from metering.counting import Counted, Problem, SeriesKey, add_up
from metering.events import Event

_COPY_EVENTS = """
    COPY usage_event (customer_id, time, key, batch_id, source, event_id, type, subject, data, series_ids) FROM STDIN
"""
_COPY_DELTAS = """
    COPY usage_delta (customer_id, series_id, hour, sum, count, min, max, last, last_at, batch_id) FROM STDIN
"""
_COPY_PART_DELTAS = """
    COPY usage_part_delta (customer_id, series_id, hour, kind, part, sum, count, batch_id) FROM STDIN
"""


@contextmanager
def server_side_cursor() -> Iterator[psycopg.Cursor[Any]]:
    """Open a cursor of psycopg's own in Django's transaction; Django's cursors bind on the client."""
    connection.ensure_connection()
    with psycopg.Cursor(connection.connection) as cursor:
        yield cursor


def find_by_index() -> None:
    """Have the statements of this transaction find rows by index, however few the planner takes a table to hold.

    A table of which all but a few rows were rolled back looks empty to it and its index long, so that it would read all
    of the table for each event, also when a transaction has just filled it.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")


def begin_batch(cursor: psycopg.Cursor[Any], *, months: Sequence[date]) -> int:
    """Return a new batch's id and see to it that each month has its partition."""
    cursor.execute(
        """
        SELECT nextval(pg_get_serial_sequence(%s, 'id')),
               ARRAY(
                   SELECT month FROM unnest(%s::date[]) AS month
                   WHERE to_regclass(usage_event_partition(month)) IS NULL AND NOT usage_month_is_archived(month)
                   ORDER BY month
               )
        """,
        ["metering_usagebatch", months],
    )
    batch_id, missing = _one(cursor)
    for month in missing:
        cursor.execute("SELECT make_usage_event_partition(%s)", [month])
    return int(batch_id)


def archived_until(cursor: psycopg.Cursor[Any]) -> datetime | None:
    """Return the moment before which months of events are in the archive, so that no event can join them."""
    cursor.execute(
        "SELECT max(usage_month_end(month)) FROM metering_archivedmonth WHERE usage_month_is_archived(month)",
    )
    (until,) = _one(cursor)
    return until  # type: ignore[no-any-return]  # a timestamptz or NULL


def take_identities(cursor: psycopg.Cursor[Any], hashes: Mapping[str, str], *, batch_id: int) -> set[str]:
    """Insert identities (key to content hash) of a batch and return the keys that were new.

    Waits for other senders of the same keys; they are inserted in order, so that nobody waits in a ring.
    """
    if not hashes:
        return set()
    keys = sorted(hashes)
    cursor.execute(
        """
        INSERT INTO usage_identity (key, content_hash, batch_id)
        SELECT key, content_hash, %s FROM unnest(%s::uuid[], %s::uuid[]) AS new(key, content_hash)
        ON CONFLICT DO NOTHING
        RETURNING key
        """,
        [batch_id, _array(keys), _array([hashes[key] for key in keys])],
        binary=True,
    )
    # Read only where it has to be: mostly all are new.
    return set(keys) if cursor.rowcount == len(keys) else {key.hex for (key,) in cursor}


def content_hashes(cursor: psycopg.Cursor[Any], keys: Mapping[str, object]) -> dict[str, str]:
    """Return the stored content hash of each key."""
    cursor.execute(
        "SELECT key, content_hash FROM usage_identity WHERE key = ANY(%s::uuid[])",
        [_array(list(keys))],
    )
    return {key.hex: content_hash.hex for key, content_hash in cursor}


def see_quarantined_again(cursor: psycopg.Cursor[Any], *, keys: Sequence[str], at: datetime) -> set[str]:
    """Note on those of the events that wait in quarantine that they came again; returns their keys."""
    if not keys:
        return set()
    cursor.execute(
        """
        WITH waiting AS (
            SELECT id FROM metering_quarantinedevent
            WHERE key = ANY(%s::uuid[]) AND status = 'open' ORDER BY key FOR UPDATE
        )
        UPDATE metering_quarantinedevent AS event
        SET seen_count = seen_count + 1, last_seen_at = greatest(last_seen_at, %s)
        FROM waiting WHERE event.id = waiting.id
        RETURNING event.key
        """,
        [_array(keys), at],
    )
    return {key.hex for (key,) in cursor}


def copy_events(
    cursor: psycopg.Cursor[Any],
    *,
    counted: Sequence[Counted],
    series_ids: Mapping[SeriesKey, int],
    batch_id: int,
) -> None:
    """Write accepted events."""
    lines = []
    for item in counted:
        event = item.event
        ids = ",".join([str(series_ids[part.series]) for part in item.parts])
        lines.append(
            f"{item.customer_id}\t{event.time_text}\t{event.key}\t{batch_id}\t{event.source}\t{event.event_id}"
            f"\t{event.type}\t{event.subject}\t{event.data_text}\t{{{ids}}}\n",
        )
    # A customer's events side by side, by time: that is how the key is laid out, and how they are read.
    lines.sort()
    copy_lines(cursor, _COPY_EVENTS, lines)


def copy_deltas(
    cursor: psycopg.Cursor[Any],
    *,
    counted: Sequence[Counted],
    series_ids: Mapping[SeriesKey, int],
    batch_id: int,
) -> None:
    """Write what the events add to each hour of each series, and to its parts where the meter keeps them."""
    totals = add_up(counted)
    lines = [
        f"{key.customer_id}\t{series_ids[key]}\t{hour}:00:00+00\t{total.sum!s}\t{total.count}\t{total.min!s}\t{total.max!s}"
        f"\t{total.last!s}\t{total.last_at}\t{batch_id}\n"
        for (key, hour), total in totals.hours.items()
    ]
    lines.sort()
    copy_lines(cursor, _COPY_DELTAS, lines)
    if totals.parts:
        lines = [
            f"{key.customer_id}\t{series_ids[key]}\t{hour}:00:00+00\t{part.kind}\t{part.text}\t{total.sum}"
            f"\t{total.count}\t{batch_id}\n"
            for (key, hour, part), total in totals.parts.items()
        ]
        copy_lines(cursor, _COPY_PART_DELTAS, lines)


def insert_quarantined(
    cursor: psycopg.Cursor[Any],
    *,
    problems: Sequence[tuple[Event, Problem]],
    batch_id: int,
    at: datetime,
) -> None:
    """Write events that cannot be counted yet."""
    if not problems:
        return
    # One statement, so that the tally of the quarantine gets a line for each group and not for each event.
    cursor.execute(
        """
        INSERT INTO metering_quarantinedevent
            (key, content_hash, source, event_id, type, subject, time, data, reason, detail, status,
             first_seen_at, last_seen_at, seen_count, batch_id, closing_reason)
        SELECT key, content_hash, source, event_id, type, subject, time, data::jsonb, reason, detail, 'open',
               %(at)s, %(at)s, 1, %(batch)s, ''
        FROM unnest(
            %(keys)s::uuid[], %(hashes)s::uuid[], %(sources)s::text[], %(ids)s::text[], %(types)s::text[],
            %(subjects)s::text[], %(times)s::timestamptz[], %(data)s::text[], %(reasons)s::text[], %(details)s::text[]
        ) AS problem(key, content_hash, source, event_id, type, subject, time, data, reason, detail)
        """,
        {
            "keys": _array([event.key for event, _ in problems]),
            "hashes": _array([event.content_hash for event, _ in problems]),
            "sources": [event.source for event, _ in problems],
            "ids": [event.event_id for event, _ in problems],
            "types": [event.type for event, _ in problems],
            "subjects": [event.subject for event, _ in problems],
            "times": [event.time for event, _ in problems],
            "data": [event.data_text for event, _ in problems],
            "reasons": [str(problem.reason) for _, problem in problems],
            "details": [problem.detail for _, problem in problems],
            "at": at,
            "batch": batch_id,
        },
    )


class NewBatch(NamedTuple):
    """A batch as it is written, once everything in it is known."""

    id: int
    door: str
    origin: str
    api_key_id: int | None
    actor_label: str
    received_at: datetime
    accepted: int
    duplicates: int
    quarantined: int
    rejected: int
    earliest_at: datetime | None
    amended: int = 0


def insert_batch(cursor: psycopg.Cursor[Any], *, batch: NewBatch) -> None:
    """Write the batch itself; the database adds the transaction that did it all."""
    cursor.execute(
        """
        INSERT INTO metering_usagebatch
            (id, door, origin, api_key_id, actor_label, received_at,
             accepted, duplicates, quarantined, rejected, earliest_at, amended)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        batch,
    )


def copy_lines(cursor: psycopg.Cursor[Any], statement: str, lines: Sequence[str]) -> None:
    """Copy lines of fields with a tab between and a line end behind."""
    # No field holds a tab or a line end (events and values that are told apart refuse control characters, JSON escapes
    # them), so that backslashes are all there is to escape.
    with cursor.copy(statement) as copy:
        copy.write("".join(lines).replace("\\", "\\\\"))


def _array(values: Sequence[str]) -> str:
    return "{" + ",".join(values) + "}"


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None, "an aggregate without GROUP BY always returns a row"
    return row
