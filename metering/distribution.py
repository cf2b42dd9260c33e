"""Spreads the usage tables over several machines with Citus, a Postgres extension; nothing else needs to know.

Identities are spread by their key, which decides alone whether an event is new; everything that adds up by customer is
spread by customer, so that a batch's events, totals and reads of one customer meet on one machine. All other tables
stay on the coordinator. docs/scaling.md says when this is worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from django.db import connection
from psycopg import sql

from metering.errors import CitusMissing, DistributionUnsafe


class SpreadTable(NamedTuple):
    """A table to be spread by a column; `has_own_id` where its primary key is an id that says nothing of the column."""

    name: str
    column: str
    has_own_id: bool = False


TABLES: Sequence[SpreadTable] = (
    SpreadTable("usage_identity", "key"),
    SpreadTable("usage_event", "customer_id"),
    SpreadTable("usage_amendment", "customer_id"),
    SpreadTable("usage_delta", "customer_id", has_own_id=True),
    SpreadTable("usage_part_delta", "customer_id", has_own_id=True),
    SpreadTable("usage_hour", "customer_id"),
    SpreadTable("usage_part", "customer_id"),
    SpreadTable("usage_level", "customer_id"),
)

# What is with usage_event by customer lies beside it.
_BESIDE = "usage_event"

_PRIMARY_KEYS = """
    SELECT class.relname, array_agg(attribute.attname::text ORDER BY attribute.attnum)
    FROM pg_constraint AS rule
    JOIN pg_class AS class ON class.oid = rule.conrelid
    JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum = ANY (rule.conkey)
    WHERE rule.contype = 'p' AND class.relname = ANY(%s) AND class.relnamespace = current_schema()::regnamespace
    GROUP BY class.relname
"""


def statements() -> list[str]:
    """Return what is run on the coordinator to spread the tables, in this order.

    Raises: DistributionUnsafe, where a table's key could no longer be held because it lacks the column to spread by.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PRIMARY_KEYS, [[table.name for table in TABLES]])
        keys: dict[str, list[str]] = dict(cursor.fetchall())
        cursor.execute("SELECT current_database()")
        (database,) = cursor.fetchone()
    unsafe = [table.name for table in TABLES if not table.has_own_id and table.column not in keys.get(table.name, [])]
    if unsafe:
        message = f"The primary key of {', '.join(unsafe)} does not hold the column to spread by."
        raise DistributionUnsafe(message)
    found = [
        # The triggers of usage look at nothing but their own rows, and amendments at events of the same customer.
        _text("ALTER DATABASE {} SET citus.enable_unsafe_triggers TO on", sql.Identifier(database)),
        _text("SET citus.enable_unsafe_triggers TO on"),
    ]
    for table in TABLES:
        found += _spread(table)
    return found


def _spread(table: SpreadTable) -> list[str]:
    name, column = sql.Identifier(table.name), sql.Identifier(table.column)
    found = []
    if table.has_own_id:
        # The fold takes the oldest by id; the key has to hold the column that the rows are spread by.
        found = [
            _text("ALTER TABLE {} DROP CONSTRAINT {}", name, sql.Identifier(f"{table.name}_pkey")),
            _text("ALTER TABLE {} ADD PRIMARY KEY ({}, id)", name, column),
            _text("CREATE INDEX IF NOT EXISTS {} ON {} (id)", sql.Identifier(f"{table.name}_by_id"), name),
        ]
    beside = "none" if table.column == "key" or table.name == _BESIDE else _BESIDE
    call = "SELECT create_distributed_table({}, {}, colocate_with => {})"
    return [*found, _text(call, sql.Literal(table.name), sql.Literal(table.column), sql.Literal(beside))]


def _text(statement: str, *parts: sql.Composable) -> str:
    return sql.SQL(statement).format(*parts).as_string(connection.connection)


def distribute(*, on_progress: Callable[[str], object] = lambda _statement: None) -> list[str]:
    """Spread the usage tables over the machines that the coordinator knows; a second time there is nothing to do.

    To be run with the doors closed: the rows that are there move, which holds locks on their tables. Returns the
    statements that were run; `on_progress` is told each before it runs.

    Raises: CitusMissing, DistributionUnsafe.
    """
    _require_citus()
    with connection.cursor() as cursor:
        cursor.execute("SELECT logicalrelid::text FROM pg_dist_partition")
        spread = {name for (name,) in cursor.fetchall()}
        if spread >= {table.name for table in TABLES}:
            return []
        done = statements()
        # Not one transaction: Citus moves rows on connections of its own. What is spread already is left out.
        for statement in done:
            if any(f"'{name}'" in statement or f'"{name}"' in statement for name in spread):
                continue
            on_progress(statement)
            cursor.execute(statement)
    return done


def _require_citus() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'citus'),"
            " (SELECT default_version FROM pg_available_extensions WHERE name = 'citus')"
        )
        installed, available = cursor.fetchone()
    if installed:
        return
    hint = (
        f"It is there (version {available}); make it with CREATE EXTENSION citus, add the workers, and run this again."
        if available
        else "This server does not have it. One Postgres takes billions of events a month; see docs/scaling.md."
    )
    message = f"The extension citus is not installed in this database, so nothing was changed. {hint}"
    raise CitusMissing(message)
