"""What was billed of a period is kept with its watermark, and what came after is told by one query."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.access import Role
from accounts.models import Customer
from billing.changed_usage import changed_since_drafting
from metering.corrections import closing
from metering.corrections.correction_selection import EventFilter
from metering.models import ClosedUsage
from tests import make_accounts, make_corrections, make_pricing
from tests import make_billing as make
from tests.behind_the_back import execute, refused

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)


def test_nothing_came_after_a_bill_that_saw_everything() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)

    make.issued_run(shop)

    closed = ClosedUsage.objects.get()
    assert (closed.customer_id, closed.meter_id, closed.events) == (customer.pk, shop.meter.pk, 1)
    assert closed.quantity == 10
    assert len(closed.digest) == 32
    assert closed.starts_at == datetime(2026, 9, 30, 22, tzinfo=UTC)
    assert closing.what_came_after() == []


def test_what_came_after_is_told_until_it_is_billed_and_where() -> None:
    shop = make.shop()
    customer, other = make.subscriber(shop), make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.use(shop, other, "10", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "4", on=make.OCT_10)
    make.use(shop, customer, "5", on=make.NOV_10)

    (waits,) = closing.what_came_after()
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    (billed,) = closing.what_came_after(customer_id=customer.pk)

    assert (waits.added, waits.taken_back, waits.waiting) == (1, 0, 1)
    assert waits.billed == waits.billed_since == 10
    assert (billed.added, billed.waiting) == (1, 0)
    assert (billed.billed, billed.billed_since) == (Decimal(10), Decimal(14))
    assert billed.newest_invoice_id == make.invoice_of(customer, make.NOVEMBER).pk
    assert closing.what_came_after(customer_id=other.pk) == []


def test_a_correction_is_among_what_came_after_and_on_the_page() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    make_corrections.applied(make_corrections.drafted(EventFilter(customer_id=customer.pk)))
    client = Client()
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))

    (found,) = closing.what_came_after()
    shown = client.get("/usage/after-closing/").text

    assert (found.added, found.taken_back, found.waiting, found.doors) == (0, 1, 1, ["correction"])
    assert "1 event for the next bill" in shown
    assert "−10" in shown
    assert "October 2026" in shown
    assert "Correction," in shown
    assert "Nothing came after" in client.get("/usage/after-closing/?customer=nobody").text
    assert "Nothing came after" in client.get("/usage/after-closing/?month=2026-09").text
    assert customer.name in client.get("/usage/after-closing/?month=2026-10&format=csv").text


def test_what_came_after_costs_one_query() -> None:
    shop = make.shop()
    for customer in [make.subscriber(shop) for _ in range(3)]:
        make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)

    with CaptureQueriesContext(connection) as queries:
        closing.what_came_after()

    assert len(queries) == 1


def test_the_database_refuses_to_change_what_was_closed() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "10", on=make.OCT_10)
    make.issued_run(shop)

    with refused("usage_closing_never_changes"):
        execute("UPDATE usage_closing SET quantity = 0")
    with refused("usage_closing_never_changes"):
        execute("DELETE FROM usage_closing")


def test_a_run_tells_whose_usage_changed_after_its_drafts() -> None:
    shop = make.shop()
    customer, other = make.subscriber(shop, name="Late Ltd"), make.subscriber(shop, name="Early Ltd")
    make.use(shop, customer, "10", on=make.OCT_10)
    make.use(shop, other, "10", on=make.OCT_10)
    run = make.drafted_run(shop)
    before = changed_since_drafting(run)
    make.use(shop, customer, "4", on=make.OCT_10)

    changed = changed_since_drafting(run)

    assert before == ([], [])
    assert changed == (["Late Ltd"], [])


def test_usage_that_no_product_prices_is_told_apart_from_what_would_change_a_draft() -> None:
    shop = make.shop()
    unsold = make_pricing.meter()
    both, only = make.subscriber(shop, name="Both Ltd"), make.subscriber(shop, name="Only Ltd")
    run = make.drafted_run(shop)
    for customer in (both, only):
        make.use(shop, customer, "4", on=make.OCT_10, event_type=unsold.event_type)
    make.use(shop, both, "4", on=make.OCT_10)
    make.use(shop, only, "4", on=make.NOV_10)
    client = Client()
    client.force_login(make_accounts.staff(Role.FINANCE_CONTROLLER))

    changed = changed_since_drafting(run)
    shown = client.get(f"/runs/{run.pk}/findings/").text

    assert changed == (["Both Ltd"], ["Only Ltd"])
    assert "Usage changed after these drafts were made: 1 customer<" in shown
    assert "Usage that nothing prices changed after these drafts were made: 1 customer (Only Ltd)" in shown


def test_a_level_of_an_earlier_month_changes_a_draft_and_other_usage_of_it_does_not() -> None:
    shop, customer = volume_shop()
    run = make.drafted_run(shop)
    other = make.subscriber(shop, name="Other Ltd")
    september = datetime(2026, 9, 10, tzinfo=UTC)
    make.use(shop, customer, "4", on=september)
    make.use(shop, other, "4", on=september)

    assert changed_since_drafting(run) == ([customer.name], [])


def test_what_changed_costs_the_same_for_one_customer_and_for_many() -> None:
    shop = make.shop()
    customers = [make.subscriber(shop, name=f"Customer {number}") for number in range(6)]
    run = make.drafted_run(shop)
    costs = []
    for late in (customers[:1], customers[1:]):
        for customer in late:
            make.use(shop, customer, "4", on=make.OCT_10)
        changed_since_drafting(run)
        with CaptureQueriesContext(connection) as queries:
            changed_since_drafting(run)
        costs.append(len(queries))

    assert costs[0] == costs[1]


def volume_shop() -> tuple[make.Shop, Customer]:
    """A shop that sells what is held for an hour, and a customer of whom a level is read."""
    shop = make.shop(approved=False)
    meter = make_pricing.meter(event_type=shop.meter.event_type, aggregation="gauge")
    volume = make_pricing.product(name="Volumes", meter=meter)
    make_pricing.approved_version(book=shop.book, prices={volume: {"model": "per_unit", "unit_price": "0.01"}})
    return shop, make.subscriber(shop)


def test_a_month_that_a_corrected_level_is_only_carried_into_came_after_too() -> None:
    shop, customer = volume_shop()
    make.use(shop, customer, "1", on=datetime(2026, 10, 1, tzinfo=UTC))
    make.use(shop, customer, "5", on=make.OCT_10, event_id="wrong")
    make.issued_run(shop)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    assert closing.what_came_after() == []
    make_corrections.applied(make_corrections.drafted(make_corrections.named("wrong", source="tests", quantity="7")))
    client = Client()
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))

    found = {each.starts_at.month: each for each in closing.what_came_after()}
    shown = client.get("/usage/after-closing/").text
    november = client.get("/usage/after-closing/?month=2026-11&format=csv").content.decode()
    make.issued_run(shop, date(2026, 12, 1), at=datetime(2027, 1, 2, 9, tzinfo=UTC))
    billed = {each.starts_at.month: each for each in closing.what_came_after()}

    october, carried = found[9], found[10]
    assert (october.added, october.taken_back, october.carried, october.waiting) == (1, 1, 0, 2)
    assert (carried.added, carried.taken_back, carried.carried, carried.waiting) == (0, 0, 2, 2)
    assert (carried.billed, carried.billed_since) == (Decimal(5 * 720), Decimal(5 * 720))
    assert "carried in" in shown
    assert "+1,440" in shown
    assert ",0,0,2,3600," in november
    assert [each.waiting for each in billed.values()] == [0, 0]
    assert (billed[10].billed, billed[10].billed_since) == (Decimal(5 * 720), Decimal(7 * 720))


def test_a_month_that_began_with_a_reading_of_its_own_does_not_come_after() -> None:
    shop, customer = volume_shop()
    make.use(shop, customer, "5", on=make.OCT_10, event_id="wrong")
    make.use(shop, customer, "2", on=datetime(2026, 10, 31, 23, tzinfo=UTC))
    make.issued_run(shop)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    make_corrections.applied(make_corrections.drafted(make_corrections.named("wrong", source="tests")))

    assert [each.starts_at.month for each in closing.what_came_after()] == [9]
