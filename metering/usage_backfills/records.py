"""What the parts of a backfill share: its record under lock, its limits, and the rules by which its events count."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from metering import storage
from metering.counting import CountingRules
from metering.events import Event
from metering.ingestion import counting_rules
from metering.models import UsageBackfill, UsageBackfillItem
from metering.usage_backfills.errors import UsageBackfillNotOpen, UsageBackfillUnknown

# Of a million, a preview takes some minutes, and beginning to close takes seconds in which a person waits.
MOST_EVENTS: Final = 2_000_000

Mode, Status = UsageBackfill.Mode, UsageBackfill.Status
Kind, State = UsageBackfillItem.Kind, UsageBackfillItem.State

_THE_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


def locked(backfill_id: int) -> UsageBackfill:
    """Return a backfill and hold its row until the transaction ends. Raises: UsageBackfillUnknown."""
    backfill = UsageBackfill.objects.select_for_update(no_key=True).filter(pk=backfill_id).first()
    if backfill is None:
        raise UsageBackfillUnknown
    return backfill


def found(backfill_id: int) -> UsageBackfill:
    """Return a backfill as it stands. Raises: UsageBackfillUnknown."""
    backfill = UsageBackfill.objects.filter(pk=backfill_id).first()
    if backfill is None:
        raise UsageBackfillUnknown
    return backfill


def require_open(backfill_id: int) -> None:
    """Raise UsageBackfillUnknown or UsageBackfillNotOpen unless the backfill takes events."""
    status = UsageBackfill.objects.filter(pk=backfill_id).values_list("status", flat=True).first()
    if status is None:
        raise UsageBackfillUnknown
    if status != Status.OPEN:
        raise UsageBackfillNotOpen


def rules_of(
    cursor: psycopg.Cursor[Any], backfill: UsageBackfill, events: Sequence[Event], *, at: datetime
) -> CountingRules:
    """Return what decides how these events count; one that lifts the acceptance age takes what is not archived."""
    rules = counting_rules(cursor, events=events, at=at)
    if backfill.lifts_age:
        rules = rules._replace(earliest=storage.archived_until(cursor) or _THE_BEGINNING)
    return rules
