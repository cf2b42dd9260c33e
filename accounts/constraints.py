"""Turns a violated rule of the database into the named error that says what was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction

from accounts.errors import CountinghouseError


@contextmanager
def named(rule: str, error: CountinghouseError | type[CountinghouseError]) -> Iterator[None]:
    """Raise `error` if what is inside breaks this rule; for two who do the same at the same moment.

    A rule is a constraint, or a trigger that raises under its name. What is inside runs in a savepoint, so the
    transaction around it stays usable. Another rule's violation passes through unchanged, so calls may be stacked.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as violation:
        if _broken_rule(violation) == rule:
            raise error from violation
        raise


def _broken_rule(violation: IntegrityError) -> str | None:
    """Return the rule by its name as the server reports it, not by the message: one name may be part of another."""
    diagnostics = getattr(violation.__cause__, "diag", None)
    return getattr(diagnostics, "constraint_name", None)
