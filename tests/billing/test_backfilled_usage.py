"""A month that is backfilled after it was billed: the difference is on the next invoice, and a revert takes it off."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from accounts.models import Customer
from billing.invariants import RULES
from metering.corrections import closing
from metering.models import UsageBackfill
from tests import make_billing as make
from tests import make_usage_backfills

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)

OCTOBER: dict[str, Any] = {
    "source": "tests",
    "start": datetime(2026, 10, 5, tzinfo=UTC),
    "end": datetime(2026, 10, 12, tzinfo=UTC),
}


def filled(shop: make.Shop, customer: Customer, *quantities: str, mode: str) -> UsageBackfill:
    """Open a backfill of a week of October after its bill, and fill these quantities in."""
    backfill = make_usage_backfills.opened(**OCTOBER, mode=mode, at=make.NOV_10)
    events = [
        {
            "id": f"filled-{number}",
            "source": "tests",
            "type": shop.meter.event_type,
            "subject": make.subject_of(customer),
            "time": make.OCT_10.isoformat(),
            "data": {"quantity": quantity, "sku": "any"},
        }
        for number, quantity in enumerate(quantities)
    ]
    make_usage_backfills.staged(backfill, *events, at=make.NOV_10)
    return backfill


def assert_all_rules_hold() -> None:
    with connection.cursor() as cursor:
        for each in RULES:
            cursor.execute(each.sql)
            assert cursor.fetchall() == [], each.name


def test_what_is_added_to_a_billed_month_is_on_the_next_invoice_under_its_own_month() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "10", on=make.OCT_10)
    make.issued_run(shop)
    backfill = filled(shop, customer, "4", "6", mode="add")
    found = make_usage_backfills.previewed(backfill, at=make.NOV_10).preview
    assert found is not None
    assert ([row["is_billed"] for row in found["rows"]], found["billed_rows"]) == ([True], 1)
    make_usage_backfills.closed(backfill, at=make.NOV_10)

    (waits,) = closing.what_came_after()
    make.use(shop, customer, "100", on=make.NOV_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert (waits.added, waits.waiting, waits.doors) == (2, 2, ["backfill"])
    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(100), Decimal("50.00")),
        ("late_usage", Decimal(10), Decimal("5.00")),
    ]
    assert closing.what_came_after()[0].waiting == 0
    assert_all_rules_hold()


def test_what_is_replaced_in_a_billed_month_is_billed_by_the_difference_and_a_revert_takes_it_back() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "90", on=make.OCT_10)
    make.issued_run(shop)
    backfill = make_usage_backfills.closed(filled(shop, customer, "60", mode="replace"), at=make.NOV_10)
    assert_all_rules_hold()
    make.use(shop, customer, "100", on=make.NOV_10)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    assert make.amounts(make.invoice_of(customer, make.NOVEMBER))[1] == (
        "late_usage",
        Decimal(-30),
        Decimal("-15.00"),
    )

    make_usage_backfills.reverted(backfill, at=make.DEC_2)
    make.use(shop, customer, "1", on=datetime(2026, 12, 10, 12, tzinfo=UTC))
    make.issued_run(shop, make.DECEMBER, at=datetime(2027, 1, 5, 9, tzinfo=UTC))

    assert ("late_usage", Decimal(30), Decimal("15.00")) in make.amounts(make.invoice_of(customer, make.DECEMBER))
    assert_all_rules_hold()


def test_one_that_was_reverted_before_the_next_bill_changes_nothing() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "90", on=make.OCT_10)
    make.issued_run(shop)
    backfill = make_usage_backfills.closed(filled(shop, customer, "60", mode="replace"), at=make.NOV_10)
    make_usage_backfills.reverted(backfill, at=make.NOV_10)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [("usage", Decimal(1), Decimal("0.50"))]
    assert_all_rules_hold()
