"""Names series by id: one meter of one customer with one set of dimension values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
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


def ids_of(cursor: psycopg.Cursor[Any], keys: Iterable[SeriesKey]) -> NamedSeries:
    """Return the id of each series, making those that are new; costs no query when all are known."""
    known = _known
    ids = {key: series_id for key in keys if (series_id := known.get(key)) is not None}
    missing = [key for key in keys if key not in ids]
    if not missing:
        return NamedSeries(ids, {})
    found = find_or_make(cursor, missing)
    transaction.on_commit(lambda: _remember(found.ids))
    return NamedSeries({**ids, **found.ids}, found.over_limit)


def _remember(found: Mapping[SeriesKey, int]) -> None:
    if len(_known) > _KNOWN_AT_MOST:
        _known.clear()
    _known.update(found)


def find_or_make(cursor: psycopg.Cursor[Any], keys: Iterable[SeriesKey], tables: Tables = _SERIES) -> NamedSeries:
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
        over_limit = _over_limit(cursor, missing, {each.meter_id: each for each in versions.values()}, tables)
        if wanted := sorted(missing - over_limit.keys()):
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


def _over_limit(
    cursor: psycopg.Cursor[Any], missing: Iterable[_Row], meters: Mapping[int, _Version], tables: Tables
) -> dict[_Row, str]:
    """Return which of the new series are too many, and why; the limits are held."""
    wanted: defaultdict[tuple[int, int], list[_Row]] = defaultdict(list)
    for row in sorted(missing):
        wanted[row.customer_id, row.meter_id].append(row)
    cursor.execute(
        f"""
        SELECT wanted.customer_id, wanted.meter_id, (
            SELECT count(*) FROM {tables.found_in} AS series
            WHERE series.customer_id = wanted.customer_id AND series.meter_id = wanted.meter_id
        )
        FROM unnest(%s::bigint[], %s::bigint[]) AS wanted(customer_id, meter_id)
        """,  # noqa: S608 -- a table's name
        [[customer_id for customer_id, _ in wanted], [meter_id for _, meter_id in wanted]],
    )
    over: dict[_Row, str] = {}
    for customer_id, meter_id, count in cursor:
        meter = meters[meter_id]
        detail = f"meter {meter.meter_code} allows a customer {meter.series_limit:,} series"
        room = max(meter.series_limit - count, 0)
        over |= dict.fromkeys(wanted[customer_id, meter_id][room:], detail)
    return over


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
