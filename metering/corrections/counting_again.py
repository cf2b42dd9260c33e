"""In which series voided events count again: as if they had never been voided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from metering.corrections.correction_events import Place, Stored
from metering.counting import Contribution, MeterRule, SeriesKey, contribution, version_at
from metering.meters.meters import rule_of
from metering.models import MeterBackfill
from metering.reading.stored_events import as_event

_VOIDED = """
    SELECT key, series_ids FROM usage_amendment
    JOIN unnest(%s::bigint[], %s::timestamptz[], %s::uuid[], %s::bigint[]) AS asked(customer_id, time, key, batch_id)
        USING (customer_id, time, key, batch_id)
    WHERE sign = -1
"""


def series_counting_again(
    voids: Sequence[tuple[Place, int]],
    stored: Mapping[str, Stored],
    *,
    series_ids: Callable[[set[SeriesKey]], Mapping[SeriesKey, int]],
) -> dict[str, list[int]]:
    """Return the series in which events that these batches have voided count again, by the key of each event.

    Those in which they were voided, and those of meters that were back-filled over their time since: a back-fill
    leaves a voided event out. To be called once the events are locked, for a back-fill that comes later finds them
    counting. `series_ids` names series, and leaves those out that there is no room for, as a back-fill does.
    """
    again = _voided_series(voids)
    parts = _back_filled_parts([stored[key] for key in again if key in stored])
    if parts:
        ids = series_ids({part for _, part in parts})
        for key, part in parts:
            if part in ids and ids[part] not in again[key]:
                again[key].append(ids[part])
    return again


def _voided_series(voids: Sequence[tuple[Place, int]]) -> dict[str, list[int]]:
    if not voids:
        return {}
    columns = zip(*[(*place, batch_id) for place, batch_id in voids], strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_VOIDED, [list(column) for column in columns])
        return {key.hex: series_ids for key, series_ids in cursor.fetchall()}


class _BackFilled(NamedTuple):
    event_type: str
    starts_at: datetime
    ends_at: datetime
    rule: MeterRule


def _back_filled_parts(events: Sequence[Stored]) -> list[tuple[str, SeriesKey]]:
    """Return what these events would count in by the meters that were back-filled over their time, by their keys."""
    found = []
    for meter in _back_filled(events):
        for each in events:
            moment = each.place.time
            if each.type != meter.event_type or not meter.starts_at <= moment < meter.ends_at:
                continue
            event = as_event(
                UUID(each.place.key), each.source, each.event_id, each.type, each.subject, moment, each.data_text
            )
            version = version_at(meter.rule, moment) or meter.rule.versions[-1]
            part = contribution(meter.rule, version, event, each.place.customer_id)
            if isinstance(part, Contribution):
                found.append((each.place.key, part.series))
    return found


def _back_filled(events: Sequence[Stored]) -> list[_BackFilled]:
    if not events:
        return []
    times = [event.place.time for event in events]
    backfills = MeterBackfill.objects.filter(
        status__in=[MeterBackfill.Status.RUNNING, MeterBackfill.Status.DONE],
        meter__event_type__in={event.type for event in events},
        starts_at__lte=max(times),
        ends_at__gt=min(times),
    ).select_related("meter")
    return [
        _BackFilled(each.meter.event_type, each.starts_at, each.ends_at, rule_of(each.meter))
        for each in backfills.order_by("id")
    ]
