"""What a correction would change, and for whom, as of one moment and without a lock.

It is decided by the very code that applies it later, of the same events at once; only what this comes to is kept apart
(see `foreseeing`) and not written. So neither folding nor senders wait, and memory does not grow with the events.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Final

from django.db import connection

from metering import storage
from metering.corrections import correction_events, correction_work, foreseeing, quantity_changes
from metering.errors import CorrectionTooLarge
from metering.models import UsageCorrection

# A task may run somewhat longer, for what comes after the last event.
LONGEST_SECONDS: Final = 400.0


def preview(correction: UsageCorrection, *, at: datetime) -> dict[str, Any]:
    """Return the quantities before and after by customer, meter and month, as `quantity_changes.compared` has them.

    Of more than 2,000 rows those with the most events are read. To be called within `foreseeing.one_moment`.

    Raises: CorrectionNotCountable; CorrectionTooLarge where it takes too long.
    """
    ends_at = time.monotonic() + LONGEST_SECONDS
    storage.find_by_index()
    events = skipped = 0
    for items in correction_work.all_waiting_items(correction):
        wanted = correction_work.replacements_of(correction, items)
        with connection.wrap_database_errors, storage.server_side_cursor() as cursor:
            ground = foreseeing.Looking(cursor)
            plan = correction_work.plan_of(ground, correction, items, wanted)
            replaced = [pk for pk in wanted if pk in plan.replaced]
            counted = correction_events.count(ground, [wanted[pk] for pk in replaced], at=at)
            foreseeing.note_counted(cursor, zip(replaced, counted.counted, strict=True), counted.series_ids)
            foreseeing.note_amended(cursor, plan.amendments)
        events += len(items) - len(plan.skipped)
        skipped += len(plan.skipped)
        if time.monotonic() > ends_at:
            msg = "It could not be previewed in time: it is about too many events. Ask for several, each of fewer."
            raise CorrectionTooLarge(msg)
    touched = quantity_changes.with_carried(foreseeing.touched(), at=at)
    foreseeing.add_up()
    before = quantity_changes.read(touched)
    after = quantity_changes.read(touched, tables=foreseeing.TABLES)
    return {"events": events, "skipped": skipped, **quantity_changes.compared(touched, before=before, after=after)}
