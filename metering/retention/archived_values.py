"""What an event added to a series, worked out again from its data, for the sums in an archive's manifest."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property

import msgspec

from metering.counting import EXACT, exact_value, named
from metering.events import exact_number
from metering.models import Meter, MeterVersion, UsageSeries
from metering.retention.archive_files import EventRow

_decode = msgspec.json.Decoder(dict, float_hook=exact_number).decode


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE = Decimal(1)


class _Reading(msgspec.Struct):
    """How a meter reads events from a moment on (microseconds since 1970)."""

    valid_from: int
    value_path: str
    conversion: Decimal


class SeriesValues:
    """Answers with the value that an event adds to a series; meters are read once, series when first seen."""

    def __init__(self) -> None:
        self._meter_of: dict[int, int | None] = {}

    def __call__(self, row: EventRow, series_id: int) -> Decimal | None:
        """Return the value by the version in force at the event's time: one for a meter that counts; or None."""
        meter_id = self._meter(series_id)
        reading = self._reading(meter_id, row.time) if meter_id is not None else None
        if reading is None:
            return None
        if not reading.value_path:
            return _ONE
        value = exact_value(named(_decode(row.data), reading.value_path), name=reading.value_path)
        return EXACT.multiply(value, reading.conversion) if isinstance(value, Decimal) else None

    def _reading(self, meter_id: int, moment: int) -> _Reading | None:
        """Return the newest reading that holds at the moment; for one before them all, the first."""
        readings = self._readings.get(meter_id, [])
        return next((each for each in readings if each.valid_from <= moment), readings[-1] if readings else None)

    @cached_property
    def _readings(self) -> dict[int, list[_Reading]]:
        found: dict[int, list[_Reading]] = {}
        counting = set(
            Meter.objects.filter(aggregation__in=[Meter.Aggregation.COUNT, Meter.Aggregation.UNIQUE]).values_list(
                "pk", flat=True
            )
        )
        for version in MeterVersion.objects.order_by("meter_id", "-valid_from"):
            after = version.valid_from - _EPOCH
            microseconds = (after.days * 86_400 + after.seconds) * 1_000_000 + after.microseconds
            path = "" if version.meter_id in counting else version.value_path
            found.setdefault(version.meter_id, []).append(_Reading(microseconds, path, version.conversion))
        return found

    def _meter(self, series_id: int) -> int | None:
        if series_id not in self._meter_of:
            found = UsageSeries.objects.filter(pk=series_id).values_list("meter_id", flat=True).first()
            self._meter_of[series_id] = found
        return self._meter_of[series_id]
