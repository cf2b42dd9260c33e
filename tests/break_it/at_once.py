"""Lets several people act at the same moment, and tells what each of them was told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

from accounts.errors import CountinghouseError
from tests.patience import PATIENCE_SECONDS


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Start all acts together; return what each returned, or the named error that it was refused with.

    Any other error fails the test: a deadlock or a broken constraint never reaches the one who asked.
    """
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        try:
            start.wait(timeout=PATIENCE_SECONDS)
            return act()
        except CountinghouseError as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result() for future in [pool.submit(run, act) for act in acts]]
