"""A recount leaves hours alone whose events are away or were erased: what is kept of them is all there is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from accounts import approvals
from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from metering import recount, rollups, verification
from metering.models import UsageHour, UsageLevel, UsagePart
from metering.recount import Span
from metering.retention import erasure, retention
from metering.retention.retention_jobs import archive, work
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.behind_the_back import execute
from tests.make_metering import SYSTEM, broken_rules

pytestmark = pytest.mark.django_db

AUGUST, SEPTEMBER = datetime(2024, 8, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC)
OCTOBER = datetime(2024, 10, 1, tzinfo=UTC)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
AGGREGATIONS = ("sum", "latest", "unique", "gauge", "p95")


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25


@pytest.fixture
def customer() -> Customer:
    """A customer with usage at the end of August and at the beginning of September, which meets at midnight."""
    found = make_accounts.customer()
    make.subject("project-1", customer=found)
    for aggregation in AGGREGATIONS:
        make.meter(aggregation=aggregation)
    make.ingested(
        make.event("a1", time="2024-08-31T23:00:00Z", seconds="2"),
        make.event("a2", time="2024-08-31T23:59:59.999999Z", seconds="3"),
        make.event("s1", time="2024-09-01T00:00:00Z", seconds="5"),
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    rollups.fold()
    return found


def detach_august() -> None:
    retention.plan_archive(month=date(2024, 8, 1), actor=SYSTEM, at=LATER)
    archive(month=date(2024, 8, 1), actor=SYSTEM, at=LATER)
    retention.detach_month(month=date(2024, 8, 1), actor=SYSTEM, at=LATER)


def drop_august() -> None:
    detach_august()
    retention.drop_month(month=date(2024, 8, 1), actor=SYSTEM, at=LATER)


def erase_august() -> None:
    administrator = make_accounts.actor(Role.ADMINISTRATOR)
    erasure.erase_raw_events(
        customer_id=Customer.objects.get(subject_assignments__subject__name="project-1").pk,
        before=SEPTEMBER,
        reason="They asked",
        legal_basis="GDPR Art. 17",
        actor=administrator,
        at=LATER,
    )
    asked = ApprovalRequest.objects.get(kind="usage_erasure")
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    approvals.decide(request_id=asked.pk, outcome="approve", actor=controller, at=LATER)
    work(at=LATER)


AWAY = pytest.mark.parametrize("take_away", [detach_august, drop_august, erase_august])


def kept(start: datetime, end: datetime) -> list[Any]:
    return [
        sorted(model.objects.filter(hour__gte=start, hour__lt=end).values_list())
        for model in (UsageHour, UsagePart, UsageLevel)
    ]


@AWAY
def test_a_recount_over_the_edge_mends_what_has_events_and_nothing_else(
    customer: Customer, take_away: Callable[[], None]
) -> None:
    take_away()
    august, september = kept(AUGUST, SEPTEMBER), kept(SEPTEMBER, OCTOBER)
    execute("UPDATE usage_hour SET sum = 99 WHERE hour >= '2024-09-01Z'")
    execute("DELETE FROM usage_part WHERE hour >= '2024-09-01Z'")
    execute("UPDATE usage_level SET area = 99 WHERE hour >= '2024-09-01Z'")

    recount.recount(spans=[Span(customer.pk, AUGUST, OCTOBER)])

    assert kept(AUGUST, SEPTEMBER) == august
    assert kept(SEPTEMBER, OCTOBER) == september
    assert [verification.verify(chunk).shown for chunk in verification.plan(start=AUGUST, end=OCTOBER)] == [[]]
    assert broken_rules() == []


@AWAY
def test_what_is_kept_of_such_hours_is_not_compared_with_events_that_are_not_there(
    customer: Customer, take_away: Callable[[], None]
) -> None:
    take_away()
    order = verification.Rebuild(start=AUGUST, end=SEPTEMBER, customer_id=customer.pk, reason="to be sure")

    found = [verification.verify(chunk).shown for chunk in verification.plan(start=AUGUST, end=SEPTEMBER)]
    mended = list(verification.rebuild(order=order, actor=SYSTEM, at=LATER))

    assert found == [[]] * len(found)
    assert all(each == (0, 0, 0) for each in mended)


@pytest.mark.parametrize(
    ("take_away", "words"),
    [(detach_august, "archived events"), (erase_august, "erased events of 1 customer")],
    ids=["archived", "erased"],
)
def test_the_commands_name_what_they_did_not_compare(
    customer: Customer, take_away: Callable[[], None], words: str
) -> None:
    before = said("verify_usage", "--period", "2024-08")
    take_away()

    assert "not compared" not in before
    assert said("verify_usage", "--period", "2024-08").endswith(f"; not compared: hours with {words}\n")
    assert f'"left_out": ["{words}"]' in said("verify_usage", "--period", "2024-08", "--json")
    assert "not compared" not in said("verify_usage", "--period", "2024-09")
    rebuilt = said("rebuild_usage", "--period", "2024-08", "--reason", "to be sure")
    assert rebuilt.endswith(f"Taken as they stand: hours with {words}.\n")
    somebody_else = make_accounts.customer()
    assert ("not compared" in said("verify_usage", "--period", "2024-08", "--customer", somebody_else.code)) == (
        "archived" in words
    )


def said(*command: str) -> str:
    out = StringIO()
    call_command(*command, stdout=out)
    return out.getvalue()


@AWAY
def test_deltas_of_such_hours_wait_for_the_fold(customer: Customer, take_away: Callable[[], None]) -> None:
    take_away()
    execute("""
        INSERT INTO usage_delta (customer_id, series_id, hour, sum, count, min, max, last, last_at, batch_id)
        SELECT customer_id, series_id, hour, sum, count, min, max, last, last_at, 1 FROM usage_hour
        WHERE hour < '2024-09-01Z'
    """)

    taken = recount.recount(spans=[Span(customer.pk, AUGUST, OCTOBER)]).deltas

    assert taken == 0
    assert rollups.fold() == len(AGGREGATIONS)


def test_an_erasure_of_one_customer_leaves_the_hours_of_others_to_be_counted_anew(customer: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    time = "2024-08-31T23:30:00Z"
    make.ingested(make.event("o1", time=time, subject="project-2"), at=datetime(2024, 9, 2, tzinfo=UTC))
    rollups.fold()
    erase_august()
    execute("UPDATE usage_hour SET sum = 99")

    recount.recount(spans=[Span(each.pk, AUGUST, SEPTEMBER) for each in (customer, other)])

    sums = UsageHour.objects.filter(hour__lt=SEPTEMBER).values_list("customer_id", "sum").distinct()
    assert {(customer_id, total == 99) for customer_id, total in sums} == {(customer.pk, True), (other.pk, False)}


def test_a_month_that_came_back_is_counted_anew(customer: Customer) -> None:
    august = kept(AUGUST, SEPTEMBER)
    drop_august()
    retention.bring_back(month=date(2024, 8, 1), actor=SYSTEM, at=LATER)
    execute("UPDATE usage_hour SET sum = 99 WHERE hour < '2024-09-01Z'")

    recount.recount(spans=[Span(customer.pk, AUGUST, SEPTEMBER)])

    assert kept(AUGUST, SEPTEMBER) == august
    assert broken_rules() == []


def test_a_correction_beside_hours_that_are_away_counts_its_own_anew(customer: Customer) -> None:
    august = kept(AUGUST, SEPTEMBER)
    detach_august()

    make_corrections.voided("s1")

    assert kept(AUGUST, SEPTEMBER) == august
    assert {count for (count,) in UsageHour.objects.filter(hour=SEPTEMBER).values_list("count")} == {0}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_part WHERE hour >= '2024-09-01Z'")
        assert cursor.fetchone() == (0,)
