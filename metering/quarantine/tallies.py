"""Folds the quarantine's tally, so that what a page adds up is a line for each group and not for each change."""

from __future__ import annotations

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

# One fold at a time is enough, and then no line is taken twice.
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('metering.quarantine.tallies.fold'))"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('metering.quarantine.tallies.fold'))"
_LINES_AT_ONCE = 50_000

# A group is made anew from all of its lines; one that is empty by now leaves none, and begins afresh.
_FOLD = """
    WITH fresh AS MATERIALIZED (
        SELECT id, status, reason, type, subject FROM metering_quarantinetally
        WHERE NOT is_folded ORDER BY id LIMIT %s
    ), changed AS MATERIALIZED (
        SELECT DISTINCT status, reason, type, subject FROM fresh
    ), taken AS (
        DELETE FROM metering_quarantinetally AS line USING changed
        WHERE (line.status, line.reason, line.type, line.subject)
              = (changed.status, changed.reason, changed.type, changed.subject)
        RETURNING line.*
    ), folded AS (
        INSERT INTO metering_quarantinetally
            (status, reason, type, subject, events, seen, first_seen_at, last_seen_at, is_folded)
        SELECT status, reason, type, subject, sum(events), sum(seen), min(first_seen_at), max(last_seen_at), true
        FROM taken GROUP BY status, reason, type, subject HAVING sum(events) <> 0
    )
    SELECT count(*) FROM fresh
"""


@transaction.atomic
def fold(*, limit: int = _LINES_AT_ONCE) -> int:
    """Merge the groups of up to `limit` new lines, and return how many; 0 while another fold runs.

    One statement does it all, so killed at any point it has done nothing, and a reader sees every line once.
    """
    with connection.cursor() as cursor:
        cursor.execute(_TRY_LOCK)
        (is_ours,) = cursor.fetchone()
        if not is_ours:
            return 0
        return _fold_some(cursor, limit)


@transaction.atomic
def fold_everything() -> None:
    """Merge all new lines, after any fold that is at work, so that no line of a group that is empty by now is left."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
        while _fold_some(cursor, _LINES_AT_ONCE):
            pass


def _fold_some(cursor: CursorWrapper, limit: int) -> int:
    cursor.execute(_FOLD, [limit])
    (folded,) = cursor.fetchone()
    return int(folded)
