"""Checks what people typed: single values that a model field can name, and the fields of a whole record."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta

from babel import Locale, UnknownLocaleError
from django.core.exceptions import ValidationError
from django.db import models

from accounts.errors import DetailsInvalid, ReasonMissing

# Winter and summer of either half of the world; the constraint `legal_entity_bills_on_the_hour` asks the same.
_WINTER_AND_SUMMER = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC))
_HOUR = timedelta(hours=1)


def check_time_zone(name: str) -> None:
    """Raise ValidationError unless this is a time zone of the IANA database in which hours begin as they do in UTC.

    Usage is added up by hours of UTC and bills are cut at local midnight. In a zone such as Asia/Kolkata, five and a
    half hours ahead, midnight lies within such an hour, and no bill could say which part of it came before.
    """
    # What the machine is set to is no zone by itself, and another one on the next machine.
    if name not in zoneinfo.available_timezones() - {"localtime"}:
        msg = f"“{name}” is not a time zone; use a name such as Europe/Berlin."
        raise ValidationError(msg)
    zone = zoneinfo.ZoneInfo(name)
    offsets = [moment.astimezone(zone).utcoffset() or timedelta() for moment in _WINTER_AND_SUMMER]
    if any(offset % _HOUR for offset in offsets):
        msg = f"Days in {name} begin within an hour of UTC; usage is added up by whole ones, so no bill can end there."
        raise ValidationError(msg, code="time_zone_not_on_the_hour")


def check_locale(name: str) -> None:
    """Raise ValidationError unless documents can be written in this locale."""
    try:
        Locale.parse(name)
    except (ValueError, UnknownLocaleError) as error:
        msg = f"“{name}” is not a locale; use a name such as de_DE."
        raise ValidationError(msg) from error


def require_valid(instance: models.Model) -> None:
    """Raise DetailsInvalid, naming every field that does not hold what its model asks for; reads no database."""
    relations = {field.name for field in instance._meta.fields if field.is_relation}
    try:
        instance.clean_fields(exclude=relations)
    except ValidationError as error:
        raise DetailsInvalid(error.message_dict) from error


def require_reason(reason: str) -> None:
    """Raise ReasonMissing unless somebody wrote why."""
    if not reason.strip():
        raise ReasonMissing


def change_fields(instance: models.Model, values: dict[str, object]) -> dict[str, dict[str, object]]:
    """Set the values on the instance; return what differs, as {field: {"before": ..., "after": ...}}.

    Raises: DetailsInvalid.
    """
    changes: dict[str, dict[str, object]] = {}
    for name, after in values.items():
        before = getattr(instance, name)
        if before != after:
            setattr(instance, name, after)
            changes[name] = {"before": before, "after": after}
    require_valid(instance)
    return changes
