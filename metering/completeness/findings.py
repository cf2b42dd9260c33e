"""What a person should look at before usage is billed, and their word that it is as it should be.

A finding is not kept: it is found anew each time, so what comes in late, or is put right, makes it go away. What is
kept is the acknowledgement.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from accounts import audit
from accounts.access import Actor, Permission
from accounts.models import Customer
from accounts.validation import require_reason
from metering.completeness import completeness, unusual
from metering.completeness.completeness import HourLine, Scope, State
from metering.completeness.unusual import Oddity
from metering.errors import FindingUnknown
from metering.models import Acknowledgement, Meter, UsageSeries

Kind = Acknowledgement.Kind

_HOUR = timedelta(hours=1)
# Differences of one line that lie no further apart are one finding.
_BELONGS_TOGETHER = timedelta(hours=24)
_DIFFERENCES_AT_MOST = 5_000
_DIFFERS = {State.MISSING: Kind.MISSING, State.SURPLUS: Kind.SURPLUS, State.SUM_DIFFERS: Kind.SUM_DIFFERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Odd usage of a source (or, with `customer_id`, of a customer) during `[start, end)`; `hours` of it are odd.

    Against a statement, `actual` and `usual` are the events that came in and those that were stated (sums, where only
    these differ); otherwise what the odd hours add up to, in the meter's unit. `meter_id` None means all events of a
    type.
    """

    kind: Kind
    source: str
    type: str
    customer_id: int | None
    customer: str
    meter_id: int | None
    meter: str
    unit: str
    start: datetime
    end: datetime
    hours: int
    actual: Decimal
    usual: Decimal
    acknowledgement: Acknowledgement | None = None

    @property
    def key(self) -> str:
        """The finding as one text, to ask for it again."""
        return json.dumps([self.kind, self.source, self.type, self.customer_id, self.meter_id, self.start.isoformat()])

    @property
    def place(self) -> tuple[str, str, str, int | None, int]:
        """What an acknowledgement has in common with the finding that it is of."""
        return self.kind, self.source, self.type, self.customer_id, self.meter_id or 0

    @property
    def is_open(self) -> bool:
        """Whether nobody has spoken for it yet."""
        return self.acknowledgement is None


def settled_until(at: datetime) -> datetime:
    """Return until when usage should have come in by now, on the hour."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour - settings.USAGE_SETTLES_AFTER_HOURS * _HOUR


def findings(start: datetime, end: datetime, customer_ids: Sequence[int] | None = None) -> list[Finding]:
    """Return what is odd about the usage of `[start, end)`, both on the hour: what nobody has acknowledged first.

    Differences from what sources state, hours of sources that are unlike the usual week, and customers whose whole
    period is. With customers, these alone, and sources only of meters that count usage of theirs. The number of
    queries does not depend on how much there is; the hours of the period and of the eight weeks before are read.
    """
    if start >= end:
        return []
    found = [
        *_differences(start, end, customer_ids),
        *_named(
            [
                *unusual.odd_hours(start=start, end=end, customer_ids=customer_ids),
                *unusual.odd_customers(start=start, end=end, customer_ids=customer_ids),
            ]
        ),
    ]
    return sorted(_with_acknowledgements(found), key=lambda each: (not each.is_open, -each.start.timestamp()))


def _differences(start: datetime, end: datetime, customer_ids: Sequence[int] | None) -> Iterator[Finding]:
    lines = completeness.hours(Scope(start=start, end=end), only_differences=True, limit=_DIFFERENCES_AT_MOST).lines
    if customer_ids is not None and lines:
        lines = _of_customers(lines, customer_ids)
    runs: dict[tuple[str, str, int | None, State], list[HourLine]] = {}
    for line in reversed(lines):
        if line.state not in _DIFFERS:
            continue
        place = (line.source, line.type, line.meter_id, line.state)
        run = runs.get(place)
        if run and line.hour - run[-1].hour > _BELONGS_TOGETHER:
            yield _difference(run)
            run = None
        runs[place] = [*(run or ()), line]
    yield from (_difference(run) for run in runs.values())


def _of_customers(lines: Iterable[HourLine], customer_ids: Sequence[int]) -> list[HourLine]:
    used = UsageSeries.objects.filter(customer_id__in=customer_ids).values("meter_id")
    meters = dict(Meter.objects.filter(pk__in=used).values_list("pk", "event_type"))
    types = set(meters.values())
    return [line for line in lines if (line.meter_id in meters if line.meter_id else line.type in types)]


def _difference(run: Sequence[HourLine]) -> Finding:
    first = run[0]
    by_sum = first.state is State.SUM_DIFFERS
    return Finding(
        kind=_DIFFERS[first.state],
        source=first.source,
        type=first.type,
        customer_id=None,
        customer="",
        meter_id=first.meter_id,
        meter=first.meter,
        unit=first.unit if by_sum else "events",
        start=first.hour,
        end=run[-1].hour + _HOUR,
        hours=len(run),
        actual=sum((line.sum if by_sum else Decimal(line.received) for line in run), Decimal(0)),
        usual=sum((Decimal((line.expected_sum if by_sum else line.expected) or 0) for line in run), Decimal(0)),
    )


def _named(oddities: Sequence[Oddity]) -> Iterator[Finding]:
    meters = Meter.objects.in_bulk({oddity.meter_id for oddity in oddities})
    customers = Customer.objects.in_bulk({oddity.customer_id for oddity in oddities if oddity.customer_id})
    for oddity in oddities:
        meter = meters[oddity.meter_id]
        customer = customers.get(oddity.customer_id or 0)
        yield Finding(
            **{**oddity._asdict(), "kind": Kind(oddity.kind)},
            customer=customer.name if customer else "",
            meter=meter.name,
            unit=meter.sum_unit,
        )


def _with_acknowledgements(found: Sequence[Finding]) -> Iterator[Finding]:
    """Add to each finding the acknowledgement that covers at least half of its time."""
    if not found:
        return
    start, end = min(each.start for each in found), max(each.end for each in found)
    spoken: dict[tuple[str, str, str, int | None, int], list[Acknowledgement]] = {}
    for each in Acknowledgement.objects.filter(period__overlap=DateTimeTZRange(start, end)).select_related(
        "acknowledged_by"
    ):
        place = (each.kind, each.source, each.type, each.customer_id, each.meter_id)
        spoken.setdefault(place, []).append(each)
    for finding in found:
        covering = (each for each in spoken.get(finding.place, ()) if _covers(each, finding))
        yield replace(finding, acknowledgement=next(covering, None))


def _covers(acknowledgement: Acknowledgement, finding: Finding) -> bool:
    common = min(acknowledgement.period.upper, finding.end) - max(acknowledgement.period.lower, finding.start)
    return bool(common * 2 >= finding.end - finding.start)


@transaction.atomic
def acknowledge(
    *, key: str, start: datetime, end: datetime, reason: str, actor: Actor, at: datetime
) -> Acknowledgement:
    """Say of a finding of `[start, end)` that it is as it should be, and why. Twice changes nothing.

    It is asked of no more, unless it grows to more than twice the time.

    Raises: PermissionMissing, ReasonMissing, FindingUnknown.
    """
    actor.require(Permission.RELEASE_QUARANTINE)
    require_reason(reason)
    finding = next((each for each in findings(start, end) if each.key == key), None)
    if finding is None:
        raise FindingUnknown
    if finding.acknowledgement is not None:
        return finding.acknowledgement
    spoken, is_new = Acknowledgement.objects.get_or_create(
        kind=finding.kind,
        source=finding.source,
        type=finding.type,
        customer_id=finding.customer_id,
        meter_id=finding.meter_id or 0,
        period=DateTimeTZRange(finding.start, finding.end),
        defaults={"reason": reason.strip(), "acknowledged_at": at, "acknowledged_by_id": actor.user_id},
    )
    if is_new:
        audit.record(
            actor=actor,
            verb="finding.acknowledged",
            subject=spoken,
            at=at,
            reason=reason.strip(),
            data={
                "source": finding.source,
                "customer_id": finding.customer_id,
                "meter": finding.meter,
                "start": finding.start,
                "end": finding.end,
                "actual": finding.actual,
                "usual": finding.usual,
            },
        )
    return spoken
