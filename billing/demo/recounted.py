"""Counts the lines that do not add up event by event once more, from raw events and by the plain words of each rule.

An independent check of the synthetic bills: it knows no series, hours, parts or statements that read them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from billing.demo import gpu_services
from billing.models import BillRun, InvoiceLine
from metering.models import Meter, UsageEvent


class Recounted(NamedTuple):
    """How many lines were counted once more, and how many of them came to the very quantity that was billed."""

    lines: int
    equal: int


class Reading(NamedTuple):
    """What one raw event says, and when."""

    at: datetime
    data: dict[str, Any]


def recount_lines(runs: Sequence[BillRun]) -> Recounted:
    """Count the lines of percentiles, levels and different values of these runs anew; three reads."""
    meters = {meter.code: meter for meter in gpu_services.METERS}
    lines = list(
        InvoiceLine.objects.filter(invoice__bill_run__in=runs, product__meter__code__in=meters)
        .select_related("invoice", "product__meter")
        .order_by("id")
    )
    readings = _readings({line.invoice.customer_id for line in lines}, [meter.event_type for meter in meters.values()])
    equal = 0
    for line in lines:
        meter = line.product.meter
        assert meter is not None, "the lines are those of meters"
        start, end = line.service_period.lower, line.service_period.upper
        found = recount(meter.aggregation, readings[line.invoice.customer_id, meter.event_type], start, end)
        equal += found == Fraction(line.quantity)
    return Recounted(len(lines), equal)


def recount(aggregation: str, readings: Sequence[Reading], start: datetime, end: datetime) -> Fraction:
    """Return the quantity of `[start, end)`; `readings` are one customer's in order of time, earlier ones too."""
    return _RULES[aggregation](readings, start, end)


def _readings(customer_ids: Iterable[int], types: Sequence[str]) -> dict[tuple[int, str], list[Reading]]:
    readings: defaultdict[tuple[int, str], list[Reading]] = defaultdict(list)
    events = UsageEvent.objects.filter(customer_id__in=customer_ids, type__in=types).order_by("time")
    for customer_id, event_type, time, data in events.values_list("customer_id", "type", "time", "data"):
        readings[customer_id, event_type].append(Reading(time, data))
    return readings


def _percentile(readings: Sequence[Reading], start: datetime, end: datetime) -> Fraction:
    """Sort all five minutes of the period, silent ones as zero; leave out the highest twentieth; take the next."""
    slots = [Fraction(0)] * ((end - start) // timedelta(minutes=5))
    for reading in readings:
        if start <= reading.at < end:
            slots[(reading.at - start) // timedelta(minutes=5)] += Fraction(reading.data["mbps"])
    return sorted(slots, reverse=True)[len(slots) // 20]


def _level(readings: Sequence[Reading], start: datetime, end: datetime) -> Fraction:
    """Follow each volume from reading to reading, with what it was before the period, until the period's end."""
    levels: dict[str, tuple[datetime, Fraction]] = {}
    area = Fraction(0)
    for at, data in [*readings, *[Reading(end, {**each.data, "gb": "0"}) for each in readings]]:
        moment = min(max(at, start), end)
        since, gb = levels.get(data["volume"], (moment, Fraction(0)))
        area += gb * Fraction((moment - since) // timedelta(microseconds=1), 3_600_000_000)
        levels[data["volume"]] = moment, Fraction(data["gb"])
    return area


def _different(readings: Sequence[Reading], start: datetime, end: datetime) -> Fraction:
    """Everybody who was there in the period, once."""
    return Fraction(len({reading.data["user"] for reading in readings if start <= reading.at < end}))


_RULES: dict[str, Callable[[Sequence[Reading], datetime, datetime], Fraction]] = {
    Meter.Aggregation.P95: _percentile,
    Meter.Aggregation.GAUGE: _level,
    Meter.Aggregation.UNIQUE: _different,
}
