"""Which events a correction is about: named one by one, in a file, by what they have in common, or by batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.db import connection

from metering.errors import CorrectionFileInvalid, CorrectionSelectionInvalid, CorrectionTooLarge
from metering.events import event_key
from metering.reading.event_list import IN_METER, EventQuestion, in_time

MAX_EVENTS = 1_000_000
_SAID = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Events that have all of this in common; what is None or empty does not matter.

    `start` and `end` bound the event's own time, `[start, end)`. `data` are values that the data hold under a name, as
    texts. `origin` are the events of batches that came from there, such as "usage backfill 7" or the name of a file.
    With `meter_id` they are, as in the list of events, those that count or counted in a series of the customer and the
    meter whose dimensions are among `filters` (None: a dimension that is not there).
    """

    customer_id: int | None = None
    type: str = ""
    source: str = ""
    start: datetime | None = None
    end: datetime | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    event_id: str = ""
    subject: str = ""
    meter_id: int | None = None
    filters: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Return what was asked for, as it is kept."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
            if value
        }


def filter_of(question: EventQuestion) -> EventFilter:
    """Return what the events of a list have in common."""
    return EventFilter(
        customer_id=question.customer_id,
        type=question.type,
        source=question.source,
        start=question.period.start,
        end=question.period.end,
        data=question.data,
        event_id=question.event_id,
        subject=question.subject,
        meter_id=question.meter_id,
        filters=question.filters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEvent:
    """One event by its identity, with values of its own that replace its, if any."""

    source: str
    event_id: str
    changes: Mapping[str, str] | None = None


def read_file(content: str) -> list[NamedEvent]:
    """Read a CSV file with the columns `source` and `id`; each further column is a value that replaces the event's.

    A column is named as the data's value is (dots lead into nested objects), or `subject`, `time` or `type`. An empty
    cell changes nothing.

    Raises: CorrectionFileInvalid, naming the line.
    """
    rows = csv.DictReader(io.StringIO(content.removeprefix("\ufeff")), strict=True)
    found: list[NamedEvent] = []
    try:
        columns = rows.fieldnames or []
        if "source" not in columns or "id" not in columns or len(set(columns)) < len(columns):
            msg = "The first line names the columns: source, id, and those of new values, each once."
            raise CorrectionFileInvalid(msg)
        for row in rows:
            if None in row or None in row.values() or not row["source"] or not row["id"]:
                msg = f"Line {rows.line_num}: it needs a source, an id and as many cells as there are columns."
                raise CorrectionFileInvalid(msg)
            changes = {name: value for name, value in row.items() if name not in {"source", "id"} and value != ""}
            found.append(NamedEvent(source=row["source"], event_id=row["id"], changes=changes or None))
    except csv.Error as error:
        msg = f"Line {rows.line_num}: {error}."
        raise CorrectionFileInvalid(msg) from error
    return found


# An event that counts nowhere any more is one that was voided.
_COUNTS = """
    (NOT EXISTS (
        SELECT FROM usage_amendment AS amendment WHERE amendment.customer_id = event.customer_id
          AND amendment.time = event.time AND amendment.key = event.key
    ) OR EXISTS (
        SELECT FROM (
            SELECT unnest(event.series_ids) AS series_id, 1 AS sign
            UNION ALL
            SELECT unnest(amendment.series_ids), amendment.sign FROM usage_amendment AS amendment
            WHERE amendment.customer_id = event.customer_id AND amendment.time = event.time
              AND amendment.key = event.key
        ) AS named
        GROUP BY series_id HAVING sum(sign) = 1
    ))
"""

_FITS = f"""
    FROM usage_event AS event
    WHERE (%(customer_id)s::bigint IS NULL OR event.customer_id = %(customer_id)s)
      AND (%(start)s::timestamptz IS NULL OR event.time >= %(start)s)
      AND (%(end)s::timestamptz IS NULL OR event.time < %(end)s)
      AND (%(type)s = '' OR event.type = %(type)s) AND (%(source)s = '' OR event.source = %(source)s)
      AND (%(event_id)s = '' OR event.event_id = %(event_id)s) AND (%(subject)s = '' OR event.subject = %(subject)s)
      AND (%(origin)s = '' OR event.batch_id IN (SELECT id FROM metering_usagebatch WHERE origin = %(origin)s))
      AND NOT EXISTS (
          SELECT FROM jsonb_each_text(%(data)s::jsonb) AS wanted(name, value)
          WHERE coalesce(event.data ->> wanted.name, event.data #>> string_to_array(wanted.name, '.'))
                IS DISTINCT FROM wanted.value
      )
      AND event.event_id <> '' AND usage_is_recountable(event.customer_id, event.time) AND {_COUNTS}
"""  # noqa: S608 -- built from constants
_TAKE = """
    INSERT INTO metering_usagecorrectionitem (correction_id, customer_id, time, key, state, detail)
    SELECT %(correction)s, event.customer_id, event.time, event.key, 'waiting', ''
"""


def count_by_filter(chosen: EventFilter, *, limit: int = MAX_EVENTS) -> int:
    """Return how many events fit and still count: those that a correction would be about; `limit` + 1 if more.

    Raises: EventsSearchedTooLong.
    """
    with in_time(), connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM (SELECT {_where(chosen)} LIMIT %(limit)s) AS fitting",  # noqa: S608 -- constants
            {**_parameters(chosen), "limit": limit + 1},
        )
        (count,) = cursor.fetchone()
    return int(count)


def _where(chosen: EventFilter) -> str:
    return _FITS + IN_METER if chosen.meter_id else _FITS


def _parameters(chosen: EventFilter) -> dict[str, Any]:
    return {
        **asdict(chosen),
        "data": msgspec.json.encode(dict(chosen.data)).decode(),
        "filters": msgspec.json.encode({name: list(allowed) for name, allowed in chosen.filters.items()}).decode(),
    }


def take_by_filter(correction_id: int, chosen: EventFilter) -> int:
    """Note the events that fit and still count as those of the correction, and return how many.

    Raises: CorrectionTooLarge; CorrectionSelectionInvalid without a customer, a backfill or a period.
    """
    if chosen.customer_id is None and not chosen.origin and (chosen.start is None or chosen.end is None):
        msg = "Say a customer, or from when to when: events of all customers are looked for in a period only."
        raise CorrectionSelectionInvalid(msg)
    with connection.cursor() as cursor:
        cursor.execute(
            f"{_TAKE} {_where(chosen)} LIMIT %(limit)s",
            {**_parameters(chosen), "correction": correction_id, "limit": MAX_EVENTS + 1},
        )
        count = int(cursor.rowcount)
    if count > MAX_EVENTS:
        raise CorrectionTooLarge
    return count


# An event lies with its batch, and one that was released from quarantine where its time is: events are in no order of
# identity, and so would all of them be read. Identities taken before their batch was kept say nothing of it.
_WHERE_NAMED = """
    SELECT CASE WHEN count(*) = count(batch_id) THEN coalesce(array_agg(DISTINCT batch_id), '{}') END,
           ARRAY(SELECT DISTINCT time FROM metering_quarantinedevent
                 WHERE key = ANY(%(keys)s::uuid[]) AND status = 'released')
    FROM usage_identity WHERE key = ANY(%(keys)s::uuid[])
"""

_BY_NAME = f"""
    WITH asked AS (
        SELECT * FROM unnest(%(keys)s::uuid[], %(changes)s::text[]) AS asked(key, changes)
    ), found AS (
        SELECT event.customer_id, event.time, event.key, asked.changes::jsonb AS changes,
               usage_is_recountable(event.customer_id, event.time) AND event.event_id <> '' AS is_here,
               {_COUNTS} AS counts
        FROM usage_event AS event JOIN asked USING (key)
        WHERE %(batches)s::bigint[] IS NULL OR event.batch_id = ANY(%(batches)s) OR event.time = ANY(%(times)s)
    ), noted AS (
        INSERT INTO metering_usagecorrectionitem (correction_id, customer_id, time, key, changes, state, detail)
        SELECT %(correction)s, customer_id, time, key, changes, 'waiting', '' FROM found WHERE is_here AND counts
    )
    SELECT asked.key, CASE
               WHEN found.key IS NOT NULL AND NOT found.is_here THEN 'its raw data were erased'
               WHEN found.key IS NOT NULL THEN 'it is voided already'
               WHEN identity.key IS NULL THEN 'there is no such event'
               WHEN EXISTS (SELECT FROM metering_quarantinedevent AS waiting
                            WHERE waiting.key = asked.key AND waiting.status <> 'released')
                   THEN 'it is in quarantine and does not count'
               ELSE 'its raw data are in the archive'
           END
    FROM asked LEFT JOIN found ON found.key = asked.key
    LEFT JOIN usage_identity AS identity ON identity.key = asked.key
    WHERE found.key IS NULL OR NOT found.is_here OR NOT found.counts
"""  # noqa: S608 -- built from constants


def take_by_name(correction_id: int, chosen: Sequence[NamedEvent]) -> int:
    """Note these events as those of the correction, and return how many; all of them or none.

    Raises: CorrectionTooLarge; CorrectionSelectionInvalid, which names events that cannot be corrected and says why.
    """
    if len(chosen) > MAX_EVENTS:
        raise CorrectionTooLarge
    named = {event_key(each.source, each.event_id): each for each in chosen}
    if len(named) < len(chosen):
        msg = "An event is named more than once."
        raise CorrectionSelectionInvalid(msg)
    changes = [
        None if each.changes is None else msgspec.json.encode(dict(each.changes)).decode() for each in named.values()
    ]
    with connection.cursor() as cursor:
        cursor.execute(_WHERE_NAMED, {"keys": list(named)})
        batches, times = cursor.fetchone()
        cursor.execute(
            _BY_NAME,
            {
                "correction": correction_id,
                "keys": list(named),
                "changes": changes,
                "batches": batches,
                "times": times,
            },
        )
        faults = [(named[key.hex], why) for key, why in cursor.fetchall()]
    if faults:
        shown = "; ".join(f"{each.event_id} of {each.source}: {why}" for each, why in faults[:_SAID])
        more = f"; and {len(faults) - _SAID:,} more" if len(faults) > _SAID else ""
        msg = f"{len(faults):,} of the events cannot be corrected: {shown}{more}."
        raise CorrectionSelectionInvalid(msg)
    return len(named)
