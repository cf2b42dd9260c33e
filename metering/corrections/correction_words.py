"""Says in words which events a correction is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from accounts.models import Customer
from metering.models import Meter, UsageCorrection

_NAMES = {
    "customer_id": "Customer",
    "type": "Type",
    "source": "Source",
    "event_id": "Event id",
    "subject": "Subject",
    "start": "From",
    "end": "Until, not included",
    "data": "Data hold",
    "meter_id": "Of the meter",
    "filters": "With",
    "origin": "Came with",
}


def events_asked_for(correction: UsageCorrection) -> list[tuple[str, str]]:
    """Return what the events of a correction have in common, or the first of those that were named.

    Nothing of a revert: its events are those of what it reverts.
    """
    if correction.reverts_id:
        return []
    return words_of(correction.selection)


def words_of(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the same of a selection as it is kept; two queries at most."""
    if "first" in asked:
        more = asked.get("events", 0) - len(asked["first"])
        named = [*asked["first"], f"and {more:,} more"] if more > 0 else asked["first"]
        return [("Events", ", ".join(named))]
    return [(_NAMES.get(name, name), _words(name, asked[name])) for name in {**_NAMES, **asked} if name in asked]


def _words(name: str, value: Any) -> str:
    if name == "customer_id":
        customer = Customer.objects.filter(pk=value).first()
        return f"{customer.name}, {customer.code}" if customer else str(value)
    if name in {"start", "end"}:
        return f"{datetime.fromisoformat(value).astimezone(UTC):%-d %b %Y, %H:%M} UTC"
    if name == "meter_id":
        meter = Meter.objects.filter(pk=value).first()
        return f"{meter.name}, {meter.code}" if meter else str(value)
    if name == "filters":
        return "; ".join(f"{key} = {' or '.join(each or 'none' for each in values)}" for key, values in value.items())
    return ", ".join(f"{key} = {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)


@dataclass(frozen=True, slots=True)
class Change:
    """What changes of one customer's meter in a month, and whether it is billed; quantities are in `unit`."""

    customer_id: int
    customer: str
    meter: str
    unit: str
    month: date
    events: int
    before: Decimal
    after: Decimal
    is_billed: bool

    @property
    def difference(self) -> Decimal:
        """By how much the quantity changes."""
        return self.after - self.before


def changes_of(preview: Mapping[str, Any]) -> list[Change]:
    """Return what a preview says, as it was kept."""
    return [
        Change(
            **{name: row[name] for name in ("customer_id", "customer", "meter", "unit", "events")},
            month=date.fromisoformat(f"{row['month']}-01"),
            before=Decimal(row["before"]),
            after=Decimal(row["after"]),
            # Previews from before this was noted do not say.
            is_billed=row.get("is_billed", False),
        )
        for row in preview.get("rows", ())
    ]
