"""Decides, without a database, what an event counts as: whose it is, which meters take it, and with which value."""

from __future__ import annotations

import decimal
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from metering.events import Event
from metering.models import QuarantinedEvent

MAX_VALUE_DIGITS = 38
MAX_DIMENSION_LENGTH = 200

# Sums of 38-digit values with up to 38 places, with room for any number of them. A sum that does not fit raises.
EXACT = decimal.Context(
    prec=120,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow],
)
_ONE = Decimal(1)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,4})?", re.ASCII).fullmatch

Reason = QuarantinedEvent.Reason


class MeterRule(NamedTuple):
    """What ingestion needs to know of a meter; without a value path it counts events."""

    id: int
    value_path: str
    event_filter: dict[str, Any]
    dimensions: tuple[str, ...]


class Ownership(NamedTuple):
    """A customer owns a subject during `[starts_at, ends_at)`; None is unbounded."""

    customer_id: int
    starts_at: datetime | None
    ends_at: datetime | None


class SeriesKey(NamedTuple):
    """A series before it has an id; dimension values in the order of the meter's dimensions, None where absent."""

    customer_id: int
    meter_id: int
    dimensions: tuple[str | None, ...]


class Problem(NamedTuple):
    """Why an event cannot be counted yet."""

    reason: Reason
    detail: str


class Counted(msgspec.Struct, gc=False):
    """An event with its customer and what it adds to each series."""

    event: Event
    customer_id: int
    parts: list[tuple[SeriesKey, Decimal]]


class CountingRules(NamedTuple):
    """Everything that decides how the events of one batch count."""

    meters: Mapping[str, Sequence[MeterRule]]
    owners: Mapping[str, Sequence[Ownership]]
    earliest: datetime
    latest: datetime

    def judge(self, event: Event) -> Counted | Problem:
        """Return how the event counts, or why it cannot yet."""
        if event.time > self.latest:
            return Problem(Reason.IN_FUTURE, f"later than {self.latest.isoformat()}")
        if event.time < self.earliest:
            return Problem(Reason.TOO_OLD, f"earlier than {self.earliest.isoformat()}")
        customer_id = self.owner(event)
        if customer_id is None:
            return Problem(Reason.UNKNOWN_SUBJECT, f"subject {event.subject!r}" if event.subject else "no subject")
        meters = self.meters.get(event.type, ())
        parts = [_part(meter, event, customer_id) for meter in meters if _takes(meter, event)]
        if not parts:
            detail = "no meter's filter takes it" if meters else f"type {event.type!r}"
            return Problem(Reason.UNKNOWN_TYPE, detail)
        for part in parts:
            if isinstance(part, Problem):
                return part
        return Counted(event, customer_id, parts)  # type: ignore[arg-type]  # no part is a problem

    def owner(self, event: Event) -> int | None:
        """Return the customer that the event's subject belongs to at the event's time."""
        for customer_id, starts_at, ends_at in self.owners.get(event.subject, ()):
            if (starts_at is None or event.time >= starts_at) and (ends_at is None or event.time < ends_at):
                return customer_id
        return None


def _takes(meter: MeterRule, event: Event) -> bool:
    return not meter.event_filter or all(_is(event.data.get(name), value) for name, value in meter.event_filter.items())


def _is(found: object, wanted: object) -> bool:
    # Python takes true for 1; JSON does not.
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _part(meter: MeterRule, event: Event, customer_id: int) -> tuple[SeriesKey, Decimal] | Problem:
    value = exact_value(event.data.get(meter.value_path), name=meter.value_path) if meter.value_path else _ONE
    if isinstance(value, Problem):
        return value
    try:
        dimensions = tuple([_dimension(event.data.get(name), name) for name in meter.dimensions])
    except ValueError as error:
        return Problem(Reason.INVALID_VALUE, str(error))
    return SeriesKey(customer_id, meter.id, dimensions), value


def exact_value(value: object, *, name: str) -> Decimal | Problem:
    """Return a JSON number or a decimal string as sent; at most 38 digits, counted as written without an exponent."""
    if value is None or value == "":
        return Problem(Reason.MISSING_VALUE, f"{name!r} is missing")
    if type(value) is str:
        if _NUMBER(value) is None:
            return Problem(Reason.INVALID_VALUE, f"{name!r} is not a decimal number: {value[:80]!r}")
        number = Decimal(value)
    elif type(value) is Decimal or type(value) is int:
        number = Decimal(value)
    else:
        return Problem(Reason.INVALID_VALUE, f"{name!r} is not a number but {type(value).__name__}")
    _sign, digits, exponent = number.as_tuple()
    # The exponent of a finite number is an int; the pattern and the JSON reader let nothing else through.
    places = max(0, -int(exponent))
    if max(len(digits) + int(exponent), 0) + places > MAX_VALUE_DIGITS:
        return Problem(Reason.INVALID_VALUE, f"{name!r} has more than {MAX_VALUE_DIGITS} digits")
    return number


def _dimension(value: object, name: str) -> str | None:
    if value is None or type(value) is str:
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | Decimal):
        text = format(value, "f") if isinstance(value, Decimal) else str(value)
    else:
        msg = f"dimension {name!r} is neither a text nor a number"
        raise ValueError(msg)
    if text is not None and len(text) > MAX_DIMENSION_LENGTH:
        msg = f"dimension {name!r} is longer than {MAX_DIMENSION_LENGTH} characters"
        raise ValueError(msg)
    return text


class HourTotal(msgspec.Struct, gc=False):
    """What a batch adds to one hour of one series; `last` is the value at the latest time, the greatest if several."""

    sum: Decimal
    count: int
    min: Decimal
    max: Decimal
    last: Decimal
    last_at: str


def add_up(counted: Sequence[Counted]) -> dict[tuple[SeriesKey, str], HourTotal]:
    """Return exact totals by series and hour; an hour is the first 13 characters of its moments in ISO 8601, UTC."""
    totals: dict[tuple[SeriesKey, str], HourTotal] = {}
    with decimal.localcontext(EXACT):
        for item in counted:
            moment = item.event.time_text
            hour = moment[:13]
            for key, value in item.parts:
                total = totals.get((key, hour))
                if total is None:
                    totals[key, hour] = HourTotal(value, 1, value, value, value, moment)
                else:
                    _add(total, value, moment)
    return totals


def _add(total: HourTotal, value: Decimal, moment: str) -> None:
    total.sum += value
    total.count += 1
    if value < total.min:  # noqa: PLR1730 -- this runs for each event, and a call costs more than the comparison
        total.min = value
    if value > total.max:  # noqa: PLR1730 -- as above
        total.max = value
    if moment > total.last_at or (moment == total.last_at and value > total.last):
        total.last = value
        total.last_at = moment
