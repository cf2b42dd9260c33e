"""What was late or corrected is told beside usage: in the explorer, on the lists of events, and in the API."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.access import Role
from accounts.models import ApiKey, Customer
from metering.corrections.correction_selection import EventFilter
from metering.models import UsageBatch
from metering.reading.usage_marks import MarkAsk, Marked, marks
from tests import make_accounts, make_corrections
from tests import make_billing as make
from tests.make_billing import Shop
from tests.make_pages import signed_in

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)

OCT_11 = datetime(2026, 10, 11, 8, tzinfo=UTC)
EDGES = [datetime(2026, 10, day, tzinfo=UTC) for day in (10, 11, 12)]
OCTOBER = {"first": "2026-10-10", "last": "2026-10-11", "time_zone": "UTC"}


@pytest.fixture
def shop() -> Shop:
    return make.shop()


@pytest.fixture
def billed(shop: Shop) -> Customer:
    """A customer whose October was billed, and who then had late usage of two SKUs on the next day."""
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10, sku="h100")
    make.issued_run(shop)
    make.use(shop, customer, "4", on=OCT_11, sku="h100")
    make.use(shop, customer, "1", on=OCT_11, sku="a100")
    # Of a period that is not billed yet: usage like any other.
    make.use(shop, customer, "7", on=make.NOV_10, sku="h100")
    return customer


def corrected(customer: Customer, on: datetime, **changes: str) -> int:
    chosen = EventFilter(customer_id=customer.pk, start=on, end=on.replace(hour=on.hour + 1))
    return make_corrections.applied(make_corrections.drafted(chosen, changes=changes or None)).pk


def asked(shop: Shop, *customers: Customer, **more: Any) -> list[Marked]:
    ids = [customer.pk for customer in customers]
    return marks(MarkAsk(customer_ids=ids or None, meter_id=shop.meter.pk, edges=EDGES, **more))


def explored(client: Client, customer: Customer, **words: str) -> Any:
    return client.get(reverse("metering:explorer"), {"customer": customer.code, **OCTOBER, **words})


def test_usage_that_came_after_the_bill_is_late_in_its_window_and_group(shop: Shop, billed: Customer) -> None:
    assert asked(shop, billed) == [Marked(1, {}, 2, 0, [])]
    assert asked(shop, billed, group_by=["sku"]) == [
        Marked(1, {"sku": "a100"}, 1, 0, []),
        Marked(1, {"sku": "h100"}, 1, 0, []),
    ]
    assert asked(shop, billed, filters={"sku": ["a100"]}) == [Marked(1, {}, 1, 0, [])]


def test_late_usage_stays_late_once_it_is_billed(shop: Shop, billed: Customer) -> None:
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert asked(shop, billed) == [Marked(1, {}, 2, 0, [])]


def test_the_late_usage_of_one_customer_marks_nobody_else(shop: Shop, billed: Customer) -> None:
    other = make.subscriber(shop)

    assert asked(shop, other) == []
    assert asked(shop, other, billed, group_by=["(customer)"]) == [Marked(1, {"(customer)": str(billed.pk)}, 2, 0, [])]
    assert asked(shop, group_by=["(customer)"]) == [Marked(1, {"(customer)": str(billed.pk)}, 2, 0, [])]


def test_what_was_voided_or_replaced_is_marked_with_its_correction(shop: Shop, billed: Customer) -> None:
    voided = corrected(billed, make.OCT_10)
    replaced = corrected(billed, OCT_11, quantity="2")

    # On the second day two events were replaced; they and those in their place are four.
    assert asked(shop, billed) == [Marked(0, {}, 0, 1, [voided]), Marked(1, {}, 2, 4, [replaced])]


def test_an_event_put_into_another_window_marks_both(shop: Shop, billed: Customer) -> None:
    moved = corrected(billed, make.OCT_10, time=OCT_11.isoformat())

    assert asked(shop, billed) == [Marked(0, {}, 0, 1, [moved]), Marked(1, {}, 2, 1, [moved])]


def test_a_correction_before_any_bill_is_marked_too(shop: Shop) -> None:
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)

    voided = corrected(customer, make.OCT_10)

    assert asked(shop, customer) == [Marked(0, {}, 0, 1, [voided])]


def test_the_explorer_shows_them_on_bars_in_words_and_with_links(shop: Shop, billed: Customer) -> None:
    voided = corrected(billed, make.OCT_10)
    client = signed_in(Role.FINANCE_ANALYST)

    answer = explored(client, billed, group_by="sku")

    shown, page = answer.context["shown"], answer.text
    assert [(each["label"], each["shape"], each["texts"]) for each in shown.chart.data["markers"]] == [
        ("Came in late", "triangle", [None, "2 events"]),
        ("Corrected", "rectRot", ["1 event", None]),
    ]
    assert [row.values[-2:] for row in shown.chart.rows] == [("–", "1 event"), ("2 events", "–")]
    assert {row.label: row.marks[:2] for row in shown.rows} == {"h100": (1, 1), "a100": (1, 0)}
    assert reverse("metering:correction", args=[voided]) in page
    assert f"{reverse('metering:after-closing')}?customer={billed.code}" in page


def test_where_nothing_was_late_or_corrected_nothing_is_said_of_it(shop: Shop) -> None:
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)

    answer = explored(signed_in(Role.FINANCE_ANALYST), customer)

    assert answer.context["shown"].chart.data["markers"] == []
    assert "After the bill" not in answer.text
    assert "x-marks" not in answer.text


def test_a_period_of_which_everything_was_voided_still_says_so(shop: Shop) -> None:
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    voided = corrected(customer, make.OCT_10)

    page = explored(signed_in(Role.FINANCE_ANALYST), customer).text

    assert "No usage in this period" in page
    assert f"correction {voided}" in page


def test_each_event_says_what_became_of_it(shop: Shop, billed: Customer) -> None:
    voided = corrected(billed, make.OCT_10)
    replaced = corrected(billed, OCT_11, quantity="2")
    issued = make_accounts.api_key(ApiKey.Scope.USAGE_READ)
    words = {"customer": billed.code, "start": "2026-10-10", "end": "2026-11-30"}

    page = signed_in(Role.FINANCE_ANALYST).get(reverse("metering:explorer-events"), words)
    body = Client().get("/api/v1/events", words, headers={"Authorization": f"Bearer {issued.secret}"}).json()

    told = [
        (each["data"]["quantity"], each["state"], each["late"], each["correction"], each["stands_in_by"])
        for each in body["events"]
    ]
    assert sorted(told, key=str) == sorted(
        [
            ("10", "voided", False, voided, None),
            ("4", "replaced", True, replaced, None),
            ("1", "replaced", True, replaced, None),
            ("2", "counted", False, None, replaced),
            ("2", "counted", False, None, replaced),
            ("7", "counted", False, None, None),
        ],
        key=str,
    )
    assert [(each.state, each.late) for each in page.context["found"].events] == [
        (each["state"], each["late"]) for each in body["events"]
    ]
    for text in ("Voided", "Replaced", "Late", "In another's place", f"customer={billed.code}"):
        assert text in page.text.replace("&#x27;", "'")


def test_marks_take_the_same_queries_for_one_late_event_and_for_fifty(shop: Shop, billed: Customer) -> None:
    client = signed_in(Role.FINANCE_ANALYST)
    counts = []
    for more in (0, 50):
        for number in range(more):
            make.use(shop, billed, "1", on=OCT_11, sku=f"sku-{number}")
        explored(client, billed, group_by="sku")
        with CaptureQueriesContext(connection) as queries:
            explored(client, billed, group_by="sku")
        counts.append(len(queries))

    assert counts[0] == counts[1]
    assert UsageBatch.objects.count() > 50
    assert asked(shop, billed)[0].late == 52
    assert explored(client, billed).context["shown"].total.quantity == Decimal(65)
