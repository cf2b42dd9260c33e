"""What the usage explorer shows: a question with its choices, and the answer as figures, chart and rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

from django.db import connection

from accounts.charts import Chart, chart
from accounts.errors import CountinghouseError
from accounts.models import Customer
from accounts.periods import Grain, Period, local_date, time_zone_named
from metering.aggregations import Aggregation, part_changed, quantity_unit
from metering.counting import plain
from metering.meters.meters import dimensions_of
from metering.models import Meter
from metering.reading.usage_questions import ABSENT, UsageAnswer, UsageQuestion, answer, read_question

Words = Mapping[str, Sequence[str]]

GROUPS_DRAWN: Final = 9
GROUPS_LISTED: Final = 200
WINDOWS_DRAWN: Final = 800
VALUES_OFFERED: Final = 200
CUSTOMERS_OFFERED: Final = 300
_BACKLOG_COUNTED: Final = 10_000
_ZERO: Final = Decimal(0)
# Bars of these may stand on each other; a greatest value on a greatest value would mean nothing.
_STACKED: Final = frozenset({Aggregation.SUM, Aggregation.COUNT, Aggregation.GAUGE})
_LABELS: Final = {Grain.HOUR: "%-d %b %H:00", Grain.DAY: "%-d %b", Grain.MONTH: "%b %Y", Grain.NONE: "%-d %b %Y"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One dimension that can be filtered on, with the values it has and those that are chosen."""

    name: str
    values: Sequence[str]
    chosen: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What can be chosen, and what is."""

    customer: Customer | None
    customer_text: str
    customers: Sequence[Customer]
    meter: Meter | None
    meters: Sequence[Meter]
    first_on: str
    last_on: str
    grain: str
    grains: Sequence[str]
    time_zone: str
    group_by: str
    dimensions: Sequence[Choice]
    compares: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One group over the whole period; `change` in percent of the period before, None where there was nothing."""

    label: str
    quantity: Decimal
    event_count: int
    before: Decimal | None
    change: Decimal | None
    url: str

    @property
    def quantity_text(self) -> str:
        """The quantity with thousands apart, and as many places as it has."""
        return _in_words(self.quantity)

    @property
    def before_text(self) -> str:
        """That of the period before."""
        return _in_words(self.before or _ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The answer as a page shows it; quantities in `unit`."""

    question: UsageQuestion
    unit: str
    chart: Chart
    is_stacked: bool
    groups_drawn: int
    windows_left_out: bool
    total: GroupRow | None
    rows: Sequence[GroupRow]
    more_rows: int
    as_of: datetime
    backlog: int
    previous: Period | None


def form_of(words: Words, *, at: datetime) -> Form:
    """Read what is chosen; what is not is chosen here: the meter and the month of the latest usage, and days."""
    customer_text = _one(words, "customer")
    customer = _customer(customer_text)
    meters = list(Meter.objects.order_by("name"))
    meter = next((each for each in meters if each.code == _one(words, "meter")), None)
    if meter is None and customer and meters:
        meter = _meter_in_use(customer, meters)
    time_zone = _one(words, "time_zone") or (customer.legal_entity.time_zone if customer else "")
    first_on, last_on = _one(words, "first"), _one(words, "last")
    # Without a customer the days stay open, and become those of its latest usage once it is chosen.
    if customer and not (first_on and last_on):
        first_on, last_on = _latest_month(customer, meter, time_zone, at)
    names = sorted(dimensions_of([meter.pk]).get(meter.pk, ())) if meter else []
    grain = _one(words, "window")
    return Form(
        customer=customer,
        customer_text=customer.code if customer else customer_text,
        customers=list(Customer.objects.order_by("code")[:CUSTOMERS_OFFERED]),
        meter=meter,
        meters=meters,
        first_on=first_on,
        last_on=last_on,
        grain=grain if grain in set(Grain) else Grain.DAY,
        grains=[each.value for each in Grain],
        time_zone=time_zone,
        group_by=group if (group := _one(words, "group_by")) in names else "",
        dimensions=_choices(words, customer, meter, names),
        compares=_one(words, "compare") == "1",
    )


def question_of(form: Form) -> UsageQuestion:
    """Return what the form asks.

    Raises: what `usage_questions.read_question` raises.
    """
    return read_question(words_of(form), own_customer_id=None)


def words_of(form: Form) -> dict[str, list[str]]:
    """Return the words in which the API is asked the same."""
    words = {
        "customer": [form.customer_text],
        "meter": [form.meter.code if form.meter else ""],
        "start": [form.first_on],
        "end": [_day_after(form.last_on)],
        "window": [form.grain],
        "time_zone": [form.time_zone],
        "group_by": [form.group_by],
    }
    return words | {f"filter[{each.name}]": list(each.chosen) for each in form.dimensions if each.chosen}


def show(question: UsageQuestion, *, compares: bool, events_url: str, at: datetime) -> Shown:
    """Read usage and lay it out, with that of the period before if wanted; two reads, or four.

    Raises: what `usage_questions.answer` raises.
    """
    found = answer(question, at=at)
    whole = answer(replace(question, grain=Grain.NONE), at=at)
    before = question.before() if compares else None
    whole_before = answer(replace(before, grain=Grain.NONE), at=at) if before else None
    rows = _group_rows(question, whole, whole_before, events_url)
    total = rows[0] if len(rows) == 1 and not question.group_by else None
    drawn = [row.label for row in rows[:GROUPS_DRAWN]]
    windows_left_out = len(found.edges) - 1 > WINDOWS_DRAWN
    values = _values(found, drawn)
    if before and not question.group_by and whole_before and whole_before.rows:
        values["Period before"] = _values(answer(before, at=at), None).get("", {})
    return Shown(
        question=question,
        unit=quantity_unit(question.meter.aggregation, question.meter.unit),
        chart=_chart(question, found.edges, values, events_url),
        is_stacked=question.meter.aggregation in _STACKED and bool(question.group_by),
        groups_drawn=len(drawn),
        windows_left_out=windows_left_out,
        total=total,
        rows=rows[:GROUPS_LISTED],
        more_rows=max(len(rows) - GROUPS_LISTED, 0),
        as_of=found.as_of,
        backlog=_backlog(),
        previous=before.period if before else None,
    )


def export_rows(question: UsageQuestion, *, at: datetime) -> tuple[list[str], list[list[object]]]:
    """Return the header and the rows of a file with the figures; quantities are exact decimals.

    Raises: what `usage_questions.answer` raises.
    """
    found = answer(question, at=at)
    unit = quantity_unit(question.meter.aggregation, question.meter.unit)
    header = ["customer", "meter", "start", "end", *question.group_by, "quantity", "unit", "events"]
    rows: list[list[object]] = [
        [
            question.customer.code,
            question.meter.code,
            row.start,
            row.end,
            *[row.group[name] for name in question.group_by],
            Decimal(plain(row.quantity)),
            unit,
            row.event_count,
        ]
        for row in found.rows
    ]
    return header, rows


def _group_rows(
    question: UsageQuestion, whole: UsageAnswer, before: UsageAnswer | None, events_url: str
) -> list[GroupRow]:
    earlier = {_label(each.group): each.quantity for each in before.rows} if before else {}
    now = {_label(each.group): each for each in whole.rows}
    rows = []
    for label in now | earlier:
        found, was = now.get(label), earlier.get(label)
        quantity = found.quantity if found else _ZERO
        group = found.group if found else {}
        rows.append(
            GroupRow(
                label=label,
                quantity=quantity,
                event_count=found.event_count if found else 0,
                before=(was or _ZERO) if before else None,
                change=part_changed(was, quantity, places=3).scaleb(2) if was else None,
                url=_events_address(events_url, question, question.period, group),
            )
        )
    rows.sort(key=lambda row: (-row.quantity, row.label))
    return rows


def _in_words(value: Decimal) -> str:
    return f"{Decimal(plain(value)):,f}"


def _label(group: Mapping[str, str | None]) -> str:
    return ", ".join(value if value is not None else ABSENT for value in group.values())


def _values(found: UsageAnswer, drawn: Sequence[str] | None) -> dict[str, dict[int, Decimal]]:
    """The quantity of each window, by group; of those drawn only."""
    position = {start: index for index, start in enumerate(found.edges)}
    values: defaultdict[str, dict[int, Decimal]] = defaultdict(dict)
    for row in found.rows:
        label = _label(row.group)
        if (drawn is None or label in drawn) and position[row.start] < WINDOWS_DRAWN:
            values[label][position[row.start]] = row.quantity
    return dict(values)


def _chart(
    question: UsageQuestion, edges: Sequence[datetime], values: Mapping[str, Mapping[int, Decimal]], events_url: str
) -> Chart:
    unit = quantity_unit(question.meter.aggregation, question.meter.unit)
    windows = [Period(*edges[index : index + 2]) for index in range(min(len(edges) - 1, WINDOWS_DRAWN))]
    zone = time_zone_named(question.time_zone)
    return chart(
        labels=[each.start.astimezone(zone).strftime(_LABELS[question.grain]) for each in windows] if values else [],
        series={
            name or question.meter.name: [of.get(index, _ZERO) for index in range(len(windows))]
            for name, of in values.items()
        },
        write=lambda _name, value: f"{_in_words(value)} {unit}",
        unit=unit,
        links=[_events_address(events_url, question, each, {}) for each in windows] if values else [],
    )


def _events_address(events_url: str, question: UsageQuestion, period: Period, group: Mapping[str, str | None]) -> str:
    words: list[tuple[str, str]] = [
        ("customer", question.customer.code),
        ("meter", question.meter.code),
        ("start", period.start.isoformat()),
        ("end", period.end.isoformat()),
        ("time_zone", question.time_zone),
    ]
    of = {name: list(values) for name, values in question.filters.items()} | {n: [v] for n, v in group.items()}
    words += [(f"filter[{name}]", ABSENT if v is None else v) for name, values in of.items() for v in values]
    return f"{events_url}?{urlencode(words)}"


def _customer(text: str) -> Customer | None:
    if not text:
        return None
    customers = Customer.objects.select_related("legal_entity")
    return customers.filter(code=text).first() or customers.filter(name=text).first()


# Which of a customer's series saw usage last, and when; a step through an index for each series.
_LATEST = """
    SELECT series.meter_id, max(latest.hour) FROM usage_series AS series
    CROSS JOIN LATERAL (
        (SELECT hour FROM usage_hour WHERE customer_id = series.customer_id AND series_id = series.id
         ORDER BY hour DESC LIMIT 1)
        UNION ALL
        (SELECT max(hour) FROM usage_delta WHERE customer_id = series.customer_id AND series_id = series.id)
    ) AS latest
    WHERE series.customer_id = %s AND (%s::bigint IS NULL OR series.meter_id = %s)
    GROUP BY series.meter_id HAVING max(latest.hour) IS NOT NULL
    ORDER BY max(latest.hour) DESC, series.meter_id LIMIT 1
"""


def _latest(customer: Customer, meter_id: int | None) -> tuple[int, datetime] | None:
    with connection.cursor() as cursor:
        cursor.execute(_LATEST, [customer.pk, meter_id, meter_id])
        found: tuple[int, datetime] | None = cursor.fetchone()
    return found


def _meter_in_use(customer: Customer, meters: Sequence[Meter]) -> Meter:
    latest = _latest(customer, None)
    return next((each for each in meters if latest and each.pk == latest[0]), meters[0])


def _latest_month(customer: Customer, meter: Meter | None, time_zone: str, at: datetime) -> tuple[str, str]:
    latest = _latest(customer, meter.pk) if meter else None
    try:
        day = local_date(latest[1] if latest else at, time_zone)
    except CountinghouseError:
        day = at.date()
    first = day.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1) if first.year < date.max.year else date.max
    return first.isoformat(), (following - timedelta(days=1)).isoformat()


def _choices(words: Words, customer: Customer | None, meter: Meter | None, names: Sequence[str]) -> list[Choice]:
    offered: defaultdict[str, list[str]] = defaultdict(list)
    if customer and meter and names:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT DISTINCT name, coalesce(series.dimensions ->> name, %s)
                FROM usage_series AS series CROSS JOIN unnest(%s::text[]) AS name
                WHERE series.customer_id = %s AND series.meter_id = %s ORDER BY 1, 2
                """,
                [ABSENT, list(names), customer.pk, meter.pk],
            )
            for name, value in cursor.fetchall():
                offered[name].append(value)
    return [
        Choice(name, offered[name][:VALUES_OFFERED], [value for value in words.get(f"filter[{name}]", ()) if value])
        for name in names
    ]


def _backlog() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM (SELECT FROM usage_delta LIMIT %s) AS delta", [_BACKLOG_COUNTED])
        (count,) = cursor.fetchone()
    return int(count)


def _day_after(text: str) -> str:
    try:
        return (date.fromisoformat(text) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return text


def _one(words: Words, name: str) -> str:
    values = words.get(name, ())
    return values[-1].strip() if values else ""
