"""Settles events of a backfill that is being closed: counts, brings back, replaces, voids, or leaves out with a reason.

The order of locks is that of corrections: months, identities, events, the limits of series, series; then the fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from django.db import connection

from accounts.access import Actor
from metering import recount, storage
from metering.completeness import receipts
from metering.corrections.correction_events import Taking
from metering.corrections.correction_work import Amendment, insert_amendments
from metering.counting import Counted
from metering.ingestion import Admitted, store_counted
from metering.models import UsageBackfill, UsageBatch
from metering.usage_backfills.deciding import Item, Outcome, Plan, decide, judged, until_all_have_room
from metering.usage_backfills.records import State

_OF_THE_BATCH = frozenset({State.COUNTED, State.BROUGHT_BACK, State.VOIDED})


def settle(backfill: UsageBackfill, items: Sequence[Item], *, actor: Actor, at: datetime) -> list[Outcome]:
    """Settle these events, each as things stand now, and return what became of each.

    To be called within a transaction that holds the backfill.
    """
    storage.find_by_index()
    outcomes = until_all_have_room(lambda too_many: _settle(backfill, items, too_many, actor=actor, at=at))
    _write_outcomes(items, outcomes)
    return [outcomes[item.id] for item in items]


def _settle(
    backfill: UsageBackfill, items: Sequence[Item], too_many: Mapping[str, str], *, actor: Actor, at: datetime
) -> dict[int, Outcome]:
    with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
        results = judged(cursor, backfill, items, too_many, at=at)
        countable = [each for each in results.values() if isinstance(each, Counted)]
        months = sorted({each.event.time.date().replace(day=1) for each in countable})
        batch_id = storage.begin_batch(cursor, months=months)
        with connection.cursor() as plain:
            recount.hold_partitions(plain)
        plan = decide(cursor, Taking(cursor, batch_id), backfill, items, results)
        replaced_by = _store(cursor, plan, batch_id, backfill, actor=actor, at=at)
    if amended := [*plan.amendments, *plan.replaced]:
        recount.recount(spans=recount.spans_of([(place.customer_id, place.time) for place, _, _ in amended]))
    batches = dict.fromkeys(_OF_THE_BATCH, batch_id) | {State.REPLACED: replaced_by}
    return {pk: each._replace(batch_id=batches.get(State(each.state))) for pk, each in plan.outcomes.items()}


def _store(
    cursor: psycopg.Cursor[Any], plan: Plan, batch_id: int, backfill: UsageBackfill, *, actor: Actor, at: datetime
) -> int:
    """Write what is planned, and return the batch of the events that came in place of others; 0 if there are none."""
    series_ids = plan.admitted.series_ids
    store_counted(cursor, admitted=Admitted(plan.new, series_ids, ()), batch_id=batch_id)
    door = UsageBatch.Door.BACKFILL
    receipts.append(cursor, counted=plan.new, problems=(), batch_id=batch_id, door=door)
    insert_amendments(plan.amendments, batch_id=batch_id)
    origin = f"usage backfill {backfill.pk}"
    insert_batch(cursor, batch_id, door, origin, counted=plan.new, amendments=plan.amendments, actor=actor, at=at)
    if not plan.replacements:
        return 0
    # As corrections do, so that the source is not taken to have sent these as well.
    replaced_by = storage.begin_batch(cursor, months=[])
    new = list(plan.replacements.values())
    store_counted(cursor, admitted=Admitted(new, series_ids, ()), batch_id=replaced_by)
    insert_amendments(plan.replaced, batch_id=replaced_by)
    door = UsageBatch.Door.CORRECTION
    insert_batch(cursor, replaced_by, door, origin, counted=new, amendments=plan.replaced, actor=actor, at=at)
    return replaced_by


def insert_batch(
    cursor: psycopg.Cursor[Any],
    batch_id: int,
    door: UsageBatch.Door,
    origin: str,
    *,
    counted: Sequence[Counted] = (),
    amendments: Sequence[Amendment],
    actor: Actor,
    at: datetime,
) -> None:
    """Write the batch of these events and amendments, if there are any."""
    moments = [each.event.time for each in counted] + [each.place.time for each in amendments]
    if not moments:
        return
    storage.insert_batch(
        cursor,
        batch=storage.NewBatch(
            id=batch_id,
            door=door,
            origin=origin,
            api_key_id=actor.api_key_id,
            actor_label=actor.label,
            received_at=at,
            accepted=len(counted),
            duplicates=0,
            quarantined=0,
            rejected=0,
            earliest_at=min(moments),
            amended=len({each.place.key for each in amendments}),
        ),
    )


# Where the event itself holds what it said, the item need not.
_OUTCOMES = """
    UPDATE metering_usagebackfillitem AS item SET
        state = settled.state, problem = settled.problem, detail = settled.detail, batch_id = settled.batch_id,
        new_key = settled.new_key, customer_id = coalesce(settled.customer_id, item.customer_id),
        event_id = CASE settled.state WHEN 'left_out' THEN item.event_id ELSE '' END,
        subject = CASE settled.state WHEN 'left_out' THEN item.subject ELSE '' END,
        data = CASE settled.state WHEN 'left_out' THEN item.data END
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::uuid[])
        AS settled(id, state, problem, detail, customer_id, batch_id, new_key)
    WHERE item.id = settled.id
"""


def _write_outcomes(items: Sequence[Item], outcomes: Mapping[int, Outcome]) -> None:
    columns = zip(*[(item.id, *outcomes[item.id]) for item in items], strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_OUTCOMES, [list(column) for column in columns])
