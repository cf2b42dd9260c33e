"""Starts programs on the tests' own database, so that they can be killed where it hurts."""

from __future__ import annotations

from urllib.parse import quote

from django.db import connection


def url_of_the_test_database() -> str:
    """The address of the database that the tests run on, as DATABASE_URL takes it."""
    kept = connection.settings_dict
    options = "&".join(
        f"{name}={quote(str(kept[name.upper()]), safe='/')}"
        for name in ("host", "port", "password")
        if kept[name.upper()]
    )
    return f"postgresql://{quote(kept['USER'])}@/{kept['NAME']}?{options}"
