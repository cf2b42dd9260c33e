"""Reads what people type about a meter; what it means is decided by the verbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation

from django.http import QueryDict

from metering.errors import MeterInvalid
from metering.meters.meter_preview import MeterDraft
from metering.meters.meters import MeterReading
from metering.models import Meter, MeterVersion

FilterValue = str | int | bool
PREVIEW_DAYS = 7
# Longer ones are compared as the text that they are; no number of an event's data comes near.
_MAX_DIGITS = 18
_YEARS = range(1970, 9999)


def reading_of(form: Mapping[str, str]) -> MeterReading:
    """Return the reading that a form describes. Raises: MeterInvalid where a field cannot be read."""
    return MeterReading(
        value_path=form.get("value_path", "").strip(),
        conversion=_number(form.get("conversion", "")),
        event_filter=_filter(form.get("event_filter", "")),
        dimensions=[name.strip() for name in form.get("dimensions", "").split(",") if name.strip()],
    )


def draft_of(form: Mapping[str, str], meter: Meter | None = None) -> MeterDraft:
    """Return the draft of a new meter, or of another version of a meter. Raises: MeterInvalid."""
    if meter is not None:
        return MeterDraft(
            event_type=meter.event_type,
            aggregation=meter.aggregation,
            unit=meter.unit,
            divisor=meter.divisor,
            reading=reading_of(form),
            series_limit=meter.series_limit,
        )
    return MeterDraft(
        event_type=form.get("event_type", "").strip(),
        aggregation=form.get("aggregation", ""),
        unit=form.get("unit", "").strip() or "units",
        divisor=_number(form.get("divisor", "")),
        reading=reading_of(form),
    )


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text.strip() or "1")
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        msg = f"“{text[:40]}” is not a number, such as 0.001."
        raise MeterInvalid(msg)
    return number


def _filter(text: str) -> dict[str, FilterValue]:
    """Read lines such as `state = running`; true, false and whole numbers are such, unless in double quotes."""
    found: dict[str, FilterValue] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals and value):
            msg = f"A line of the filter reads “name = value”, unlike “{line.strip()[:40]}”."
            raise MeterInvalid(msg)
        if name in found:
            msg = f"The filter names “{name[:40]}” twice."
            raise MeterInvalid(msg)
        found[name] = _filter_value(value)
    return found


def _filter_value(text: str) -> FilterValue:
    if text in {"true", "false"}:
        return text == "true"
    if text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= _MAX_DIGITS:
        return int(text)
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if is_quoted else text


def typed_of(version: MeterVersion) -> dict[str, str]:
    """Return a version as its form would have it."""
    return {
        "value_path": version.value_path,
        "conversion": format(version.conversion, "f"),
        "event_filter": "\n".join(f"{name} = {_typed(value)}" for name, value in version.event_filter.items()),
        "dimensions": ", ".join(version.dimensions),
    }


def _typed(value: FilterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value if _filter_value(value) == value and value.strip() == value and value else f'"{value}"'


@dataclass(frozen=True, slots=True)
class Days:
    """The days of a form, both included, and the moments that they mean: midnight UTC, the end exclusive."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        return datetime(self.last.year, self.last.month, self.last.day, tzinfo=UTC) + timedelta(days=1)


def days_of(form: Mapping[str, str] | QueryDict, *, at: datetime, days: int = PREVIEW_DAYS) -> Days:
    """Return the days that a form asks for; the last week where it asks for none, or for none of the calendar."""
    today = at.astimezone(UTC).date()
    last = _day(form.get("last_day") or "") or today
    return Days(_day(form.get("first_day") or "") or last - timedelta(days=days - 1), last)


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    # Some days before and after are asked for too.
    return day if day.year in _YEARS else None


def moment_of(form: Mapping[str, str]) -> datetime:
    """Return the day and hour (UTC) that a version shall begin. Raises: MeterInvalid."""
    try:
        return datetime.fromisoformat(f"{form.get('valid_day', '')}T{form.get('valid_hour', '')}").replace(tzinfo=UTC)
    except ValueError:
        msg = "Say from which day and hour the version is valid."
        raise MeterInvalid(msg) from None
