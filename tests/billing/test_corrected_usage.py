"""Usage that is corrected after its month was billed: the difference is on the next invoice, to the cent."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from accounts.access import Role
from billing.invariants import RULES
from metering import rollups
from metering.corrections.correction_selection import EventFilter
from metering.models import UsageEvent
from tests import make_accounts, make_corrections
from tests import make_billing as make

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)


def correct(customer_id: int, day: date, **changes: str) -> None:
    event = UsageEvent.objects.filter(customer_id=customer_id, time__date=day).latest("time", "key")
    named = make_corrections.named(event.event_id, source=event.source, **changes)
    make_corrections.applied(make_corrections.drafted(named, at=make.NOV_10), at=make.NOV_10)


def assert_all_rules_hold() -> None:
    with connection.cursor() as cursor:
        for each in RULES:
            cursor.execute(each.sql)
            assert cursor.fetchall() == [], each.name


@pytest.mark.parametrize("is_folded", [True, False])
def test_an_event_that_is_voided_after_its_bill_lowers_the_next_invoice(*, is_folded: bool) -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "90.01", on=make.OCT_10)
    make.issued_run(shop)
    if is_folded:
        rollups.fold()
    correct(customer.pk, make.OCT_10.date())
    assert_all_rules_hold()
    make.use(shop, customer, "100", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [
        ("usage", Decimal(100), Decimal("50.00")),
        ("late_usage", Decimal("-90.01"), Decimal("-45.01")),
    ]
    assert_all_rules_hold()


def test_an_event_that_is_replaced_after_its_bill_is_billed_by_its_difference() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "60", on=make.OCT_10)
    make.use(shop, customer, "30", on=make.OCT_10)
    make.issued_run(shop)
    correct(customer.pk, make.OCT_10.date(), quantity="50")
    assert_all_rules_hold()
    make.use(shop, customer, "100", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    _, late = make.amounts(make.invoice_of(customer, make.NOVEMBER))
    billed = sum(line[2] for line in make.amounts(make.invoice_of(customer))) + late[2]
    # 110 in all where the second was corrected, 80 where the first was: which one is later depends on their keys.
    assert (late[1], billed) in {
        (Decimal(20), Decimal("53.00")),
        (Decimal(-10), Decimal("40.00")),
    }
    assert_all_rules_hold()


def test_a_correction_that_was_reverted_before_the_next_bill_changes_nothing() -> None:
    shop = make.shop(tax_rate="0")
    customer = make.subscriber(shop)
    make.use(shop, customer, "60", on=make.OCT_10)
    make.issued_run(shop)
    correction = make_corrections.applied(make_corrections.drafted(EventFilter(customer_id=customer.pk)))
    make_corrections.reverted(correction)
    make.use(shop, customer, "1", on=make.NOV_10)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    assert make.amounts(make.invoice_of(customer, make.NOVEMBER)) == [("usage", Decimal(1), Decimal("0.50"))]
    assert_all_rules_hold()


def test_an_event_behind_a_line_that_was_voided_since_says_so() -> None:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "60", on=make.OCT_10)
    make.issued_run(shop)
    correct(customer.pk, make.OCT_10.date())
    client = Client()
    client.force_login(make_accounts.staff(Role.FINANCE_ANALYST))
    line = make.invoice_of(customer).lines.get()

    shown = client.get(reverse("billing:line-events", args=[line.pk])).text

    assert "voided" in shown
    assert "the sensor was wrong" in shown
