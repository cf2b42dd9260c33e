"""Keeps receipts: what came in of each source, type and hour, added up in the transaction that took it.

So "how much have we had from them" costs a few rows to answer and not a search through events. A receipt says what
came in: it does not change when an accepted event is corrected later, for the source did send it. The same events come
twice, as events (meter 0) and for each meter that counts them.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from django.db import connection, transaction

from metering.counting import EXACT, Counted, Problem
from metering.events import Event
from metering.models import QuarantinedEvent, UsageReceipt

EVENTS = 0
"""What stands for a meter where events are meant, whoever counts them."""

_NOTHING = Decimal(0)
_Key = tuple[str, str, str]


class _Line(NamedTuple):
    """One receipt; the hour is the first 13 characters of its moments in ISO 8601, UTC."""

    source: str
    type: str
    meter_id: int
    hour: str
    counted: int
    sum: Decimal
    waiting: int


_INSERT = """
    INSERT INTO usage_receipt (source, type, meter_id, hour, count, sum, waiting, discarded, batch_id)
    SELECT source, type, meter_id, (hour || ':00:00+00')::timestamptz, count, sum, waiting, 0, %s
    FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::numeric[], %s::bigint[])
        AS line(source, type, meter_id, hour, count, sum, waiting)
"""


def append(
    cursor: psycopg.Cursor[Any],
    *,
    counted: Sequence[Counted],
    problems: Sequence[tuple[Event, Problem]],
    batch_id: int,
) -> None:
    """Write what a batch took: events that count, and those that wait in quarantine from now on."""
    if lines := [*_lines_of(counted), *_lines_of_waiting(problems)]:
        cursor.execute(_INSERT, [batch_id, *(list(column) for column in zip(*lines, strict=True))])


def _lines_of(counted: Sequence[Counted]) -> Iterator[_Line]:
    groups: dict[_Key, list[list[Any]]] = {}
    for item in counted:
        event = item.event
        key = (event.source, event.type, event.time_text[:13])
        try:
            groups[key].append(item.parts)
        except KeyError:
            groups[key] = [item.parts]
    for (source, kind, hour), events in groups.items():
        yield _Line(source, kind, EVENTS, hour, len(events), _NOTHING, 0)
        for meter_id, values in _values_by_meter(events).items():
            with decimal.localcontext(EXACT):
                total = sum(values, _NOTHING)
            yield _Line(source, kind, meter_id, hour, len(values), total, 0)


def _values_by_meter(events: Iterable[list[Any]]) -> Mapping[int, list[Decimal]]:
    values: dict[int, list[Decimal]] = {}
    for parts in events:
        for series, value in parts:
            meter_id = series.meter_id
            try:
                values[meter_id].append(value)
            except KeyError:
                values[meter_id] = [value]
    return values


def _lines_of_waiting(problems: Sequence[tuple[Event, Problem]]) -> Iterator[_Line]:
    waiting: dict[_Key, int] = {}
    for event, _ in problems:
        key = (event.source, event.type, event.time_text[:13])
        waiting[key] = waiting.get(key, 0) + 1
    for (source, kind, hour), events in waiting.items():
        yield _Line(source, kind, EVENTS, hour, 0, _NOTHING, events)


def append_closed(events: Iterable[QuarantinedEvent], *, discarded: bool) -> None:
    """Write that events wait no more: they were released, and count by their batch's own receipt, or discarded."""
    closed: dict[tuple[Any, ...], int] = {}
    for event in events:
        hour = event.time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        key = (event.source, event.type, hour)
        closed[key] = closed.get(key, 0) + 1
    UsageReceipt.objects.bulk_create(
        UsageReceipt(
            source=source,
            type=kind,
            meter_id=EVENTS,
            hour=hour,
            count=0,
            sum=_NOTHING,
            waiting=-number,
            discarded=number if discarded else 0,
            batch_id=0,
        )
        for (source, kind, hour), number in closed.items()
    )


# One fold at a time is enough, and then no two of them can wait for each other's hours.
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('metering.receipts.fold'))"

_FOLD = """
    WITH taken AS (
        DELETE FROM usage_receipt WHERE id IN (SELECT id FROM usage_receipt ORDER BY id LIMIT %s)
        RETURNING hour, source, type, meter_id, count, sum, waiting, discarded
    ), folded AS (
        INSERT INTO usage_receipt_hour AS hour (hour, source, type, meter_id, count, sum, waiting, discarded)
        SELECT hour, source, type, meter_id, sum(count)::bigint, sum(sum), sum(waiting)::bigint, sum(discarded)::bigint
        FROM taken GROUP BY hour, source, type, meter_id
        ORDER BY hour, source, type, meter_id
        ON CONFLICT (hour, source, type, meter_id) DO UPDATE SET
            count = hour.count + EXCLUDED.count,
            sum = hour.sum + EXCLUDED.sum,
            waiting = hour.waiting + EXCLUDED.waiting,
            discarded = hour.discarded + EXCLUDED.discarded
    )
    SELECT count(*) FROM taken
"""


@transaction.atomic
def fold(*, limit: int = 50_000) -> int:
    """Merge up to `limit` receipts into hours, the oldest first, and return how many; 0 while another fold runs.

    One statement does it all, so killed at any point it has done nothing, and a reader sees each receipt either as
    itself or in its hour.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
        (is_ours,) = cursor.fetchone()
        if not is_ours:
            return 0
        cursor.execute(_FOLD, [limit])
        (folded,) = cursor.fetchone()
    return int(folded)
