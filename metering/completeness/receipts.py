"""Keeps receipts: what came in of each source, type and hour, added up in the transaction that took it.

So "how much have we had from them" costs a few rows to answer and not a search through events. A receipt says what
came in: it does not change when an accepted event is corrected later, for the source did send it. The same events come
twice, as events (meter 0) and for each meter that counts them.
"""

from __future__ import annotations

import decimal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from datetime import UTC
from decimal import Decimal
from itertools import chain
from typing import Any

import psycopg
from django.db import connection, transaction

from metering import storage
from metering.counting import EXACT, Counted, Problem
from metering.events import Event
from metering.models import QuarantinedEvent, UsageBatch, UsageReceipt

EVENTS = 0
"""What stands for a meter where events are meant, whoever counts them."""

_NOTHING = Decimal(0)

_COPY = """
    COPY usage_receipt (source, type, meter_id, hour, count, sum, waiting, discarded, batch_id) FROM STDIN
"""


def append(
    cursor: psycopg.Cursor[Any],
    *,
    counted: Sequence[Counted],
    problems: Sequence[tuple[Event, Problem]],
    batch_id: int,
    door: str,
) -> None:
    """Write what a batch took: events that count, and those that wait in quarantine from now on.

    What staff put right afterwards came from no source, and leaves no receipt.
    """
    if door == UsageBatch.Door.CORRECTION:
        return
    lines = [
        f"{source}\t{kind}\t{meter_id}\t{hour}:00:00+00\t{events}\t{total}\t{waiting}\t0\t{batch_id}\n"
        for source, kind, meter_id, hour, events, total, waiting in (*_lines_of(counted), *_lines_of_waiting(problems))
    ]
    if lines:
        storage.copy_lines(cursor, _COPY, lines)


# Source, type, meter, hour (the first 13 characters of its moments in ISO 8601, UTC), counted events, sum, waiting.
_Line = tuple[str, str, int, str, int, Decimal, int]


def _lines_of(counted: Sequence[Counted]) -> Iterator[_Line]:
    # This runs for each event. An event is counted as such with the first of the meters that take it.
    first: defaultdict[tuple[str, str, int, str], list[Decimal]] = defaultdict(list)
    further: defaultdict[tuple[str, str, int, str], list[Decimal]] = defaultdict(list)
    for item in counted:
        event, parts = item.event, item.parts
        source, kind, hour = event.source, event.type, event.time_text[:13]
        first[source, kind, parts[0].series.meter_id, hour].append(parts[0].value)
        for part in parts[1:]:
            further[source, kind, part.series.meter_id, hour].append(part.value)
    yield from _lines_of_events(first)
    with decimal.localcontext(EXACT):
        for (source, kind, meter_id, hour), values in chain(first.items(), further.items()):
            yield source, kind, meter_id, hour, len(values), sum(values, _NOTHING), 0


def _lines_of_events(first: Mapping[tuple[str, str, int, str], Sized]) -> Iterator[_Line]:
    events: dict[tuple[str, str, str], int] = {}
    for (source, kind, _, hour), values in first.items():
        events[source, kind, hour] = events.get((source, kind, hour), 0) + len(values)
    for (source, kind, hour), number in events.items():
        yield source, kind, EVENTS, hour, number, _NOTHING, 0


def _lines_of_waiting(problems: Sequence[tuple[Event, Problem]]) -> Iterator[_Line]:
    waiting: dict[tuple[str, str, str], int] = {}
    for event, _ in problems:
        key = (event.source, event.type, event.time_text[:13])
        waiting[key] = waiting.get(key, 0) + 1
    for (source, kind, hour), number in waiting.items():
        yield source, kind, EVENTS, hour, 0, _NOTHING, number


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
        DELETE FROM usage_receipt
        WHERE id <= (SELECT max(id) FROM (SELECT id FROM usage_receipt ORDER BY id LIMIT %s) AS oldest)
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
