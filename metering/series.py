"""Names series by id: one meter of one customer with one set of dimension values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.db import transaction

from metering.counting import SeriesKey

# Ids never change, so that what this process has once seen committed holds for ever.
_known: dict[SeriesKey, int] = {}
_KNOWN_AT_MOST = 500_000

_encode = msgspec.json.Encoder(order="sorted").encode


class NamedSeries(NamedTuple):
    """The ids of series, and those that there shall not be, because their customer has as many as the meter allows."""

    ids: Mapping[SeriesKey, int]
    over_limit: Mapping[SeriesKey, str]


class _Row(NamedTuple):
    """A series as the table's unique key has it."""

    customer_id: int
    meter_id: int
    dimensions_key: str


class Tables(NamedTuple):
    """Where series are looked up, and where new ones are written; `is_shared`, where others may add some meanwhile."""

    found_in: str
    written_to: str
    is_shared: bool


_SERIES = Tables("usage_series", "usage_series", is_shared=True)


class _Version(NamedTuple):
    meter_id: int
    meter_code: str
    series_limit: int
    dimensions: list[str]


Events = Callable[[], Iterable[Iterable[SeriesKey]]]


def ids_of(cursor: psycopg.Cursor[Any], keys: Iterable[SeriesKey], events: Events | None = None) -> NamedSeries:
    """Return the id of each series, making those that are new; costs no query when all are known.

    Where there are too many, `events` says which series go together: one that lacks room for one of its series opens
    none of the others, and the first to come has the room. Without it each series is wanted for itself.
    """
    known = _known
    ids = {key: series_id for key in keys if (series_id := known.get(key)) is not None}
    missing = [key for key in keys if key not in ids]
    if not missing:
        return NamedSeries(ids, {})
    found = find_or_make(cursor, missing, events)
    transaction.on_commit(lambda: _remember(found.ids))
    return NamedSeries({**ids, **found.ids}, found.over_limit)


def _remember(found: Mapping[SeriesKey, int]) -> None:
    if len(_known) > _KNOWN_AT_MOST:
        _known.clear()
    _known.update(found)


def find_or_make(
    cursor: psycopg.Cursor[Any], keys: Iterable[SeriesKey], events: Events | None, tables: Tables = _SERIES
) -> NamedSeries:
    """Return the id of each series as `ids_of` does, asking the database for all of them; in other tables, if given."""
    versions = _versions(cursor, {key.version_id for key in keys})
    rows: dict[SeriesKey, _Row] = {}
    texts: dict[_Row, str] = {}
    for key in keys:
        version = versions[key.version_id]
        named = zip(version.dimensions, key.dimensions, strict=True)
        text = _encode({name: value for name, value in named if value is not None})
        row = _Row(key.customer_id, version.meter_id, blake2b(text, digest_size=16).hexdigest())
        rows[key] = row
        texts[row] = text.decode()
    ids = _select(cursor, texts, tables)
    missing = texts.keys() - ids.keys()
    over_limit: dict[_Row, str] = {}
    if missing and tables.is_shared:
        _hold_limits(cursor, missing)
        # Who held them before may have made the same series, which then are not new and take no room.
        ids |= _select(cursor, missing, tables)
        missing -= ids.keys()
    if missing:
        room = _room(cursor, missing, tables)
        taken = _with_room(missing, room, _rows_of(events, rows))
        details = {
            meter.meter_id: f"meter {meter.meter_code} allows a customer {meter.series_limit:,} series"
            for meter in versions.values()
        }
        over_limit = {row: details[row.meter_id] for row in missing - taken if not room[row.customer_id, row.meter_id]}
        if wanted := sorted(taken):
            _insert(cursor, {row: texts[row] for row in wanted}, tables)
            ids |= _select(cursor, wanted, tables)
    return NamedSeries(
        {key: ids[row] for key, row in rows.items() if row in ids},
        {key: over_limit[row] for key, row in rows.items() if row in over_limit},
    )


def _versions(cursor: psycopg.Cursor[Any], version_ids: Iterable[int]) -> dict[int, _Version]:
    cursor.execute(
        """
        SELECT version.id, meter.id, meter.code, meter.series_limit, version.dimensions
        FROM metering_meterversion AS version JOIN metering_meter AS meter ON meter.id = version.meter_id
        WHERE version.id = ANY(%s)
        """,
        [sorted(version_ids)],
    )
    return {version_id: _Version(*version) for version_id, *version in cursor}


def _hold_limits(cursor: psycopg.Cursor[Any], rows: Iterable[_Row]) -> None:
    """Let nobody else add series to these customers' meters until the transaction ends."""
    # In order, so that two senders never wait for each other in a ring.
    pairs = sorted({(row.customer_id, row.meter_id) for row in rows})
    cursor.execute(
        """
        SELECT pg_advisory_xact_lock(hashtextextended('metering.series ' || customer_id || ' ' || meter_id, 0))
        FROM unnest(%s::bigint[], %s::bigint[]) AS wanted(customer_id, meter_id)
        """,
        [[customer_id for customer_id, _ in pairs], [meter_id for _, meter_id in pairs]],
    )


def _room(cursor: psycopg.Cursor[Any], missing: Iterable[_Row], tables: Tables) -> dict[tuple[int, int], int]:
    """Return how many series there is room for, by customer and meter; the limits are held."""
    pairs = sorted({(row.customer_id, row.meter_id) for row in missing})
    cursor.execute(
        f"""
        SELECT wanted.customer_id, wanted.meter_id, greatest(0, meter.series_limit - (
            SELECT count(*) FROM {tables.found_in} AS series
            WHERE series.customer_id = wanted.customer_id AND series.meter_id = wanted.meter_id
        ))
        FROM unnest(%s::bigint[], %s::bigint[]) AS wanted(customer_id, meter_id)
        JOIN metering_meter AS meter ON meter.id = wanted.meter_id
        """,  # noqa: S608 -- a table's name
        [[customer_id for customer_id, _ in pairs], [meter_id for _, meter_id in pairs]],
    )
    return {(customer_id, meter_id): room for customer_id, meter_id, room in cursor}


def _rows_of(events: Events | None, rows: Mapping[SeriesKey, _Row]) -> Callable[[], Iterable[list[_Row]]]:
    """Return what gives the series of each event that were asked for here."""
    if events is None:
        return lambda: ([row] for row in sorted(rows.values()))
    return lambda: ([rows[key] for key in event if key in rows] for event in events())


def _with_room(
    missing: set[_Row], room: dict[tuple[int, int], int], events: Callable[[], Iterable[list[_Row]]]
) -> set[_Row]:
    """Return the series that are made; takes the room where there is not enough for all."""
    wanted = Counter((row.customer_id, row.meter_id) for row in missing)
    if all(number <= room[pair] for pair, number in wanted.items()):
        return missing
    taken: set[_Row] = set()
    for rows in events():
        new = {row for row in rows if row in missing and row not in taken}
        if all(room[row.customer_id, row.meter_id] for row in new):
            taken |= new
            for row in new:
                room[row.customer_id, row.meter_id] -= 1
    return taken


def _select(cursor: psycopg.Cursor[Any], rows: Iterable[_Row], tables: Tables) -> dict[_Row, int]:
    customers, meters, keys = zip(*rows, strict=True)
    cursor.execute(
        f"""
        SELECT series.customer_id, series.meter_id, series.dimensions_key, series.id
        FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[]) AS wanted(customer_id, meter_id, dimensions_key)
        JOIN {tables.found_in} AS series USING (customer_id, meter_id, dimensions_key)
        """,  # noqa: S608 -- a table's name
        [list(customers), list(meters), list(keys)],
    )
    return {_Row(customer_id, meter_id, key.hex): series_id for customer_id, meter_id, key, series_id in cursor}


def _insert(cursor: psycopg.Cursor[Any], rows: Mapping[_Row, str], tables: Tables) -> None:
    customers, meters, keys = zip(*rows, strict=True)
    cursor.execute(
        f"""
        INSERT INTO {tables.written_to} (customer_id, meter_id, dimensions_key, dimensions)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[], %s::jsonb[])
        ON CONFLICT DO NOTHING
        """,  # noqa: S608 -- a table's name
        [list(customers), list(meters), list(keys), list(rows.values())],
    )
