"""What corrections say of events, to be shown wherever an event is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from metering.models import UsageCorrection, UsageCorrectionItem


class Mark(NamedTuple):
    """The newest applied correction of an event: which, its kind in words, when, by whom and why."""

    correction_id: int
    words: str
    at: datetime | None
    by: str
    reason: str


_WORDS = {
    UsageCorrection.Kind.VOID.value: "voided",
    UsageCorrection.Kind.REPLACE.value: "replaced",
    UsageCorrection.Kind.REVERT.value: "counted again",
}


def marks_of(keys: Iterable[UUID]) -> dict[UUID, Mark]:
    """Return the newest mark of each event that a correction was applied to; one query."""
    items = (
        UsageCorrectionItem.objects.filter(key__in=list(keys), state=UsageCorrectionItem.State.APPLIED)
        .order_by("batch_id")
        .values_list(
            "key",
            "correction_id",
            "correction__kind",
            "correction__approved_at",
            "correction__requested_by_label",
            "correction__reason",
        )
    )
    return {
        key: Mark(correction_id, _WORDS[kind], at, by, reason) for key, correction_id, kind, at, by, reason in items
    }
