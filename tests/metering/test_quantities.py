"""Quantities agree with a plain model over the events: every aggregation, window, group and filter, folded or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.periods import Grain, Period, edges
from metering import rollups
from metering.aggregations import combine
from metering.errors import WindowNotOnTheHour
from metering.models import Meter
from metering.reading.quantities import Quantity, QuantityAsk, quantities
from metering.reading.usage import SeriesTotal
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

Aggregation = Meter.Aggregation
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
# Clocks in Berlin go back on the 25th: that day has 25 hours.
BEGIN, END = datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 26, 23, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ONE, SEVEN = Decimal(1), Decimal(7)
NUMBERS = {Aggregation.COUNT, Aggregation.UNIQUE}


@dataclass(frozen=True, slots=True)
class Used:
    """An event as the model knows it."""

    time: datetime
    value: Decimal
    region: str | None


def in_plain_words(
    aggregation: str, used: Sequence[Used], start: datetime, end: datetime, divisor: Decimal = ONE
) -> Decimal | None:
    """Work a quantity out from events alone, series apart where levels are meant."""
    if aggregation == Aggregation.GAUGE:
        return levels_over_time(used, start, end, divisor)
    found = undivided(aggregation, used, start, end)
    return found if found is None or aggregation in NUMBERS else found / divisor


def undivided(aggregation: str, used: Sequence[Used], start: datetime, end: datetime) -> Decimal | None:
    inside = [each for each in used if start <= each.time < end]
    if not inside:
        return None
    values = [each.value for each in inside]
    latest = max(each.time for each in inside)
    if aggregation == Aggregation.P95:
        slots: defaultdict[int, Decimal] = defaultdict(Decimal)
        for each in inside:
            slots[(each.time - start) // timedelta(minutes=5)] += each.value
        whole = sorted((slots[index] for index in range((end - start) // timedelta(minutes=5))), reverse=True)
        return whole[len(whole) * 5 // 100]
    return {
        Aggregation.SUM: sum(values, Decimal(0)),
        Aggregation.COUNT: Decimal(len(values)),
        Aggregation.MIN: min(values),
        Aggregation.MAX: max(values),
        Aggregation.LATEST: max(each.value for each in inside if each.time == latest),
        Aggregation.UNIQUE: Decimal(len({str(value) for value in values})),
    }[Aggregation(aggregation)]


def levels_over_time(used: Sequence[Used], start: datetime, end: datetime, divisor: Decimal) -> Decimal | None:
    area, found = Decimal(0), False
    for region in {each.region for each in used}:
        levels: dict[datetime, Decimal] = {}
        for each in used:
            if each.region == region:
                levels[each.time] = max(each.value, levels.get(each.time, each.value))
        moments = sorted(levels)
        for moment, until in pairwise([*moments, datetime.max.replace(tzinfo=UTC)]):
            span = (min(until, end) - max(moment, start)) // MICROSECOND
            if span > 0:
                found = True
                area += levels[moment] * span
    if not found:
        return None
    hours = area / (3_600_000_000 * divisor)
    return hours.quantize(Decimal(1).scaleb(-18), ROUND_HALF_UP)


times = st.one_of(
    st.integers(-3, 52).map(lambda hours: BEGIN + timedelta(hours=hours)),
    st.integers(-3, 52).map(lambda hours: BEGIN + timedelta(hours=hours) - MICROSECOND),
    st.integers(-3 * 12, 51 * 12).map(lambda slots: BEGIN + timedelta(minutes=5 * slots)),
    st.integers(-3 * 3600, 51 * 3600).map(lambda seconds: BEGIN + timedelta(seconds=seconds)),
)
uses = st.builds(
    Used,
    time=times,
    value=st.decimals(min_value=-20, max_value=99, places=2),
    region=st.sampled_from(["eu", "us", None]),
)


usage_of_two = st.lists(st.tuples(st.sampled_from([0, 1]), st.lists(uses, min_size=1, max_size=6)), max_size=6)
Filters = Mapping[str, Sequence[str | None]]
FILTERS: list[Filters] = [{}, {"region": ["eu"]}, {"region": ["us", None]}]


def meters(divisor: Decimal = ONE) -> dict[str, Meter]:
    return {
        each: make.meter(aggregation=each, dimensions=["region"], divisor=ONE if each in NUMBERS else divisor)
        for each in Aggregation.values
    }


def sent(used: Sequence[Used], subject: str) -> list[dict[str, object]]:
    return [
        make.event(
            subject=subject,
            time=each.time.isoformat(),
            seconds=str(each.value),
            **({"region": each.region} if each.region else {}),
        )
        for each in used
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_aggregation_agrees_with_a_plain_model(data: st.DataObject) -> None:
    if not Meter.objects.exists():
        meters(SEVEN)
    of = {meter.aggregation: meter for meter in Meter.objects.all()}
    used, is_folded = data.draw(usage_of_two), data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
    customers = [make_accounts.customer(code="") for _ in range(2)]
    for customer in customers:
        make.subject(f"of-{customer.pk}", customer=customer)
    for (index, batch), fold in zip(used, is_folded, strict=False):
        result = make.ingested(*sent(batch, f"of-{customers[index].pk}"), at=NOVEMBER)
        assert result.accepted == len(batch)
        if fold:
            rollups.fold(limit=data.draw(st.sampled_from([2, 50_000])))
    cut = edges(Period(BEGIN, END), data.draw(st.sampled_from(list(Grain))), "Europe/Berlin")
    group_by = data.draw(st.sampled_from([(), ("region",)]))
    filters = data.draw(st.sampled_from(FILTERS))
    until = data.draw(st.none() | times)

    asks = [
        make.ask(customer, of[aggregation], cut, group_by=group_by, filters=filters, until=until)
        for customer in customers
        for aggregation in Aggregation.values
    ]
    found = {
        (each.ask, each.window, each.group.get("region", "all")): rounded(each.quantity) for each in quantities(asks)
    }

    expected: dict[tuple[int, int, str | None], Decimal] = {}
    for position, asked in enumerate(asks):
        index = position // len(Aggregation.values)
        of_customer = [each for whose, batch in used for each in batch if whose == index and meets(each, filters)]
        expected |= {
            (position, window, group): quantity
            for (window, group), quantity in quantities_in_plain_words(asked, of_customer).items()
        }
    assert found == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(uses, min_size=1, max_size=6), min_size=1, max_size=4), folds=st.integers(0, 3))
def test_what_bills_read_is_the_same_and_folding_changes_none_of_it(batches: list[list[Used]], folds: int) -> None:
    if not Meter.objects.exists():
        meters(SEVEN)
    of = {meter.pk: meter.aggregation for meter in Meter.objects.all()}
    customer = make_accounts.customer(code="")
    make.subject(f"of-{customer.pk}", customer=customer)
    for number, batch in enumerate(batches):
        make.ingested(*sent(batch, f"of-{customer.pk}"), at=NOVEMBER)
        if number < folds:
            rollups.fold()

    before = make.totals(customer, start=BEGIN, end=END)
    rollups.fold()
    totals = make.totals(customer, start=BEGIN, end=END)

    assert totals == before
    by_meter: defaultdict[int, list[SeriesTotal]] = defaultdict(list)
    for total in totals:
        by_meter[total.meter_id].append(total)
    used = [each for batch in batches for each in batch]
    expected = {meter: in_plain_words(aggregation, used, BEGIN, END, SEVEN) for meter, aggregation in of.items()}
    assert {meter: rounded(combine(of[meter], found)) for meter, found in by_meter.items()} == {
        meter: rounded(quantity) for meter, quantity in expected.items() if quantity is not None
    }


def quantities_in_plain_words(asked: QuantityAsk, used: Sequence[Used]) -> dict[tuple[int, str | None], Decimal]:
    found = {}
    for group in {each.region for each in used} if asked.group_by else {"all"}:
        of_group = [each for each in used if group in {"all", each.region}]
        for window, (start, whole_end) in enumerate(pairwise(asked.edges)):
            end = min(whole_end, known_until(asked))
            if end <= start:
                continue
            quantity = in_plain_words(asked.aggregation, of_group, start, end, asked.divisor)
            if quantity is not None:
                found[window, group] = rounded(quantity)
    return found


def known_until(asked: QuantityAsk) -> datetime:
    """Of a level nothing is known beyond the hour that runs; of all else what came in counts, wherever it lies."""
    if asked.until is None or asked.aggregation != Aggregation.GAUGE:
        return asked.edges[-1]
    begun = asked.until.replace(minute=0, second=0, microsecond=0)
    return begun if begun == asked.until else begun + timedelta(hours=1)


def rounded(quantity: Decimal) -> Decimal:
    return quantity.quantize(Decimal(1).scaleb(-18), ROUND_HALF_UP)


def meets(used: Used, filters: Filters) -> bool:
    return all(used.region in allowed for allowed in filters.values())


@pytest.mark.parametrize("year", [1970, 9999])
@pytest.mark.parametrize("is_folded", [True, False])
def test_the_first_and_the_last_years_are_read_like_any_other(year: int, is_folded: bool) -> None:  # noqa: FBT001
    of = meters()
    acme = make_accounts.customer()
    start, end = datetime(year, 2, 1, tzinfo=UTC), datetime(year, 3, 1, tzinfo=UTC)
    make.subject("project-1", customer=acme, starts_at=start)
    make.ingested(
        make.event(time=f"{year}-02-01T00:00:00Z", seconds="3"),
        make.event(time=f"{year}-02-28T23:59:59.999999Z", seconds="5"),
        make.event(time=f"{year}-03-01T00:00:00Z", seconds="100"),
        at=end,
    )
    if is_folded:
        rollups.fold()

    found = quantities([make.ask(acme, of[each], [start, end]) for each in Aggregation.values])

    level = 3 * 28 * 24 + Decimal(2) / 3_600_000_000
    assert [each.quantity for each in found] == [
        8,
        2,
        3,
        5,
        5,
        2,
        level.quantize(Decimal(1).scaleb(-18), ROUND_HALF_UP),
        0,
    ]


@pytest.mark.parametrize(
    "values",
    [
        range(1, 229),
        range(-228, 0),
        range(-100, 0),
        range(-218, 8),
        [*range(1, 12), *[0] * 50],
        [*range(1, 13), *[0] * 50],
    ],
    ids=["all-used", "all-below-zero", "some-below-zero", "few-above-zero", "eleven-above-zero", "twelve-above-zero"],
)
@pytest.mark.parametrize("hours", [19, 18])
def test_the_percentile_of_slots_that_saw_much_is_that_of_all_of_them(values: Sequence[int], hours: int) -> None:
    p95 = make.meter(aggregation=Aggregation.P95, dimensions=["region"])
    acme = make_accounts.customer()
    make.subject("project-1", customer=acme)
    used = [
        Used(OCTOBER + timedelta(minutes=5 * (number * 71 % 228)), Decimal(part), region)
        for number, value in enumerate(values)
        for region, part in (("eu", value - 1000), ("us", 1000))
    ]
    make.ingested(*sent(used[::2], "project-1"), at=NOVEMBER)
    rollups.fold()
    make.ingested(*sent(used[1::2], "project-1"), at=NOVEMBER)
    end = OCTOBER + timedelta(hours=hours)

    (found,) = quantities([make.ask(acme, p95, [OCTOBER, end])])

    assert found.quantity == in_plain_words(Aggregation.P95, used, OCTOBER, end)
    totals = make.totals(acme, start=OCTOBER, end=end)
    assert combine(Aggregation.P95, totals) == found.quantity


def test_a_level_is_carried_in_however_long_ago_it_was_read() -> None:
    gauge = make.meter(aggregation=Aggregation.GAUGE)
    acme = make_accounts.customer()
    make.subject("project-1", customer=acme)
    make.ingested(make.event(time="2026-03-05T10:00:00Z", seconds="2"))
    rollups.fold()

    (found,) = quantities([make.ask(acme, gauge, [OCTOBER, NOVEMBER])])

    assert found == Quantity(0, 0, {}, Decimal(2 * 31 * 24), 0)


def test_a_level_holds_until_the_end_of_the_hour_that_runs_and_not_beyond() -> None:
    gauge = make.meter(aggregation=Aggregation.GAUGE)
    acme = make_accounts.customer()
    make.subject("project-1", customer=acme)
    make.ingested(make.event(time="2026-10-15T10:30:00Z", seconds="2"))
    cut = edges(Period(OCTOBER, NOVEMBER), "day", "UTC")

    def total(until: datetime) -> list[tuple[int, Decimal]]:
        return [(each.window, each.quantity) for each in quantities([make.ask(acme, gauge, cut, until=until)])]

    assert total(datetime(2026, 10, 15, 11, tzinfo=UTC)) == [(14, Decimal(1))]
    assert total(datetime(2026, 10, 15, 11, 0, 1, tzinfo=UTC)) == [(14, Decimal(3))]
    assert total(datetime(2026, 10, 16, 0, 20, tzinfo=UTC)) == [(14, Decimal(27)), (15, Decimal(2))]
    assert total(OCTOBER) == []
    assert total(OCTOBER - timedelta(days=1)) == []


def test_the_number_of_statements_does_not_grow_with_customers() -> None:
    of = meters()
    acme = make_accounts.customer()
    make.subject("project-1", customer=acme)
    make.ingested(make.event(seconds="1", region="eu"))
    asks = [make.ask(acme, of[each], [OCTOBER, NOVEMBER]) for each in Aggregation.values]

    counts = []
    for times in (1, 50):
        with CaptureQueriesContext(connection) as queries:
            found = quantities(asks * times)
        counts.append((len(queries), len(found)))

    assert counts == [(8, 8), (8, 400)]


def test_edges_within_an_hour_are_refused_rather_than_wrong() -> None:
    meter, acme = make.meter(), make_accounts.customer()

    with pytest.raises(WindowNotOnTheHour):
        quantities([make.ask(acme, meter, [OCTOBER, OCTOBER + timedelta(minutes=90)])])


def test_a_read_of_many_series_looks_at_each_delta_once() -> None:
    of = meters()
    acme = make_accounts.customer()
    make.subject("project-1", customer=acme)
    make.ingested(*[make.event(seconds="1", region=f"r{number}") for number in range(40)])

    looked_at = {each: rows_looked_at(make.ask(acme, of[each], [OCTOBER, NOVEMBER])) for each in Aggregation.values}

    # Some aggregations read deltas of hours, some those of parts, and a level looks at each of its three times.
    assert looked_at == {each: 40 * (3 if each == Aggregation.GAUGE else 1) for each in Aggregation.values}


def rows_looked_at(asked: QuantityAsk) -> int:
    """Return how many rows of deltas the statement came by, those included that it had no use for."""
    with CaptureQueriesContext(connection) as queries:
        quantities([asked])
    with connection.cursor() as cursor:
        # As where there are many deltas, of which these few would be read as a whole.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {queries[0]['sql']}")
        ((plan,),) = cursor.fetchall()
    return sum_of_deltas(plan[0]["Plan"])


def sum_of_deltas(node: Mapping[str, Any]) -> int:
    here = 0
    if node.get("Relation Name") in {"usage_delta", "usage_part_delta"}:
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        here = round(rows * node["Actual Loops"])
    return here + sum(sum_of_deltas(each) for each in node.get("Plans", ()))
