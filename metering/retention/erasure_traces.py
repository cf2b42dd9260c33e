"""Erases what events said where it was noted besides them: parts of totals, corrections, rules, names of subjects."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from metering import rollups
from metering.errors import ErasureWaitsForFiles
from metering.models import QuarantineClearance, UsageErasure, UsageFile, UsageFilePart
from metering.retention.erasure_guard import ERASED, add, name_erasure, subjects_of

_FILES_NAMED = 5


def erase_traces(erasure: UsageErasure) -> None:
    """Erase everything besides the events, and the names of subjects at last, for by them the rest is found.

    Raises: UsageOnHold.
    """
    _erase_unique_values(erasure)
    _erase_corrections(erasure)
    _erase_backfills(erasure)
    _erase_rules(erasure)
    _erase_subjects(erasure)


# A value becomes the hash of itself and a key that nobody keeps: the same one for the same value, so that as many
# different ones are counted as before, in every window and over all series. What has been seen since the moment stays,
# as it does in those events: or it would count as two.
_UNIQUE_VALUES = """
    WITH since AS (
        SELECT part FROM usage_part
        WHERE customer_id = %(customer_id)s AND hour >= %(before)s AND kind = 'v' AND count > 0
        UNION
        SELECT part FROM usage_part_delta
        WHERE customer_id = %(customer_id)s AND hour >= %(before)s AND kind = 'v'
    ), fresh AS (
        DELETE FROM usage_part_delta
        WHERE customer_id = %(customer_id)s AND hour < %(before)s AND kind = 'v'
          AND part NOT IN (SELECT part FROM since)
        RETURNING series_id, hour, part, sum, count
    ), folded AS (
        DELETE FROM usage_part
        WHERE customer_id = %(customer_id)s AND hour < %(before)s AND kind = 'v'
          AND part NOT IN (SELECT part FROM since)
        RETURNING series_id, hour, part, sum, count
    ), erased AS (
        INSERT INTO usage_part AS kept (customer_id, series_id, hour, kind, part, sum, count)
        SELECT %(customer_id)s, series_id, hour, 'v',
               'erased ' || encode(substr(sha256(%(key)s || convert_to(part, 'UTF8')), 1, 16), 'hex'),
               sum(sum), sum(count)::bigint
        FROM (SELECT * FROM fresh UNION ALL SELECT * FROM folded) AS value
        GROUP BY series_id, hour, part ORDER BY series_id, hour, part
        ON CONFLICT (customer_id, series_id, hour, part) DO UPDATE SET
            sum = kept.sum + EXCLUDED.sum, count = kept.count + EXCLUDED.count
    )
    SELECT count(DISTINCT part) FROM (SELECT part FROM fresh UNION ALL SELECT part FROM folded) AS value
"""


@transaction.atomic
def _erase_unique_values(erasure: UsageErasure) -> None:
    """Replace the values that `unique` meters keep, all at once: in between, a reader would count some twice."""
    name_erasure(erasure)
    with connection.cursor() as cursor:
        rollups.hold_folding(cursor)
        cursor.execute(
            _UNIQUE_VALUES,
            {"customer_id": erasure.customer_id, "before": erasure.before, "key": secrets.token_bytes(32)},
        )
        (values,) = cursor.fetchone()
    add(erasure, unique_values=int(values))


# Values for one event are that event's. Those for all events of a correction are the customer's where it is about no
# other's event, or where they name a subject of theirs; it has ended then, for what it does is not changed.
_ITEMS = """
    UPDATE metering_usagecorrectionitem SET changes = '{}'
    WHERE customer_id = %(customer_id)s AND time < %(before)s AND changes IS NOT NULL AND changes <> '{}'
"""
_CORRECTIONS = """
    UPDATE metering_usagecorrection AS correction SET changes = '{}', selection = '{}', last_error = ''
    WHERE (changes <> '{}' OR selection <> '{}' OR last_error <> '') AND EXISTS (
        SELECT FROM metering_usagecorrectionitem AS item WHERE item.correction_id = correction.id
          AND item.customer_id = %(customer_id)s AND item.time < %(before)s
    ) AND (
        status IN ('applied', 'dropped') AND EXISTS (
            SELECT FROM unnest(%(subjects)s::text[]) AS subject(name)
            WHERE strpos(changes::text || selection::text, to_jsonb(name)::text) > 0
        ) OR NOT EXISTS (
            SELECT FROM metering_usagecorrectionitem AS item WHERE item.correction_id = correction.id
              AND NOT (item.customer_id = %(customer_id)s AND item.time < %(before)s)
        )
    )
"""


@transaction.atomic
def _erase_corrections(erasure: UsageErasure) -> None:
    name_erasure(erasure)
    asked: dict[str, Any] = {
        "customer_id": erasure.customer_id,
        "before": erasure.before,
        "subjects": subjects_of(erasure.customer_id),
    }
    with connection.cursor() as cursor:
        for statement in (_ITEMS, _CORRECTIONS):
            cursor.execute(statement, asked)
            add(erasure, other_records=int(cursor.rowcount))


# What was filled into a backfill and counts lies in the event alone. What was left out, or waits, is the customer's
# whose subject it names at its time; emptied, it is left out when the backfill is closed.
_BACKFILLED = """
    UPDATE metering_usagebackfillitem AS item SET event_id = '', subject = '', data = NULL, detail = %(erased)s
    WHERE item.time < %(before)s AND (item.event_id <> '' OR item.data IS NOT NULL) AND (
        item.customer_id = %(customer_id)s OR EXISTS (
            SELECT FROM metering_subject AS subject JOIN metering_subjectassignment AS assignment
                ON assignment.subject_id = subject.id
            WHERE subject.name = item.subject AND assignment.customer_id = %(customer_id)s
              AND assignment.valid_during @> item.time
        )
    )
"""
_REFUSED_BY_BACKFILLS = """
    UPDATE metering_usagebackfillrefusal AS refusal SET event_id = '', detail = %(erased)s
    WHERE detail <> %(erased)s AND EXISTS (
        SELECT FROM unnest(%(shown)s::text[]) AS shown(name) WHERE strpos(refusal.detail, shown.name) > 0
    )
"""


@transaction.atomic
def _erase_backfills(erasure: UsageErasure) -> None:
    name_erasure(erasure)
    asked: dict[str, Any] = {
        "customer_id": erasure.customer_id,
        "before": erasure.before,
        "shown": [repr(name) for name in subjects_of(erasure.customer_id)],
        "erased": ERASED,
    }
    with connection.cursor() as cursor:
        for statement in (_BACKFILLED, _REFUSED_BY_BACKFILLS):
            cursor.execute(statement, asked)
            add(erasure, other_records=int(cursor.rowcount))


@transaction.atomic
def _erase_rules(erasure: UsageErasure) -> None:
    """Empty the subjects in rules by which quarantined events were released or discarded."""
    name_erasure(erasure)
    theirs = QuarantineClearance.objects.filter(subject__in=subjects_of(erasure.customer_id)).exclude(state="running")
    add(erasure, other_records=theirs.update(subject=ERASED))


# A subject that was never anybody else's and is nobody's any more has no need of its name.
_SUBJECTS = """
    UPDATE metering_subject AS subject SET name = 'erased ' || id
    WHERE name <> 'erased ' || id
      AND EXISTS (SELECT FROM metering_subjectassignment WHERE subject_id = subject.id)
      AND NOT EXISTS (
        SELECT FROM metering_subjectassignment AS assignment WHERE assignment.subject_id = subject.id
          AND (assignment.customer_id <> %s OR coalesce(upper(assignment.valid_during), 'infinity') > %s)
    )
"""


@transaction.atomic
def _erase_subjects(erasure: UsageErasure) -> None:
    name_erasure(erasure)
    with connection.cursor() as cursor:
        cursor.execute(_SUBJECTS, [erasure.customer_id, erasure.before])
        add(erasure, other_records=int(cursor.rowcount))


def require_no_files(erasure: UsageErasure, *, at: datetime) -> None:
    """Raise ErasureWaitsForFiles while files lie here, unread to their end, that were sent before the approval.

    Whose rows they hold is known once they are read, and they hold those of other customers too.
    """
    waiting = UsageFile.objects.filter(
        pk__in=UsageFilePart.objects.order_by().values("file_id").distinct(), created_at__lte=erasure.approved_at or at
    )
    names = list(waiting.order_by("pk").values_list("name", flat=True)[: _FILES_NAMED + 1])
    if names:
        shown = ", ".join(names[:_FILES_NAMED]) + (", …" if len(names) > _FILES_NAMED else "")
        msg = f"Uploaded files may hold events of this customer; load or discard them: {shown}."
        raise ErasureWaitsForFiles(msg)
