"""What the usage explorer shows: the answer to its question as chart and rows, with what was late or corrected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from urllib.parse import urlencode

from django.db import connection

from accounts.charts import Chart, Marker, chart
from accounts.models import Customer
from accounts.periods import Grain, Period, local_date, time_zone_named
from metering.aggregations import Aggregation, part_changed, quantity_unit
from metering.counting import plain
from metering.models import BY_CUSTOMER
from metering.reading.usage_marks import CORRECTIONS_NAMED, MarkAsk, Marked, marks
from metering.reading.usage_questions import ABSENT, UsageAnswer, UsageQuestion, UsageRow, answer, answer_of, largest

GROUPS_DRAWN: Final = 9
GROUPS_LISTED: Final = 200
WINDOWS_DRAWN: Final = 800
_BACKLOG_COUNTED: Final = 10_000
_ZERO: Final = Decimal(0)
# Bars of these may stand on each other; a greatest value on a greatest value would mean nothing.
_STACKED: Final = frozenset({Aggregation.SUM, Aggregation.COUNT, Aggregation.GAUGE})
_LABELS: Final = {Grain.HOUR: "%-d %b %H:00", Grain.DAY: "%-d %b", Grain.MONTH: "%b %Y", Grain.NONE: "%-d %b %Y"}
# Into what a bar of all customers opens, which has no list of events.
_CLOSER: Final = {Grain.MONTH: Grain.DAY, Grain.NONE: Grain.DAY, Grain.DAY: Grain.HOUR}


class Addresses(NamedTuple):
    """Where the pages are that figures lead to."""

    explorer: str
    events: str


class Marks(NamedTuple):
    """How many events came in after their period was billed, and how many were corrected, by which (a few of them)."""

    late: int = 0
    corrected: int = 0
    corrections: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One group over the whole period; `change` in percent of the period before, None where there was nothing.

    `url` leads to its events or, of several customers, to a closer look; where the group is a customer, `customer_url`
    leads to that one alone.
    """

    label: str
    quantity: Decimal
    event_count: int
    before: Decimal | None
    change: Decimal | None
    url: str
    customer: Customer | None = None
    customer_url: str = ""
    marks: Marks = field(default=Marks())

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
    """The answer as a page shows it; quantities in `unit`. `all_of` is all customers together, where they are listed.

    `marks` are all that were late or corrected; there may be some although nothing is left of a group.
    """

    question: UsageQuestion
    unit: str
    chart: Chart
    is_stacked: bool
    groups_drawn: int
    windows_left_out: bool
    total: GroupRow | None
    all_of: GroupRow | None
    rows: Sequence[GroupRow]
    more_rows: int
    marks: Marks
    as_of: datetime
    backlog: int
    previous: Period | None


class _Read(NamedTuple):
    """What was read: of the windows to be drawn, of the whole period, and of the period before where it is wanted."""

    windows: UsageAnswer
    whole: UsageAnswer
    before: UsageAnswer | None
    all_of: UsageRow | None
    all_before: UsageRow | None
    customers: Mapping[str, Customer]


def show(question: UsageQuestion, *, compares: bool, addresses: Addresses, at: datetime) -> Shown:
    """Read usage and lay it out, with that of the period before if wanted, and with what was late or corrected.

    Of all customers by customer, those with the greatest quantity are listed, and the first few of them drawn. The
    number of reads is the same however many groups there are.

    Raises: what `usage_questions.answer` raises.
    """
    before = question.before() if compares else None
    is_by_customer = BY_CUSTOMER in question.group_by
    read = (_read_customers if is_by_customer else _read_groups)(question, before, at)
    marked = _marked(question, read)
    rows = _group_rows(question, read, marked, addresses)
    total = rows[0] if len(rows) == 1 and not question.group_by else None
    drawn = [row.label for row in rows[:GROUPS_DRAWN]]
    values = _values(read.windows, drawn, read.customers)
    if before and not question.group_by and read.before and read.before.rows:
        values["Period before"] = _values(answer(before, at=at), None, {}).get("", {})
    return Shown(
        question=question,
        unit=quantity_unit(question.meter.aggregation, question.meter.unit),
        chart=_chart(question, read.windows.edges, values, _markers(marked), addresses),
        is_stacked=question.meter.aggregation in _STACKED and bool(question.group_by),
        groups_drawn=len(drawn),
        windows_left_out=len(read.windows.edges) - 1 > WINDOWS_DRAWN,
        total=total,
        all_of=_all_of(question, read, addresses),
        rows=rows[:GROUPS_LISTED],
        more_rows=max(len(rows) - GROUPS_LISTED, 0),
        marks=_together(marked),
        as_of=at,
        backlog=_backlog(),
        previous=before.period if before else None,
    )


def _read_groups(question: UsageQuestion, before: UsageQuestion | None, at: datetime) -> _Read:
    whole = answer(replace(question, grain=Grain.NONE), at=at)
    whole_before = answer(replace(before, grain=Grain.NONE), at=at) if before else None
    return _Read(answer(question, at=at), whole, whole_before, None, None, {})


def _read_customers(question: UsageQuestion, before: UsageQuestion | None, at: datetime) -> _Read:
    """Read the customers with the greatest quantity, the windows of those drawn, and what all used together."""
    whole = largest(question, most=GROUPS_LISTED + 1, at=at)
    listed = [int(row.group[BY_CUSTOMER] or 0) for row in whole.rows]
    before_of_them = answer_of(replace(before, grain=Grain.NONE), listed, at=at) if before else None
    return _Read(
        answer_of(question, listed[:GROUPS_DRAWN], at=at),
        whole,
        before_of_them,
        _together_used(question, at),
        _together_used(before, at) if before else None,
        _customers(listed),
    )


def _together_used(question: UsageQuestion, at: datetime) -> UsageRow | None:
    rows = answer(replace(question, grain=Grain.NONE, group_by=()), at=at).rows
    return rows[0] if rows else None


def _customers(customer_ids: Sequence[int]) -> dict[str, Customer]:
    found = Customer.objects.in_bulk(list(customer_ids))
    return {str(each): customer for each, customer in found.items()}


def export_rows(question: UsageQuestion, *, at: datetime) -> tuple[list[str], list[list[object]]]:
    """Return the header and the rows of a file with the figures; quantities are exact decimals.

    Raises: what `usage_questions.answer` raises.
    """
    found = answer(question, at=at)
    unit = quantity_unit(question.meter.aggregation, question.meter.unit)
    names = [name for name in question.group_by if name != BY_CUSTOMER]
    ids = {int(row.group[BY_CUSTOMER] or 0) for row in found.rows if BY_CUSTOMER in row.group}
    codes = {str(pk): code for pk, code in Customer.objects.filter(pk__in=ids).values_list("pk", "code")}
    header = ["customer", "meter", "start", "end", *names, "quantity", "unit", "events"]
    rows: list[list[object]] = [
        [
            codes.get(row.group.get(BY_CUSTOMER) or "", question.customer_code),
            question.meter.code,
            row.start,
            row.end,
            *[row.group[name] for name in names],
            Decimal(plain(row.quantity)),
            unit,
            row.event_count,
        ]
        for row in found.rows
    ]
    return header, rows


def _marked(question: UsageQuestion, read: _Read) -> list[Marked]:
    listed = [customer.pk for customer in read.customers.values()]
    of_one = [question.customer.pk] if question.customer else None
    ask = MarkAsk(
        customer_ids=listed if BY_CUSTOMER in question.group_by else of_one,
        meter_id=question.meter.pk,
        edges=read.windows.edges,
        group_by=question.group_by,
        filters=question.filters,
    )
    return marks(ask)


def _together(marked: Sequence[Marked]) -> Marks:
    corrections = sorted({each for mark in marked for each in mark.corrections})
    return Marks(
        sum(mark.late for mark in marked),
        sum(mark.corrected for mark in marked),
        tuple(corrections[-CORRECTIONS_NAMED:]),
    )


def _markers(marked: Sequence[Marked]) -> list[Marker]:
    """A sign for each window with late events, and one for each with corrected ones; shapes tell them apart."""
    late, corrected = Counter[int](), Counter[int]()
    for mark in marked:
        late[mark.window] += mark.late
        corrected[mark.window] += mark.corrected
    signs = (("Came in late", "triangle", late), ("Corrected", "rectRot", corrected))
    return [
        Marker(label, shape, {window: _events_text(count) for window, count in counts.items() if count})
        for label, shape, counts in signs
        if any(counts.values())
    ]


def _events_text(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _group_rows(question: UsageQuestion, read: _Read, marked: Sequence[Marked], addresses: Addresses) -> list[GroupRow]:
    earlier = {_key(each.group): each for each in read.before.rows} if read.before else {}
    now = {_key(each.group): each for each in read.whole.rows}
    marks_of: defaultdict[str, list[Marked]] = defaultdict(list)
    for mark in marked:
        marks_of[_key(mark.group)].append(mark)
    rows = []
    for key in now | earlier:
        found, was = now.get(key), earlier[key].quantity if key in earlier else None
        quantity = found.quantity if found else _ZERO
        group = (found or earlier[key]).group
        customer = read.customers.get(group.get(BY_CUSTOMER) or "")
        rows.append(
            GroupRow(
                label=_label(group, read.customers),
                quantity=quantity,
                event_count=found.event_count if found else 0,
                before=(was or _ZERO) if read.before else None,
                change=_change(was, quantity),
                url=_group_address(question, group, customer, addresses),
                customer=customer,
                customer_url=_customer_address(question, customer, addresses) if customer else "",
                marks=_together(marks_of[key]),
            )
        )
    rows.sort(key=lambda row: (-row.quantity, row.label))
    return rows


def _change(before: Decimal | None, now: Decimal) -> Decimal | None:
    return part_changed(before, now, places=3).scaleb(2) if before else None


def _all_of(question: UsageQuestion, read: _Read, addresses: Addresses) -> GroupRow | None:
    if read.all_of is None:
        return None
    return GroupRow(
        label="All customers",
        quantity=read.all_of.quantity,
        event_count=read.all_of.event_count,
        before=read.all_before.quantity if read.all_before else _ZERO,
        change=_change(read.all_before.quantity if read.all_before else None, read.all_of.quantity),
        url=_explorer_address(addresses, replace(question, group_by=())),
    )


def _in_words(value: Decimal) -> str:
    return f"{Decimal(plain(value)):,f}"


def _key(group: Mapping[str, str | None]) -> str:
    return _label(group, {})


def _label(group: Mapping[str, str | None], customers: Mapping[str, Customer]) -> str:
    if BY_CUSTOMER in group:
        customer = customers.get(group[BY_CUSTOMER] or "")
        return f"{customer.code} {customer.name}" if customer else str(group[BY_CUSTOMER])
    return ", ".join(value if value is not None else ABSENT for value in group.values())


def _values(
    found: UsageAnswer, drawn: Sequence[str] | None, customers: Mapping[str, Customer]
) -> dict[str, dict[int, Decimal]]:
    """The quantity of each window, by group; of those drawn only."""
    position = {start: index for index, start in enumerate(found.edges)}
    values: defaultdict[str, dict[int, Decimal]] = defaultdict(dict)
    for row in found.rows:
        label = _label(row.group, customers)
        if (drawn is None or label in drawn) and position[row.start] < WINDOWS_DRAWN:
            values[label][position[row.start]] = row.quantity
    return {label: values[label] for label in drawn if label in values} if drawn else dict(values)


def _chart(
    question: UsageQuestion,
    edges: Sequence[datetime],
    values: Mapping[str, Mapping[int, Decimal]],
    markers: Sequence[Marker],
    addresses: Addresses,
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
        links=[_window_address(question, each, addresses) for each in windows] if values else [],
        markers=markers,
    )


def _window_address(question: UsageQuestion, window: Period, addresses: Addresses) -> str:
    if question.customer:
        return _events_address(addresses, question, question.customer, window, {})
    closer = _CLOSER.get(question.grain)
    return _explorer_address(addresses, replace(question, period=window, grain=closer)) if closer else ""


def _group_address(
    question: UsageQuestion, group: Mapping[str, str | None], customer: Customer | None, addresses: Addresses
) -> str:
    whose = customer or question.customer
    of = {name: value for name, value in group.items() if name != BY_CUSTOMER}
    if whose:
        return _events_address(addresses, question, whose, question.period, of)
    filters = dict(question.filters) | {name: [value] for name, value in of.items()}
    return _explorer_address(addresses, replace(question, group_by=(BY_CUSTOMER,), filters=filters))


def _explorer_address(addresses: Addresses, question: UsageQuestion) -> str:
    last = question.period.end - timedelta(microseconds=1)
    words: list[tuple[str, str]] = [
        ("customer", question.customer_code),
        ("meter", question.meter.code),
        ("first", local_date(question.period.start, question.time_zone).isoformat()),
        ("last", local_date(last, question.time_zone).isoformat()),
        ("window", question.grain),
        ("group_by", ",".join(question.group_by)),
        ("time_zone", question.time_zone),
    ]
    return f"{addresses.explorer}?{urlencode([*words, *_filter_words(question.filters)])}"


def _customer_address(question: UsageQuestion, customer: Customer, addresses: Addresses) -> str:
    return _explorer_address(addresses, replace(question, customer=customer, group_by=()))


def _events_address(
    addresses: Addresses, question: UsageQuestion, customer: Customer, period: Period, group: Mapping[str, str | None]
) -> str:
    words: list[tuple[str, str]] = [
        ("customer", customer.code),
        ("meter", question.meter.code),
        ("start", period.start.isoformat()),
        ("end", period.end.isoformat()),
        ("time_zone", question.time_zone),
    ]
    of = {name: list(values) for name, values in question.filters.items()} | {n: [v] for n, v in group.items()}
    return f"{addresses.events}?{urlencode([*words, *_filter_words(of)])}"


def _filter_words(filters: Mapping[str, Sequence[str | None]]) -> list[tuple[str, str]]:
    return [(f"filter[{name}]", ABSENT if v is None else v) for name, values in filters.items() for v in values]


def _backlog() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM (SELECT FROM usage_delta LIMIT %s) AS delta", [_BACKLOG_COUNTED])
        (count,) = cursor.fetchone()
    return int(count)
