"""What is asked of usage, as the API and the explorer take it in an address, and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

from accounts.errors import CustomerUnknown, DetailsInvalid
from accounts.models import Customer
from accounts.pages import whole_number
from accounts.periods import (
    Grain,
    Month,
    MonthInvalid,
    Period,
    PeriodInvalid,
    TimeZoneUnknown,
    edges,
    local_date,
    month_period,
    parse_month,
    start_of_day,
    time_zone_named,
)
from metering.errors import MeterUnknown, UsageAskedTooLarge, WindowNotOnTheHour
from metering.meters.meters import dimensions_of
from metering.models import BY_CUSTOMER, Meter
from metering.reading.event_list import EventQuestion
from metering.reading.quantities import Quantity, QuantityAsk, largest_quantities, quantities
from metering.reading.words import Words

# A year of hours, with room; and rows as many as an answer can hold without being felt by others.
MAX_WINDOWS: Final = 9_000
MAX_ROWS: Final = 50_000
MAX_GROUPED_DIMENSIONS: Final = 10
# What stands in an address for a dimension that an event did not have.
ABSENT: Final = "(none)"
# And what stands there for all customers, whom only a page for staff can ask for.
ALL_CUSTOMERS: Final = "(all)"
_LONGEST_IN_MONTHS: Final = timedelta(days=3_700)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """One meter's usage of one customer, or of all (None), in the windows of a period, by and of certain dimensions."""

    customer: Customer | None
    meter: Meter
    period: Period
    grain: Grain
    time_zone: str
    group_by: tuple[str, ...]
    filters: Mapping[str, Sequence[str | None]]

    @property
    def customer_code(self) -> str:
        """Whose usage it is, as an address says it."""
        return self.customer.code if self.customer else ALL_CUSTOMERS

    def before(self) -> UsageQuestion:
        """The same question of the period before this one: of as many whole months, else of the same length.

        Raises: DetailsInvalid, where no calendar holds it.
        """
        try:
            return replace(self, period=Period(_start_before(self.period, self.time_zone), self.period.start))
        except (OverflowError, ValueError) as error:
            raise DetailsInvalid({"compare": ["There is no period before this one."]}) from error


def _start_before(period: Period, time_zone: str) -> datetime:
    length = period.end - period.start
    months = _whole_months(period, time_zone) if length < _LONGEST_IN_MONTHS else []
    if not months:
        return period.start - length
    first = months[0]
    for _ in months:
        first = first.previous()
    return start_of_day(date(first.year, first.month, 1), time_zone)


def _whole_months(period: Period, time_zone: str) -> list[Month]:
    """The local months that the period is made of; none, where it begins or ends within one."""
    cut = edges(period, Grain.MONTH, time_zone)
    days = [local_date(edge, time_zone) for edge in cut]
    if all(day.day == 1 and start_of_day(day, time_zone) == edge for day, edge in zip(days, cut, strict=True)):
        return [Month(day.year, day.month) for day in days[:-1]]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One window and group that saw usage."""

    start: datetime
    end: datetime
    group: Mapping[str, str | None]
    quantity: Decimal
    event_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAnswer:
    """The rows in order of time and group; all usage that was acknowledged until `as_of` is in them."""

    edges: Sequence[datetime]
    rows: Sequence[UsageRow]
    as_of: datetime


def read_question(words: Words, *, own_customer_id: int | None) -> UsageQuestion:
    """Read what is asked: customer (code or id), meter (code), period, window, time zone, groups and filters.

    The period is `start` and `end` (instants with an offset, or local dates, the end left out) or a `month`. Without a
    time zone it is that in which the customer is billed. `filter[name]` may be given several times, for any of the
    values. A key of one customer (`own_customer_id`) can ask for no other.

    Raises: CustomerUnknown, MeterUnknown, DetailsInvalid, WindowNotOnTheHour, UsageAskedTooLarge.
    """
    return question_about(customer_asked(words.one("customer"), own_customer_id=own_customer_id), words)


def question_about(customer: Customer | None, words: Words) -> UsageQuestion:
    """Read what is asked of a customer, or of all: the rest of what `read_question` reads.

    Raises: MeterUnknown, DetailsInvalid, WindowNotOnTheHour, UsageAskedTooLarge.
    """
    meter = _meter_asked(words.one("meter"))
    time_zone = zone_asked(words.one("time_zone"), customer)
    grain = words.one("window") or Grain.NONE
    if grain not in set(Grain):
        raise DetailsInvalid({"window": [f"Choose among {', '.join(Grain)}."]})
    group_by, filters = _dimensions(words, meter, frozenset() if customer else frozenset({BY_CUSTOMER}))
    question = UsageQuestion(
        customer=customer,
        meter=meter,
        period=period_asked(words, time_zone),
        grain=Grain(grain),
        time_zone=time_zone,
        group_by=group_by,
        filters=filters,
    )
    _require_few_windows(question)
    return question


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAsked:
    """Which events are asked for, of whom, and the time zone in which days are meant."""

    customer: Customer
    time_zone: str
    question: EventQuestion


def read_events_asked(words: Words, *, own_customer_id: int | None) -> EventsAsked:
    """Read which events are asked for: customer and period as in `read_question`, and what is said of the events.

    `data[name]` is what an event's data holds. With a `meter`, `filter[name]` is a dimension of its series.

    Raises: CustomerUnknown, MeterUnknown, DetailsInvalid.
    """
    customer = customer_asked(words.one("customer"), own_customer_id=own_customer_id)
    time_zone = zone_asked(words.one("time_zone"), customer)
    meter = _meter_asked(words.one("meter")) if words.one("meter") else None
    filters = filters_asked(words)
    if filters and meter is None:
        raise DetailsInvalid({"meter": ["Name the meter whose dimensions are filtered on."]})
    if meter is not None:
        _require_dimensions(meter, frozenset(), filters)
    question = EventQuestion(
        customer_id=customer.pk,
        period=period_asked(words, time_zone),
        type=words.as_sent("type"),
        source=words.as_sent("source"),
        event_id=words.as_sent("id"),
        subject=words.as_sent("subject"),
        data={name: values[-1] for name, values in words.within("data").items()},
        meter_id=meter.pk if meter else None,
        filters=filters,
    )
    return EventsAsked(customer=customer, time_zone=time_zone, question=question)


def _meter_asked(code: str) -> Meter:
    if not code:
        raise DetailsInvalid({"meter": ["Name a meter by its code."]})
    meter = Meter.objects.filter(code=code).first()
    if meter is None:
        raise MeterUnknown
    return meter


def customer_asked(text: str, *, own_customer_id: int | None) -> Customer:
    """Return the customer of that code or id; the key's own where none is named. Another's is as good as none.

    Raises: CustomerUnknown, DetailsInvalid.
    """
    customers = Customer.objects.select_related("legal_entity")
    if own_customer_id is not None:
        customers = customers.filter(pk=own_customer_id)
    if not text:
        if own_customer_id is None:
            raise DetailsInvalid({"customer": ["Name a customer by code or id."]})
        return customers.get()
    found = customers.filter(code=text).first()
    if found is None and (number := whole_number(text)) is not None:
        found = customers.filter(pk=number).first()
    if found is None:
        raise CustomerUnknown
    return found


def zone_asked(text: str, customer: Customer | None) -> str:
    """Return the time zone asked for, or that in which the customer is billed; UTC for all.

    Raises: DetailsInvalid.
    """
    zone = text or (customer.legal_entity.time_zone if customer else "UTC")
    try:
        time_zone_named(zone)
    except TimeZoneUnknown as error:
        raise DetailsInvalid({"time_zone": [str(error)]}) from error
    return zone


def period_asked(words: Words, time_zone: str) -> Period:
    """Return the period of `month`, or from `start` until `end`.

    Raises: DetailsInvalid.
    """
    month, start, end = words.one("month"), words.one("start"), words.one("end")
    if month:
        if start or end:
            raise DetailsInvalid({"month": ["Give either a month or start and end."]})
        try:
            return month_period(*parse_month(month), time_zone)
        except MonthInvalid as error:
            raise DetailsInvalid({"month": [str(error)]}) from error
    if not (start or end):
        raise DetailsInvalid({"month": ["Give a month, such as 2026-10, or start and end."]})
    moments = {name: _moment(name, text, time_zone) for name, text in (("start", start), ("end", end))}
    try:
        return Period(moments["start"], moments["end"])
    except (PeriodInvalid, OverflowError) as error:
        raise DetailsInvalid({"end": ["The period ends after it starts."]}) from error


def _moment(name: str, text: str, time_zone: str) -> datetime:
    try:
        if len(text) == len("2026-10-01"):
            return start_of_day(date.fromisoformat(text), time_zone)
        # A plus sign that was not escaped arrives as a blank.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        if moment.utcoffset() is not None:
            return moment
    except (ValueError, OverflowError):
        pass
    raise DetailsInvalid({name: ["Give a date, such as 2026-10-01, or an instant with its offset from UTC."]})


def filters_asked(words: Words) -> dict[str, list[str | None]]:
    """Return the values that each `filter[name]` allows; None is a dimension that is not there."""
    return {name: [None if value == ABSENT else value for value in of] for name, of in words.within("filter").items()}


def _dimensions(
    words: Words, meter: Meter, others: frozenset[str]
) -> tuple[tuple[str, ...], dict[str, list[str | None]]]:
    group_by = tuple(dict.fromkeys(name for text in words.several("group_by") for name in text.split(",") if name))
    filters = filters_asked(words)
    _require_dimensions(meter, frozenset(group_by) - others, filters)
    if len(group_by) > MAX_GROUPED_DIMENSIONS:
        raise DetailsInvalid({"group_by": [f"Group by at most {MAX_GROUPED_DIMENSIONS} dimensions."]})
    return group_by, filters


def _require_dimensions(meter: Meter, group_by: AbstractSet[str], filters: Mapping[str, object]) -> None:
    known = dimensions_of([meter.pk]).get(meter.pk, frozenset())
    choice = f"The dimensions of {meter.code} are: {', '.join(sorted(known)) or 'none'}."
    if not group_by <= known:
        raise DetailsInvalid({"group_by": [choice]})
    if not filters.keys() <= known:
        raise DetailsInvalid({"filter": [choice]})


def _require_few_windows(question: UsageQuestion) -> None:
    shortest = {Grain.HOUR: timedelta(hours=1), Grain.DAY: timedelta(hours=22), Grain.MONTH: timedelta(days=27)}
    step = shortest.get(question.grain)
    if step is not None and (question.period.end - question.period.start) / step > MAX_WINDOWS:
        message = f"That is more than {MAX_WINDOWS:,} windows; ask for a shorter period or longer windows."
        raise UsageAskedTooLarge(message)


def answer(question: UsageQuestion, *, at: datetime) -> UsageAnswer:
    """Read the usage asked for. Of a level, nothing is known beyond the hour that runs `at` the moment.

    Raises: WindowNotOnTheHour, UsageAskedTooLarge.
    """
    cut = edges(question.period, question.grain, question.time_zone)
    try:
        found = quantities([_ask(question, cut, at)], most=MAX_ROWS + 1)
    except WindowNotOnTheHour as error:
        message = f"{error} Ask for full hours, or in a time zone that is whole hours from UTC."
        raise WindowNotOnTheHour(message) from error
    if len(found) > MAX_ROWS:
        message = f"That is more than {MAX_ROWS:,} rows; filter, group by less, or ask for longer windows."
        raise UsageAskedTooLarge(message)
    return UsageAnswer(edges=cut, rows=[_row(each, cut) for each in found], as_of=at)


def answer_of(question: UsageQuestion, customer_ids: Sequence[int], *, at: datetime) -> UsageAnswer:
    """Read what is asked of all customers of these alone, each by itself (grouped by BY_CUSTOMER); one query.

    Raises: WindowNotOnTheHour.
    """
    cut = edges(question.period, question.grain, question.time_zone)
    asks = [replace(_ask(question, cut, at), customer_id=customer_id) for customer_id in customer_ids]
    found = sorted(quantities(asks), key=lambda each: (each.window, each.ask))
    return UsageAnswer(edges=cut, rows=[_row(each, cut) for each in found], as_of=at)


def largest(question: UsageQuestion, *, most: int, at: datetime) -> UsageAnswer:
    """Read the groups with the greatest quantity in the whole period, the greatest first; at most so many.

    Raises: WindowNotOnTheHour.
    """
    cut = edges(question.period, Grain.NONE, question.time_zone)
    found = largest_quantities(_ask(question, cut, at), most=most)
    return UsageAnswer(edges=cut, rows=[_row(each, cut) for each in found], as_of=at)


def _ask(question: UsageQuestion, cut: Sequence[datetime], at: datetime) -> QuantityAsk:
    return QuantityAsk(
        customer_id=question.customer.pk if question.customer else None,
        meter_id=question.meter.pk,
        aggregation=question.meter.aggregation,
        divisor=question.meter.divisor,
        edges=cut,
        group_by=question.group_by,
        filters=question.filters,
        until=at,
    )


def _row(found: Quantity, cut: Sequence[datetime]) -> UsageRow:
    return UsageRow(
        start=cut[found.window],
        end=cut[found.window + 1],
        group=found.group,
        quantity=found.quantity,
        event_count=found.event_count,
    )
