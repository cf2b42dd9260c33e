"""The synthetic GPU cloud: usage that does not add up event by event is billed as a plain recount says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from django.core.management import call_command

from billing import explanations, ladder
from billing.demo import gpu_cloud, gpu_services
from billing.demo.people import hire_staff
from billing.demo.recounted import Reading, recount
from billing.demo.synthetic_months import bill_synthetic_months
from billing.explanations import UsageNow
from billing.models import InvoiceLine
from metering.corrections.closing import what_came_after
from metering.models import UsageCorrection

AT = datetime(2026, 11, 21, 7, tzinfo=UTC)
HOW_MEASURED = {
    "transit-95th": "highest (5 %) are left out",
    "volume": "holds until the next one",
    "console-user": "different values",
}
KINDS = set(HOW_MEASURED)


@pytest.fixture
def a_small_cloud(transactional_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_command("sync_roles", verbosity=0)
    head, *customers = gpu_cloud.CUSTOMER_FILE.read_text(encoding="utf-8").splitlines(keepends=True)
    few = tmp_path / "customers.csv"
    few.write_text("".join([head, *[row for row in customers if row.startswith(("N-1004", "N-1005"))]]), "utf-8")
    monkeypatch.setattr(gpu_cloud, "CUSTOMER_FILE", few)


@pytest.mark.usefixtures("a_small_cloud")
def test_bursts_levels_and_users_are_billed_as_a_recount_of_raw_events_says() -> None:
    staff = hire_staff(at=AT)

    months = bill_synthetic_months(staff, at=AT, progress=lambda *_: None)

    lines = list(InvoiceLine.objects.filter(product__code__in=KINDS).select_related("product"))
    # One port, and volumes and users of two customers, in three months.
    assert months.recounted == (15, 15)
    assert {line.product.code for line in lines} == KINDS
    assert all(line.quantity > 0 for line in lines)
    # A volume that nobody touched that month costs on, without an event.
    assert any(line.product.code == "volume" and line.event_count == 0 for line in lines)
    for line in lines:
        why = explanations.explain_line(line.pk)
        assert (why.rerating.is_same, why.rereading.outcome) == (True, UsageNow.SAME)
        assert not ladder.usage_by_day(line, why.series).is_empty
        assert HOW_MEASURED[line.product.code] in ladder.how_measured(line, why.series)

    again = bill_synthetic_months(staff, at=AT, progress=lambda *_: None)

    assert (again.new_events, again.events, again.recounted) == (0, months.events, months.recounted)
    assert UsageCorrection.objects.get().status == UsageCorrection.Status.APPLIED
    assert {(each.added, each.taken_back, each.waiting) for each in what_came_after()} == {(8, 0, 0), (0, 2, 2)}


@pytest.mark.parametrize(
    ("aggregation", "readings", "expected"),
    [
        # Of 24 slots the highest one is left out; the rates of a slot add up.
        ("p95", [(0, {"mbps": "9"}), (7, {"mbps": "2"}), (8, {"mbps": "1.5"}), (12, {"mbps": "3"})], Fraction("3.5")),
        ("p95", [(0, {"mbps": "9"})], 0),
        # Twelve GB from an hour before the beginning, half of it for the second hour; another one for its last quarter.
        (
            "gauge",
            [(-60, {"volume": "a", "gb": "12"}), (60, {"volume": "a", "gb": "6"}), (105, {"volume": "b", "gb": "4"})],
            12 + 6 + 1,
        ),
        ("unique", [(-1, {"user": "x"}), (0, {"user": "y"}), (5, {"user": "y"}), (120, {"user": "z"})], 1),
    ],
)
def test_the_recount_follows_the_words_of_each_rule(
    aggregation: str, readings: list[tuple[int, dict[str, str]]], expected: Fraction
) -> None:
    start = datetime(2026, 9, 1, tzinfo=UTC)
    told = [Reading(start + timedelta(minutes=minute), data) for minute, data in readings]

    assert recount(aggregation, told, start, start + timedelta(hours=2)) == expected


def test_invented_usage_is_the_same_each_time_and_within_its_month() -> None:
    start, end = datetime(2026, 8, 31, 22, tzinfo=UTC), datetime(2026, 9, 30, 22, tzinfo=UTC)

    first, second = [list(gpu_services.usage_events(1, start, end)) for _ in range(2)]

    assert first == second
    assert len({event["id"] for event in first}) == len(first)
    assert all(start <= datetime.fromisoformat(str(event["time"])) < end for event in first)
