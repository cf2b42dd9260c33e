"""Meters: how events of one type become a quantity."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.validation import require_reason
from metering.counting import MeterRule
from metering.errors import MeterCodeTaken, MeterInvalid
from metering.models import Meter


@transaction.atomic
def define_meter(
    *,
    code: str,
    name: str,
    event_type: str,
    aggregation: str,
    value_path: str = "",
    event_filter: Mapping[str, str | int | bool] | None = None,
    unit: str,
    dimensions: Sequence[str] = (),
    actor: Actor,
    at: datetime,
) -> Meter:
    """Define a meter, or return the one of that code if it is the same.

    It counts events that come in from now on, and what it counts never changes.

    Raises: PermissionMissing, MeterCodeTaken, MeterInvalid.
    """
    actor.require(Permission.EDIT_METERS)
    meter = Meter(
        code=code,
        name=name,
        event_type=event_type,
        aggregation=aggregation,
        value_path=value_path,
        event_filter=dict(event_filter or {}),
        unit=unit,
        dimensions=list(dimensions),
    )
    _require_valid(meter)
    same = Meter.objects.filter(code=code).first()
    if same is not None:
        if _definition(same) == _definition(meter):
            return same
        msg = f"There is a meter “{code}” already."
        raise MeterCodeTaken(msg)
    with named("meter_code_is_unique", MeterCodeTaken):
        history.save(meter, actor=actor, at=at)
    audit.record(actor=actor, verb="meter.defined", subject=meter, at=at)
    return meter


@transaction.atomic
def change_meter(*, meter_id: int, name: str, is_active: bool, reason: str, actor: Actor, at: datetime) -> Meter:
    """Give a meter another name, let it rest, or let it count again from now on; what it has counted stays.

    Raises: PermissionMissing, ReasonMissing, MeterInvalid.
    """
    actor.require(Permission.EDIT_METERS)
    require_reason(reason)
    meter = Meter.objects.select_for_update(no_key=True).get(pk=meter_id)
    if (meter.name, meter.is_active) == (name, is_active):
        return meter
    meter.name, meter.is_active = name, is_active
    _require_valid(meter)
    history.save(meter, update_fields=["name", "is_active"], reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="meter.changed", subject=meter, at=at, reason=reason)
    return meter


def rules_for(cursor: psycopg.Cursor[Any], event_types: Collection[str]) -> dict[str, list[MeterRule]]:
    """Return the rules of the active meters by the type of event that they take."""
    cursor.execute(
        """
        SELECT event_type, id, value_path, event_filter::text, dimensions FROM metering_meter
        WHERE is_active AND event_type = ANY(%s) ORDER BY id
        """,
        [list(event_types)],
    )
    rules: dict[str, list[MeterRule]] = {}
    for event_type, meter_id, value_path, event_filter, dimensions in cursor:
        rules.setdefault(event_type, []).append(
            MeterRule(meter_id, value_path, json.loads(event_filter), tuple(dimensions))
        )
    return rules


def _definition(meter: Meter) -> tuple[object, ...]:
    return (
        meter.name,
        meter.event_type,
        meter.aggregation,
        meter.value_path,
        # As JSON, for Python takes true and 1 for the same.
        json.dumps(meter.event_filter, sort_keys=True),
        meter.unit,
        list(meter.dimensions),
    )


def _require_valid(meter: Meter) -> None:
    problems: list[str] = []
    try:
        meter.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        problems += error.messages
    counts = meter.aggregation == Meter.Aggregation.COUNT
    if counts == bool(meter.value_path):
        problems.append("A meter that counts events reads no value; every other meter names one.")
    if len(set(meter.dimensions)) != len(meter.dimensions):
        problems.append("A dimension is named twice.")
    if not all(isinstance(value, str | int) for value in meter.event_filter.values()):
        problems.append("A filter compares with a text, a whole number, true or false.")
    if problems:
        raise MeterInvalid(" ".join(problems))
