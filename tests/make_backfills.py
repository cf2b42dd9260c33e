"""Builders for back-fills: a customer with 60 events that only a count has counted, and a meter that comes late."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from metering.meters.meter_backfill import count_chunk, request_backfill
from metering.models import Meter, MeterBackfill
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)


def customer_with_events() -> Customer:
    """Make the customer and the events."""
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    make.meter(code="events", aggregation="count")
    make.ingested(
        *[
            make.event(
                f"e{number}",
                time=f"2026-10-{number % 14 + 1:02}T{number % 24:02}:{number % 60:02}:30Z",
                gb=str(number % 7),
                region=("eu", "us")[number % 2],
            )
            for number in range(60)
        ]
    )
    return customer


def late_meter(aggregation: str = Meter.Aggregation.SUM, **change: Any) -> Meter:
    """Define a meter of the values of those events."""
    return make.meter(
        **{"code": "late", "aggregation": aggregation, "value_path": "gb", "dimensions": ["region"]} | change
    )


def asked(meter: Meter, **change: Any) -> MeterBackfill:
    """Ask for a back-fill of the days of those events."""
    given: dict[str, Any] = {"start": START, "end": END, "reason": "it is sold from October", "actor": SYSTEM}
    return request_backfill(meter_id=meter.pk, **{**given, "at": NOON, **change})


def counted(backfill: MeterBackfill, *, limit: int = 7) -> MeterBackfill:
    """Run a back-fill to its end."""
    while count_chunk(backfill_id=backfill.pk, limit=limit, at=NOON):
        pass
    backfill.refresh_from_db()
    return backfill


def sum_of(meter: Meter, customer: Customer) -> tuple[Decimal, int]:
    """Read what a meter adds up to for a customer, and of how many events."""
    found = [total for total in make.totals(customer) if total.meter_id == meter.pk]
    return sum((total.sum for total in found), Decimal(0)), sum(total.count for total in found)


ALL = (sum((Decimal(number % 7) for number in range(60)), Decimal(0)), 60)
