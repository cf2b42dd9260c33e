"""A fingerprint of all that decides what a correction would come to, so that what is applied is what was previewed."""

from __future__ import annotations

from typing import Any, Final

from django.db import connection, transaction

from accounts.canonical import canonical_hash
from metering import storage
from metering.models import UsageCorrection

# Of a set of texts: how many they are and what they add up to, in whatever order they are read and in little memory.
DIGEST: Final = (
    "count(*), coalesce(sum(hashtextextended({0}, 0)::numeric), 0), coalesce(bit_xor(hashtextextended({0}, 1)), 0)"
)

# What was decided of the events since is what their amendments say; where raw data went, nothing can be decided.
_EVENTS: Final = f"""
    WITH item AS (
        SELECT customer_id, time, key, changes FROM metering_usagecorrectionitem WHERE correction_id = %(correction)s
    ), done AS (
        SELECT new_customer_id AS customer_id, new_time AS time, new_key AS key FROM metering_usagecorrectionitem
        WHERE correction_id = %(reverts)s AND state = 'applied' AND new_key IS NOT NULL
    )
    SELECT 'events', {DIGEST.format("key::text || coalesce(changes::text, '')")} FROM item
    UNION ALL
    SELECT 'amended', {DIGEST.format("key::text || amendment.batch_id || amendment.sign")}
    FROM item JOIN usage_amendment AS amendment USING (customer_id, time, key)
    UNION ALL
    SELECT 'in their place', {DIGEST.format("key::text || coalesce(amendment.batch_id::text || amendment.sign, '')")}
    FROM done LEFT JOIN usage_amendment AS amendment USING (customer_id, time, key)
    UNION ALL
    SELECT 'gone', {DIGEST.format("gone.customer_id || ' ' || gone.starts_at || ' ' || gone.ends_at")}
    FROM usage_unrecountable AS gone
    WHERE gone.customer_id IS NULL OR gone.customer_id IN (SELECT customer_id FROM item)
"""  # noqa: S608 -- built from constants

# Events that are counted anew count by the meters and for the customers of now.
_RULES: Final = f"""
    UNION ALL
    SELECT 'meters', {DIGEST.format("meter.is_active || ' ' || version.id")}
    FROM metering_meter AS meter JOIN metering_meterversion AS version ON version.meter_id = meter.id
    WHERE meter.event_type IN (
        SELECT event.type FROM item JOIN usage_event AS event USING (customer_id, time, key)
        UNION ALL
        SELECT changes ->> 'type' FROM item
        UNION ALL
        SELECT %(type)s
    )
    UNION ALL
    SELECT 'back-filled', {DIGEST.format("backfill.id::text")} FROM metering_meterbackfill AS backfill
    JOIN metering_meter AS meter ON meter.id = backfill.meter_id
    WHERE backfill.status IN ('running', 'done')
      AND meter.event_type IN (SELECT event.type FROM item JOIN usage_event AS event USING (customer_id, time, key))
    UNION ALL
    SELECT 'whose', {DIGEST.format("assignment.customer_id || ' ' || subject.id || assignment.valid_during::text")}
    FROM metering_subjectassignment AS assignment JOIN metering_subject AS subject ON subject.id = assignment.subject_id
    WHERE subject.name IN (
        SELECT event.subject FROM item JOIN usage_event AS event USING (customer_id, time, key)
        UNION ALL
        SELECT changes ->> 'subject' FROM item
        UNION ALL
        SELECT %(subject)s
    )
"""  # noqa: S608 -- built from constants


def of_correction(correction: UsageCorrection) -> str:
    """Return a hash of all that decides what the correction would come to, as it stands now."""
    counts_anew = correction.kind != UsageCorrection.Kind.VOID
    return hash_of(
        _EVENTS + _RULES if counts_anew else _EVENTS,
        {
            "correction": correction.pk,
            "reverts": correction.reverts_id,
            "type": correction.changes.get("type", ""),
            "subject": correction.changes.get("subject", ""),
        },
    )


def hash_of(query: str, parameters: dict[str, Any]) -> str:
    """Return a hash of what a query found: rows of a name and what belongs to it."""
    with transaction.atomic(), connection.cursor() as cursor:
        storage.find_by_index()
        cursor.execute(query, parameters)
        found = {name: [str(part) for part in parts] for name, *parts in cursor.fetchall()}
    return canonical_hash(found).hex()
