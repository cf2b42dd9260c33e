"""Lists raw events page by page: as they came, what they count in by now, and with which batch they came."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg.errors
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import Q

from accounts.periods import Period
from metering.errors import CursorInvalid, EventsSearchedTooLong
from metering.events import event_key
from metering.models import Meter, UsageBatch, UsageCorrectionItem, UsageSeries
from metering.reading.usage_marks import Taken, late_among

MAX_EVENTS_A_PAGE: Final = 1_000
_CURSOR: Final = re.compile(r"(-?\d{1,18}) ([0-9a-f]{32})", re.ASCII)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Place(NamedTuple):
    """Where in the order of time and key an event stands."""

    time: datetime
    key: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuestion:
    """Events of one customer in a period; every further field that is set has to be met.

    `data` names values of the event's data, as texts. With `meter_id` only events that count, or counted, in a series
    of the meter whose dimensions are among `filters` (None: a dimension that is not there).
    """

    customer_id: int
    period: Period
    type: str = ""
    source: str = ""
    event_id: str = ""
    subject: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    meter_id: int | None = None
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


class SeriesOfEvent(NamedTuple):
    """A series that an event counts in."""

    id: int
    meter: str
    dimensions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEvent:
    """One event as it came; `data` is JSON as it is stored.

    `state` is `counted`; or, of one that counts in no series any more, `replaced` where a correction put another event
    in its place, and else `voided`. It is `late` where it came in, or was back-filled, after its period had been
    billed. `correction_id` is the newest correction of it, `stands_in_by` the one that put it in the place of another.
    """

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: str
    batch: int
    received_at: datetime | None
    state: str
    series: Sequence[SeriesOfEvent]
    amended_by: Sequence[int]
    late: bool
    correction_id: int | None
    stands_in_by: int | None

    @property
    def place(self) -> str:
        """Where it stands, as a word for a form; nothing of one whose identity was erased."""
        return cursor_text(Place(self.time, UUID(event_key(self.source, self.id)))) if self.id else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """A page of events by time; `following` is where the next page begins, None after the last."""

    events: Sequence[ListedEvent]
    following: Place | None


def cursor_text(place: Place) -> str:
    """Write a place as an opaque word for an address."""
    microseconds = (place.time - _BEGINNING) // (datetime.resolution)
    return base64.urlsafe_b64encode(f"{microseconds} {place.key.hex}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> Place:
    """Read what `cursor_text` wrote.

    Raises: CursorInvalid.
    """
    try:
        plain = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
        found = _CURSOR.fullmatch(plain)
        if found is None:
            raise CursorInvalid
        return Place(_BEGINNING + int(found[1]) * datetime.resolution, UUID(found[2]))
    except (binascii.Error, ValueError, OverflowError) as error:
        raise CursorInvalid from error


# In the order of the table's key: events that come in later never move a page that was read before.
_EVENTS = """
    SELECT time, key, event_id, source, type, subject, data::text, batch_id, series_ids
    FROM usage_event AS event
    WHERE customer_id = %(customer_id)s AND time >= %(start)s AND time < %(end)s
      {conditions}
    ORDER BY time, key LIMIT %(limit)s
"""
_SERIES_OF_METER = """
    SELECT series.id FROM usage_series AS series
    WHERE series.customer_id = %(customer_id)s AND series.meter_id = %(meter_id)s AND NOT EXISTS (
        SELECT FROM jsonb_each(%(filters)s::jsonb) AS filter(name, allowed)
        WHERE NOT allowed @> coalesce(series.dimensions -> name, 'null')
    )
"""
# Events that count, or counted, in a series of a meter whose dimensions are among those that were asked for.
IN_METER: Final = f"""
    AND (event.series_ids && ARRAY({_SERIES_OF_METER}) OR EXISTS (
        SELECT FROM usage_amendment AS amendment
        WHERE amendment.customer_id = event.customer_id AND amendment.time = event.time AND amendment.key = event.key
          AND amendment.series_ids && ARRAY({_SERIES_OF_METER})
    ))
"""
_CONDITIONS: Mapping[str, str] = {
    "after": "AND (time, key) > (%(after_time)s, %(after_key)s) AND time >= %(after_time)s",
    "key": "AND key = %(key)s",
    "type": "AND type = %(type)s",
    "source": "AND source = %(source)s",
    "event_id": "AND event_id = %(event_id)s",
    "subject": "AND subject = %(subject)s",
    "data": "AND NOT EXISTS (SELECT FROM jsonb_each_text(%(data)s::jsonb) AS wanted(name, value)"
    " WHERE coalesce(data ->> name, data #>> string_to_array(name, '.')) IS DISTINCT FROM value)",
    "meter_id": IN_METER,
}
_AMENDMENTS = """
    SELECT amendment.key, amendment.sign, amendment.series_ids, amendment.batch_id
    FROM unnest(%s::timestamptz[], %s::uuid[]) AS event(time, key)
    JOIN usage_amendment AS amendment
      ON amendment.customer_id = %s AND amendment.time = event.time AND amendment.key = event.key
    ORDER BY amendment.batch_id
"""


def list_events(question: EventQuestion, *, limit: int, after: Place | None = None) -> EventPage:
    """Return a page of at most `limit` events, by time; eight queries, however many.

    Raises: EventsSearchedTooLong.
    """
    rows = _rows(question, limit=limit + 1, after=after)
    shown = rows[:limit]
    amendments = _amendments(question.customer_id, shown)
    counted = {key: _counts_in(series_ids, [each[:2] for each in amendments[key]]) for _, key, *_, series_ids in shown}
    corrected, stands_in = _corrections([key for _, key, *_ in shown])
    late = _late(question.customer_id, shown, amendments)
    series = _series({series_id for ids in counted.values() for series_id in ids})
    received = dict(UsageBatch.objects.filter(pk__in={row[7] for row in shown}).values_list("pk", "received_at"))
    events = [
        ListedEvent(
            id=event_id,
            source=source,
            type=event_type,
            subject=subject,
            time=time,
            data=data,
            batch=batch_id,
            received_at=received.get(batch_id),
            state="counted" if counted[key] else "replaced" if corrected.get(key, _NONE).is_replaced else "voided",
            series=[series[series_id] for series_id in counted[key]],
            amended_by=[batch for _, _, batch in amendments[key]],
            late=key in late,
            correction_id=corrected.get(key, _NONE).correction_id,
            stands_in_by=stands_in.get(key),
        )
        for time, key, event_id, source, event_type, subject, data, batch_id, _ in shown
    ]
    return EventPage(events=events, following=Place(*shown[-1][:2]) if len(rows) > limit else None)


def _rows(question: EventQuestion, *, limit: int, after: Place | None) -> list[tuple[Any, ...]]:
    values: dict[str, Any] = {
        "key": UUID(event_key(question.source, question.event_id)) if question.source and question.event_id else None,
        "type": question.type,
        "source": question.source,
        "event_id": question.event_id,
        "subject": question.subject,
        "data": _json(question.data) if question.data else None,
        "meter_id": question.meter_id,
        "after": after,
    }
    asked = [_CONDITIONS[name] for name, value in values.items() if value]
    values |= {
        "customer_id": question.customer_id,
        "start": question.period.start,
        "end": question.period.end,
        "limit": limit,
        "filters": _json({name: list(allowed) for name, allowed in question.filters.items()}),
        "after_time": after.time if after else None,
        "after_key": after.key if after else None,
    }
    del values["after"]
    with in_time(), connection.cursor() as cursor:
        cursor.execute(_EVENTS.replace("{conditions}", " ".join(asked)), values)
        return list(cursor.fetchall())


@contextmanager
def in_time() -> Iterator[None]:
    """Bound a search: what nearly no event says is looked for among all of a customer's events of the period.

    Raises: EventsSearchedTooLong.
    """
    milliseconds = round(settings.USAGE_EVENTS_TIMEOUT_SECONDS * 1000)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{milliseconds}ms"])
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise EventsSearchedTooLong from error
        raise


def _json(value: object) -> str:
    return json.dumps(value)


def _amendments(customer_id: int, rows: Sequence[tuple[Any, ...]]) -> dict[UUID, list[tuple[int, list[int], int]]]:
    found: defaultdict[UUID, list[tuple[int, list[int], int]]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_AMENDMENTS, [[row[0] for row in rows], [row[1] for row in rows], customer_id])
        for key, *amendment in cursor.fetchall():
            found[key].append(tuple(amendment))
    return found


class _Corrected(NamedTuple):
    """The latest correction of an event, and whether it put another one in its place."""

    correction_id: int | None
    is_replaced: bool


_NONE: Final = _Corrected(None, is_replaced=False)


def _corrections(keys: Sequence[UUID]) -> tuple[dict[UUID, _Corrected], dict[UUID, int]]:
    """Return the latest correction of each event, and by which one an event stands in the place of another."""
    items = UsageCorrectionItem.objects.filter(
        Q(key__in=keys) | Q(new_key__in=keys), state=UsageCorrectionItem.State.APPLIED
    )
    asked = set(keys)
    corrected, stands_in = {}, {}
    for key, new_key, correction_id in items.order_by("batch_id").values_list("key", "new_key", "correction_id"):
        if key in asked:
            corrected[key] = _Corrected(correction_id, is_replaced=new_key is not None)
        if new_key in asked:
            stands_in[new_key] = correction_id
    return corrected, stands_in


def _late(
    customer_id: int, rows: Sequence[tuple[Any, ...]], amendments: Mapping[UUID, Sequence[tuple[int, list[int], int]]]
) -> set[UUID]:
    taken = [Taken(time, key, batch_id, series_ids) for time, key, *_, batch_id, series_ids in rows]
    amended = [
        Taken(each.time, each.key, batch_id, series_ids)
        for each in taken
        for _sign, series_ids, batch_id in amendments.get(each.key, ())
    ]
    return late_among(customer_id, [*taken, *amended])


def _counts_in(series_ids: Sequence[int], amendments: Sequence[tuple[int, list[int]]]) -> list[int]:
    """Return the series that an event counts in: its own, less what was taken away, with what was added."""
    balance = Counter(series_ids)
    for sign, of in amendments:
        for series_id in of:
            balance[series_id] += sign
    return sorted(series_id for series_id, sum_of_signs in balance.items() if sum_of_signs == 1)


def _series(series_ids: set[int]) -> dict[int, SeriesOfEvent]:
    series = UsageSeries.objects.filter(pk__in=series_ids)
    codes = dict(Meter.objects.order_by().values_list("pk", "code"))
    return {each.pk: SeriesOfEvent(each.pk, codes[each.meter_id], each.dimensions) for each in series}
