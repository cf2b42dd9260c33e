"""What the completeness page shows: a strip of days for each source, and the hours below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import Count
from django.utils.dateparse import parse_date

from accounts.pages import whole_number
from metering.completeness.completeness import DayLine, HourLine, Scope, State, Tally, together
from metering.models import Meter, QuarantinedEvent

DAYS_AT_FIRST = 14
DAYS_AT_MOST = 62
HOURS_SHOWN = 1_000
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the page: the days `[first, last]` (UTC), a source, a meter, one day of them, every hour."""

    first: date
    last: date
    source: str
    meter_id: int | None
    day: date | None
    every_hour: bool

    @property
    def scope(self) -> Scope:
        """All the days asked for."""
        return self._scope(self.first, self.last)

    @property
    def scope_of_hours(self) -> Scope:
        """The days whose hours are listed: the one chosen, or all."""
        return self._scope(self.day, self.day) if self.day else self.scope

    def _scope(self, first: date, last: date) -> Scope:
        return Scope(
            start=datetime.combine(first, time.min, tzinfo=UTC),
            end=datetime.combine(last + _DAY, time.min, tzinfo=UTC),
            source=self.source,
            meter_id=self.meter_id,
        )


def question_of(asked: Mapping[str, str], *, today: date) -> Question:
    """Read the question from an address; what cannot be read is left out, and more than 62 days are cut."""
    last = _day(asked.get("to")) or today
    first = _day(asked.get("from")) or last - (DAYS_AT_FIRST - 1) * _DAY
    first = max(min(first, last), last - (DAYS_AT_MOST - 1) * _DAY)
    day = _day(asked.get("day"))
    return Question(
        first=first,
        last=last,
        source=asked.get("source", ""),
        meter_id=whole_number(asked.get("meter")),
        day=day if day and first <= day <= last else None,
        every_hour=asked.get("show") == "all",
    )


def _day(text: str | None) -> date | None:
    try:
        day = parse_date(text or "")
    except ValueError:
        return None
    # Room to count days backwards and forwards in.
    return day if day and date(1971, 1, 1) <= day <= date(9998, 1, 1) else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One day of a strip; without a tally nothing came in and nothing was stated."""

    day: date
    tally: Tally | None


@dataclass(frozen=True, slots=True)
class Strip:
    """What one source sent of one meter, or of all events of a type, day by day."""

    source: str
    type: str
    meter_id: int | None
    meter: str
    cells: list[Cell]
    tally: Tally


def strips(found: Iterable[DayLine], question: Question) -> list[Strip]:
    """Lay days out in strips, one for each source and meter or type, each with every day asked for."""
    days = [question.first + number * _DAY for number in range((question.last - question.first).days + 1)]
    by_line: dict[tuple[str, str, int | None, str], dict[date, Tally]] = {}
    for line in found:
        by_line.setdefault((line.source, line.type, line.meter_id, line.meter), {})[line.day] = line.tally
    return [
        Strip(*place, [Cell(day, tallies.get(day)) for day in days], together(tallies.values()))
        for place, tallies in by_line.items()
    ]


@dataclass(frozen=True, slots=True)
class Summary:
    """What all strips come to: the hours by how they stand, and the events."""

    stated: int
    complete: int
    unstated: int
    tally: Tally


def summary(found: Sequence[Strip]) -> Summary:
    """Add strips up."""
    tally = together(strip.tally for strip in found)
    stated = sum(hours for state, hours in tally.hours.items() if state is not State.UNSTATED)
    return Summary(stated, tally.hours[State.COMPLETE], tally.hours[State.UNSTATED], tally)


CSV_HEADER = [
    "hour (UTC)",
    "source",
    "type",
    "meter",
    "state",
    "expected",
    "received",
    "counted",
    "waiting",
    "discarded",
    "missing",
    "surplus",
    "expected sum",
    "received sum",
    "unit",
]


def csv_row(line: HourLine) -> list[object]:
    """Lay out one hour for a CSV file; numbers are plain decimals."""
    return [
        line.hour.isoformat(),
        line.source,
        line.type,
        line.meter,
        line.state.label,
        line.expected,
        line.received,
        line.counted,
        line.waiting,
        line.discarded,
        line.missing,
        line.surplus,
        line.expected_sum,
        line.sum if line.meter_id else None,
        line.unit,
    ]


def meters() -> list[Meter]:
    """Return every meter, by name."""
    return list(Meter.objects.order_by("name"))


@dataclass(frozen=True, slots=True)
class QuarantineOfHour:
    """How many events of one hour are or were in quarantine for one reason."""

    reason: str
    status: str
    status_label: str
    events: int


def quarantine_of(*, hour: datetime, source: str, kind: str) -> list[QuarantineOfHour]:
    """Return what of one hour is or was in quarantine; one query."""
    rows = (
        QuarantinedEvent.objects.filter(source=source, type=kind, time__gte=hour, time__lt=hour + timedelta(hours=1))
        .order_by()
        .values_list("reason", "status")
        .annotate(events=Count("id"))
        .order_by("status", "-events", "reason")
    )
    return [
        QuarantineOfHour(
            str(QuarantinedEvent.Reason(reason).label), status, str(QuarantinedEvent.Status(status).label), events
        )
        for reason, status, events in rows
    ]
