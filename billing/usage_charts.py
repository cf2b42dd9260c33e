"""Charts of usage day by day: of the whole house for the home page, of one customer for the customer page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from accounts.charts import Chart, chart
from accounts.periods import month_period, start_of_day
from billing.models import BillRun
from metering.aggregations import quantity_unit
from metering.models import Meter
from metering.reading import usage
from metering.reading.quantities import QuantityAsk, quantities
from metering.reading.usage import DayOfUsage
from pricing.money import ZERO
from pricing.price_texts import quantity_text

DAYS_SHOWN = 92


@dataclass(frozen=True, slots=True)
class UsageChart:
    """A chart of usage, what it is a chart of (None: events of all meters), and what could be chosen instead."""

    chart: Chart
    meter: Meter | None
    meters: list[Meter]
    first_day: date
    last_day: date


def usage_by_day(
    *,
    at: datetime,
    meter_id: int | None = None,
    in_events: bool = False,
    customer_id: int | None = None,
) -> UsageChart:
    """Chart the last three months of usage, in days of UTC: one meter in its unit, or all meters by number of events.

    Without a meter it is the one that counted most events. Where there was no usage lately, the three months end with
    the last month that was billed.
    """
    window_end = start_of_day(at.date() + timedelta(days=1), "UTC")
    days = _days(window_end, customer_id)
    last_billed = None if days else BillRun.objects.order_by("-month").values_list("month", flat=True).first()
    if last_billed:
        window_end = month_period(last_billed.year, last_billed.month, "UTC").end
        days = _days(window_end, customer_id)

    meters = list(Meter.objects.order_by("name"))
    wanted = None if in_events else meter_id or _most_used(days)
    chosen = next((meter for meter in meters if meter.pk == wanted), None)
    last_day = (window_end - timedelta(days=1)).date()
    first_day = last_day - timedelta(days=DAYS_SHOWN - 1)
    values = _events(days, meters) if chosen is None else _usage(chosen, first_day, at, customer_id)
    return UsageChart(_chart(values, chosen, first_day), chosen, meters, first_day, last_day)


def _days(end: datetime, customer_id: int | None) -> list[DayOfUsage]:
    return usage.daily_totals(start=end - timedelta(days=DAYS_SHOWN), end=end, customer_id=customer_id)


def _most_used(days: list[DayOfUsage]) -> int | None:
    events: Counter[int] = Counter()
    for day in days:
        events[day.meter_id] += day.count
    return max(events, key=lambda meter_id: (events[meter_id], -meter_id), default=None)


def _events(days: list[DayOfUsage], meters: list[Meter]) -> dict[str, dict[date, Decimal]]:
    names = {meter.pk: meter.name for meter in meters}
    values: dict[str, dict[date, Decimal]] = {}
    for each in days:
        values.setdefault(names[each.meter_id], {})[each.day] = Decimal(each.count)
    return values


def _usage(meter: Meter, first_day: date, at: datetime, customer_id: int | None) -> dict[str, dict[date, Decimal]]:
    cut = [start_of_day(first_day + timedelta(days=offset), "UTC") for offset in range(DAYS_SHOWN + 1)]
    ask = QuantityAsk(
        customer_id=customer_id,
        meter_id=meter.pk,
        aggregation=meter.aggregation,
        divisor=meter.divisor,
        edges=cut,
        until=at,
    )
    found = {first_day + timedelta(days=each.window): each.quantity for each in quantities([ask])}
    return {meter.name: found} if found else {}


def _chart(values: dict[str, dict[date, Decimal]], chosen: Meter | None, first_day: date) -> Chart:
    shown = [first_day + timedelta(days=offset) for offset in range(DAYS_SHOWN)] if values else []
    unit = quantity_unit(chosen.aggregation, chosen.unit) if chosen else "events"
    return chart(
        labels=[f"{day:%-d %b}" for day in shown],
        series={name: [by_day.get(day, ZERO) for day in shown] for name, by_day in values.items()},
        write=lambda _name, value: f"{quantity_text(value)} {unit}",
        unit=unit,
    )
