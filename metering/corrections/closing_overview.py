"""What the page of late usage shows: each closed period by its name, and what the next bill takes up of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from accounts.models import Customer
from accounts.periods import Month, Period, local_date, month_period
from metering.corrections.closing import After
from metering.models import Meter, UsageBatch
from metering.reading.quantities import QuantityAsk, quantities

CSV_HEADER = [
    "customer number",
    "customer",
    "meter",
    "unit",
    "from",
    "until",
    "events added",
    "events taken back",
    "carried in",
    "billed first",
    "billed by now",
    "now",
    "for the next bill",
    "changes not billed yet",
]


@dataclass(frozen=True, slots=True)
class Late:
    """A closed period of which something came after, in its customer's zone; `now` is what it holds by now."""

    after: After
    customer_code: str
    time_zone: str
    month: date | None
    first: date
    last: date
    now: Decimal

    @property
    def difference(self) -> Decimal:
        """What bills have not taken up yet."""
        return self.now - self.after.billed_since

    @property
    def doors(self) -> list[str]:
        """How the changes came, in words."""
        return [str(UsageBatch.Door(door).label) for door in self.after.doors]


def late(found: Sequence[After]) -> list[Late]:
    """Say of closed periods what they are called and what they hold by now; three queries."""
    customers = Customer.objects.select_related("legal_entity").in_bulk({each.customer_id for each in found})
    meters = Meter.objects.in_bulk({each.meter_id for each in found})
    asks = [
        QuantityAsk(
            customer_id=each.customer_id,
            meter_id=each.meter_id,
            aggregation=meters[each.meter_id].aggregation,
            divisor=meters[each.meter_id].divisor,
            edges=[each.starts_at, each.ends_at],
        )
        for each in found
    ]
    now = {quantity.ask: quantity.quantity for quantity in quantities(asks)}
    return [
        _late(each, customers[each.customer_id], now.get(position, Decimal(0))) for position, each in enumerate(found)
    ]


def _late(after: After, customer: Customer, now: Decimal) -> Late:
    zone = customer.legal_entity.time_zone
    first, last = local_date(after.starts_at, zone), local_date(after.ends_at - timedelta(microseconds=1), zone)
    whole = month_period(first.year, first.month, zone) == Period(after.starts_at, after.ends_at)
    return Late(after, customer.code, zone, first if whole else None, first, last, now)


def of_month(found: Iterable[After], month: Month) -> list[After]:
    """Leave the periods that lie in a month by more than the day that time zones are apart."""
    whole, day = month_period(month.year, month.month, "UTC"), timedelta(days=1)
    return [each for each in found if each.starts_at < whole.end - day and each.ends_at > whole.start + day]


def csv_row(row: Late) -> list[object]:
    """Lay one period out for a CSV file; quantities are plain decimals."""
    each = row.after
    return [
        row.customer_code,
        each.customer,
        each.meter,
        each.unit,
        each.starts_at.isoformat(),
        each.ends_at.isoformat(),
        each.added,
        each.taken_back,
        each.carried,
        each.billed,
        each.billed_since,
        row.now,
        row.difference,
        each.waiting,
    ]
