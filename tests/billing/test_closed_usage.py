"""What was billed of a period is kept with its watermark, and what came after is told by one query."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.access import Role
from billing import run_overview
from metering.corrections import closing
from metering.corrections.correction_selection import EventFilter
from metering.models import ClosedUsage
from tests import make_accounts, make_corrections
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
    before = run_overview.changed_since_drafting(run)
    make.use(shop, customer, "4", on=make.OCT_10)

    changed = run_overview.changed_since_drafting(run)

    assert before == []
    assert changed == ["Late Ltd"]
