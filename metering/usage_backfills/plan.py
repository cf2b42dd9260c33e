"""What the closing of a backfill would come to: the counted events it meets, and a fingerprint of all that decides."""

from __future__ import annotations

from typing import Any, Final

from django.db import connection

from metering.corrections.fingerprints import DIGEST, hash_of
from metering.models import UsageBackfill, UsageBackfillItem
from metering.usage_backfills.errors import UsageBackfillTooLarge
from metering.usage_backfills.records import MOST_EVENTS, Mode

# Whatever the planner takes the sets to be, each step finds its rows by an index: of amendments and of items there are
# none for most sources and a million for some. Items are new, and as long as nothing is known of them the planner takes
# a backfill to have one; OFFSET 0 keeps it from reading the whole scope for each.
_COUNTS = """
    EXISTS (
        SELECT FROM (
            SELECT unnest(event.series_ids) AS series_id, 1 AS sign
            UNION ALL
            SELECT unnest(amendment.series_ids), amendment.sign FROM usage_amendment AS amendment
            WHERE amendment.customer_id = event.customer_id AND amendment.time = event.time
              AND amendment.key = event.key
        ) AS named
        GROUP BY series_id HAVING sum(sign) = 1
    )
"""
_OF_THE_SCOPE = """
    event.time >= %(start)s AND event.time < %(end)s AND event.source = %(source)s
    AND (cardinality(%(customers)s::bigint[]) = 0 OR event.customer_id = ANY(%(customers)s))
    AND (cardinality(%(types)s::text[]) = 0 OR event.type = ANY(%(types)s))
"""
_ALL = f"""
    SELECT event.customer_id, event.time, event.key, NOT EXISTS (
        SELECT FROM usage_amendment AS amended WHERE amended.customer_id = event.customer_id
          AND amended.time = event.time AND amended.key = event.key
    ) OR {_COUNTS} AS counts
    FROM usage_event AS event WHERE {_OF_THE_SCOPE}
"""  # noqa: S608 -- built from constants
# Where nothing is replaced, only events that were amended matter, and the others are not read.
_AMENDED = f"""
    SELECT event.customer_id, event.time, event.key, {_COUNTS} AS counts
    FROM (
        SELECT DISTINCT customer_id, time, key FROM usage_amendment WHERE time >= %(start)s AND time < %(end)s
    ) AS amended JOIN usage_event AS event USING (customer_id, time, key)
    WHERE {_OF_THE_SCOPE}
"""  # noqa: S608 -- built from constants
_SCOPE = """
    scope AS MATERIALIZED ({scope}), sent AS NOT MATERIALIZED (
        SELECT id, key, content_hash, data IS NULL AS is_erased FROM metering_usagebackfillitem
        WHERE backfill_id = %(backfill)s AND kind = 'sent'
    )
"""

# What a person has voided stays so unless this is to replace what is there; what a backfill has taken out was missing.
_MET = """
    SELECT met.id, found.key, found.customer_id, found.time
    FROM scope AS found CROSS JOIN LATERAL (
        SELECT sent.id, sent.content_hash, identity.content_hash AS known_hash
        FROM sent JOIN usage_identity AS identity USING (key) WHERE sent.key = found.key OFFSET 0
    ) AS met
    WHERE
        %(replaces)s AND met.known_hash <> met.content_hash
        OR NOT found.counts AND met.known_hash = met.content_hash AND (%(replaces)s OR (
            SELECT batch.door FROM usage_amendment AS amendment JOIN metering_usagebatch AS batch
              ON batch.id = amendment.batch_id
            WHERE amendment.customer_id = found.customer_id AND amendment.time = found.time
              AND amendment.key = found.key AND amendment.sign = -1
            ORDER BY amendment.batch_id DESC LIMIT 1
        ) = 'backfill')
"""
_NOT_SENT = """
    SELECT key, customer_id, time FROM scope
    WHERE counts AND NOT EXISTS (SELECT FROM sent WHERE sent.key = scope.key OFFSET 0) LIMIT %(limit)s
"""

_NOTE_MET = f"""
    WITH {{scope}}
    UPDATE metering_usagebackfillitem AS item SET there_customer_id = met.customer_id, there_time = met.time
    FROM ({_MET}) AS met WHERE item.id = met.id
"""  # noqa: S608 -- built from constants
_NOTE_NOT_SENT = f"""
    WITH {{scope}}
    INSERT INTO metering_usagebackfillitem
        (backfill_id, kind, key, customer_id, time, event_id, type, subject, problem, detail, state, revert_detail)
    SELECT %(backfill)s, 'there', key, customer_id, time, '', '', '', '', '', 'waiting', '' FROM ({_NOT_SENT}) AS there
"""  # noqa: S608 -- built from constants
# A preview notes the same in tables of its session, see `foreseeing`.
_FORESEE_MET = "WITH {scope} INSERT INTO foreseen_met (id, key, customer_id, time) " + _MET
_FORESEE_NOT_SENT = "WITH {scope} INSERT INTO foreseen_not_sent (key, customer_id, time) " + _NOT_SENT
# The events to settle as they would lie there, were the closing to begin: in the order in which it settles them.
FORESEEN_WAITING: Final = """
    SELECT item.id, item.kind, item.key, item.content_hash, item.customer_id, item.time, item.event_id, item.type,
           item.subject, item.data::text, met.customer_id AS there_customer_id, met.time AS there_time
    FROM metering_usagebackfillitem AS item LEFT JOIN foreseen_met AS met ON met.id = item.id
    WHERE item.backfill_id = %s AND item.state = 'waiting'
    UNION ALL
    SELECT id, 'there', key, NULL, customer_id, time, '', '', '', NULL, NULL, NULL FROM foreseen_not_sent
    ORDER BY customer_id, time, key
"""

# Whether an event that is filled in counts already is not in it: it comes to the same.
_FINGERPRINT = """
    WITH {scope}
    SELECT 'sent', {sent} FROM sent
    UNION ALL
    SELECT 'other content', {key} FROM sent AS item JOIN usage_identity AS identity USING (key)
    WHERE identity.content_hash <> item.content_hash
    UNION ALL
    SELECT 'voided', {key} FROM scope AS item
    WHERE NOT item.counts AND EXISTS (SELECT FROM sent WHERE sent.key = item.key OFFSET 0)
    UNION ALL
    SELECT 'in quarantine', {key} FROM sent AS item JOIN metering_quarantinedevent AS waiting USING (key)
    WHERE waiting.status <> 'released'
    UNION ALL
    SELECT 'not sent again', {key} FROM scope AS item
    WHERE %(replaces)s AND item.counts AND NOT EXISTS (SELECT FROM sent WHERE sent.key = item.key OFFSET 0)
    UNION ALL
    SELECT 'whose', {owner} FROM metering_subjectassignment AS assignment
    JOIN metering_subject AS subject ON subject.id = assignment.subject_id
    WHERE subject.name IN (SELECT subject FROM metering_usagebackfillitem WHERE backfill_id = %(backfill)s)
    UNION ALL
    SELECT 'meters', {meter} FROM metering_meter AS meter
    JOIN metering_meterversion AS version ON version.meter_id = meter.id
    WHERE meter.is_active
      AND meter.event_type IN (SELECT type FROM metering_usagebackfillitem WHERE backfill_id = %(backfill)s)
"""

_UNDOING = """
    SELECT 'done', {done} FROM metering_usagebackfillitem AS item
    WHERE backfill_id = %(backfill)s AND batch_id IS NOT NULL
    UNION ALL
    SELECT 'amended', {amended} FROM metering_usagebackfillitem AS item JOIN usage_amendment AS amendment
      ON amendment.customer_id = item.customer_id AND amendment.time = item.time
     AND amendment.key IN (item.key, item.new_key)
    WHERE item.backfill_id = %(backfill)s AND item.batch_id IS NOT NULL
    UNION ALL
    SELECT 'amended where it was', {amended} FROM metering_usagebackfillitem AS item
    JOIN usage_amendment AS amendment ON amendment.customer_id = item.there_customer_id
     AND amendment.time = item.there_time AND amendment.key = item.key
    WHERE item.backfill_id = %(backfill)s AND item.batch_id IS NOT NULL
"""


def is_large(backfill: UsageBackfill, *, limit: int) -> bool:
    """Tell whether a preview of the closing has more than `limit` events to settle; it reads no more than that."""
    if backfill.staged > limit or backfill.mode == Mode.ADD:
        return backfill.staged > limit
    _, parameters = _scope_of(backfill)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM (
                SELECT FROM usage_event
                WHERE time >= %(start)s AND time < %(end)s AND source = %(source)s
                  AND (cardinality(%(customers)s::bigint[]) = 0 OR customer_id = ANY(%(customers)s))
                  AND (cardinality(%(types)s::text[]) = 0 OR type = ANY(%(types)s))
                LIMIT %(limit)s
            ) AS found
            """,
            {**parameters, "limit": limit + 1},
        )
        (found,) = cursor.fetchone()
    return int(found) > limit


def find_what_is_there(backfill: UsageBackfill) -> int:
    """Note which counted events the closing meets, as they stand now; returns how many events it has to settle.

    Raises: UsageBackfillTooLarge.
    """
    return _sent(backfill) + _note(backfill, _NOTE_MET, _NOTE_NOT_SENT)


def foresee_what_is_there(backfill: UsageBackfill) -> int:
    """Do the same for a preview, within `foreseeing.one_moment`. Raises: UsageBackfillTooLarge."""
    return _sent(backfill) + _note(backfill, _FORESEE_MET, _FORESEE_NOT_SENT)


def _sent(backfill: UsageBackfill) -> int:
    return UsageBackfillItem.objects.filter(backfill=backfill, kind=UsageBackfillItem.Kind.SENT).count()


def _note(backfill: UsageBackfill, met: str, not_sent: str) -> int:
    """Note the events that are met, and return how many others there are that were not sent again."""
    scope, parameters = _scope_of(backfill)
    with connection.cursor() as cursor:
        cursor.execute(met.format(scope=scope), parameters)
        if backfill.mode != Mode.REPLACE:
            return 0
        cursor.execute(not_sent.format(scope=scope), {**parameters, "limit": MOST_EVENTS + 1})
        if cursor.rowcount > MOST_EVENTS:
            raise UsageBackfillTooLarge
        return int(cursor.rowcount)


_NOTED = f"""
    SELECT 'noted', {DIGEST.format("item.kind || item.key::text")} FROM metering_usagebackfillitem AS item
    WHERE backfill_id = %(backfill)s AND (kind = 'there' OR there_time IS NOT NULL)
"""  # noqa: S608 -- built from constants
_FORESEEN = f"""
    SELECT 'noted', {DIGEST.format("item.kind || item.key::text")} FROM (
        SELECT 'sent' AS kind, key FROM foreseen_met UNION ALL SELECT 'there', key FROM foreseen_not_sent
    ) AS item
"""  # noqa: S608 -- built from constants


def noted(backfill: UsageBackfill) -> str:
    """Return a hash of the counted events that are noted to be met."""
    return hash_of(_NOTED, {"backfill": backfill.pk})


def foreseen() -> str:
    """Return the same hash of those that a preview has noted."""
    return hash_of(_FORESEEN, {})


def fingerprint_of_closing(backfill: UsageBackfill) -> str:
    """Return a hash of all that decides what the closing would come to, as it stands now."""
    scope, parameters = _scope_of(backfill)
    query = _FINGERPRINT.format(
        scope=scope,
        sent=DIGEST.format("key::text || content_hash::text || is_erased::text"),
        key=DIGEST.format("item.key::text"),
        owner=DIGEST.format("assignment.customer_id || ' ' || subject.name || ' ' || assignment.valid_during::text"),
        meter=DIGEST.format("version.id::text"),
    )
    return hash_of(query, parameters)


def fingerprint_of_revert(backfill: UsageBackfill) -> str:
    """Return a hash of what the backfill did and of all that was decided of those events, as it stands now."""
    query = _UNDOING.format(
        done=DIGEST.format("item.key::text || item.state"),
        amended=DIGEST.format("amendment.key::text || amendment.batch_id || amendment.sign"),
    )
    return hash_of(query, {"backfill": backfill.pk})


def _scope_of(backfill: UsageBackfill) -> tuple[str, dict[str, Any]]:
    replaces = backfill.mode == Mode.REPLACE
    parameters = {
        "backfill": backfill.pk,
        "source": backfill.source,
        "start": backfill.starts_at,
        "end": backfill.ends_at,
        "customers": backfill.customer_ids,
        "types": backfill.event_types,
        "replaces": replaces,
    }
    return _SCOPE.format(scope=_ALL if replaces else _AMENDED), parameters
