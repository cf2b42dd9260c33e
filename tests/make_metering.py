"""Builders for how much: meters, subjects and events. They go through the verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from django.db import connection

from accounts.access import Actor
from accounts.models import Customer
from metering.attribution import assign_subject
from metering.ingestion import IngestResult, ingest
from metering.invariants import RULES
from metering.meters.meters import THE_BEGINNING, define_meter
from metering.models import Meter, SubjectAssignment, UsageBatch
from metering.reading.quantities import QuantityAsk
from metering.reading.usage import SeriesTotal, UsageWindow, series_totals
from tests import make_accounts

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 10, 15, 12, tzinfo=UTC)
SYSTEM = Actor.system("tests")
GPU_USED = "gpu.used"

_number = count(1)


def meter(
    *,
    code: str = "",
    event_type: str = GPU_USED,
    aggregation: str = Meter.Aggregation.SUM,
    value_path: str = "seconds",
    event_filter: Mapping[str, str | int | bool] | None = None,
    conversion: Decimal = Decimal(1),
    divisor: Decimal = Decimal(1),
    dimensions: Sequence[str] = (),
    counts_from: datetime = THE_BEGINNING,
) -> Meter:
    """Define a meter; it adds up the seconds of GPU events unless told otherwise."""
    number = next(_number)
    return define_meter(
        code=code or f"meter-{number}",
        name=f"Meter {number}",
        event_type=event_type,
        aggregation=aggregation,
        value_path="" if aggregation == Meter.Aggregation.COUNT else value_path,
        event_filter=event_filter,
        conversion=conversion,
        unit="s",
        divisor=divisor,
        dimensions=dimensions,
        counts_from=counts_from,
        actor=SYSTEM,
        at=LONG_AGO,
    )


def ask(customer: Customer, meter: Meter, edges: Sequence[datetime], **more: Any) -> QuantityAsk:
    """Ask for a customer's quantities of a meter in the windows between edges."""
    return QuantityAsk(
        customer_id=customer.pk,
        meter_id=meter.pk,
        aggregation=meter.aggregation,
        divisor=meter.divisor,
        edges=edges,
        **more,
    )


def subject(
    name: str = "project-1",
    *,
    customer: Customer | None = None,
    starts_at: datetime = LONG_AGO,
    ends_at: datetime | None = None,
) -> SubjectAssignment:
    """Give a subject to a customer, a new one unless one is given."""
    return assign_subject(
        name=name,
        customer_id=(customer or make_accounts.customer()).pk,
        starts_at=starts_at,
        ends_at=ends_at,
        actor=SYSTEM,
        at=LONG_AGO,
    )


def event(
    event_id: str = "",
    *,
    time: str = "2026-10-15T10:30:00Z",
    subject: str = "project-1",
    event_type: str = GPU_USED,
    source: str = "cluster/1",
    **data: object,
) -> dict[str, object]:
    """Make an event that uses one second of a GPU unless its data say otherwise."""
    return {
        "specversion": "1.0",
        "id": event_id or f"event-{next(_number)}",
        "source": source,
        "type": event_type,
        "subject": subject,
        "time": time,
        "data": data or {"seconds": "1"},
    }


def ingested(*events: object, customer_id: int | None = None, at: datetime = NOON) -> IngestResult:
    """Ingest events as one batch."""
    return ingest(events=events, door=UsageBatch.Door.API, customer_id=customer_id, actor=SYSTEM, at=at)


def totals(
    customer: Customer | int,
    *,
    start: datetime = datetime(2026, 10, 1, tzinfo=UTC),
    end: datetime = datetime(2026, 11, 1, tzinfo=UTC),
) -> list[SeriesTotal]:
    """Read what a customer's series add up to."""
    customer_id = customer if isinstance(customer, int) else customer.pk
    return series_totals([UsageWindow(customer_id=customer_id, start=start, end=end)])


def total(customer: Customer) -> tuple[Decimal | int, int]:
    """What a customer's series add up to together: the sum, and the number of events."""
    found = totals(customer)
    return sum((each.sum for each in found), Decimal(0)), sum(each.count for each in found)


def broken_rules() -> list[str]:
    """Ask every invariant of usage, and return the names of those that do not hold."""
    with connection.cursor() as cursor:
        broken = []
        for rule in RULES:
            cursor.execute(rule.sql)
            if cursor.fetchall():
                broken.append(rule.name)
    return broken
