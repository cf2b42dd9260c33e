"""Says in plain words what a meter counts."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from metering.counting import plain
from metering.models import Meter, MeterVersion

Aggregation = Meter.Aggregation


class AggregationWords(NamedTuple):
    """How an aggregation is explained to the person who chooses one."""

    label: str
    says: str
    example: str


EXPLAINED: Final[Mapping[str, AggregationWords]] = {
    Aggregation.SUM: AggregationWords("Sum of a value", "Adds the values up.", "GPU seconds, gigabytes sent, tokens"),
    Aggregation.COUNT: AggregationWords("Number of events", "Counts events, whatever they say.", "API requests"),
    Aggregation.MIN: AggregationWords(
        "Smallest value", "Keeps the smallest value of the billing period.", "guaranteed capacity"
    ),
    Aggregation.MAX: AggregationWords(
        "Greatest value", "Keeps the greatest value of the billing period.", "peak number of seats"
    ),
    Aggregation.LATEST: AggregationWords(
        "Latest value",
        "Keeps the value with the latest time in the billing period; of several at one time the greatest.",
        "licences in use at the month's end",
    ),
    Aggregation.UNIQUE: AggregationWords(
        "Number of different values",
        "Counts how many different values were seen in the billing period. Equal numbers are one value.",
        "active users by their id",
    ),
    Aggregation.GAUGE: AggregationWords(
        "Level over time",
        "Each event says a level, which holds until the next one, also into the next billing period. The quantity is"
        " the level times the hours it held: 100 GB for 30 hours are 3,000 GB-hours.",
        "storage in GB-hours, instances running",
    ),
    Aggregation.P95: AggregationWords(
        "95th percentile of 5-minute totals",
        "Adds up each five minutes of the billing period, drops the highest 5 % of them, and takes the highest that is"
        " left. Five minutes without usage are zero. The quantity is what was used in five minutes; for a rate a second"
        " it is divided by 300: bytes times 0.000008, divided by 300, are Mbit/s.",
        "burstable bandwidth",
    ),
}

_DOES: Final[Mapping[str, str]] = {
    Aggregation.SUM: "Adds up {value} of {type} events",
    Aggregation.COUNT: "Counts {type} events",
    Aggregation.MIN: "Keeps the smallest {value} of {type} events",
    Aggregation.MAX: "Keeps the greatest {value} of {type} events",
    Aggregation.LATEST: "Keeps the latest {value} of {type} events",
    Aggregation.UNIQUE: "Counts the different values of {value} in {type} events",
    Aggregation.GAUGE: "Takes {value} of {type} events for a level and multiplies it by the hours that it holds",
    Aggregation.P95: "Takes the 95th percentile of five-minute totals of {value} of {type} events",
}


def sentence(meter: Meter, version: MeterVersion) -> str:
    """Return what a version of a meter counts, as one sentence."""
    value = f"“{version.value_path}”"
    if version.conversion != 1:
        value += f" × {plain(Decimal(version.conversion))}"
    does = _DOES[meter.aggregation].format(value=value, type=meter.event_type)
    where = " and ".join(f"“{name}” is {_shown(wanted)}" for name, wanted in sorted(version.event_filter.items()))
    apart = ", ".join(f"“{name}”" for name in version.dimensions)
    divided = "" if meter.divisor == 1 else f"; the result is divided by {plain(Decimal(meter.divisor))}"
    return f"{does}{f' where {where}' if where else ''}{f', split by {apart}' if apart else ''}{divided}."


def _shown(wanted: object) -> str:
    if isinstance(wanted, bool):
        return "true" if wanted else "false"
    return f"“{wanted}”" if isinstance(wanted, str) else str(wanted)
