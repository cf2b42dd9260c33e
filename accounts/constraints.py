"""Turns a violated constraint of the database into the named error that says what was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction

from accounts.errors import CountinghouseError


@contextmanager
def named(constraint: str, error: CountinghouseError | type[CountinghouseError]) -> Iterator[None]:
    """Raise `error` if what is inside violates this constraint; for two who do the same at the same moment.

    What is inside runs in a savepoint, so the transaction around it stays usable. Another constraint's violation
    passes through unchanged.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as violation:
        if constraint in str(violation):
            raise error from violation
        raise
