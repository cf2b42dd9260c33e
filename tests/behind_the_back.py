"""Writes behind the verbs' back, for tests of what the database itself refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, connection, transaction


@contextmanager
def refused(rule: str) -> Iterator[None]:
    """Expect that what is written here is refused in the name of the rule (a regular expression)."""
    with pytest.raises(IntegrityError, match=rule), transaction.atomic():
        yield


def execute(sql: str, *parameters: str | int) -> None:
    """Run a statement and settle what waits for the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute(sql, list(parameters))
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
