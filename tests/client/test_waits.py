"""How long the client waits before it tries again."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from countinghouse.door import LONGEST_RETRY_AFTER_SECONDS, _retry_after_seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("-7", 0),
        ("soon", 0),
        ("²", 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("999999", LONGEST_RETRY_AFTER_SECONDS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_for_ever(value: str | None, seconds: float) -> None:
    assert _retry_after_seconds(value) == seconds


def test_a_date_to_come_back_is_waited_for() -> None:
    assert 25 < _retry_after_seconds(formatdate(time.time() + 30, usegmt=True)) <= 31
