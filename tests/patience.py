"""Waiting for what other threads, programs and servers bring about."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0
"""Far more than anything takes on a busy machine; who waits as long waits for what will never be."""


def wait_until(condition: Callable[[], object], what: str = "It", *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as the condition holds; one that does not come to hold fails the test."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"{what} did not happen"
        time.sleep(0.02)
