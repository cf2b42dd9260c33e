"""What can be chosen in the usage explorer, what is, and what is chosen for those who chose nothing."""

from __future__ import annotations

from calendar import monthrange
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from django.db import connection

from accounts.errors import CountinghouseError
from accounts.models import Customer, LegalEntity
from accounts.periods import Grain, MonthInvalid, local_date, parse_month
from metering.meters.meters import dimensions_of
from metering.models import BY_CUSTOMER, Meter
from metering.reading.usage_questions import ABSENT, ALL_CUSTOMERS, UsageQuestion, customer_asked, question_about
from metering.reading.words import Words

VALUES_OFFERED: Final = 200
CUSTOMERS_OFFERED: Final = 300
# Of all customers, what was used lately and what could be filtered on is looked for among so many of the newest series.
_SERIES_LOOKED_AT: Final = 1_000


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
    is_of_all: bool
    customers: Sequence[Customer]
    meter: Meter | None
    meters: Sequence[Meter]
    first_on: str
    last_on: str
    grain: str
    grains: Sequence[str]
    time_zone: str
    group_by: str
    groups: Sequence[tuple[str, str]]
    dimensions: Sequence[Choice]
    compares: bool

    @property
    def group_name(self) -> str:
        """What it is grouped by, in words."""
        return dict(self.groups).get(self.group_by, "")

    @property
    def is_by_customer(self) -> bool:
        """Whether customers are compared with each other."""
        return self.group_by == BY_CUSTOMER


def form_of(words: Words, *, at: datetime) -> Form:
    """Read what is chosen; what is not is chosen here: the meter and the month of the latest usage, and days."""
    customer_text = words.one("customer")
    customer = _customer(customer_text)
    meters = list(Meter.objects.order_by("name"))
    meter = next((each for each in meters if each.code == words.one("meter")), None)
    is_of_all = customer_text == ALL_CUSTOMERS
    if meter is None and (customer or is_of_all) and meters:
        meter = _meter_in_use(customer, meters)
    time_zone = words.one("time_zone") or _time_zone(customer, is_of_all=is_of_all)
    first_on, last_on = _days_asked(words)
    # Without a customer the days stay open, and become those of its latest usage once it is chosen.
    if (customer or is_of_all) and not (first_on and last_on):
        first_on, last_on = _latest_month(customer, meter, time_zone, at)
    names = sorted(dimensions_of([meter.pk]).get(meter.pk, ())) if meter else []
    grain = words.one("window")
    groups = [*([(BY_CUSTOMER, "customer")] if is_of_all else []), *((name, name) for name in names)]
    group_by = words.one("group_by") if words.several("group_by") or not is_of_all else BY_CUSTOMER
    return Form(
        customer=customer,
        customer_text=customer.code if customer else customer_text,
        is_of_all=is_of_all,
        customers=list(Customer.objects.order_by("code")[:CUSTOMERS_OFFERED]),
        meter=meter,
        meters=meters,
        first_on=first_on,
        last_on=last_on,
        grain=grain if grain in set(Grain) else Grain.DAY,
        grains=[each.value for each in Grain],
        time_zone=time_zone,
        group_by=group_by if group_by in dict(groups) else "",
        groups=groups,
        dimensions=_choices(words, customer, meter, names),
        compares=words.one("compare") == "1",
    )


def require_known(words: Words) -> None:
    """Refuse what nobody knows, as the API does: left aside, a file of another month would pass for the one asked for.

    Raises: DetailsInvalid.
    """
    words.require_only(
        ["customer", "meter", "month", "first", "last", "window", "time_zone", "group_by", "compare", "format"],
        in_brackets={"filter": True},
    )


def question_of(form: Form) -> UsageQuestion:
    """Return what the form asks.

    Raises: CustomerUnknown, and what `usage_questions.question_about` raises.
    """
    customer = None if form.is_of_all else customer_asked(form.customer_text, own_customer_id=None)
    return question_about(customer, Words(words_of(form)))


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


def _days_asked(words: Words) -> tuple[str, str]:
    """Return the first and the last day, from the API's word for a whole month, too."""
    text = words.one("month")
    if not text:
        return words.one("first"), words.one("last")
    try:
        month = parse_month(text)
    except MonthInvalid:
        return text, text
    return str(date(month.year, month.month, 1)), str(date(month.year, month.month, monthrange(*month)[1]))


def _customer(text: str) -> Customer | None:
    if text in {"", ALL_CUSTOMERS}:
        return None
    customers = Customer.objects.select_related("legal_entity")
    return customers.filter(code=text).first() or customers.filter(name=text).first()


def _time_zone(customer: Customer | None, *, is_of_all: bool) -> str:
    """The zone in which the customer is billed; that of all customers, where they have one, and else UTC."""
    if customer:
        return customer.legal_entity.time_zone
    zones = list(LegalEntity.objects.order_by().values_list("time_zone", flat=True).distinct()[:2]) if is_of_all else []
    return zones[0] if len(zones) == 1 else "UTC" if is_of_all else ""


# Which series saw usage last, and when; a step through an index for each series.
_LATEST = """
    SELECT series.meter_id, max(latest.hour) FROM ({series}) AS series
    CROSS JOIN LATERAL (
        (SELECT hour FROM usage_hour WHERE customer_id = series.customer_id AND series_id = series.id
         ORDER BY hour DESC LIMIT 1)
        UNION ALL
        (SELECT max(hour) FROM usage_delta WHERE customer_id = series.customer_id AND series_id = series.id)
    ) AS latest
    GROUP BY series.meter_id HAVING max(latest.hour) IS NOT NULL
    ORDER BY max(latest.hour) DESC, series.meter_id LIMIT 1
"""
_DIMENSIONS = """
    SELECT DISTINCT name, coalesce(series.dimensions ->> name, %(absent)s)
    FROM ({series}) AS series CROSS JOIN unnest(%(names)s::text[]) AS name ORDER BY 1, 2
"""
_SERIES_OF = """
    SELECT * FROM usage_series
    WHERE customer_id = %(customer)s AND (%(meter)s::bigint IS NULL OR meter_id = %(meter)s)
"""
_SERIES_OF_ALL = """
    SELECT * FROM usage_series WHERE %(meter)s::bigint IS NULL OR meter_id = %(meter)s ORDER BY id DESC LIMIT %(most)s
"""


def _of_series(
    statement: str, customer: Customer | None, meter_id: int | None, **more: Any
) -> list[tuple[object, ...]]:
    series = _SERIES_OF if customer else _SERIES_OF_ALL
    asked: dict[str, Any] = {
        "customer": customer.pk if customer else None,
        "meter": meter_id,
        "most": _SERIES_LOOKED_AT,
        **more,
    }
    with connection.cursor() as cursor:
        cursor.execute(statement.replace("{series}", series), asked)
        return list(cursor.fetchall())


def _latest(customer: Customer | None, meter_id: int | None) -> tuple[object, datetime] | None:
    for found, hour in _of_series(_LATEST, customer, meter_id):
        assert isinstance(hour, datetime), "a series has no null hour"
        return found, hour
    return None


def _meter_in_use(customer: Customer | None, meters: Sequence[Meter]) -> Meter:
    latest = _latest(customer, None)
    return next((each for each in meters if latest and each.pk == latest[0]), meters[0])


def _latest_month(customer: Customer | None, meter: Meter | None, time_zone: str, at: datetime) -> tuple[str, str]:
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
    if meter and names:
        for name, value in _of_series(_DIMENSIONS, customer, meter.pk, names=list(names), absent=ABSENT):
            offered[str(name)].append(str(value))
    return [
        Choice(name, offered[name][:VALUES_OFFERED], [value for value in words.several(f"filter[{name}]") if value])
        for name in names
    ]


def _day_after(text: str) -> str:
    try:
        return (date.fromisoformat(text) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        return text
