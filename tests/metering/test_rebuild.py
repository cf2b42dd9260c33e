"""A recount from events gives what ingestion and the fold gave, and mends what somebody broke."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry, Customer
from metering import recount, rollups, verification
from metering.corrections.correction_selection import EventFilter
from metering.errors import RebuildNeedsReason, WindowNotOnTheHour
from metering.models import Meter, UsageDelta, UsageHour, UsageLevel, UsagePart, UsageSeries
from metering.recount import Span
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.behind_the_back import execute
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
FORGED_DELTA = """
    INSERT INTO usage_delta (customer_id, series_id, hour, sum, count, min, max, last, last_at, batch_id)
    SELECT customer_id, series_id, hour, 1, 1, 1, 1, 1, last_at, 1 FROM usage_hour
"""
FORGED_HOUR = """
    INSERT INTO usage_hour (customer_id, hour, series_id, sum, count, min, max, last, last_at)
    SELECT customer_id, hour + interval '3 hours', series_id, 1, 1, 1, 1, 1, last_at FROM usage_hour
"""
STRAY_PART = """
    INSERT INTO usage_part (customer_id, series_id, hour, kind, part, sum, count)
    SELECT customer_id, series_id, hour + interval '31 days', kind, part, sum, count FROM usage_part
"""
STRAY_PART_DELTA = """
    INSERT INTO usage_part_delta (customer_id, series_id, hour, kind, part, sum, count, batch_id)
    SELECT customer_id, series_id, hour + interval '31 days', kind, part, sum, count, 1 FROM usage_part
"""
STRAY_LEVEL = """
    INSERT INTO usage_level (customer_id, series_id, hour, first_at, area, last)
    SELECT customer_id, series_id, hour + interval '31 days', first_at, area, last FROM usage_level
"""
AGGREGATIONS = ("sum", "count", "min", "max", "latest", "unique", "gauge", "p95")


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.subject("project-1", customer=found)
    for aggregation in AGGREGATIONS:
        make.meter(aggregation=aggregation)
    return found


def kept() -> list[Any]:
    hours = UsageHour.objects.filter(count__gt=0)
    return [
        sorted(hours.values_list("series_id", "hour", "sum", "count", "min", "last", "last_at")),
        sorted(UsagePart.objects.values_list("series_id", "hour", "part", "kind", "sum", "count")),
        sorted(UsageLevel.objects.values_list("series_id", "hour", "first_at", "area", "last")),
    ]


def differences() -> int:
    return sum([verification.verify(chunk).differences for chunk in verification.plan(start=START, end=END)])


def rebuild(reason: str = "the disk lied", *, actor: Actor = SYSTEM, customer_id: int | None = None) -> int:
    order = verification.Rebuild(start=START, end=END, customer_id=customer_id, reason=reason)
    return sum([mended.hours + mended.parts for mended in verification.rebuild(order=order, actor=actor, at=NOON)])


def spans(customer: Customer) -> list[Span]:
    return [Span(customer.pk, START, END)]


def test_a_recount_of_unfolded_usage_gives_what_the_fold_gives(customer: Customer) -> None:
    events = [make.event(time=f"2026-10-15T{hour:02}:{minute:02}:07.25Z", seconds=f"{hour}.{minute}")
              for hour in range(3) for minute in range(0, 60, 7)]  # fmt: skip
    make.ingested(*events[:9])
    make.ingested(*events[9:])
    while rollups.fold():
        pass
    folded = kept()
    execute("DELETE FROM usage_level")
    execute("DELETE FROM usage_part")
    execute("UPDATE usage_hour SET sum = 7, count = 0, min = 1, last = 3")

    recount.recount(spans=spans(customer))

    assert kept() == folded
    assert differences() == 0


def test_a_recount_takes_up_the_deltas_that_it_has_counted(customer: Customer) -> None:
    make.ingested(make.event(seconds="2"), make.event(seconds="3"))
    before = make.totals(customer)

    result = recount.recount(spans=spans(customer))

    assert not UsageDelta.objects.exists()
    assert result.deltas > 0
    assert make.totals(customer) == before
    assert differences() == 0
    assert rollups.fold() == 0


def test_a_recount_of_an_hour_reads_the_amendments_of_that_hour_alone(customer: Customer) -> None:
    make.ingested(*[make.event(time=f"2026-10-{day:02}T10:00:00Z") for day in range(1, 15)])
    make_corrections.applied(make_corrections.drafted(EventFilter(customer_id=customer.pk)))
    hour = [Span(customer.pk, datetime(2026, 10, 3, 10, tzinfo=UTC), datetime(2026, 10, 3, 11, tzinfo=UTC))]

    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (ANALYZE, FORMAT JSON) WITH {recount.CONTRIBUTIONS} SELECT FROM contribution",
            recount.parameters_of(hour),
        )
        (((found,),),) = cursor.fetchall()

    read = list(rows_read("usage_amendment", found["Plan"]))
    assert read
    assert set(read) == {1}


def rows_read(table: str, plan: dict[str, Any]) -> Iterator[int]:
    if plan.get("Relation Name") == table:
        yield int(plan["Actual Rows"])
    for each in plan.get("Plans", ()):
        yield from rows_read(table, each)


def test_a_recount_of_what_is_right_writes_nothing(customer: Customer) -> None:
    make.ingested(make.event(seconds="2"))
    recount.recount(spans=spans(customer))

    assert recount.recount(spans=spans(customer)) == (0, 0, 0)


def test_a_recount_of_some_series_leaves_the_others_alone(customer: Customer) -> None:
    make.ingested(make.event(seconds="2"))
    rollups.fold()
    execute("UPDATE usage_hour SET sum = 99")
    chosen = UsageSeries.objects.order_by("pk")[0].pk

    recount.recount(spans=spans(customer), series_ids=[chosen])

    sums = dict(UsageHour.objects.values_list("series_id", "sum"))
    assert sums.pop(chosen) == 2
    assert set(sums.values()) == {99}


def test_neighbouring_hours_become_one_span() -> None:
    moments = [(1, NOON.replace(minute=5)), (1, NOON.replace(hour=13)), (1, NOON.replace(hour=15)), (2, NOON)]

    assert recount.spans_of(moments) == [
        Span(1, NOON, NOON.replace(hour=14)),
        Span(1, NOON.replace(hour=15), NOON.replace(hour=16)),
        Span(2, NOON, NOON.replace(hour=13)),
    ]


def test_chunks_hold_every_event_of_the_window_once(customer: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    make.ingested(*[make.event(time=f"2026-10-{day:02}T10:00:00Z") for day in range(1, 15)])
    make.ingested(*[make.event(time=f"2026-10-{day:02}T10:00:00Z", subject="project-2") for day in (1, 9)])

    chunks = recount.chunks(start=START, end=END, chunk_events=5)

    assert sorted(chunk.events for chunk in chunks) == [2, 4, 5, 5]
    assert [span for chunk in chunks for span in chunk.spans if span.customer_id == other.pk] == spans(other)
    mine = [span for chunk in chunks for span in chunk.spans if span.customer_id == customer.pk]
    assert mine[0].start == START
    assert mine[-1].end == END
    assert all(one.end == other.start for one, other in pairwise(mine))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE usage_hour SET sum = sum + 0.000000000001",
        "UPDATE usage_hour SET count = count + 1",
        "UPDATE usage_hour SET last = 5",
        "UPDATE usage_hour SET last_at = last_at - interval '1 second'",
        "UPDATE usage_hour SET min = min - 1",
        "UPDATE usage_hour SET sum = 0, count = 0",
        "UPDATE usage_part SET count = 2",
        "DELETE FROM usage_part WHERE kind = 'v'",
        "UPDATE usage_level SET area = area + 1",
        "DELETE FROM usage_level",
        FORGED_DELTA,
        FORGED_HOUR,
    ],
)
def test_what_was_tampered_with_is_found_and_mended(customer: Customer, tampering: str) -> None:
    make.ingested(make.event(seconds="2"), make.event(seconds="3"))
    rollups.fold()
    before = kept()
    execute(tampering)

    assert differences() > 0
    rebuild()

    assert differences() == 0
    assert kept() == before
    entry = AuditEntry.objects.get(verb="customer.usage_rebuilt")
    assert (entry.subject_id, entry.reason) == (str(customer.pk), "the disk lied")


@pytest.mark.parametrize("forged", [STRAY_PART, STRAY_PART_DELTA, STRAY_LEVEL])
def test_what_is_kept_where_there_are_no_events_is_found_and_goes(customer: Customer, forged: str) -> None:
    make.ingested(make.event(seconds="2"))
    rollups.fold()
    before = kept()
    execute(forged)
    until = datetime(2026, 12, 1, tzinfo=UTC)

    found = sum(verification.verify(chunk).differences for chunk in verification.plan(start=END, end=until))
    order = verification.Rebuild(customer_id=None, reason="the disk lied", start=END, end=until)
    for _ in verification.rebuild(order=order, actor=SYSTEM, at=NOON):
        pass

    assert found > 0
    assert sum(verification.verify(chunk).differences for chunk in verification.plan(start=END, end=until)) == 0
    assert kept() == before


def test_a_rebuild_of_sound_totals_changes_nothing_and_says_nothing(customer: Customer) -> None:
    make.ingested(make.event(seconds="2"))
    rollups.fold()

    assert rebuild() == 0
    assert not AuditEntry.objects.filter(verb="customer.usage_rebuilt").exists()


def test_a_rebuild_needs_a_reason_and_the_permission(customer: Customer) -> None:
    with pytest.raises(RebuildNeedsReason):
        rebuild("  ")
    with pytest.raises(PermissionMissing):
        rebuild(actor=make_accounts.actor(Role.FINANCE_ANALYST))
    with pytest.raises(WindowNotOnTheHour):
        verification.plan(start=NOON.replace(minute=1), end=END)


def test_the_commands_report_mend_and_then_find_nothing(customer: Customer) -> None:
    make.ingested(make.event(seconds="2"), make.event(time="2026-09-15T10:30:00Z"))
    rollups.fold()
    call_command("verify_usage", stdout=io.StringIO())
    execute("UPDATE usage_hour SET sum = sum + 1")

    out = io.StringIO()
    with pytest.raises(CommandError, match="16 totals"):
        call_command("verify_usage", "--json", stdout=out)
    # Months that are made ahead are read, too.
    periods = {line["period"]: line for line in map(json.loads, out.getvalue().splitlines())}
    call_command("rebuild_usage", "--period", "2026-09", "--reason", "test", stdout=io.StringIO())
    call_command("verify_usage", "--period", "2026-09", stdout=io.StringIO())
    words = io.StringIO()
    with pytest.raises(CommandError, match="8 totals"):
        call_command("verify_usage", "--customer", customer.code, stdout=words)
    call_command("rebuild_usage", "--period", "2026-10", "--reason", "test", stdout=io.StringIO())
    call_command("verify_usage", stdout=io.StringIO())

    october = periods["2026-10"]
    assert (periods["2026-09"]["events"], october["events"], october["differences"]) == (1, 1, 8)
    assert "sum 3" in october["shown"][0]["kept"]
    assert "sum 2" in october["shown"][0]["counted"]
    first = Meter.objects.order_by("pk").values_list("code", flat=True)[0]
    assert f"hour 2026-10-15 10:00 UTC, {first} of {customer.code} " in words.getvalue()


def test_a_command_for_an_unknown_customer_says_so() -> None:
    with pytest.raises(CommandError, match="'nobody'"):
        call_command("verify_usage", "--customer", "nobody")


def test_a_check_costs_as_many_queries_for_50_customers_as_for_one(customer: Customer) -> None:
    make.ingested(make.event())
    one = _queries()
    for number in range(50):
        make.subject(f"more-{number}", customer=make_accounts.customer())
        make.ingested(make.event(subject=f"more-{number}"))

    assert _queries() == one


def _queries() -> int:
    with connection.execute_wrapper(counter := _Counter()):
        differences()
    return counter.count


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, execute: Any, *args: Any) -> Any:
        self.count += 1
        return execute(*args)
