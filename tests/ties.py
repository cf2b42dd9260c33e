"""Asks whether all usage still agrees with itself."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection

from metering import verification
from metering.invariants import RULES
from tests.make_metering import LONG_AGO


def assert_everything_ties() -> None:
    """Every invariant of usage holds."""
    for rule in RULES:
        with connection.cursor() as cursor:
            cursor.execute(rule.sql)
            assert cursor.fetchall() == [], rule.name


def assert_everything_ties_and_recounts() -> None:
    """Every invariant holds, and a recount of all hours from their events comes to what is kept."""
    assert_everything_ties()
    for chunk in verification.plan(start=LONG_AGO, end=datetime(2027, 1, 1, tzinfo=UTC)):
        assert verification.verify(chunk).shown == []
