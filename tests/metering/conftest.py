from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings


@pytest.fixture(autouse=True)
def _acceptance_age() -> Iterator[None]:
    """Accept usage of the last 25 months, as in production; a developer's own machine takes older samples."""
    with override_settings(USAGE_ACCEPTANCE_MONTHS=25):
        yield
