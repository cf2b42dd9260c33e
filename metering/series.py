"""Names series by id: one meter of one customer with one set of dimension values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
import psycopg
from django.db import transaction

from metering.counting import SeriesKey

# Ids never change, so that what this process has once seen committed holds for ever.
_known: dict[SeriesKey, int] = {}
_KNOWN_AT_MOST = 500_000

_encode = msgspec.json.Encoder(order="sorted").encode


def ids_of(cursor: psycopg.Cursor[Any], keys: Iterable[SeriesKey]) -> Mapping[SeriesKey, int]:
    """Return the id of each series, making those that are new; costs no query when all are known."""
    known = _known
    ids = {key: known.get(key) for key in keys}
    missing = [key for key, series_id in ids.items() if series_id is None]
    if not missing:
        return ids  # type: ignore[return-value]  # none is None
    found = _find_or_make(cursor, missing)
    transaction.on_commit(lambda: _remember(found))
    return {**ids, **found}  # type: ignore[dict-item]  # every None is replaced


def _remember(found: Mapping[SeriesKey, int]) -> None:
    if len(_known) > _KNOWN_AT_MOST:
        _known.clear()
    _known.update(found)


def _find_or_make(cursor: psycopg.Cursor[Any], keys: list[SeriesKey]) -> dict[SeriesKey, int]:
    cursor.execute(
        "SELECT id, dimensions FROM metering_meter WHERE id = ANY(%s)",
        [sorted({key.meter_id for key in keys})],
    )
    names = dict(cursor.fetchall())
    wanted = {}
    for key in keys:
        dimensions = {
            name: value for name, value in zip(names[key.meter_id], key.dimensions, strict=True) if value is not None
        }
        text = _encode(dimensions)
        wanted[key.customer_id, key.meter_id, blake2b(text, digest_size=16).hexdigest()] = (key, text.decode())
    ids = _select(cursor, wanted)
    if missing := sorted(wanted.keys() - ids.keys()):
        _insert(cursor, {row: wanted[row][1] for row in missing})
        ids |= _select(cursor, missing)
    return {wanted[row][0]: series_id for row, series_id in ids.items()}


_Row = tuple[int, int, str]


def _select(cursor: psycopg.Cursor[Any], rows: Iterable[_Row]) -> dict[_Row, int]:
    customers, meters, keys = zip(*rows, strict=True)
    cursor.execute(
        """
        SELECT series.customer_id, series.meter_id, series.dimensions_key, series.id
        FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[]) AS wanted(customer_id, meter_id, dimensions_key)
        JOIN usage_series AS series USING (customer_id, meter_id, dimensions_key)
        """,
        [list(customers), list(meters), list(keys)],
    )
    return {(customer_id, meter_id, key.hex): series_id for customer_id, meter_id, key, series_id in cursor}


def _insert(cursor: psycopg.Cursor[Any], rows: Mapping[_Row, str]) -> None:
    customers, meters, keys = zip(*rows, strict=True)
    cursor.execute(
        """
        INSERT INTO usage_series (customer_id, meter_id, dimensions_key, dimensions)
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::uuid[], %s::jsonb[])
        ON CONFLICT DO NOTHING
        """,
        [list(customers), list(meters), list(keys), list(rows.values())],
    )
