"""Meters of all eight aggregations through whole bill runs: billed right, explained, read again; figures by hand."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.urls import reverse

from accounts import approvals
from accounts.access import Actor, Role
from accounts.models import ApprovalRequest
from billing import ladder
from billing.explanations import UsageNow, explain_line
from billing.invariants import RULES
from billing.management.commands.check_invariants import breaches
from billing.models import Invoice, UnbilledUsage
from metering import ingestion, rollups
from metering.models import Meter, UsageBatch
from metering.reading.carried_levels import CarriedLevel
from metering.reading.event_list import ListedEvent
from metering.retention import erasure
from pricing.models import Product
from tests import make_accounts, make_pricing
from tests import make_billing as make
from tests.make_pages import signed_in, words

# What came late is told by the transaction that brought it, so each needs one of its own.
pytestmark = pytest.mark.django_db(transaction=True)

Aggregation = Meter.Aggregation
ONE_EACH = {"model": "per_unit", "unit_price": "1"}


def products(*aggregations: str, event_type: str) -> dict[str, Product]:
    return {
        each: make_pricing.product(
            name=each, meter=make_pricing.meter(event_type=event_type, aggregation=each), unit=each
        )
        for each in aggregations
    }


def quantities(invoice: Invoice) -> dict[str, Decimal]:
    return {line.product.name: line.quantity for line in invoice.lines.select_related("product")}


def require_explained(invoice: Invoice) -> None:
    for line in invoice.lines.all():
        why = explain_line(line.pk)
        assert (why.rerating.is_same, why.rereading.outcome) == (True, UsageNow.SAME)
        assert why.rereading.quantity == line.quantity
        assert not ladder.usage_by_day(line, why.series).is_empty


def why_and_events(invoice: Invoice) -> tuple[str, Sequence[ListedEvent]]:
    """Return why the only line costs what it does, as people read it, and the events that this leads to."""
    analyst = signed_in(Role.FINANCE_ANALYST)
    answer = analyst.get(reverse("billing:why", args=[invoice.lines.get().pk]))
    (address,) = re.findall(r'href="(/usage/explorer/events/[^"]+)"', answer.content.decode())
    return words(answer), analyst.get(html.unescape(address)).context["found"].events


@pytest.mark.parametrize("is_folded", [True, False])
def test_every_aggregation_is_billed_by_its_own_quantity(is_folded: bool) -> None:  # noqa: FBT001
    shop = make.shop(approved=False, tax_rate="0")
    sold = products(*Aggregation.values, event_type=shop.meter.event_type)
    make_pricing.approved_version(book=shop.book, prices=dict.fromkeys(sold.values(), ONE_EACH))
    customer = make.subscriber(shop)
    make.use(shop, customer, "2", on=datetime(2026, 10, 10, 12, tzinfo=UTC), sku="eu")
    make.use(shop, customer, "4", on=datetime(2026, 10, 10, 12, 30, tzinfo=UTC), sku="eu")
    make.use(shop, customer, "4", on=datetime(2026, 10, 10, 12, tzinfo=UTC), sku="us")
    make.use(shop, customer, "1", on=datetime(2026, 10, 11, 12, tzinfo=UTC), sku="us")
    if is_folded:
        rollups.fold()

    make.issued_run(shop)

    invoice = make.invoice_of(customer)
    # October ends on the 31st at 23:00 UTC in Berlin, 515 hours after the 10th at noon. Levels: eu 2 for half an hour,
    # then 4 for 514.5 hours; us 4 for 24 hours, then 1 for 491. Of 8,940 slots, three saw usage.
    assert quantities(invoice) == {
        "sum": 11,
        "count": 4,
        "min": 1,
        "max": 4,
        "latest": 1,
        "unique": 3,
        "gauge": 1 + 2058 + 96 + 491,
    } | {"p95": 0}
    assert {line.event_count for line in invoice.lines.all()} == {4}
    require_explained(invoice)
    assert not any(breaches(rule) for rule in RULES)
    if not is_folded:
        rollups.fold()
        require_explained(invoice)


@pytest.mark.parametrize("aggregation", [Aggregation.SUM, Aggregation.GAUGE])
def test_a_meter_that_divides_is_billed_to_the_last_cent_also_what_comes_late(aggregation: str) -> None:
    shop = make.shop(approved=False, tax_rate="0")
    meter = make_pricing.meter(event_type=shop.meter.event_type, aggregation=aggregation, divisor=Decimal(3))
    product = make_pricing.product(name="divided", meter=meter)
    make_pricing.approved_version(book=shop.book, prices={product: ONE_EACH})
    customer = make.subscriber(shop)
    # The 31st of October ends at 23:00 UTC in Berlin.
    last_hour = datetime(2026, 10, 31, 22, tzinfo=UTC)
    make.use(shop, customer, "3", on=last_hour, sku="eu")
    make.use(shop, customer, "7", on=last_hour, sku="us")
    make.issued_run(shop)
    make.use(shop, customer, "1", on=last_hour, sku="ap")
    make.use(shop, customer, "0", on=datetime(2026, 10, 31, 23, tzinfo=UTC), sku="eu")
    for sku in ("us", "ap"):
        make.use(shop, customer, "0", on=datetime(2026, 10, 31, 23, tzinfo=UTC), sku=sku)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    first = make.invoice_of(customer).lines.get()
    late = make.invoice_of(customer, make.NOVEMBER).lines.get(service_period=first.service_period)
    assert (first.quantity, first.amount) == (Decimal("3.333333333333333333"), Decimal("3.33"))
    assert (late.quantity, late.amount) == (Decimal("0.333333333333333334"), Decimal("0.34"))
    why = explain_line(late.pk)
    assert (why.rerating.is_same, why.rereading.outcome) == (True, UsageNow.SAME)
    assert why.rereading.quantity == Decimal("3.666666666666666667")
    assert ladder.how_measured(late, why.series).endswith("What the values come to is divided by 3, once.")
    assert not any(breaches(rule) for rule in RULES)


def test_the_percentile_of_several_series_is_that_of_their_sum() -> None:
    shop = make.shop(approved=False, tax_rate="0")
    sold = products(Aggregation.P95, event_type=shop.meter.event_type)
    make_pricing.approved_version(book=shop.book, prices=dict.fromkeys(sold.values(), ONE_EACH))
    # One local day of 25 hours: 300 slots, of which the 15 highest are left out.
    customer = make.subscriber(shop, starts_on=date(2026, 10, 25), ends_on=date(2026, 10, 26))
    bandwidth = [("eu", 2, range(16)), ("us", 3, range(16)), ("us", 70, range(100, 115))]
    for sku, quantity, slots in bandwidth:
        ingestion.ingest(
            events=[
                {
                    "specversion": "1.0",
                    "id": f"{sku} {slot}",
                    "source": "tests",
                    "type": shop.meter.event_type,
                    "subject": make.subject_of(customer),
                    "time": datetime(2026, 10, 25, slot // 12, slot % 12 * 5, tzinfo=UTC).isoformat(),
                    "data": {"quantity": quantity, "sku": sku},
                }
                for slot in slots
            ],
            door=UsageBatch.Door.FILE,
            actor=shop.analyst,
            at=make.NOV_2,
        )

    make.issued_run(shop)

    invoice = make.invoice_of(customer)
    assert quantities(invoice) == {"p95": 5}
    require_explained(invoice)
    shown, events = why_and_events(invoice)
    assert "the others is billed. It is that of the five minutes from 25 Oct 2026, 02:00 ." in shown
    assert sorted(each.id for each in events) == ["eu 0", "us 0"]


def test_a_level_goes_on_costing_until_it_is_read_otherwise() -> None:
    shop = make.shop(approved=False, tax_rate="0")
    sold = products(Aggregation.GAUGE, event_type=shop.meter.event_type)
    make_pricing.approved_version(book=shop.book, prices=dict.fromkeys(sold.values(), ONE_EACH))
    customer = make.subscriber(shop)
    make.use(shop, customer, "4", on=datetime(2026, 10, 10, 23, tzinfo=UTC))
    make.issued_run(shop)
    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)
    november = make.invoice_of(customer, make.NOVEMBER)
    # Nothing was read in November, and the level holds all its 720 hours.
    assert [(line.kind, line.quantity, line.event_count) for line in november.lines.all()] == [
        ("usage", Decimal(2880), 0)
    ]
    require_explained(november)
    (october_part,) = explain_line(make.invoice_of(customer).lines.get().pk).series
    (november_part,) = explain_line(november.lines.get().pk).series
    assert october_part.carried is None
    assert november_part.carried == CarriedLevel(datetime(2026, 10, 10, 23, tzinfo=UTC), Decimal(4))
    assert november_part.carried_level == 4
    shown, readings = why_and_events(november)
    assert "began with 4 GPU-hour, read 11 Oct 2026, 01:00" in shown
    assert [(each.time, each.state) for each in readings] == [(datetime(2026, 10, 10, 23, tzinfo=UTC), "counted")]

    # A reading comes late, of the last hour of October: that hour, and all of November, were at 5.
    make.use(shop, customer, "5", on=datetime(2026, 10, 31, 22, tzinfo=UTC))
    make.issued_run(shop, make.DECEMBER, at=datetime(2027, 1, 2, tzinfo=UTC))

    december = make.invoice_of(customer, make.DECEMBER)
    assert sorted((line.kind, line.quantity, line.event_count) for line in december.lines.all()) == [
        ("late_usage", Decimal(1), 1),
        ("late_usage", Decimal(720), 0),
        ("usage", Decimal(3720), 0),
    ]
    assert explain_line(november.lines.get().pk).rereading.outcome == UsageNow.LATER_USAGE
    assert not any(breaches(rule) for rule in RULES)


def test_a_level_that_nothing_prices_is_listed() -> None:
    shop = make.shop()
    gauge = make_pricing.meter(event_type=shop.meter.event_type, aggregation=Aggregation.GAUGE)
    customer = make.subscriber(shop)
    make.use(shop, customer, "4", on=datetime(2026, 10, 31, 22, tzinfo=UTC))
    make.use(shop, customer, "1", on=make.NOV_10)
    make.issued_run(shop)

    make.issued_run(shop, make.NOVEMBER, at=make.DEC_2)

    # In November, 4 for 229 hours and 1 for 491.
    listed = UnbilledUsage.objects.order_by("run__month").values_list("run__month", "quantity", "event_count")
    assert list(listed) == [(make.OCTOBER, Decimal(4), 1), (make.NOVEMBER, Decimal(1407), 1)]
    assert gauge.aggregation == Aggregation.GAUGE
    assert not any(breaches(rule) for rule in RULES)


def test_a_line_of_different_values_says_so_once_they_were_erased_by_law() -> None:
    shop = make.shop(approved=False, tax_rate="0")
    sold = products(Aggregation.UNIQUE, event_type=shop.meter.event_type)
    make_pricing.approved_version(book=shop.book, prices=dict.fromkeys(sold.values(), ONE_EACH))
    customer = make.subscriber(shop)
    for quantity in ("2", "4", "4"):
        make.use(shop, customer, quantity, on=datetime(2026, 10, 10, 12, tzinfo=UTC))
    make.issued_run(shop)
    asked = erasure.erase_raw_events(
        customer_id=customer.pk,
        reason="They asked",
        legal_basis="GDPR Art. 17",
        actor=make_accounts.actor(Role.ADMINISTRATOR),
        at=make.DEC_2,
    )
    approvals.decide(
        request_id=ApprovalRequest.objects.get(kind="usage_erasure", subject_id=asked.pk).pk,
        outcome="approve",
        actor=make_accounts.actor(Role.FINANCE_CONTROLLER),
        at=make.DEC_2,
    )

    erasure.carry_out(erasure_id=asked.pk, actor=Actor.system("tests"), at=make.DEC_2)

    why = explain_line(make.invoice_of(customer).lines.get().pk)
    assert (why.rereading.outcome, why.rereading.quantity) == (UsageNow.ERASED, Decimal(2))
    assert not any(breaches(rule) for rule in RULES)
