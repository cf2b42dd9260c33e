"""What a correction would change, and for whom: the real run, in a transaction that is rolled back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from django.db import connection, transaction

from accounts.access import Actor
from metering import recount
from metering.corrections import correction_work, quantity_changes
from metering.corrections.quantity_changes import ROWS_KEPT, Touched
from metering.errors import CorrectionTooLarge
from metering.models import UsageCorrection

# Below the time after which a worker's task is ended.
LONGEST_SECONDS: Final = 400.0
_RECOUNTED_AT_ONCE: Final = 20_000


def preview(correction: UsageCorrection, *, actor: Actor, at: datetime) -> dict[str, Any]:
    """Return the quantities before and after by customer, meter and month, as `quantity_changes.compared` has them.

    The events are settled in the steps of the real run, so that memory does not grow with their number, and hours
    counted anew once at the end: no fold runs from then on, and both readings are moments apart however many events
    there are. Usage that comes in between the two is in the second one only. Of more than 2,000 rows those with the
    most events are read.

    Raises: CorrectionNotCountable; CorrectionTooLarge where it takes too long.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    batch_ids: list[int] = []
    moments: list[tuple[int, datetime]] = []
    with transaction.atomic():
        while items := correction_work.waiting_items(correction, correction_work.EVENTS_AT_ONCE):
            settled = correction_work.settle(correction, items, actor=actor, at=at)
            batch_ids.append(settled.batch_id)
            moments += settled.moments
            if len(moments) >= _RECOUNTED_AT_ONCE:
                recount.recount(spans=recount.spans_of(moments))
                moments.clear()
            if time.monotonic() > ends_at:
                msg = "It could not be previewed in time: it is about too many events. Ask for several, each of fewer."
                raise CorrectionTooLarge(msg)
        recount.recount(spans=recount.spans_of(moments))
        applied, skipped = _settled(correction.pk)
        touched = quantity_changes.with_carried(_touched(batch_ids), at=at)
        after = quantity_changes.read(touched)
        transaction.set_rollback(True)
    before = quantity_changes.read(touched)
    return {"events": applied, "skipped": skipped, **quantity_changes.compared(touched, before=before, after=after)}


def _settled(correction_id: int) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE state = 'applied'), count(*) FILTER (WHERE state = 'skipped')"
            " FROM metering_usagecorrectionitem WHERE correction_id = %s",
            [correction_id],
        )
        applied, skipped = cursor.fetchone()
    return int(applied), int(skipped)


_TOUCHED = """
    WITH fact AS (
        SELECT customer_id, time, unnest(series_ids) AS series_id, (sign < 0)::int AS old, (sign > 0)::int AS new
        FROM usage_amendment WHERE batch_id = ANY(%(batches)s)
        UNION ALL
        SELECT customer_id, time, unnest(series_ids), 0, 1 FROM usage_event WHERE batch_id = ANY(%(batches)s)
    )
    SELECT customer.id, customer.name, meter.id, meter.name, meter.unit, meter.aggregation, meter.divisor,
           date_trunc('month', fact.time AT TIME ZONE entity.time_zone)::date AS month, entity.time_zone,
           greatest(sum(fact.old), sum(fact.new))
    FROM fact
    JOIN usage_series AS series ON series.customer_id = fact.customer_id AND series.id = fact.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    JOIN accounts_customer AS customer ON customer.id = fact.customer_id
    JOIN accounts_legalentity AS entity ON entity.id = customer.legal_entity_id
    GROUP BY customer.id, meter.id, month, entity.time_zone
    ORDER BY 10 DESC, customer.name, meter.name, month LIMIT %(limit)s
"""


def _touched(batch_ids: Sequence[int]) -> list[Touched]:
    with connection.cursor() as cursor:
        cursor.execute(_TOUCHED, {"batches": [each for each in batch_ids if each], "limit": ROWS_KEPT})
        return [Touched(*row) for row in cursor.fetchall()]
