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
from metering.models import Meter, PartKind, QuarantinedEvent

MAX_VALUE_DIGITS = 38
MAX_DIMENSION_LENGTH = 200
SLOT_MINUTES = 5

# Sums of 38-digit values with up to 38 places, with room for any number of them. A sum that does not fit raises.
EXACT = decimal.Context(
    prec=120,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow],
)
_ONE = Decimal(1)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,4})?", re.ASCII).fullmatch

_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f]")

Reason = QuarantinedEvent.Reason
Aggregation = Meter.Aggregation

_KEEPS_PARTS = frozenset({Aggregation.UNIQUE, Aggregation.GAUGE, Aggregation.P95})
# As plain texts: these are compared with for each event, and an enum's members are slow to come by.
_UNIQUE, _P95 = Aggregation.UNIQUE.value, Aggregation.P95.value


class VersionRule(NamedTuple):
    """What counting needs to know of a meter's version; `conversion` None leaves values as they are."""

    id: int
    valid_from: datetime
    value_path: str
    event_filter: dict[str, Any]
    conversion: Decimal | None
    dimensions: tuple[str, ...]


class MeterRule(NamedTuple):
    """What counting needs to know of a meter; its versions, the newest first."""

    id: int
    aggregation: str
    series_limit: int
    versions: list[VersionRule]


class Ownership(NamedTuple):
    """A customer owns a subject during `[starts_at, ends_at)`; None is unbounded."""

    customer_id: int
    starts_at: datetime | None
    ends_at: datetime | None


# Made for each event, and of no use to the collector of cycles, which would walk them again and again: `gc=False`.


class SeriesKey(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A series before it has an id; dimension values in the order of the version's dimensions, None where absent."""

    customer_id: int
    meter_id: int
    version_id: int
    dimensions: tuple[str | None, ...]


class Part(msgspec.Struct, frozen=True, gc=False):
    """The part of its hour that an event goes into, where a meter needs more than sums: see `models.UsagePart`."""

    kind: PartKind
    text: str


class Contribution(msgspec.Struct, frozen=True, gc=False):
    """What an event adds to one series."""

    series: SeriesKey
    value: Decimal
    part: Part | None


class Problem(NamedTuple):
    """Why an event cannot be counted yet."""

    reason: Reason
    detail: str


class Counted(msgspec.Struct, gc=False):
    """An event with its customer and what it adds to each series."""

    event: Event
    customer_id: int
    parts: list[Contribution]


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
        parts = [
            _contribution(meter, version, event, customer_id)
            for meter in meters
            if (version := version_at(meter, event.time)) is not None and _takes(version, event)
        ]
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


def version_at(meter: MeterRule, moment: datetime) -> VersionRule | None:
    """Return the version in force at a moment; None before the first."""
    for version in meter.versions:
        if moment >= version.valid_from:
            return version
    return None


def _takes(version: VersionRule, event: Event) -> bool:
    return not version.event_filter or all(
        _is(named(event.data, name), value) for name, value in version.event_filter.items()
    )


def _is(found: object, wanted: object) -> bool:
    # Python takes true for 1; JSON does not.
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def named(data: Mapping[str, Any], name: str) -> object:
    """Return what the data holds under a name; where there is no such name, dots lead into nested objects."""
    found: Any = data.get(name)
    if found is not None or "." not in name:
        return found
    found = data
    for step in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(step)
    return found


def contribution(
    meter: MeterRule, version: VersionRule, event: Event, customer_id: int
) -> Contribution | Problem | None:
    """Return what the event adds to a series of the meter as this version reads it; None if its filter leaves it."""
    return _contribution(meter, version, event, customer_id) if _takes(version, event) else None


def _contribution(meter: MeterRule, version: VersionRule, event: Event, customer_id: int) -> Contribution | Problem:
    found = named(event.data, version.value_path) if version.value_path else None
    value: Decimal | Problem
    part: Part | None = None
    if meter.aggregation == _UNIQUE:
        seen = _seen_value(found, version.value_path)
        if isinstance(seen, Problem):
            return seen
        value, part = _ONE, Part(PartKind.VALUE, seen)
    else:
        value = exact_value(found, name=version.value_path) if version.value_path else _ONE
        if isinstance(value, Problem):
            return value
        if version.conversion is not None:
            value = EXACT.multiply(value, version.conversion)
        if meter.aggregation in _KEEPS_PARTS:
            part = _part_of_hour(meter.aggregation, event, value)
    try:
        dimensions = tuple([_dimension(named(event.data, name), name) for name in version.dimensions])
    except ValueError as error:
        return Problem(Reason.INVALID_VALUE, str(error))
    return Contribution(SeriesKey(customer_id, meter.id, version.id, dimensions), value, part)


def _seen_value(found: object, name: str) -> str | Problem:
    if found is None or found == "":
        return Problem(Reason.MISSING_VALUE, f"{name!r} is missing")
    if isinstance(found, int | Decimal) and not isinstance(found, bool):
        # 1 and 1.0 are one number, and so one value.
        found = plain(Decimal(found))
    try:
        text = _dimension(found, name)
    except ValueError as error:
        return Problem(Reason.INVALID_VALUE, str(error))
    assert text is not None
    if _CONTROL_CHARACTER.search(text):
        return Problem(Reason.INVALID_VALUE, f"{name!r} holds a control character")
    return text


def _part_of_hour(aggregation: str, event: Event, value: Decimal) -> Part:
    minute = event.time.minute
    if aggregation == _P95:
        return Part(PartKind.SLOT, f"{minute - minute % SLOT_MINUTES:02}")
    microseconds = (minute * 60 + event.time.second) * 1_000_000 + event.time.microsecond
    return Part(PartKind.READING, f"{microseconds:010} {plain(value)}")


def plain(value: Decimal) -> str:
    """Return a number in the one way of writing it: no exponent, no zeros at the end, no minus before zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def is_number(text: str) -> bool:
    """Say whether a text is a decimal number, however many digits it has."""
    return _NUMBER(text) is not None


def exact_value(value: object, *, name: str) -> Decimal | Problem:
    """Return a JSON number or a decimal string as sent; at most 38 digits, counted as written without an exponent."""
    if value is None or value == "":
        return Problem(Reason.MISSING_VALUE, f"{name!r} is missing")
    if type(value) is str:
        if not is_number(value):
            return Problem(Reason.INVALID_VALUE, f"{name!r} is not a decimal number: {value[:80]!r}")
        text, number = value, Decimal(value)
    elif type(value) is Decimal or type(value) is int:
        text, number = str(value), Decimal(value)
    else:
        return Problem(Reason.INVALID_VALUE, f"{name!r} is not a number but {type(value).__name__}")
    # Without an exponent there are no more digits than characters, and to count them costs as much as all the rest.
    if (len(text) > MAX_VALUE_DIGITS or "e" in text or "E" in text) and digits_of(number) > MAX_VALUE_DIGITS:
        return Problem(Reason.INVALID_VALUE, f"{name!r} has more than {MAX_VALUE_DIGITS} digits")
    return number


def digits_of(number: Decimal) -> int:
    """Return how many digits a finite number has when it is written without an exponent."""
    _sign, digits, exponent = number.as_tuple()
    # The exponent of a finite number is an int.
    return max(len(digits) + int(exponent), 0) + max(0, -int(exponent))


def _dimension(value: object, name: str) -> str | None:
    if value is None or type(value) is str:
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | Decimal):
        text = _number_text(value)
    else:
        msg = f"dimension {name!r} is neither a text nor a number"
        raise ValueError(msg)
    if text is not None and len(text) > MAX_DIMENSION_LENGTH:
        msg = f"dimension {name!r} is longer than {MAX_DIMENSION_LENGTH} characters"
        raise ValueError(msg)
    return text


def _number_text(value: int | Decimal) -> str:
    # As Postgres writes the number, which knows no minus before zero.
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    return text[1:] if value == 0 and text.startswith("-") else text


class HourTotal(msgspec.Struct, gc=False):
    """What a batch adds to one hour of one series; `last` is the value at the latest time, the greatest if several."""

    sum: Decimal
    count: int
    min: Decimal
    max: Decimal
    last: Decimal
    last_at: str


HourKey = tuple[SeriesKey, str]


class PartKey(NamedTuple):
    """A part of one hour of one series."""

    series: SeriesKey
    hour: str
    part: Part


class PartTotal(msgspec.Struct, gc=False):
    """What a batch adds to one part of an hour."""

    sum: Decimal
    count: int


class Totals(NamedTuple):
    """What a batch adds up to; an hour is the first 13 characters of its moments in ISO 8601, UTC."""

    hours: dict[HourKey, HourTotal]
    parts: dict[PartKey, PartTotal]


def add_up(counted: Sequence[Counted]) -> Totals:
    """Return exact totals by series and hour, and by part of the hour where a meter needs that."""
    totals: dict[HourKey, HourTotal] = {}
    parts: dict[PartKey, PartTotal] = {}
    with decimal.localcontext(EXACT):
        for item in counted:
            moment = item.event.time_text
            hour = moment[:13]
            for each in item.parts:
                key, value = each.series, each.value
                total = totals.get((key, hour))
                if total is None:
                    totals[key, hour] = HourTotal(value, 1, value, value, value, moment)
                else:
                    _add(total, value, moment)
                if each.part is not None:
                    _add_part(parts, PartKey(key, hour, each.part), value)
    return Totals(totals, parts)


def _add_part(parts: dict[PartKey, PartTotal], key: PartKey, value: Decimal) -> None:
    total = parts.get(key)
    if total is None:
        parts[key] = PartTotal(value, 1)
    else:
        total.sum += value
        total.count += 1


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
