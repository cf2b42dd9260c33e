"""Reads stored events back as they were sent, with what they count in by now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from metering.events import Event, exact_number

_decode = msgspec.json.Decoder(dict, float_hook=exact_number).decode


class StoredEvent(NamedTuple):
    """An accepted event, whose it is, and the series that it counts in as amended: none, where it was voided."""

    customer_id: int
    event: Event
    counts_in: frozenset[int]


class Place(NamedTuple):
    """Where a reading of events in the order of customer, time and identity has got to."""

    customer_id: int
    time: datetime
    key: UUID


THE_BEGINNING = Place(-1, datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))

# An event that was erased by law has kept its identity and no id; what it said cannot be read any more.
_EVENT = "customer_id, time, key, source, event_id, type, subject, data::text, series_ids"

_COUNTS_IN = """
    SELECT customer_id, time, key, source, event_id, type, subject, data, ARRAY(
        SELECT series_id FROM (
            SELECT unnest(found.series_ids) AS series_id, 1 AS sign
            UNION ALL
            SELECT unnest(amendment.series_ids), amendment.sign FROM usage_amendment AS amendment
            WHERE amendment.customer_id = found.customer_id AND amendment.time = found.time
              AND amendment.key = found.key
        ) AS named
        GROUP BY series_id HAVING sum(sign) = 1
    )
    FROM found
"""

_BY_TIME = f"""
    WITH found AS MATERIALIZED (
        SELECT {_EVENT} FROM usage_event
        WHERE type = %s AND time >= %s AND time < %s AND event_id <> '' ORDER BY time, key LIMIT %s
    ) {_COUNTS_IN} ORDER BY time, key
"""  # noqa: S608 -- built from constants

_BY_CUSTOMER = f"""
    WITH found AS MATERIALIZED (
        SELECT {_EVENT} FROM usage_event
        WHERE type = %s AND time >= %s AND time < %s AND event_id <> '' AND (customer_id, time, key) > (%s, %s, %s)
        ORDER BY customer_id, time, key LIMIT %s
    ) {_COUNTS_IN} ORDER BY customer_id, time, key
"""  # noqa: S608 -- built from constants

# In order, as corrections do, so that nobody waits in a ring.
_HOLD = """
    SELECT FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS asked(customer_id, time, key)
    JOIN usage_event AS event USING (customer_id, time, key)
    ORDER BY customer_id, time, key FOR NO KEY UPDATE OF event
"""

_ALIKE = f"""
    WITH found AS MATERIALIZED (
        SELECT {_EVENT} FROM unnest(%s::bigint[], %s::timestamptz[], %s::uuid[]) AS asked(customer_id, time, key)
        JOIN usage_event USING (customer_id, time, key)
    ) {_COUNTS_IN} ORDER BY customer_id, time, key
"""  # noqa: S608 -- built from constants

_LATEST = f"""
    WITH series AS MATERIALIZED (
        SELECT customer_id, id AS series_id FROM usage_series
        WHERE meter_id IN (SELECT id FROM metering_meter WHERE event_type = %s) ORDER BY id DESC LIMIT 50
    ), latest AS MATERIALIZED (
        SELECT series.*, greatest(folded.hour, fresh.hour) AS hour FROM series
        LEFT JOIN LATERAL (
            SELECT hour FROM usage_hour AS part
            WHERE part.customer_id = series.customer_id AND part.series_id = series.series_id AND part.count > 0
            ORDER BY hour DESC LIMIT 1
        ) AS folded ON true
        LEFT JOIN LATERAL (
            SELECT max(hour) AS hour FROM usage_delta AS part
            WHERE part.customer_id = series.customer_id AND part.series_id = series.series_id
        ) AS fresh ON true
    ), found AS MATERIALIZED (
        SELECT DISTINCT event.* FROM (SELECT * FROM latest WHERE hour IS NOT NULL ORDER BY hour DESC LIMIT 10) AS latest
        CROSS JOIN LATERAL (
            SELECT {_EVENT} FROM usage_event
            WHERE customer_id = latest.customer_id AND time >= latest.hour AND time < latest.hour + interval '1 hour'
              AND series_ids @> ARRAY[latest.series_id] AND event_id <> ''
            ORDER BY time DESC LIMIT 2
        ) AS event
        ORDER BY time DESC, key LIMIT %s
    ) {_COUNTS_IN} ORDER BY time DESC, key
"""  # noqa: S608 -- built from constants


def by_time(*, event_type: str, start: datetime, end: datetime, limit: int) -> list[StoredEvent]:
    """Return the first events of a type in `[start, end)` in order of time, at most `limit`."""
    return _read(_BY_TIME, [event_type, start, end, limit])


def by_customer(*, event_type: str, start: datetime, end: datetime, after: Place, limit: int) -> list[StoredEvent]:
    """Return the next events of a type in `[start, end)` in order of customer, time and identity."""
    return _read(_BY_CUSTOMER, [event_type, start, end, *after, limit])


def hold(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Return these events as they count by now, and let nobody else amend them until the transaction ends."""
    places = [(each.customer_id, each.event.time, each.event.key) for each in events]
    columns = [list(column) for column in zip(*places, strict=True)] if places else [[], [], []]
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, columns)
    # Another statement, so that it sees what was committed while this transaction waited.
    return _read(_ALIKE, columns)


def latest_of_type(*, event_type: str, limit: int) -> list[StoredEvent]:
    """Return late events of a type, at most `limit`, the newest first: of the series that were opened last.

    They are found by the hours of series, for events are in no order of type or time.
    """
    return _read(_LATEST, [event_type, limit])


def _read(query: str, parameters: Sequence[Any]) -> list[StoredEvent]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return [_stored(*row) for row in cursor.fetchall()]


def _stored(  # noqa: PLR0917 -- the columns of a row
    customer_id: int,
    time: datetime,
    key: UUID,
    source: str,
    event_id: str,
    kind: str,
    subject: str,
    data: str,
    counts_in: Sequence[int],
) -> StoredEvent:
    event = as_event(key, source, event_id, kind, subject, time, data)
    return StoredEvent(customer_id, event, frozenset(counts_in))


def as_event(  # noqa: PLR0917 -- the columns of a row
    key: UUID, source: str, event_id: str, kind: str, subject: str, time: datetime, data: str
) -> Event:
    """Return an event read back with every digit of its numbers, which the ORM would turn into floats."""
    in_utc = time.astimezone(UTC)
    return Event(0, key.hex, "", source, event_id, kind, subject, in_utc, in_utc.isoformat(), _decode(data), data)
