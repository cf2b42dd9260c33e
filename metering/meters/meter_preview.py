"""What a meter would count if it were defined so: tried on stored and on quarantined events, writing nothing."""

from __future__ import annotations

import decimal
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from django.db import connection

from accounts.access import Actor, Permission
from accounts.models import Customer
from accounts.periods import PeriodInvalid
from metering import attribution, storage
from metering.aggregations import SLOT, Latest, Slots, State, joined, quantity_of, slots_in
from metering.counting import (
    EXACT,
    Contribution,
    MeterRule,
    Ownership,
    Problem,
    Reason,
    contribution,
    plain,
    version_at,
)
from metering.events import Event
from metering.meters.meters import MeterReading, draft_rule, rule_of
from metering.models import Meter, QuarantinedEvent
from metering.reading import stored_events
from metering.reading.usage import require_on_the_hour

Aggregation = Meter.Aggregation

MAX_EVENTS_READ: Final = 20_000
MAX_EXAMPLES: Final = 3
MAX_CUSTOMERS: Final = 20
LONGEST_DAYS: Final = 92
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterDraft:
    """A meter, or another version of one, that is not defined yet."""

    event_type: str
    aggregation: str
    unit: str
    divisor: Decimal = Decimal(1)
    reading: MeterReading = field(default_factory=MeterReading)
    series_limit: int = 10_000


class Example(NamedTuple):
    """An event, and what it would count as: `value` (converted, and not divided yet) or what stands in its way."""

    event: Event
    value: Decimal | None
    part: str
    dimensions: Mapping[str, str | None]
    detail: str

    @property
    def shown(self) -> str:
        """The value with every digit and no exponent."""
        return "" if self.value is None else plain(self.value)


@dataclass(frozen=True, slots=True)
class NotRead:
    """Events that the meter could not read, for one reason, with some of them."""

    reason: Reason
    events: int
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class CustomerPreview:
    """What one customer's usage would be: `quantity` in the meter's unit (unit-hours of a gauge)."""

    customer: Customer
    quantity: Decimal
    events: int
    series: int


@dataclass(frozen=True, slots=True)
class MeterPreview:
    """What a draft makes of the events of `[start, end)`.

    `end` is earlier than asked for where there were more events than are read: `is_cut`. `taken`, `left_out` (by the
    filter) and those not read add up to `stored` (accepted events that still count) and `waiting` (in quarantine).
    """

    start: datetime
    end: datetime
    is_cut: bool
    stored: int
    waiting: int
    taken: int
    left_out: int
    not_read: Sequence[NotRead]
    examples: Sequence[Example]
    customers: Sequence[CustomerPreview]
    customer_count: int
    most_series: int
    over_limit: int
    series_limit: int


class _Candidate(NamedTuple):
    event: Event
    customer_id: int | None


class _Found(NamedTuple):
    candidates: list[_Candidate]
    stored: int
    end: datetime
    is_cut: bool


def preview(*, draft: MeterDraft, start: datetime, end: datetime, actor: Actor, at: datetime) -> MeterPreview:
    """Count the events of `[start, end)` (both on the hour of UTC, at most 92 days) as the draft would; writes nothing.

    Of stored events and of those that wait in quarantine, the first 20,000 of each by time are read. A level (gauge)
    is nought before its first reading in the period and holds until the period's end, or until `at`.

    Raises: PermissionMissing, MeterInvalid, PeriodInvalid, WindowNotOnTheHour.
    """
    actor.require(Permission.VIEW_USAGE)
    rule = draft_rule(
        event_type=draft.event_type,
        aggregation=draft.aggregation,
        unit=draft.unit,
        divisor=draft.divisor,
        reading=draft.reading,
        at=at,
    )
    require_on_the_hour(start, end)
    if not start < end or (end - start).days > LONGEST_DAYS:
        msg = f"A preview covers up to {LONGEST_DAYS} days, from a day to a later one."
        raise PeriodInvalid(msg)
    found = _candidates(draft.event_type, start, end)
    tally = _Tally(rule, draft.reading.dimensions)
    for candidate in found.candidates:
        tally.judge(candidate)
    quantities = _quantities(draft, tally.by_customer, _Window(start, found.end, min(found.end, at)))
    counts = [len(series) for series in tally.by_customer.values()]
    return MeterPreview(
        start=start,
        end=found.end,
        is_cut=found.is_cut,
        stored=found.stored,
        waiting=len(found.candidates) - found.stored,
        taken=tally.taken,
        left_out=tally.left_out,
        not_read=[NotRead(reason, tally.refused[reason], tally.unread[reason]) for reason in tally.refused],
        examples=tally.examples,
        customers=_largest(quantities, tally.by_customer),
        customer_count=len(counts),
        most_series=max(counts, default=0),
        over_limit=sum(count > draft.series_limit for count in counts),
        series_limit=draft.series_limit,
    )


def examples_of(meter: Meter, *, limit: int) -> list[Example]:
    """Return late events of the meter's type, the newest first, and how each counts in it."""
    rule = rule_of(meter)
    found = []
    for stored in stored_events.latest_of_type(event_type=meter.event_type, limit=limit):
        version = version_at(rule, stored.event.time) or rule.versions[-1]
        result = contribution(rule, version, stored.event, stored.customer_id)
        found.append(_example(stored.event, result, version.dimensions))
    return found


def _candidates(event_type: str, start: datetime, end: datetime) -> _Found:
    """Read what there is; where that is too much, up to a moment until which everything was read."""
    stored = stored_events.by_time(event_type=event_type, start=start, end=end, limit=MAX_EVENTS_READ + 1)
    waiting = _waiting(event_type, start, end)
    cuts = [each[-1].event.time for each in (stored, waiting) if len(each) > MAX_EVENTS_READ]
    limit = min(cuts, default=end)
    kept = [_Candidate(each.event, each.customer_id) for each in stored if each.event.time < limit and each.counts_in]
    kept_waiting = [each for each in waiting if each.event.time < limit]
    return _Found(kept + kept_waiting, len(kept), limit, bool(cuts))


def _waiting(event_type: str, start: datetime, end: datetime) -> list[_Candidate]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT key, source, event_id, type, subject, time, data::text FROM metering_quarantinedevent
            WHERE status = %s AND type = %s AND time >= %s AND time < %s ORDER BY time, key LIMIT %s
            """,
            [QuarantinedEvent.Status.OPEN, event_type, start, end, MAX_EVENTS_READ + 1],
        )
        events = [stored_events.as_event(*row) for row in cursor.fetchall()]
    with storage.server_side_cursor() as cursor:
        owners = attribution.owners_of(cursor, {event.subject for event in events})
    return [_Candidate(event, _owner(owners.get(event.subject, ()), event.time)) for event in events]


def _owner(owners: Iterable[Ownership], moment: datetime) -> int | None:
    for customer_id, starts_at, ends_at in owners:
        if (starts_at is None or moment >= starts_at) and (ends_at is None or moment < ends_at):
            return customer_id
    return None


_Series = dict[tuple[str | None, ...], list[tuple[Event, Contribution]]]


class _Tally:
    """Sorts events into those that count, by customer and series, and those that do not."""

    def __init__(self, rule: MeterRule, dimensions: Sequence[str]) -> None:
        self.rule = rule
        self.dimensions = dimensions
        self.taken = self.left_out = 0
        self.examples: list[Example] = []
        self.refused: defaultdict[Reason, int] = defaultdict(int)
        self.unread: defaultdict[Reason, list[Example]] = defaultdict(list)
        self.by_customer: defaultdict[int, _Series] = defaultdict(dict)

    def judge(self, candidate: _Candidate) -> None:
        event, customer_id = candidate
        result = contribution(self.rule, self.rule.versions[0], event, customer_id or 0)
        if result is None:
            self.left_out += 1
            return
        if customer_id is None and not isinstance(result, Problem):
            result = Problem(Reason.UNKNOWN_SUBJECT, f"subject {event.subject!r}" if event.subject else "no subject")
        example = _example(event, result, self.dimensions)
        if isinstance(result, Problem):
            self.refused[result.reason] += 1
            _keep(self.unread[result.reason], example)
            return
        self.taken += 1
        _keep(self.examples, example)
        self.by_customer[result.series.customer_id].setdefault(result.series.dimensions, []).append((event, result))


def _keep(examples: list[Example], example: Example) -> None:
    if len(examples) < MAX_EXAMPLES:
        examples.append(example)


def _example(event: Event, result: Contribution | Problem | None, dimensions: Sequence[str]) -> Example:
    if result is None:
        return Example(event, None, "", {}, "left out by the filter")
    if isinstance(result, Problem):
        return Example(event, None, "", {}, result.detail)
    part = result.part.text if result.part else ""
    return Example(event, result.value, part, dict(zip(dimensions, result.series.dimensions, strict=True)), "")


class _Window(NamedTuple):
    start: datetime
    end: datetime
    until: datetime


_Counted = Sequence[tuple[Event, Contribution]]


def _quantities(draft: MeterDraft, usage: Mapping[int, _Series], window: _Window) -> dict[int, Decimal]:
    aggregation = Aggregation(draft.aggregation)
    state = _STATES[aggregation]
    with decimal.localcontext(EXACT):
        return {
            customer_id: quantity_of(
                aggregation,
                joined(aggregation, [state(counted, window) for counted in series.values()]),
                draft.divisor,
            )
            for customer_id, series in usage.items()
        }


def _values(counted: _Counted) -> list[Decimal]:
    return [part.value for _, part in counted]


def _slots(counted: _Counted, window: _Window) -> Slots:
    sums: defaultdict[int, Decimal] = defaultdict(Decimal)
    for event, part in counted:
        sums[(event.time - window.start) // SLOT] += part.value
    return Slots(dict(sums), max(slots_in(window.start, window.end), 1))


def _area(counted: _Counted, window: _Window) -> Decimal:
    levels: dict[datetime, Decimal] = {}
    for event, part in counted:
        if event.time < window.until:
            levels[event.time] = max(part.value, levels.get(event.time, part.value))
    moments = sorted(levels)
    spans = zip(moments, [*moments[1:], window.until], strict=False)
    return sum((levels[moment] * ((following - moment) // _MICROSECOND) for moment, following in spans), Decimal(0))


_STATES: Mapping[Aggregation, Callable[[_Counted, _Window], State]] = {
    Aggregation.SUM: lambda counted, _: sum(_values(counted), Decimal(0)),
    Aggregation.COUNT: lambda counted, _: Decimal(len(counted)),
    Aggregation.MIN: lambda counted, _: min(_values(counted)),
    Aggregation.MAX: lambda counted, _: max(_values(counted)),
    Aggregation.LATEST: lambda counted, _: max(Latest(event.time, part.value) for event, part in counted),
    Aggregation.UNIQUE: lambda counted, _: frozenset(part.part.text for _, part in counted if part.part),
    Aggregation.GAUGE: _area,
    Aggregation.P95: _slots,
}


def _largest(quantities: Mapping[int, Decimal], usage: Mapping[int, _Series]) -> list[CustomerPreview]:
    shown = sorted(quantities, key=lambda customer_id: (-quantities[customer_id], customer_id))[:MAX_CUSTOMERS]
    customers = Customer.objects.in_bulk(shown)
    return [
        CustomerPreview(
            customers[customer_id],
            quantities[customer_id],
            sum(len(counted) for counted in usage[customer_id].values()),
            len(usage[customer_id]),
        )
        for customer_id in shown
    ]
