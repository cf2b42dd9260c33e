"""Whatever was counted, voided and filled in: a backfill leaves what a plain model says, a revert what was before.

And both were foreseen: for each aggregation a preview said what they came to.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Customer
from accounts.periods import month_period
from metering import rollups, verification
from metering.models import Meter, UsageBackfill
from metering.reading.quantities import QuantityAsk, quantities
from metering.usage_backfills import deciding
from metering.usage_backfills.errors import UsageBackfillEmpty
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.make_usage_backfills import closed, opened, reverted, staged

pytestmark = pytest.mark.django_db

START = datetime(2026, 10, 10, tzinfo=UTC)
END = START + timedelta(hours=3)
ADD = UsageBackfill.Mode.ADD

Said = tuple[int, int]
# What an event says: the minute of its time (of four hours, the last of which is outside), and its value.
said = st.tuples(st.integers(0, 239), st.integers(-4, 9))
events = st.dictionaries(st.sampled_from("abcdefgh"), said, max_size=8)


def event_of(event_id: str, what: Said, name: str) -> dict[str, object]:
    moment = START + timedelta(minutes=what[0])
    return make.event(event_id, time=moment.isoformat(), subject=name, source=name, seconds=str(what[1]))


def is_within(what: Said) -> bool:
    return what[0] < 180


def expected(
    mode: UsageBackfill.Mode, before: dict[str, Said], voided: set[str], filled: dict[str, Said]
) -> list[Said]:
    """Return what counts in the end."""
    counts = [what for name, what in before.items() if name not in voided and not (mode != ADD and is_within(what))]
    for name, what in filled.items():
        there = before.get(name)
        if there is None or (mode != ADD and is_within(there)):
            counts.append(what)
    return sorted(counts)


def somebody() -> str:
    """Make a customer, and return the name of its source and subject, which ends with its id."""
    customer = make_accounts.customer()
    make.subject(f"p{customer.pk}", customer=customer)
    if not Meter.objects.exists():
        make.meter()
        for aggregation in Meter.Aggregation.values:
            if aggregation != Meter.Aggregation.SUM:
                make.meter(aggregation=aggregation)
    return f"p{customer.pk}"


def readings(name: str) -> list[tuple[object, ...]]:
    """Return what each of the customer's series says."""
    totals = make.totals(int(name[1:]), start=START, end=END + timedelta(hours=1))
    return sorted(
        (each.series_id, each.sum, each.count, each.min, each.max, each.last) for each in totals if each.count
    )


def counted(name: str) -> tuple[Decimal | int, int]:
    """Return what the meter that adds up says, and of how many events."""
    totals = make.totals(int(name[1:]), start=START, end=END + timedelta(hours=1))
    adds_up = Meter.objects.order_by("pk").values_list("pk", flat=True)[0]
    found = [each for each in totals if each.meter_id == adds_up]
    return sum(each.sum for each in found), sum(each.count for each in found)


def quantities_of(name: str) -> dict[str, Decimal]:
    """Return what each meter says of the customer's month."""
    meters = list(Meter.objects.order_by("pk"))
    customer = Customer.objects.select_related("legal_entity").get(pk=int(name[1:]))
    month = month_period(2026, 10, customer.legal_entity.time_zone)
    asks = [
        QuantityAsk(
            customer_id=customer.pk,
            meter_id=each.pk,
            aggregation=each.aggregation,
            divisor=each.divisor,
            edges=[month.start, month.end],
        )
        for each in meters
    ]
    return dict.fromkeys([each.name for each in meters], Decimal(0)) | {
        meters[found.ask].name: found.quantity for found in quantities(asks)
    }


def foreseen(preview: dict[str, Any] | None, before: dict[str, Decimal]) -> dict[str, Decimal]:
    """Return what each meter was to say by a preview, which says rightly what each said before."""
    assert preview is not None
    changes = {row["meter"]: (Decimal(row["before"]), Decimal(row["after"])) for row in preview["rows"]}
    assert all(was == before[meter] for meter, (was, _) in changes.items())
    return before | {meter: comes_to for meter, (_, comes_to) in changes.items()}


def try_closed(backfill: UsageBackfill, *, limit: int) -> UsageBackfill | None:
    """Close it, if there is anything to it."""
    try:
        return closed(backfill, limit=limit)
    except UsageBackfillEmpty:
        return None


@given(before=events, filled=events, chance=st.randoms(use_true_random=False), mode=st.sampled_from(UsageBackfill.Mode))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_comes_to_what_a_plain_model_says_and_back(
    before: dict[str, Said], filled: dict[str, Said], chance: Random, mode: UsageBackfill.Mode
) -> None:
    name = somebody()
    filled = {each: what for each, what in filled.items() if is_within(what)}
    if before:
        make.ingested(*[event_of(each, what, name) for each, what in before.items()])
    voided = {each for each in before if chance.random() < 0.3}
    if voided:
        make_corrections.applied(make_corrections.drafted(make_corrections.named(*sorted(voided), source=name)))
    if chance.random() < 0.5:
        rollups.fold()
    kept, said = readings(name), quantities_of(name)
    backfill = opened(source=name, start=START, end=END, mode=mode)
    staged(backfill, *[event_of(each, what, name) for each, what in filled.items()])
    wanted = expected(mode, before, voided, filled)

    limit = chance.choice([1, 2, 100])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "EVENTS_AT_ONCE", limit)
        done = try_closed(backfill, limit=limit)

    assert counted(name) == (sum(value for _, value in wanted), len(wanted))
    if done is not None:
        comes_to = quantities_of(name)
        assert foreseen(done.preview, said) == comes_to
        if chance.random() < 0.5:
            rollups.fold()
        undone = reverted(done, limit=chance.choice([1, 3, 100]))
        assert readings(name) == kept
        assert foreseen(undone.revert_preview, comes_to) == quantities_of(name) == said
    for chunk in verification.plan(start=START, end=END + timedelta(hours=1)):
        assert verification.verify(chunk).shown == []
