"""What is folded away leaves tables that look empty to the planner: the next fold costs what there is all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from metering import rollups
from metering.completeness import receipts
from tests import make_metering as make

pytestmark = pytest.mark.django_db


def seen_empty(*tables: str) -> None:
    """Have the planner see these tables after their rows went, and before their pages did."""
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 -- a name of ours
            cursor.execute(f"ANALYZE {table}")


@pytest.mark.parametrize("fold", [rollups.fold, receipts.fold])
def test_a_fold_looks_for_no_row_among_all_others(fold: Callable[[], int]) -> None:
    make.subject("project-1")
    make.meter()
    make.meter(aggregation="unique")
    events = [make.event(time=f"2026-10-{number % 14 + 1:02}T{number % 24:02}:00:00Z") for number in range(2_000)]
    make.ingested(*events)
    seen_empty("usage_delta", "usage_part_delta", "usage_receipt")
    make.ingested(make.event())

    with CaptureQueriesContext(connection) as asked:
        assert fold() > 0

    deleting = [each["sql"] for each in asked if "DELETE FROM" in each["sql"]]
    assert deleting
    for statement in deleting:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {statement}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Semi Join" not in plan, plan
