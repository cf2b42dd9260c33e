"""Whatever is sent, voided, replaced, reverted and folded in whatever order: totals are those of a plain model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Customer
from metering import rollups, verification
from metering.models import Meter, UsageCorrection
from metering.reading import quantities
from tests import make_accounts, make_backfills, make_corrections
from tests import make_metering as make

pytestmark = pytest.mark.django_db

START = datetime(2026, 10, 10, tzinfo=UTC)
END = START + timedelta(hours=3)
AGGREGATIONS = ("sum", "count", "min", "max", "latest", "unique", "gauge", "p95")
Fact = tuple[datetime, Decimal]

values = st.integers(-50, 50).map(lambda number: Decimal(number) / 4)
moments = st.integers(0, 179).map(lambda minute: START + timedelta(minutes=minute))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), moments, values),
        st.tuples(st.just("void"), moments, values),
        st.tuples(st.just("replace"), moments, values),
        st.tuples(st.just("revert"), moments, values),
        st.tuples(st.just("fold"), moments, values),
        st.tuples(st.just("meter"), moments, values),
    ),
    min_size=3,
    max_size=14,
)


@dataclass
class World:
    """What counts by now, by event id, the meters that count it, and what each correction has done."""

    name: str
    meters: list[Meter] = field(default_factory=list)
    counts: dict[str, Fact] = field(default_factory=dict)
    undo: list[tuple[UsageCorrection, str, Fact, str | None]] = field(default_factory=list)


def naive(aggregation: str, facts: Sequence[Fact]) -> Decimal:
    ordered = sorted(facts)
    found = [value for _, value in ordered]
    plain: dict[str, Callable[[], Decimal]] = {
        "sum": lambda: sum(found, Decimal(0)),
        "count": lambda: Decimal(len(found)),
        "min": lambda: min(found),
        "max": lambda: max(found),
        "latest": lambda: found[-1],
        "unique": lambda: Decimal(len(set(found))),
        "gauge": lambda: level_hours(ordered),
        "p95": lambda: percentile(ordered),
    }
    return plain[aggregation]()


def level_hours(ordered: Sequence[Fact]) -> Decimal:
    levels = dict(ordered)  # of several at one moment the greatest is the last
    edges = [*sorted(levels), END]
    spans = pairwise(edges)
    area = sum((levels[one] * int((two - one).total_seconds()) for one, two in spans), Decimal(0))
    return area / 3600


def percentile(ordered: Sequence[Fact]) -> Decimal:
    slots = [Decimal(0)] * 36
    for moment, value in ordered:
        slots[int((moment - START).total_seconds()) // 300] += value
    return sorted(slots, reverse=True)[36 * 5 // 100]


def act(world: World, kind: str, moment: datetime, value: Decimal) -> None:
    ids = sorted(world.counts)
    if kind == "send":
        event = make.event(time=moment.isoformat(), subject=world.name, event_type=world.name, seconds=str(value))
        assert make.ingested(event).accepted == 1
        world.counts[str(event["id"])] = (moment, value)
    elif kind == "fold":
        rollups.fold(limit=5)
    elif kind == "meter":
        late = make.meter(aggregation=AGGREGATIONS[moment.minute % len(AGGREGATIONS)], event_type=world.name)
        make_backfills.counted(make_backfills.asked(late, start=START, end=END))
        world.meters.append(late)
    elif kind in {"void", "replace"} and ids:
        chosen = ids[moment.minute % len(ids)]
        before = world.counts.pop(chosen)
        if kind == "void":
            world.undo.append((make_corrections.voided(chosen), chosen, before, None))
        else:
            correction = make_corrections.replaced(chosen, seconds=str(value), time=moment.isoformat())
            successor = f"{chosen}#{correction.pk}"
            world.counts[successor] = (moment, value)
            world.undo.append((correction, chosen, before, successor))
    elif kind == "revert" and world.undo:
        correction, chosen, before, replacement = world.undo.pop()
        make_corrections.reverted(correction)
        world.counts[chosen] = before
        if replacement is not None:
            del world.counts[replacement]


def assert_equal(world: World, customer: Customer) -> None:
    asks = [make.ask(customer, meter, [START, END]) for meter in world.meters]
    found = {each.ask: each.quantity for each in quantities.quantities(asks)}
    facts = list(world.counts.values())
    for position, meter in enumerate(world.meters) if facts else ():
        wanted = naive(meter.aggregation, facts)
        assert abs(found[position] - wanted) < Decimal("1e-12"), (position, meter.aggregation)
    assert facts or all(quantity == 0 for quantity in found.values())
    for chunk in verification.plan(start=START, end=END):
        assert verification.verify(chunk).shown == []
    assert contributions("usage_contribution_of(%(customer)s, %(start)s, %(end)s)", customer) == contributions(
        "usage_contribution WHERE customer_id = %(customer)s AND time >= %(start)s AND time < %(end)s", customer
    )


def contributions(source: str, customer: Customer) -> list[tuple[object, ...]]:
    """Return what is counted of the second hour: asked of it, and of all by what the rules of invariants read."""
    hour: dict[str, int | datetime] = {
        "customer": customer.pk,
        "start": START + timedelta(hours=1),
        "end": START + timedelta(hours=2),
    }
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {source}", hour)  # noqa: S608 -- as above
        return sorted(cursor.fetchall())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(play=steps)
def test_whatever_is_corrected_in_whatever_order_totals_are_those_of_a_plain_model(
    play: list[tuple[str, datetime, Decimal]],
) -> None:
    # Each play has a customer, a subject and a type of event of its own, so that none sees another's usage.
    customer = make_accounts.customer()
    world = World(name=f"play-{customer.pk}")
    make.subject(world.name, customer=customer)
    world.meters = [make.meter(aggregation=aggregation, event_type=world.name) for aggregation in AGGREGATIONS]
    for kind, moment, value in play:
        act(world, kind, moment, value)
    assert_equal(world, customer)
