"""A database of its own for a benchmark: made empty, migrated, and dropped at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management import call_command
from django.db import connection

from accounts.access import sync_roles


@contextmanager
def scratch_database() -> Iterator[str]:
    """Point Django's default connection at a fresh, migrated database; give its name.

    It lives on the server of the configured database, with the same settings, durable commits included.
    """
    configured = connection.settings_dict["NAME"]
    name = f"countinghouse_bench_{os.getpid()}"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    _switch_to(name)
    try:
        call_command("migrate", verbosity=0)
        sync_roles()
        yield name
    finally:
        _switch_to(configured)
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _switch_to(name: str) -> None:
    connection.close()
    connection.settings_dict["NAME"] = name
