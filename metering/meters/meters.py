"""Meters: how events of one type become a quantity, and the versions of that."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.validation import require_reason
from metering.counting import MAX_VALUE_DIGITS, MeterRule, VersionRule, digits_of
from metering.errors import MeterCodeTaken, MeterInvalid, MeterUnknown, MeterVersionTooEarly
from metering.models import BY_CUSTOMER, Meter, MeterVersion

Aggregation = Meter.Aggregation

# Older than any event that is taken.
THE_BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
# A version begins later than any event that may have been counted by the one before: events are taken up to an hour
# ahead of time, and a batch may be on its way while the version is stored.
VERSION_NOTICE = timedelta(hours=1, minutes=10)

_COUNTS_EVENTS = frozenset({Aggregation.COUNT})


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReading:
    """What a version of a meter reads from an event: the part of its definition that may change from a moment on."""

    value_path: str = ""
    event_filter: Mapping[str, str | int | bool] = field(default_factory=dict)
    conversion: Decimal = Decimal(1)
    dimensions: Sequence[str] = ()


@transaction.atomic
def define_meter(  # noqa: PLR0913 -- all that a meter is
    *,
    code: str,
    name: str,
    event_type: str,
    aggregation: str,
    value_path: str = "",
    event_filter: Mapping[str, str | int | bool] | None = None,
    conversion: Decimal = Decimal(1),
    unit: str,
    divisor: Decimal = Decimal(1),
    dimensions: Sequence[str] = (),
    counts_from: datetime = THE_BEGINNING,
    actor: Actor,
    at: datetime,
) -> Meter:
    """Define a meter, or return the one of that code if it is the same.

    It counts events that come in from now on and whose own time is at or after `counts_from` (a full hour). Each value
    is multiplied by `conversion`, and what they come to is divided by `divisor`, once, as it is read: in `unit`. The
    quantity of a gauge is in `unit`-hours: its level, in `unit`, over time.

    Raises: PermissionMissing, MeterCodeTaken, MeterInvalid.
    """
    actor.require(Permission.EDIT_METERS)
    meter = Meter(code=code, name=name, event_type=event_type, aggregation=aggregation, unit=unit, divisor=divisor)
    reading = MeterReading(
        value_path=value_path,
        event_filter=dict(event_filter or {}),
        conversion=conversion,
        dimensions=list(dimensions),
    )
    first = _version(meter, reading, number=1, valid_from=counts_from, reason="", at=at)
    _require_valid(meter, first)
    same = Meter.objects.filter(code=code).first()
    if same is not None:
        if _definition(same) == _definition(meter) and _reads(same.versions.get(number=1)) == _reads(first):
            return same
        msg = f"There is a meter “{code}” already."
        raise MeterCodeTaken(msg)
    with named("meter_code_is_unique", MeterCodeTaken):
        history.save(meter, actor=actor, at=at)
    first.meter = meter
    first.save(force_insert=True)
    audit.record(actor=actor, verb="meter.defined", subject=meter, at=at)
    return meter


@transaction.atomic
def change_meter(
    *, meter_id: int, name: str, is_active: bool, series_limit: int, reason: str, actor: Actor, at: datetime
) -> Meter:
    """Give a meter another name or limit, let it rest, or let it count again from now on; what it has counted stays.

    Raises: PermissionMissing, ReasonMissing, MeterInvalid, MeterUnknown.
    """
    actor.require(Permission.EDIT_METERS)
    require_reason(reason)
    meter = _locked(meter_id)
    if (meter.name, meter.is_active, meter.series_limit) == (name, is_active, series_limit):
        return meter
    meter.name, meter.is_active, meter.series_limit = name, is_active, series_limit
    _require_valid(meter, None)
    history.save(meter, update_fields=["name", "is_active", "series_limit"], reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="meter.changed", subject=meter, at=at, reason=reason)
    return meter


@transaction.atomic
def add_version(
    *, meter_id: int, reading: MeterReading, valid_from: datetime, reason: str, actor: Actor, at: datetime
) -> MeterVersion:
    """Let a meter read events differently from a moment on; the same reading as the newest version's adds none.

    `valid_from` is a full hour of events' own time, and lies far enough ahead (`VERSION_NOTICE`) that no event from
    then on can have been counted yet. So which version counted an event follows from its time alone.

    Raises: PermissionMissing, ReasonMissing, MeterUnknown, MeterInvalid, MeterVersionTooEarly.
    """
    actor.require(Permission.EDIT_METERS)
    require_reason(reason)
    meter = _locked(meter_id)
    newest = meter.versions.order_by("-number")[0]
    version = _version(meter, reading, number=newest.number + 1, valid_from=valid_from, reason=reason.strip(), at=at)
    if _reads(version) == _reads(newest):
        return newest
    _require_valid(meter, version)
    if meter.aggregation == Aggregation.GAUGE and list(reading.dimensions) != list(newest.dimensions):
        msg = "A gauge keeps its dimensions, or the levels of its old series would hold for ever: define another meter."
        raise MeterInvalid(msg)
    if valid_from < at + VERSION_NOTICE or valid_from <= newest.valid_from:
        raise MeterVersionTooEarly
    version.save(force_insert=True)
    audit.record(
        actor=actor,
        verb="meter.version_added",
        subject=meter,
        at=at,
        reason=reason,
        data={"number": version.number, "valid_from": valid_from},
    )
    return version


def dimensions_of(meter_ids: Collection[int]) -> dict[int, frozenset[str]]:
    """Return the names of the dimensions that each meter keeps apart, in any of its versions."""
    found: defaultdict[int, frozenset[str]] = defaultdict(frozenset)
    versions = MeterVersion.objects.filter(meter_id__in=meter_ids).order_by().values_list("meter_id", "dimensions")
    for meter_id, dimensions in versions:
        found[meter_id] |= frozenset(dimensions)
    return dict(found)


def rules_for(
    cursor: psycopg.Cursor[Any], event_types: Collection[str], *, resting: Collection[int] = ()
) -> dict[str, list[MeterRule]]:
    """Return the rules of the active meters, and of these that rest, by the type of event that they take."""
    cursor.execute(
        """
        SELECT meter.event_type, meter.id, meter.aggregation, meter.series_limit, version.id, version.valid_from,
               version.value_path, version.event_filter::text, version.conversion, version.dimensions
        FROM metering_meter AS meter JOIN metering_meterversion AS version ON version.meter_id = meter.id
        WHERE (meter.is_active OR meter.id = ANY(%s)) AND meter.event_type = ANY(%s)
        ORDER BY meter.id, version.valid_from DESC
        """,
        [list(resting), list(event_types)],
        binary=True,
    )
    rules: dict[str, list[MeterRule]] = {}
    for event_type, meter_id, aggregation, series_limit, *version in cursor:
        of_type = rules.setdefault(event_type, [])
        if not of_type or of_type[-1].id != meter_id:
            of_type.append(MeterRule(meter_id, aggregation, series_limit, []))
        of_type[-1].versions.append(version_rule(*version))
    return rules


def rule_of(meter: Meter) -> MeterRule:
    """Return the rule of a meter, whether it is active or rests."""
    versions = [
        VersionRule(
            version.pk,
            version.valid_from,
            version.value_path,
            version.event_filter,
            None if version.conversion == 1 else version.conversion,
            tuple(version.dimensions),
        )
        for version in meter.versions.order_by("-valid_from")
    ]
    return MeterRule(meter.pk, meter.aggregation, meter.series_limit, versions)


def draft_rule(
    *, event_type: str, aggregation: str, unit: str, divisor: Decimal, reading: MeterReading, at: datetime
) -> MeterRule:
    """Return the rule of a meter that is not defined yet, as if it had been there for ever; its ids are 0.

    Raises: MeterInvalid.
    """
    meter = Meter(
        code="draft", name="Draft", event_type=event_type, aggregation=aggregation, unit=unit, divisor=divisor
    )
    version = _version(meter, reading, number=1, valid_from=THE_BEGINNING, reason="", at=at)
    _require_valid(meter, version)
    conversion = None if reading.conversion == 1 else reading.conversion
    rule = VersionRule(
        0, THE_BEGINNING, reading.value_path, dict(reading.event_filter), conversion, tuple(reading.dimensions)
    )
    return MeterRule(0, aggregation, meter.series_limit, [rule])


def version_rule(  # noqa: PLR0917 -- the columns of a row
    version_id: int,
    valid_from: datetime,
    value_path: str,
    event_filter: str,
    conversion: Decimal,
    dimensions: Sequence[str],
) -> VersionRule:
    """Return what counting needs to know of a version."""
    return VersionRule(
        version_id,
        valid_from,
        value_path,
        json.loads(event_filter),
        None if conversion == 1 else conversion,
        tuple(dimensions),
    )


def _locked(meter_id: int) -> Meter:
    meter = Meter.objects.select_for_update(no_key=True).filter(pk=meter_id).first()
    if meter is None:
        raise MeterUnknown
    return meter


def _version(
    meter: Meter, reading: MeterReading, *, number: int, valid_from: datetime, reason: str, at: datetime
) -> MeterVersion:
    return MeterVersion(
        meter=meter,
        number=number,
        valid_from=valid_from,
        value_path=reading.value_path,
        event_filter=dict(reading.event_filter),
        conversion=reading.conversion,
        dimensions=list(reading.dimensions),
        reason=reason,
        created_at=at,
    )


def _definition(meter: Meter) -> tuple[object, ...]:
    return (meter.name, meter.event_type, meter.aggregation, meter.unit, Decimal(meter.divisor))


def _reads(version: MeterVersion) -> tuple[object, ...]:
    # The filter as JSON, for Python takes true and 1 for the same.
    event_filter = json.dumps(version.event_filter, sort_keys=True)
    return (version.value_path, event_filter, Decimal(version.conversion), list(version.dimensions))


def _require_valid(meter: Meter, version: MeterVersion | None) -> None:
    problems = _faults(meter)
    if meter.series_limit < 1:
        problems.append("A meter allows a customer at least one series.")
    if version is not None:
        problems += _faults(version, leave_out=["meter"]) + _contradictions(meter, version)
    if problems:
        raise MeterInvalid(" ".join(problems))


def _faults(record: Meter | MeterVersion, leave_out: Collection[str] = ()) -> list[str]:
    try:
        record.full_clean(exclude=leave_out, validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        return list(error.messages)
    return []


def _is_factor(number: Decimal) -> bool:
    return number.is_finite() and number > 0 and digits_of(number) <= MAX_VALUE_DIGITS


def _contradictions(meter: Meter, version: MeterVersion) -> list[str]:
    counts = meter.aggregation in _COUNTS_EVENTS
    instant = version.valid_from.astimezone(UTC)
    conversion, divisor = Decimal(version.conversion), Decimal(meter.divisor)
    counts_things = meter.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE}
    found = (
        (counts == bool(version.value_path), "A meter that counts events reads no value; every other meter names one."),
        (
            counts_things and any(number.is_finite() and number != 1 for number in (conversion, divisor)),
            "Events and different values are counted as they are, without a conversion and a divisor.",
        ),
        (not _is_factor(conversion), f"The conversion is above zero and has at most {MAX_VALUE_DIGITS} digits."),
        (not _is_factor(divisor), f"The divisor is above zero and has at most {MAX_VALUE_DIGITS} digits."),
        (BY_CUSTOMER in version.dimensions, f"“{BY_CUSTOMER}” is no dimension: customers are told apart by it."),
        (len(set(version.dimensions)) != len(version.dimensions), "A dimension is named twice."),
        (
            not all(isinstance(value, str | int) for value in version.event_filter.values()),
            "A filter compares with a text, a whole number, true or false.",
        ),
        (bool(instant.minute or instant.second or instant.microsecond), "A version begins on a full hour."),
    )
    return [sentence for is_wrong, sentence in found if is_wrong]
