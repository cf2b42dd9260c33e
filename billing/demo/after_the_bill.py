"""What happens to billed months of the synthetic cloud: a few readings come late, and a few were wrong.

Both are as small as such things mostly are; they give the pages on late and corrected usage something to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final

from billing.demo import gpu_cloud
from billing.demo.approving import approve_pending
from billing.demo.people import DemoStaff
from metering.corrections import corrections
from metering.corrections.correction_selection import NamedEvent
from metering.corrections.correction_work import apply_some
from metering.models import UsageCorrection

REASON: Final = "A rack was read twice that morning"
_LATE_READINGS: Final = 8
_READ_TWICE: Final = (60, 61)


def late_events(start: datetime) -> Iterator[dict[str, object]]:
    """Yield readings of the month that begins then: of a rack of the first customer that was offline for some time.

    They lie between the hours at which readings that arrive in time are taken.
    """
    customer = gpu_cloud.customers()[0]
    gpu = customer.gpus[0]
    for number in range(_LATE_READINGS):
        moment = start + timedelta(days=9, hours=2 + number * gpu_cloud.HOURS_BETWEEN_READINGS)
        data = {"hours": f"{customer.size}.5", "gpu": gpu, "region": gpu_cloud.REGIONS[0]}
        yield gpu_cloud.event(customer, gpu_cloud.GPU_TYPE, f"late-{gpu}-{number}", moment, data)


def void_what_was_read_twice(month: date, staff: DemoStaff, *, at: datetime) -> None:
    """Void two readings of the second customer, unless it was done before; with an approval if it takes one."""
    if UsageCorrection.objects.filter(reason=REASON).exists():
        return
    customer = gpu_cloud.customers()[1]
    twice = [f"{customer.code}/{month:%Y-%m}/{customer.gpus[-1]}-{reading}" for reading in _READ_TWICE]
    draft = corrections.request_correction(
        events=[NamedEvent(source=gpu_cloud.SOURCE, event_id=each) for each in twice],
        reason=REASON,
        actor=staff.analyst,
        at=at,
    )
    corrections.preview_correction(correction_id=draft.pk, actor=staff.analyst, at=at)
    corrections.submit_correction(correction_id=draft.pk, actor=staff.analyst, at=at)
    approve_pending(
        kind=corrections.APPROVAL_KIND,
        subject_id=draft.pk,
        comment="The logbook of the rack says so too.",
        actor=staff.controller,
        at=at,
    )
    while apply_some(correction_id=draft.pk, actor=staff.house, at=at):
        pass
