"""What a run would change, kept apart: tables of this session only, which others neither see nor wait for.

A change is a reading that an event adds to a series, or takes from it. What the hours and their parts come to by all of
them can then be read like the present, from tables and views of the same names that begin with `foreseen_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from django.db import connection, transaction

from accounts.errors import CountinghouseError
from metering import series, storage
from metering.corrections.correction_events import Place, Stored, stored_events
from metering.corrections.correction_work import Amendment
from metering.corrections.quantity_changes import ROWS_KEPT, Touched
from metering.counting import Counted, SeriesKey
from metering.ingestion import Admitted, series_of_each, sort_out
from metering.recount import READINGS_AS_ASKED

TABLES: Final = "foreseen_"
_CLAIM: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
_SERIES: Final = series.Tables("foreseen_series", "foreseen_new_series", is_shared=False)

# Ids below zero, that no series has.
_MAKE = """
    CREATE TEMPORARY TABLE foreseen_met (id bigint PRIMARY KEY, key uuid, customer_id bigint, time timestamptz);
    CREATE TEMPORARY TABLE foreseen_not_sent (
        id bigint GENERATED ALWAYS AS IDENTITY (START -1 INCREMENT -1), key uuid, customer_id bigint, time timestamptz
    );
    CREATE TEMPORARY TABLE foreseen_identity (key uuid PRIMARY KEY, content_hash uuid NOT NULL);
    CREATE TEMPORARY TABLE foreseen_new_series (
        id bigint GENERATED ALWAYS AS IDENTITY (START -1 INCREMENT -1), customer_id bigint NOT NULL,
        meter_id bigint NOT NULL, dimensions jsonb NOT NULL, dimensions_key uuid NOT NULL,
        UNIQUE (customer_id, meter_id, dimensions_key)
    );
    CREATE TEMPORARY VIEW foreseen_series AS
        SELECT id, customer_id, meter_id, dimensions, dimensions_key FROM usage_series
        UNION ALL SELECT id, customer_id, meter_id, dimensions, dimensions_key FROM foreseen_new_series;
    CREATE TEMPORARY TABLE foreseen_change (
        item_id bigint NOT NULL, customer_id bigint NOT NULL, series_id bigint NOT NULL, hour timestamptz NOT NULL,
        time timestamptz NOT NULL, value numeric NOT NULL, kind text, part text COLLATE "C", sign int NOT NULL
    );
"""


@contextmanager
def one_moment(pk: int, *, what: str, being_previewed: type[CountinghouseError]) -> Iterator[None]:
    """Read all within as of one moment, into tables that are gone afterwards; nothing that others see is written.

    Only one session at a time does so for what the id is of. Within another transaction it reads as that one does.

    Raises: `being_previewed`.
    """
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        with connection.cursor() as cursor:
            if is_outermost:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(_CLAIM, [f"metering.preview of {what} {pk}"])
            if cursor.fetchone() != (True,):
                raise being_previewed
            cursor.execute(_MAKE)
        yield
        transaction.set_rollback(True)


@dataclass(frozen=True, slots=True)
class Looking:
    """Looks whether identities are free and whether series have room, and holds nothing that others need."""

    cursor: psycopg.Cursor[Any]

    def known(self, keys: Mapping[str, object]) -> dict[str, str]:
        self.cursor.execute("SELECT key, content_hash FROM foreseen_identity WHERE key = ANY(%s::uuid[])", [list(keys)])
        foreseen = {key.hex: content_hash.hex for key, content_hash in self.cursor}
        return storage.content_hashes(self.cursor, keys) | foreseen

    def take(self, hashes: Mapping[str, str]) -> set[str]:
        free = sorted(hashes.keys() - self.known(hashes).keys())
        self.cursor.execute(
            "INSERT INTO foreseen_identity SELECT * FROM unnest(%s::uuid[], %s::uuid[])",
            [free, [hashes[key] for key in free]],
        )
        return set(free)

    def stored(self, places: Sequence[Place]) -> dict[str, Stored]:
        return stored_events(places)

    def admit(self, counted: Sequence[Counted]) -> Admitted:
        if not counted:
            return Admitted((), {}, ())
        keys = {part.series for item in counted for part in item.parts}
        found = series.find_or_make(self.cursor, keys, lambda: series_of_each(counted), _SERIES)
        return sort_out(counted, found)

    def series_ids(self, keys: set[SeriesKey]) -> Mapping[SeriesKey, int]:
        return series.find_or_make(self.cursor, keys, lambda: ([key] for key in keys), _SERIES).ids


def note_counted(
    cursor: psycopg.Cursor[Any], counted: Iterable[tuple[int, Counted]], series_ids: Mapping[SeriesKey, int]
) -> None:
    """Note what events, each with its item, add to their series."""
    lines = [
        f"{item_id}\t{item.customer_id}\t{series_ids[part.series]}\t{item.event.time_text[:13]}:00:00+00"
        f"\t{item.event.time_text}\t{part.value}\t1\t"
        + (f"{part.part.kind}\t{part.part.text}\n" if part.part else "\t\n")
        for item_id, item in counted
        for part in item.parts
    ]
    storage.copy_lines(
        cursor,
        "COPY foreseen_change (item_id, customer_id, series_id, hour, time, value, sign, kind, part)"
        " FROM STDIN WITH (NULL '')",
        lines,
    )


# Arrays come as texts, for those of several events differ in length.
_NOTE_AMENDED = f"""
    WITH asked AS MATERIALIZED (
        SELECT item_id, customer_id, time, key, sign, series_ids::bigint[] AS series_ids
        FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::uuid[], %s::int[], %s::text[])
            AS asked(item_id, customer_id, time, key, sign, series_ids)
    ), {READINGS_AS_ASKED.strip()}
"""  # noqa: S608 -- built from constants


def note_amended(cursor: psycopg.Cursor[Any], amended: Iterable[tuple[int, Amendment]]) -> None:
    """Note what amendments, each with its item, add to series or take from them."""
    columns = [
        (item_id, *each.place, each.sign, "{" + ",".join(map(str, each.series_ids)) + "}") for item_id, each in amended
    ]
    if columns:
        cursor.execute(
            "INSERT INTO foreseen_change (item_id, customer_id, series_id, hour, time, value, kind, part, sign)"
            + _NOTE_AMENDED,
            [list(column) for column in zip(*columns, strict=True)],
        )


# An event and the one that takes its place have one item, and are one of the events of a row.
_TOUCHED = """
    SELECT customer.id, customer.name, meter.id, meter.name, meter.unit, meter.aggregation, meter.divisor,
           date_trunc('month', change.time AT TIME ZONE entity.time_zone)::date AS month, entity.time_zone,
           count(DISTINCT change.item_id)
    FROM foreseen_change AS change
    JOIN foreseen_series AS series ON series.customer_id = change.customer_id AND series.id = change.series_id
    JOIN metering_meter AS meter ON meter.id = series.meter_id
    JOIN accounts_customer AS customer ON customer.id = change.customer_id
    JOIN accounts_legalentity AS entity ON entity.id = customer.legal_entity_id
    GROUP BY customer.id, meter.id, month, entity.time_zone
    ORDER BY count(DISTINCT change.item_id) DESC, customer.name, meter.name, month LIMIT %s
"""


def touched() -> list[Touched]:
    """Return the months that the changes noted are of, those of most events first, up to 2,000."""
    with connection.cursor() as cursor:
        # From here on all that was noted is read, and not event by event.
        cursor.execute("SET LOCAL enable_seqscan TO DEFAULT")
        cursor.execute("ANALYZE foreseen_change")
        cursor.execute("ANALYZE foreseen_new_series")
        cursor.execute(_TOUCHED, [ROWS_KEPT])
        return [Touched(*row) for row in cursor.fetchall()]


# What is there already is added up with what comes in and goes out, by each key's own index.
_HOURS = """
    CREATE TEMPORARY TABLE foreseen_changed_hour AS
    SELECT change.customer_id, change.series_id, change.hour, coalesce(kept.sum, 0) + change.sum AS sum,
           coalesce(kept.count, 0) + change.count AS count, least(kept.min, change.min) AS min,
           greatest(kept.max, change.max) AS max,
           CASE WHEN (kept.last_at, kept.last) > (change.last_at, change.last) OR change.last IS NULL
                THEN kept.last ELSE change.last END AS last,
           greatest(kept.last_at, change.last_at) AS last_at, change.takes
    FROM (
        SELECT customer_id, series_id, hour, sum(value * sign) AS sum, sum(sign) AS count,
               min(value) FILTER (WHERE sign > 0) AS min, max(value) FILTER (WHERE sign > 0) AS max,
               (array_agg(value ORDER BY time DESC, value DESC) FILTER (WHERE sign > 0))[1] AS last,
               max(time) FILTER (WHERE sign > 0) AS last_at, bool_or(sign < 0) AS takes
        FROM foreseen_change GROUP BY customer_id, series_id, hour
    ) AS change CROSS JOIN LATERAL (
        SELECT sum(sum) AS sum, sum(count)::bigint AS count, min(min) AS min, max(max) AS max,
               (array_agg(last ORDER BY last_at DESC, last DESC))[1] AS last, max(last_at) AS last_at
        FROM (
            SELECT sum, count, min, max, last, last_at FROM usage_hour
            WHERE customer_id = change.customer_id AND series_id = change.series_id AND hour = change.hour
              AND count > 0
            UNION ALL
            SELECT sum, count, min, max, last, last_at FROM usage_delta
            WHERE customer_id = change.customer_id AND series_id = change.series_id AND hour = change.hour
              AND count > 0
        ) AS each
    ) AS kept;
    CREATE UNIQUE INDEX ON foreseen_changed_hour (customer_id, series_id, hour);
    ANALYZE foreseen_changed_hour;
"""

# What is left of the smallest, the greatest and the last when some go is not in the sums: the readings of these hours
# are looked at, one by one, where the meter asks for it.
_EXTREMES = """
    WITH taking AS MATERIALIZED (
        SELECT hour.customer_id, hour.series_id, hour.hour FROM foreseen_changed_hour AS hour
        JOIN foreseen_series AS series ON series.customer_id = hour.customer_id AND series.id = hour.series_id
        JOIN metering_meter AS meter ON meter.id = series.meter_id
        WHERE hour.takes AND meter.aggregation IN ('min', 'max', 'latest')
    ), asked AS MATERIALIZED (
        SELECT customer_id, unnest(range_agg(tstzrange(hour, hour + interval '1 hour'))) AS during FROM taking
        GROUP BY customer_id
    ), reading AS (
        SELECT found.customer_id, found.series_id, found.hour, found.time, found.value, 1 AS sign
        FROM asked CROSS JOIN LATERAL (
            SELECT * FROM usage_contribution_of(asked.customer_id, lower(asked.during), upper(asked.during)) OFFSET 0
        ) AS found
        UNION ALL
        SELECT customer_id, series_id, hour, time, value, sign FROM foreseen_change
    ), remaining AS (
        SELECT customer_id, series_id, hour, time, value FROM reading JOIN taking USING (customer_id, series_id, hour)
        GROUP BY customer_id, series_id, hour, time, value HAVING sum(sign) > 0
    )
    UPDATE foreseen_changed_hour AS changed
    SET min = found.min, max = found.max, last = found.last, last_at = found.last_at
    FROM (
        SELECT customer_id, series_id, hour, min(value) AS min, max(value) AS max,
               (array_agg(value ORDER BY time DESC, value DESC))[1] AS last, max(time) AS last_at
        FROM remaining GROUP BY customer_id, series_id, hour
    ) AS found
    WHERE changed.customer_id = found.customer_id AND changed.series_id = found.series_id AND changed.hour = found.hour
"""

_PARTS = """
    CREATE TEMPORARY TABLE foreseen_changed_part AS
    SELECT change.customer_id, change.series_id, change.hour, change.part, coalesce(kept.sum, 0) + change.sum AS sum,
           coalesce(kept.count, 0) + change.count AS count
    FROM (
        SELECT customer_id, series_id, hour, part, sum(value * sign) AS sum, sum(sign) AS count
        FROM foreseen_change WHERE part IS NOT NULL GROUP BY customer_id, series_id, hour, part
    ) AS change CROSS JOIN LATERAL (
        SELECT sum(sum) AS sum, sum(count)::bigint AS count FROM (
            SELECT sum, count FROM usage_part
            WHERE customer_id = change.customer_id AND series_id = change.series_id AND hour = change.hour
              AND part = change.part
            UNION ALL
            SELECT sum, count FROM usage_part_delta
            WHERE customer_id = change.customer_id AND series_id = change.series_id AND hour = change.hour
              AND part = change.part
        ) AS each
    ) AS kept;
    CREATE UNIQUE INDEX ON foreseen_changed_part (customer_id, series_id, hour, part);
    ANALYZE foreseen_changed_part;
"""

_CHANGED_HOUR = """
    SELECT FROM foreseen_changed_hour AS changed
    WHERE changed.customer_id = kept.customer_id AND changed.series_id = kept.series_id AND changed.hour = kept.hour
"""
_CHANGED_PART = """
    SELECT FROM foreseen_changed_part AS changed
    WHERE changed.customer_id = kept.customer_id AND changed.series_id = kept.series_id AND changed.hour = kept.hour
      AND changed.part = kept.part
"""
# What is changed stands where deltas stand, so that levels are made anew from it.
_VIEWS = f"""
    CREATE TEMPORARY VIEW foreseen_level AS SELECT * FROM usage_level;
    CREATE TEMPORARY VIEW foreseen_hour AS SELECT * FROM usage_hour AS kept WHERE NOT EXISTS ({_CHANGED_HOUR});
    CREATE TEMPORARY VIEW foreseen_part AS SELECT * FROM usage_part AS kept WHERE NOT EXISTS ({_CHANGED_PART});
    CREATE TEMPORARY VIEW foreseen_delta AS
        SELECT customer_id, series_id, hour, sum, count, min, max, last, last_at FROM usage_delta AS kept
        WHERE NOT EXISTS ({_CHANGED_HOUR})
        UNION ALL
        SELECT customer_id, series_id, hour, sum, count, min, max, last, last_at FROM foreseen_changed_hour;
    CREATE TEMPORARY VIEW foreseen_part_delta AS
        SELECT customer_id, series_id, hour, part, sum, count FROM usage_part_delta AS kept
        WHERE NOT EXISTS ({_CHANGED_PART})
        UNION ALL
        SELECT customer_id, series_id, hour, part, sum, count FROM foreseen_changed_part;
"""  # noqa: S608 -- built from constants


def add_up() -> None:
    """Make the tables of the names that begin with `foreseen_` hold what the present comes to by all that was noted."""
    with connection.cursor() as cursor:
        for statements in (_HOURS, _EXTREMES, _PARTS, _VIEWS):
            cursor.execute(statements)
