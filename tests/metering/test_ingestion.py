"""Taking usage in: what counts, what waits, what is refused, and that nothing counts twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.access import Actor
from accounts.errors import PermissionMissing
from accounts.models import Customer
from metering.errors import TooManyEvents
from metering.ingestion import MAX_EVENTS, ingest
from metering.meters.meters import change_meter
from metering.models import (
    Meter,
    QuarantinedEvent,
    RefusedEvent,
    UsageBatch,
    UsageDelta,
    UsageEvent,
    UsageIdentity,
    UsageSeries,
)
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _acceptance_age() -> Iterator[None]:
    """As in production; a developer's own machine takes older samples."""
    with override_settings(USAGE_ACCEPTANCE_MONTHS=25):
        yield


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def gpu_seconds() -> Meter:
    return make.meter(dimensions=["region"])


def test_an_accepted_event_is_stored_attributed_and_counted(acme: Customer, gpu_seconds: Meter) -> None:
    result = make.ingested(make.event("e1", seconds="12.50", region="eu"))

    assert (result.accepted, result.duplicates, result.quarantined, result.rejected) == (1, 0, 0, [])
    event = UsageEvent.objects.get()
    assert (event.customer_id, event.event_id, event.batch_id) == (acme.pk, "e1", result.batch_id)
    assert event.data == {"seconds": "12.50", "region": "eu"}
    (total,) = make.totals(acme)
    assert (total.meter_id, total.dimensions, total.sum, total.count) == (
        gpu_seconds.pk,
        {"region": "eu"},
        Decimal("12.50"),
        1,
    )
    assert event.series_ids == [total.series_id]


def test_a_batch_sent_again_adds_nothing_whatever_its_order(acme: Customer, gpu_seconds: Meter) -> None:
    events = [make.event(seconds=str(number)) for number in range(50)]
    make.ingested(*events)
    before = make.totals(acme)

    random.Random(7).shuffle(events)  # noqa: S311 -- any order will do
    again = make.ingested(*events)

    assert (again.accepted, again.duplicates) == (0, 50)
    assert make.totals(acme) == before
    assert UsageIdentity.objects.count() == 50


def test_an_event_twice_in_one_batch_counts_once(acme: Customer, gpu_seconds: Meter) -> None:
    event = make.event("e1", seconds="3")

    result = make.ingested(event, event, make.event("e2", seconds="4"), event)

    assert (result.accepted, result.duplicates) == (2, 2)
    assert make.totals(acme)[0].sum == 7


@pytest.mark.parametrize("change", [{"seconds": "2"}, {"time": "2026-10-15T10:30:01Z"}, {"subject": "project-2"}])
@pytest.mark.parametrize("in_one_batch", [True, False])
def test_the_same_identity_with_other_content_is_refused_and_listed(
    acme: Customer,
    gpu_seconds: Meter,
    change: dict[str, str],
    *,
    in_one_batch: bool,
) -> None:
    first, other = make.event("e1"), make.event("e1", **change)

    if in_one_batch:
        result = make.ingested(first, other)
    else:
        make.ingested(first)
        result = make.ingested(make.event(), other)

    ((rejection),) = result.rejected
    assert (rejection.index, rejection.id, rejection.reason) == (1, "e1", "conflict")
    refused = RefusedEvent.objects.get()
    assert (refused.reason, refused.source, refused.event_id, refused.position) == ("conflict", "cluster/1", "e1", 1)
    assert '"e1"' in refused.payload
    assert UsageEvent.objects.filter(event_id="e1").count() == 1


def test_what_comes_twice_in_a_batch_is_compared_with_what_was_accepted_before(
    acme: Customer, gpu_seconds: Meter
) -> None:
    accepted, other = make.event("e1", seconds="1"), make.event("e1", seconds="2")
    make.ingested(accepted)

    result = make.ingested(other, accepted, other)

    assert (result.duplicates, [each.index for each in result.rejected]) == (1, [0, 2])
    assert {each.reason for each in result.rejected} == {"conflict"}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (make.event(subject="nobody"), "unknown_subject"),
        (make.event(subject=""), "unknown_subject"),
        (make.event(event_type="tpu.used"), "unknown_type"),
        (make.event(other="1"), "missing_value"),
        (make.event(seconds=None), "missing_value"),
        (make.event(seconds=""), "missing_value"),
        (make.event(seconds="twelve"), "invalid_value"),
        (make.event(seconds="NaN"), "invalid_value"),
        (make.event(seconds="Infinity"), "invalid_value"),
        (make.event(seconds=" 1"), "invalid_value"),
        (make.event(seconds="1_000"), "invalid_value"),
        (make.event(seconds="1,5"), "invalid_value"),
        (make.event(seconds="١"), "invalid_value"),
        (make.event(seconds=True), "invalid_value"),
        (make.event(seconds=[1]), "invalid_value"),
        (make.event(seconds="1" * 39), "invalid_value"),
        (make.event(seconds="0." + "1" * 39), "invalid_value"),
        (make.event(seconds="1e38"), "invalid_value"),
        (make.event(seconds="1", region={"name": "eu"}), "invalid_value"),
        (make.event(seconds="1", region="x" * 201), "invalid_value"),
        (make.event(time="2026-10-15T13:00:01Z"), "in_future"),
        (make.event(time="2024-08-31T23:59:59Z"), "too_old"),
        (make.event(time="1970-01-01T00:00:00Z"), "too_old"),
        (make.event(time="9999-12-31T00:00:00Z"), "in_future"),
    ],
)
def test_what_cannot_be_counted_waits_in_quarantine_with_its_reason(
    acme: Customer,
    gpu_seconds: Meter,
    event: dict[str, object],
    reason: str,
) -> None:
    result = make.ingested(event, make.event())

    assert (result.accepted, result.quarantined, result.rejected) == (1, 1, [])
    waiting = QuarantinedEvent.objects.get()
    assert (waiting.reason, waiting.status, waiting.data) == (reason, "open", event["data"])
    assert waiting.detail
    assert make.totals(acme)[0].count == 1


@pytest.mark.parametrize("time", ["2026-10-15T13:00:00Z", "2024-09-01T00:00:00Z"])
def test_an_hour_ahead_and_25_months_back_are_accepted(acme: Customer, gpu_seconds: Meter, time: str) -> None:
    assert make.ingested(make.event(time=time)).accepted == 1


def test_a_quarantined_event_that_comes_again_is_counted_as_seen_again(gpu_seconds: Meter) -> None:
    make.ingested(make.event("e1", subject="nobody"))

    again = make.ingested(make.event("e1", subject="nobody"), at=NOON + timedelta(minutes=5))

    assert (again.accepted, again.duplicates, again.quarantined) == (0, 0, 1)
    waiting = QuarantinedEvent.objects.get()
    assert (waiting.seen_count, waiting.first_seen_at, waiting.last_seen_at) == (
        2,
        NOON,
        NOON + timedelta(minutes=5),
    )


def test_a_quarantined_event_with_other_content_is_a_conflict(gpu_seconds: Meter) -> None:
    make.ingested(make.event("e1", subject="nobody", seconds="1"))

    result = make.ingested(make.event("e1", subject="nobody", seconds="2"))

    assert [rejection.reason for rejection in result.rejected] == ["conflict"]


def test_a_record_that_contradicts_itself_waits_in_quarantine(acme: Customer, gpu_seconds: Meter) -> None:
    result = ingest(
        events=[make.event("good"), make.event("bad")],
        contradictions={1: "2 x 3 is not 5"},
        positions=[17, 18],
        door=UsageBatch.Door.FILE,
        actor=make.SYSTEM,
        at=NOON,
    )

    assert (result.accepted, result.quarantined) == (1, 1)
    waiting = QuarantinedEvent.objects.get()
    assert (waiting.event_id, waiting.reason, waiting.detail) == ("bad", "inconsistent", "2 x 3 is not 5")


def test_a_refusal_of_a_file_carries_the_position_in_the_file_and_is_kept_once(acme: Customer) -> None:
    for _ in range(2):
        ingest(
            events=[{"id": 7}],
            positions=[4_711],
            door=UsageBatch.Door.FILE,
            actor=make.SYSTEM,
            at=NOON,
        )

    refused = RefusedEvent.objects.get()
    assert (refused.position, refused.reason, refused.payload) == (4_711, "malformed", '{"id":7}')


def test_one_event_may_feed_several_meters(acme: Customer) -> None:
    make.meter(code="seconds", dimensions=["region"])
    make.meter(code="calls", aggregation=Meter.Aggregation.COUNT)
    make.meter(code="spot", event_filter={"tier": "spot"})

    make.ingested(make.event(seconds="2", region="eu", tier="spot"), make.event(seconds="5", region="eu", tier="firm"))

    codes = dict(Meter.objects.values_list("pk", "code"))
    assert {codes[total.meter_id]: (total.sum, total.count) for total in make.totals(acme)} == {
        "seconds": (Decimal(7), 2),
        "calls": (Decimal(2), 2),
        "spot": (Decimal(2), 1),
    }


def test_an_event_that_no_filter_takes_is_not_lost_but_waits(acme: Customer) -> None:
    make.meter(event_filter={"billable": True})

    result = make.ingested(make.event(seconds="1", billable=1), make.event(seconds="1", billable=True))

    assert (result.accepted, result.quarantined) == (1, 1)
    assert QuarantinedEvent.objects.get().detail == "no meter's filter takes it"


def test_dimensions_make_series_and_an_absent_one_is_left_out(acme: Customer) -> None:
    make.meter(dimensions=["region", "gpus"])

    make.ingested(
        make.event(seconds="1", region="eu", gpus=8),
        make.event(seconds="2", region="eu", gpus="8"),
        make.event(seconds="4", region="eu"),
        make.event(seconds="8", gpus=Decimal("8.5"), region=True),
    )

    assert {tuple(total.dimensions.items()): total.sum for total in make.totals(acme)} == {
        (("gpus", "8"), ("region", "eu")): 3,
        (("region", "eu"),): 4,
        (("gpus", "8.5"), ("region", "true")): 8,
    }


def test_a_resting_meter_counts_nothing(acme: Customer, gpu_seconds: Meter) -> None:
    change_meter(
        meter_id=gpu_seconds.pk,
        name="Resting",
        is_active=False,
        series_limit=10_000,
        reason="replaced",
        actor=make.SYSTEM,
        at=NOON,
    )

    assert make.ingested(make.event()).quarantined == 1


def test_a_subject_that_moved_belongs_to_each_customer_in_its_time(gpu_seconds: Meter) -> None:
    noon = datetime(2026, 10, 10, 12, tzinfo=UTC)
    before, after = make_accounts.customer(), make_accounts.customer()
    make.subject("moving", customer=before, ends_at=noon)
    make.subject("moving", customer=after, starts_at=noon)

    make.ingested(
        make.event(subject="moving", time="2026-10-10T11:59:59.999999Z", seconds="1"),
        make.event(subject="moving", time="2026-10-10T12:00:00Z", seconds="2"),
    )

    assert [total.sum for total in make.totals(before)] == [1]
    assert [total.sum for total in make.totals(after)] == [2]


def test_an_event_exactly_at_the_hour_belongs_to_the_hour_that_begins(acme: Customer, gpu_seconds: Meter) -> None:
    make.ingested(
        make.event(time="2026-10-15T09:59:59.999999Z", seconds="1"),
        make.event(time="2026-10-15T10:00:00Z", seconds="2"),
        make.event(time="2026-10-15T12:59:59+02:00", seconds="4"),
    )

    assert dict(UsageDelta.objects.values_list("hour", "sum")) == {
        datetime(2026, 10, 15, 9, tzinfo=UTC): 1,
        datetime(2026, 10, 15, 10, tzinfo=UTC): 6,
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.decimals(
            min_value=Decimal("-1e18"),
            max_value=Decimal("1e18"),
            places=19,
            allow_nan=False,
            allow_infinity=False,
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_sums_are_exact_to_the_last_of_38_digits(acme: Customer, gpu_seconds: Meter, values: list[Decimal]) -> None:
    before = sum((Fraction(total.sum) for total in make.totals(acme)), Fraction(0))

    result = make.ingested(*[make.event(seconds=format(value, "f")) for value in values])

    assert result.accepted == len(values)
    assert Fraction(make.totals(acme)[0].sum) - before == sum(Fraction(value) for value in values)


def test_min_max_and_last_are_kept_beside_the_sum(acme: Customer, gpu_seconds: Meter) -> None:
    make.ingested(
        make.event(time="2026-10-15T10:50:00Z", seconds="5"),
        make.event(time="2026-10-15T10:55:00.5Z", seconds="3"),
        make.event(time="2026-10-15T10:55:00Z", seconds="9"),
        make.event(time="2026-10-15T10:55:00.5Z", seconds="2"),
    )

    (total,) = make.totals(acme)
    assert (total.sum, total.min, total.max, total.last) == tuple(map(Decimal, (19, 2, 9, 3)))


def test_a_key_of_one_customer_sends_for_its_own_subjects_only(acme: Customer, gpu_seconds: Meter) -> None:
    make.subject("rival", customer=make_accounts.customer())

    result = make.ingested(
        make.event("mine"),
        make.event("theirs", subject="rival"),
        make.event("nobodys", subject="nobody"),
        customer_id=acme.pk,
    )

    assert result.accepted == 1
    assert [(rejection.id, rejection.reason) for rejection in result.rejected] == [
        ("theirs", "foreign_subject"),
        ("nobodys", "foreign_subject"),
    ]
    assert UsageIdentity.objects.count() == 1, "a refused event takes no identity away from its owner"


def test_a_batch_tells_who_brought_it_and_what_became_of_it(acme: Customer, gpu_seconds: Meter) -> None:
    result = make.ingested(
        make.event("e1", time="2026-10-15T10:30:00Z"),
        make.event("e2", time="2026-10-15T08:30:00Z"),
        make.event("e1"),
        make.event(subject="nobody"),
        {},
    )

    batch = UsageBatch.objects.get(pk=result.batch_id)
    assert (batch.accepted, batch.duplicates, batch.quarantined, batch.rejected) == (2, 1, 1, 1)
    assert (batch.actor_label, batch.received_at) == ("system:tests", NOON)
    assert batch.earliest_at == datetime(2026, 10, 15, 8, 30, tzinfo=UTC)


def test_an_empty_batch_is_accepted(acme: Customer) -> None:
    assert make.ingested().accepted == 0


def test_more_events_than_a_batch_holds_are_refused_as_a_whole() -> None:
    with pytest.raises(TooManyEvents, match="10,001 events"):
        make.ingested(*[{}] * (MAX_EVENTS + 1))

    assert not UsageBatch.objects.exists()


def test_ingesting_takes_the_permission() -> None:
    with pytest.raises(PermissionMissing):
        ingest(events=[], door=UsageBatch.Door.API, actor=Actor(label="nobody"), at=NOON)


def test_text_that_a_copy_could_trip_over_arrives_as_sent(acme: Customer) -> None:
    make.meter(dimensions=["path"])
    path = 'C:\\temp\t"\n\\N \\. ü 𝄞'

    make.ingested(make.event("back\\slash", source="a\\nb", seconds="1", path=path))

    event = UsageEvent.objects.get()
    assert (event.event_id, event.source, event.data["path"]) == ("back\\slash", "a\\nb", path)
    assert make.totals(acme)[0].dimensions == {"path": path}


def test_fifty_events_take_as_many_statements_as_one(
    acme: Customer,
    gpu_seconds: Meter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make.ingested(make.event(seconds="1", region="warm"))
    sent: list[object] = []
    for name in ("execute", "copy"):
        _count_calls(monkeypatch, name, sent)

    counts = []
    for number in (1, 50):
        sent.clear()
        make.ingested(*[make.event(seconds="1", region=f"{number}-{index}") for index in range(number)])
        counts.append(len(sent))

    assert counts[0] == counts[1]
    assert UsageSeries.objects.count() == 52


def _count_calls(monkeypatch: pytest.MonkeyPatch, name: str, sent: list[object]) -> None:
    original = getattr(psycopg.Cursor, name)

    def counting(cursor: psycopg.Cursor[Any], statement: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(statement)
        return original(cursor, statement, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, name, counting)
