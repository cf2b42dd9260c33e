"""What the synthetic GPU cloud says it sent: the hours as they are, and one of which twelve readings never arrived.

Made up like the usage itself, under the name of its synthetic source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.demo import gpu_cloud
from billing.demo.people import DemoStaff
from metering.completeness.control_totals import MAX_STATEMENTS, Statement, state_control_totals

# The readings that were lost on their way, and what each would have said.
LOST_READINGS = 12
LOST_HOURS_EACH = Decimal("3.25")

_METERS = {meter.event_type: meter for meter in gpu_cloud.METERS}
# By hour and type of event: how many, and what they add up to where their meter adds up.
Sent = dict[tuple[datetime, str], tuple[int, Decimal]]


def sent_by_hour(events: Iterable[Mapping[str, Any]]) -> Sent:
    """Add events up by the hour and their type."""
    totals: Sent = {}
    for event in events:
        meter = _METERS.get(event["type"])
        hour = datetime.fromisoformat(event["time"]).replace(minute=0, second=0, microsecond=0)
        count, total = totals.get((hour, event["type"]), (0, Decimal(0)))
        value = Decimal(event["data"][meter.value_path]) if meter else Decimal(0)
        totals[hour, event["type"]] = count + 1, total + value
    return totals


def state_what_was_sent(totals: Sent, staff: DemoStaff, *, at: datetime) -> None:
    """State what was sent by the hour; of the newest hour but twenty of GPU readings, twelve more than came in."""
    gpu_hours = sorted(hour for hour, event_type in totals if event_type == gpu_cloud.GPU_TYPE)
    for hour in gpu_hours[-20:-19]:
        count, total = totals[hour, gpu_cloud.GPU_TYPE]
        totals[hour, gpu_cloud.GPU_TYPE] = count + LOST_READINGS, total + LOST_READINGS * LOST_HOURS_EACH
    statements = [
        Statement(source=gpu_cloud.SOURCE, meter=_METERS[event_type].code, hour=hour, count=count, sum=total)
        if event_type in _METERS
        # Rates, sizes and names do not add up: how many there were is all that can be said of an hour.
        else Statement(source=gpu_cloud.SOURCE, type=event_type, hour=hour, count=count)
        for (hour, event_type), (count, total) in totals.items()
    ]
    for start in range(0, len(statements), MAX_STATEMENTS):
        state_control_totals(statements=statements[start : start + MAX_STATEMENTS], actor=staff.house, at=at)
