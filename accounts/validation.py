"""Checks of single values that a model field can name: a time zone, a locale."""

from __future__ import annotations

import zoneinfo

from babel import Locale, UnknownLocaleError
from django.core.exceptions import ValidationError


def check_time_zone(name: str) -> None:
    """Raise ValidationError unless this is a time zone of the IANA database."""
    if name not in zoneinfo.available_timezones():
        msg = f"“{name}” is not a time zone; use a name such as Europe/Berlin."
        raise ValidationError(msg)


def check_locale(name: str) -> None:
    """Raise ValidationError unless documents can be written in this locale."""
    try:
        Locale.parse(name)
    except (ValueError, UnknownLocaleError) as error:
        msg = f"“{name}” is not a locale; use a name such as de_DE."
        raise ValidationError(msg) from error
