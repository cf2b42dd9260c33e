"""Before a run is submitted: usage that is odd is shown with its count, and asked about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from billing import run_overview
from billing.models import BillRun
from metering.completeness.control_totals import Statement, state_control_totals
from metering.completeness.findings import acknowledge
from metering.models import Meter, UsageEvent
from tests import make_billing as make
from tests import make_metering
from tests.make_billing import Shop
from tests.make_metering import SYSTEM
from tests.make_pages import queries, signed_in, words

pytestmark = pytest.mark.django_db


@pytest.fixture
def shop() -> Shop:
    return make.shop()


@pytest.fixture
def run(shop: Shop) -> BillRun:
    make.use(shop, make.subscriber(shop), "120", on=make.OCT_10)
    return make.drafted_run(shop)


def lose(events: int, *, of: datetime | None = None) -> None:
    """Have the source of the shop's usage state more events of an hour than came in."""
    event = UsageEvent.objects.first()
    assert event is not None
    hour = (of or event.time).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    count = UsageEvent.objects.filter(time__gte=hour, time__lt=hour + timedelta(hours=1)).count() + events
    statement = Statement(source=event.source, type=event.type, hour=hour, count=count)
    state_control_totals(statements=[statement], actor=SYSTEM, at=make.NOV_2)


def panel(shop: Shop, run: BillRun) -> str:
    return words(signed_in(actor=shop.analyst).get(reverse("billing:run-findings", args=[run.pk])))


def test_a_run_says_how_much_of_its_usage_is_odd_and_asks(shop: Shop, run: BillRun) -> None:
    lose(3)

    said = panel(shop, run)

    assert "Usage to look at before you submit: 1 finding" in said
    assert "less than the source says it sent" in said
    assert "1 finding on usage is open. I have looked at it." in said


# What a draft has seen is told by the transaction that brought it, which has to be another one.
@pytest.mark.django_db(transaction=True)
def test_a_run_of_usual_usage_says_that_it_is_in(shop: Shop, run: BillRun) -> None:
    assert "The usage of this month is in" in panel(shop, run)


def test_events_of_the_month_that_wait_in_quarantine_are_told(shop: Shop, run: BillRun) -> None:
    strangers = [make_metering.event(time=f"2026-{month}-10T10:00:00Z", subject="nobody") for month in ("10", "09")]
    make_metering.ingested(*strangers)

    said = panel(shop, run)

    assert "1 event of this month waits in quarantine" in said
    assert "The usage of this month is in" not in said


def test_what_was_acknowledged_or_is_of_another_month_or_meter_is_not_asked_about(shop: Shop, run: BillRun) -> None:
    lose(3)
    lose(3, of=datetime(2026, 9, 30, 20, tzinfo=UTC))
    make_metering.meter(event_type="other")
    other = Statement(source="other", type="other", hour=datetime(2026, 10, 5, tzinfo=UTC), count=9)
    state_control_totals(statements=[other], actor=SYSTEM, at=make.NOV_2)
    (finding,) = run_overview.usage_to_look_at(run, at=make.NOV_2).open

    acknowledge(
        key=finding.key,
        start=datetime(2026, 10, 1, tzinfo=UTC),
        end=datetime(2026, 11, 1, tzinfo=UTC),
        reason="They count retries",
        actor=shop.analyst,
        at=make.NOV_2,
    )

    assert "Usage to look at" not in panel(shop, run)
    assert [each.is_open for each in run_overview.usage_to_look_at(run, at=make.NOV_2).found] == [False]


def test_who_approves_sees_it_too_and_an_issued_run_is_not_asked_about(shop: Shop, run: BillRun) -> None:
    lose(3)
    run = make.submitted_run(shop)
    address = reverse("billing:run", args=[run.pk])

    said, page = panel(shop, run), signed_in(actor=shop.controller).get(address).content.decode()
    make.approve(shop, run)
    make.issue(shop, run)

    assert "before you approve" in said
    assert "I have looked" not in said
    assert 'id="run-findings"' in page
    assert 'id="run-findings"' not in signed_in(actor=shop.controller).get(address).content.decode()


def test_it_takes_as_many_queries_for_many_findings_as_for_one(shop: Shop, run: BillRun) -> None:
    client = signed_in(actor=shop.analyst)
    address = reverse("billing:run-findings", args=[run.pk])
    lose(3)
    queries(client, address)

    for_one = queries(client, address)
    for day in range(1, 29, 3):
        lose(day, of=datetime(2026, 10, day, 5, tzinfo=UTC))

    assert queries(client, address) == for_one
    assert Meter.objects.exists()
