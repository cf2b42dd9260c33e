"""What is counted as it comes in is what a recount from the stored events says: Python and SQL agree."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import rollups
from metering.events import decode_line
from metering.meters.meters import MeterReading, add_version
from metering.models import Meter, QuarantinedEvent
from metering.quarantine.quarantine import release
from metering.recount import READINGS_AS_ASKED
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import LONG_AGO, SYSTEM
from tests.ties import assert_everything_ties

pytestmark = pytest.mark.django_db

DAY = datetime(2026, 10, 10, tzinfo=UTC)
# In the midst of the events, on the hour.
CHANGES = [DAY + timedelta(hours=hours) for hours in (1, 2, 3)]

numbers = st.one_of(
    st.integers(-(10**37), 10**37).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9).map(str),
    st.sampled_from(["0", "-0", "-0.0", "1.0", "1", "1e2", "1E-3", "0e5", "100", "1.10", "00.5", "-7"]),
)
values = st.one_of(
    numbers,
    numbers.map(Decimal),
    st.integers(-(10**37), 10**37),
    st.booleans(),
    st.none(),
    st.text(alphabet="ab\\\"'é☃ .1", max_size=4),
    st.just({"deep": "1"}),
)
data = st.dictionaries(
    st.sampled_from(["a", "b", "a.b", "kind"]), st.one_of(values, st.dictionaries(st.just("b"), values))
)
moments = st.one_of(
    st.sampled_from([change + timedelta(microseconds=off) for change in CHANGES for off in (-1, 0, 1)]),
    st.integers(0, 4 * 3600 * 10**6).map(lambda off: DAY + timedelta(microseconds=off)),
)
events = st.lists(st.tuples(moments, data), max_size=12)
readings = st.builds(
    MeterReading,
    value_path=st.sampled_from(["a", "b", "a.b"]),
    conversion=st.sampled_from([Decimal(1), Decimal("0.001"), Decimal("1.5"), Decimal("123456789.000000001")]),
    event_filter=st.sampled_from([{}, {"kind": True}, {"kind": 1}, {"b": "1"}]),
    dimensions=st.sampled_from([(), ("kind",), ("b", "a.b")]),
)


def make_meter(aggregation: str, versions: Sequence[MeterReading]) -> None:
    first, *later = [fitted(aggregation, version, versions[0]) for version in versions]
    meter = make.meter(
        aggregation=aggregation,
        value_path=first.value_path,
        event_filter=first.event_filter,
        conversion=first.conversion,
        dimensions=first.dimensions,
    )
    for reading, valid_from in zip(later, CHANGES, strict=False):
        add_version(
            meter_id=meter.pk, reading=reading, valid_from=valid_from, reason="other data", actor=SYSTEM, at=LONG_AGO
        )


def fitted(aggregation: str, reading: MeterReading, first: MeterReading) -> MeterReading:
    """Return the reading without what this aggregation does not take."""
    converts = aggregation not in {Meter.Aggregation.COUNT, Meter.Aggregation.UNIQUE}
    return MeterReading(
        value_path="" if aggregation == Meter.Aggregation.COUNT else reading.value_path,
        conversion=reading.conversion if converts else Decimal(1),
        event_filter=reading.event_filter,
        dimensions=first.dimensions if aggregation == Meter.Aggregation.GAUGE else reading.dimensions,
    )


def assert_events_would_add_what_they_add() -> None:
    """Compare what events contribute with what they would, if they were to count where they do."""
    columns = "customer_id, series_id, hour, time, value, kind, part"
    asked = "SELECT 0 AS item_id, customer_id, time, key, 1 AS sign, series_ids FROM usage_event"
    read = f"SELECT {columns} FROM (WITH asked AS ({asked}), {READINGS_AS_ASKED}) AS reading"  # noqa: S608 -- built from constants
    contributed = f"SELECT {columns} FROM usage_contribution"  # noqa: S608 -- as above
    with connection.cursor() as cursor:
        for one, other in [(read, contributed), (contributed, read)]:
            cursor.execute(f"({one}) EXCEPT ALL ({other})")
            assert cursor.fetchall() == []


@pytest.fixture(autouse=True)
def _a_subject() -> None:
    make.subject("project-1", customer=make_accounts.customer())


@pytest.mark.parametrize("aggregation", Meter.Aggregation.values)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(readings, min_size=1, max_size=4), batches=st.lists(events, max_size=3))
def test_counting_and_folding_equal_a_recount_from_the_events(
    aggregation: str, versions: list[MeterReading], batches: list[list[tuple[datetime, dict[str, Any]]]]
) -> None:
    with transaction.atomic():
        make_meter(aggregation, versions)
        for batch in batches:
            make.ingested(*[make.event(time=moment.isoformat(), **fields) for moment, fields in batch])
            assert_everything_ties()
            assert_events_would_add_what_they_add()
            rollups.fold(limit=5)
            assert_everything_ties()
        while rollups.fold():
            pass
        assert_everything_ties()
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1", "1"),
        ('"1"', "1"),
        ("1.0", "1.0"),
        ("1e5", "100000"),
        ("1E-7", "0.0000001"),
        ("-0", "0"),
        ("-0.0", "0.0"),
        ("12345678901234567890123456789012345678.10", "12345678901234567890123456789012345678.10"),
        ("true", "true"),
        ('"true"', "true"),
        ('""', ""),
        ('"é☃\\u2028"', "é☃\u2028"),
        ("null", None),
    ],
)
def test_an_event_that_waited_counts_in_the_series_of_one_that_did_not(written: str, kept: str | None) -> None:
    """Its numbers lay in the database meanwhile, which has ways of its own of writing them."""
    customer = make_accounts.customer()
    make.subject("at once", customer=customer)
    make.meter(dimensions=["kind"])
    fields: dict[str, Any] = {"seconds": "1", "kind": decode_line(written.encode())}
    make.ingested(make.event("e1", subject="at once", **fields), make.event("e2", subject="later", **fields))
    make.subject("later", customer=customer)

    release(event_ids=[QuarantinedEvent.objects.get().pk], actor=SYSTEM, at=make.NOON)

    (total,) = make.totals(customer)
    assert total.count == 2
    assert total.dimensions == ({} if kept is None else {"kind": kept})
    assert_everything_ties()
