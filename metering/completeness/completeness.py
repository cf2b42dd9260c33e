"""Compares what sources say they sent with what came in, by hour: what is missing, waits, or is too much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self

from django.db import connection
from django.db.models import QuerySet

from metering.aggregations import sum_unit
from metering.models import ControlTotal, UsageBatch


class State(StrEnum):
    """How an hour stands; the worst comes last."""

    COMPLETE = "complete", "Complete"
    UNSTATED = "unstated", "No statement"
    WAITING = "waiting", "Waiting"
    SUM_DIFFERS = "sum_differs", "Sum differs"
    SURPLUS = "surplus", "Surplus"
    MISSING = "missing", "Missing"

    label: str

    def __new__(cls, value: str, label: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


_RANK = {state: rank for rank, state in enumerate(State)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which hours to compare: those that begin in `[start, end)`, of one source or of all, of one meter or of all."""

    start: datetime
    end: datetime
    source: str = ""
    meter_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HourLine:
    """One hour of what one source sent: of a meter, or (None) of all events of a type.

    `expected` and `expected_sum` are what the source says, None where it says nothing. `received` events are those
    that `counted`, wait in quarantine, or were discarded there. `unit` is that of sums, which nothing has divided yet.
    """

    hour: datetime
    source: str
    type: str
    meter_id: int | None
    meter: str
    unit: str
    expected: int | None
    expected_sum: Decimal | None
    counted: int
    sum: Decimal
    waiting: int
    discarded: int
    missing: int
    surplus: int
    state: State

    @property
    def received(self) -> int:
        """How many events came in, whatever became of them."""
        return self.counted + self.waiting + self.discarded

    @property
    def words(self) -> str:
        """Say how the hour stands."""
        return _words(self.state, missing=self.missing, surplus=self.surplus, waiting=self.waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How a stretch of hours stands: the hours in each state, and the events that are too few, too many or wait."""

    hours: dict[State, int]
    expected: int
    received: int
    waiting: int
    missing: int
    surplus: int

    @property
    def state(self) -> State:
        """The worst state of any hour; hours without a statement matter only where there is nothing else."""
        stated = [state for state, hours in self.hours.items() if hours and state is not State.UNSTATED]
        return max(stated, key=_RANK.__getitem__) if stated else State.UNSTATED

    @property
    def words(self) -> str:
        """Say how the hours stand."""
        return _words(self.state, missing=self.missing, surplus=self.surplus, waiting=self.waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayLine:
    """One day (UTC) of what one source sent."""

    day: date
    source: str
    type: str
    meter_id: int | None
    meter: str
    tally: Tally


def _words(state: State, *, missing: int, surplus: int, waiting: int) -> str:
    number = {State.MISSING: missing, State.SURPLUS: surplus, State.WAITING: waiting}.get(state)
    if number is None:
        return state.label
    noun = "event" if number == 1 else "events"
    return f"{state.label} {number:,} {noun}"


# The lines of one scope. What waits or was discarded is known of events, not of meters: a meter's line takes as much
# of it as its statement leaves open. A type without any statement shows once, not once more for each meter.
_LINES = """
    WITH receipt AS (
        SELECT hour, source, type, meter_id, sum(count)::bigint AS counted, sum(sum) AS sum,
               sum(waiting)::bigint AS waiting, sum(discarded)::bigint AS discarded
        FROM (
            SELECT hour, source, type, meter_id, count, sum, waiting, discarded FROM usage_receipt_hour
            WHERE hour >= %(start)s AND hour < %(end)s AND (%(source)s = '' OR source = %(source)s)
            UNION ALL
            SELECT hour, source, type, meter_id, count, sum, waiting, discarded FROM usage_receipt
            WHERE hour >= %(start)s AND hour < %(end)s AND (%(source)s = '' OR source = %(source)s)
        ) AS part
        GROUP BY hour, source, type, meter_id
    ), stated AS (
        SELECT DISTINCT ON (hour, source, type, total.meter_id)
               hour, source, type, coalesce(total.meter_id, 0) AS meter_id, count AS expected, sum AS expected_sum
        FROM metering_controltotal AS total
        WHERE hour >= %(start)s AND hour < %(end)s AND (%(source)s = '' OR source = %(source)s)
        ORDER BY hour, source, type, total.meter_id, number DESC
    ), known AS (
        SELECT hour, source, type, meter_id, expected, expected_sum, coalesce(receipt.counted, 0) AS counted,
               coalesce(receipt.sum, 0) AS sum, coalesce(event.waiting, 0) AS waiting,
               coalesce(event.discarded, 0) AS discarded
        FROM receipt FULL JOIN stated USING (hour, source, type, meter_id)
        LEFT JOIN (SELECT hour, source, type, waiting, discarded FROM receipt WHERE meter_id = 0) AS event
            USING (hour, source, type)
        WHERE CASE
            WHEN %(meter_id)s::bigint IS NOT NULL THEN meter_id = %(meter_id)s
            ELSE expected IS NOT NULL OR meter_id = 0 AND (hour, source, type) NOT IN (
                SELECT hour, source, type FROM stated
            )
        END
    ), shared AS (
        SELECT hour, source, type, meter_id, expected, expected_sum, counted, sum, discarded AS discarded_in_all,
               CASE WHEN meter_id = 0 THEN waiting
                    ELSE least(waiting, greatest(expected - counted, 0)) END AS waiting
        FROM known
    ), line AS (
        SELECT *, coalesce(expected - received, 0) AS difference FROM (
            SELECT *, counted + waiting + discarded AS received FROM (
                SELECT *, CASE WHEN meter_id = 0 THEN discarded_in_all
                               ELSE least(discarded_in_all, greatest(expected - counted - waiting, 0)) END AS discarded
                FROM shared
            ) AS part
            WHERE counted > 0 OR waiting > 0 OR discarded > 0 OR expected IS NOT NULL
        ) AS whole
    ), judged AS (
        SELECT line.*, coalesce(meter.name, '') AS meter, coalesce(meter.unit, '') AS unit,
               coalesce(meter.divisor, 1) AS divisor,
               greatest(difference, 0) AS missing, greatest(-difference, 0) AS surplus,
               CASE WHEN expected IS NULL THEN 'unstated'
                    WHEN difference > 0 THEN 'missing'
                    WHEN difference < 0 THEN 'surplus'
                    WHEN waiting > 0 THEN 'waiting'
                    WHEN expected_sum <> sum AND discarded = 0 THEN 'sum_differs'
                    ELSE 'complete' END AS state
        FROM line LEFT JOIN metering_meter AS meter ON meter.id = line.meter_id
    )
"""

_HOURS = f"""
    {_LINES}
    SELECT hour, source, type, meter_id, meter, unit, divisor, expected, expected_sum, counted, sum, waiting, discarded,
           missing, surplus, state, count(*) OVER () AS in_all
    FROM judged
    WHERE NOT %(only_differences)s OR state NOT IN ('complete', 'unstated')
    ORDER BY hour DESC, source, type, meter_id LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608 -- the house's own SQL

_DAYS = f"""
    {_LINES}
    SELECT (hour AT TIME ZONE 'UTC')::date AS day, source, type, meter_id, max(meter), state, count(*),
           coalesce(sum(expected), 0)::bigint, sum(received)::bigint, sum(waiting)::bigint, sum(missing)::bigint,
           sum(surplus)::bigint
    FROM judged GROUP BY day, source, type, meter_id, state
    ORDER BY source, type, meter_id, day
"""  # noqa: S608 -- as above


@dataclass(frozen=True, slots=True)
class HourLines:
    """Some of the lines asked for, and how many there are in all."""

    lines: list[HourLine]
    in_all: int


def hours(scope: Scope, *, only_differences: bool = False, limit: int = 1_000, offset: int = 0) -> HourLines:
    """Return the hours of a scope that saw usage or a statement, the newest first; one query."""
    rows = _fetch(
        _HOURS,
        {**_parameters(scope), "only_differences": only_differences, "limit": limit, "offset": offset},
    )
    return HourLines([_hour_line(*row[:-1]) for row in rows], rows[0][-1] if rows else 0)


def of_hour(*, hour: datetime, source: str, kind: str) -> list[HourLine]:
    """Return how one hour of one source and type stands; one query."""
    found = hours(Scope(start=hour, end=hour + timedelta(hours=1), source=source))
    return [line for line in found.lines if line.type == kind]


def _hour_line(*columns: Any) -> HourLine:
    line: dict[str, Any] = dict(zip(_HOUR_COLUMNS, columns, strict=True))
    unit = sum_unit(line["unit"], line.pop("divisor"))
    return HourLine(**{**line, "meter_id": line["meter_id"] or None, "unit": unit, "state": State(line["state"])})


_HOUR_COLUMNS = (
    "hour",
    "source",
    "type",
    "meter_id",
    "meter",
    "unit",
    "divisor",
    "expected",
    "expected_sum",
    "counted",
    "sum",
    "waiting",
    "discarded",
    "missing",
    "surplus",
    "state",
)


def days(scope: Scope) -> list[DayLine]:
    """Return each day (UTC) of a scope for each source, type and meter, added up by the hour; one query."""
    found: dict[tuple[str, str, int, date], DayLine] = {}
    for day, source, kind, meter_id, meter, state, *figures in _fetch(_DAYS, _parameters(scope)):
        tally = _tally(State(state), *figures)
        known = found.get((source, kind, meter_id, day))
        found[source, kind, meter_id, day] = (
            replace(known, tally=together([known.tally, tally]))
            if known
            else DayLine(day=day, source=source, type=kind, meter_id=meter_id or None, meter=meter, tally=tally)
        )
    return list(found.values())


def _tally(state: State, hours_in_state: int, *figures: int) -> Tally:
    expected, received, waiting, missing, surplus = figures
    return Tally(
        hours={state: hours_in_state},
        expected=expected,
        received=received,
        waiting=waiting,
        missing=missing,
        surplus=surplus,
    )


def together(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up."""
    added = list(tallies)
    return Tally(
        hours={state: sum(tally.hours.get(state, 0) for tally in added) for state in State},
        expected=sum(tally.expected for tally in added),
        received=sum(tally.received for tally in added),
        waiting=sum(tally.waiting for tally in added),
        missing=sum(tally.missing for tally in added),
        surplus=sum(tally.surplus for tally in added),
    )


def _parameters(scope: Scope) -> dict[str, object]:
    return {"start": scope.start, "end": scope.end, "source": scope.source, "meter_id": scope.meter_id}


def sources() -> list[str]:
    """Return the names of all sources that sent or stated anything, in order."""
    return [name for (name,) in _fetch(_SOURCES, {})]


_SOURCES = """
    SELECT source FROM (
        SELECT DISTINCT source FROM usage_receipt_hour
        UNION SELECT DISTINCT source FROM usage_receipt
        UNION SELECT DISTINCT source FROM metering_controltotal
    ) AS known
    ORDER BY source LIMIT 1000
"""


def statements(*, hour: datetime, source: str, kind: str) -> QuerySet[ControlTotal]:
    """Return all that was ever stated of one hour, the newest first."""
    found = ControlTotal.objects.filter(hour=hour, source=source, type=kind)
    return found.select_related("meter").order_by("meter_id", "-number")


@dataclass(frozen=True, slots=True)
class BatchOfHour:
    """A batch and how many events of one hour it brought."""

    batch: UsageBatch
    events: int


MOST_EVENTS_SEARCHED = 200_000

_BATCHES = """
    SELECT batch_id, count(*) FROM (
        SELECT batch_id FROM usage_event
        WHERE time >= %(hour)s AND time < %(hour)s + interval '1 hour' AND source = %(source)s AND type = %(type)s
        LIMIT %(most)s
    ) AS event
    GROUP BY batch_id ORDER BY batch_id DESC LIMIT 50
"""


def batches(*, hour: datetime, source: str, kind: str) -> list[BatchOfHour]:
    """Return the batches that brought events of one hour, the newest 50; two queries.

    Of an hour with more than 200,000 events, as many are searched.
    """
    counts: dict[int, int] = dict(
        _fetch(_BATCHES, {"hour": hour.astimezone(UTC), "source": source, "type": kind, "most": MOST_EVENTS_SEARCHED})
    )
    found = UsageBatch.objects.in_bulk(counts)
    return [BatchOfHour(found[batch_id], events) for batch_id, events in counts.items() if batch_id in found]


def _fetch(query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())
