"""What sources state against what came in, hour by hour, and the page that shows it."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.urls import reverse

from accounts.access import Role
from metering.completeness import completeness, receipts
from metering.completeness.completeness import HourLine, Scope, State
from metering.completeness.control_totals import Statement, state_control_totals
from metering.models import Meter, QuarantinedEvent
from metering.quarantine.quarantine import discard, release
from tests import make_metering as make
from tests.make_metering import GPU_USED, NOON, SYSTEM
from tests.make_pages import queries, signed_in, words

pytestmark = pytest.mark.django_db

TEN = datetime(2026, 10, 15, 10, tzinfo=UTC)
DAY = Scope(start=TEN.replace(hour=0), end=TEN.replace(day=16, hour=0))
PAGE = "/usage/completeness/"
ASKED = {"from": "2026-10-10", "to": "2026-10-16"}


@pytest.fixture
def gpu_seconds() -> Meter:
    make.subject("project-1")
    return make.meter(code="gpu-seconds")


def state(count: int, *, hour: datetime = TEN, **fields: Any) -> None:
    what = fields if "meter" in fields else {"type": GPU_USED, **fields}
    statement = Statement(**{"source": "cluster/1", "hour": hour, "count": count, **what})
    state_control_totals(statements=[statement], actor=SYSTEM, at=NOON)


def lines(scope: Scope = DAY) -> list[HourLine]:
    return completeness.hours(scope).lines


def the_line() -> HourLine:
    (line,) = lines()
    return line


def the_waiting() -> list[int]:
    return list(QuarantinedEvent.objects.values_list("pk", flat=True))


@pytest.mark.usefixtures("gpu_seconds")
@pytest.mark.parametrize(
    ("stated", "counted", "waiting", "expected"),
    [
        (2, 2, 0, (State.COMPLETE, 0, 0, "Complete")),
        (3, 2, 0, (State.MISSING, 1, 0, "Missing 1 event")),
        (1206, 2, 0, (State.MISSING, 1204, 0, "Missing 1,204 events")),
        (1, 2, 0, (State.SURPLUS, 0, 1, "Surplus 1 event")),
        (3, 2, 1, (State.WAITING, 0, 0, "Waiting 1 event")),
        (5, 2, 1, (State.MISSING, 2, 0, "Missing 2 events")),
        (2, 0, 0, (State.MISSING, 2, 0, "Missing 2 events")),
        (0, 0, 0, (State.COMPLETE, 0, 0, "Complete")),
    ],
)
def test_an_hour_stands_as_it_was_stated_and_received(
    stated: int, counted: int, waiting: int, expected: tuple[State, int, int, str]
) -> None:
    state(stated)
    make.ingested(*(make.event() for _ in range(counted)), *(make.event(subject="nobody") for _ in range(waiting)))

    line = the_line()

    assert (line.state, line.missing, line.surplus, line.words) == expected
    assert (line.expected, line.received, line.waiting) == (stated, counted + waiting, waiting)


@pytest.mark.usefixtures("gpu_seconds")
def test_an_hour_without_a_statement_says_so() -> None:
    make.ingested(make.event())

    line = the_line()

    assert (line.state, line.words, line.expected, line.received) == (State.UNSTATED, "No statement", None, 1)


def test_a_meter_is_compared_by_count_and_sum(gpu_seconds: Meter) -> None:
    state(2, meter="gpu-seconds", sum=Decimal("0.3"))
    make.ingested(make.event(seconds="0.1"), make.event(seconds="0.2"))
    complete = the_line()

    state(2, meter="gpu-seconds", sum=Decimal("0.300000000000000000000000000000000001"))

    differing = the_line()
    assert (complete.state, complete.meter_id, complete.sum) == (State.COMPLETE, gpu_seconds.pk, Decimal("0.3"))
    assert (differing.state, differing.words) == (State.SUM_DIFFERS, "Sum differs")


@pytest.mark.usefixtures("gpu_seconds")
def test_a_statement_of_a_meter_and_one_of_the_type_are_two_lines() -> None:
    make.meter(code="only-big", event_filter={"size": "big"})
    state(3)
    state(1, meter="only-big")
    make.ingested(make.event(seconds=1, size="big"), make.event(seconds=1, size="small"), make.event(subject="nobody"))

    found = {line.meter_id is None: (line.state, line.received, line.waiting) for line in lines()}

    assert found == {True: (State.WAITING, 3, 1), False: (State.COMPLETE, 1, 0)}


@pytest.mark.usefixtures("gpu_seconds")
def test_what_comes_late_completes_the_hour_and_the_newest_statement_holds() -> None:
    state(2)
    make.ingested(make.event())
    missing = the_line().state

    make.ingested(make.event(), at=NOON + timedelta(days=20))
    completed = the_line().state
    state(5)

    assert (missing, completed, the_line().missing) == (State.MISSING, State.COMPLETE, 3)


def test_quarantine_lets_go_and_the_hour_is_complete() -> None:
    make.meter()
    state(2)
    make.ingested(make.event(subject="later"))
    make.ingested(make.event(subject="nobody"))
    make.subject("later")

    release(event_ids=the_waiting(), actor=SYSTEM, at=NOON)
    half = the_line()
    discard(event_ids=the_waiting(), reason="A test", actor=SYSTEM, at=NOON)

    whole = the_line()
    assert (half.state, half.waiting, half.counted) == (State.WAITING, 1, 1)
    assert (whole.state, whole.discarded, whole.counted) == (State.COMPLETE, 1, 1)


@pytest.mark.usefixtures("gpu_seconds")
def test_hours_are_of_utc_and_neither_doubled_nor_lost_when_clocks_change() -> None:
    night = datetime(2026, 10, 25, tzinfo=UTC)
    later = night + timedelta(days=1)
    for hour in range(3):
        state_control_totals(
            statements=[Statement(source="cluster/1", type=GPU_USED, hour=night + timedelta(hours=hour), count=1)],
            actor=SYSTEM,
            at=later,
        )
    make.ingested(
        make.event(time="2026-10-25T02:30:00+02:00"),
        make.event(time="2026-10-25T02:30:00+01:00"),
        make.event(time="2026-10-25T03:59:59.999999+01:00"),
        at=later,
    )

    found = lines(Scope(start=night, end=later))

    assert [(line.hour.hour, line.state) for line in found] == [(hour, State.COMPLETE) for hour in (2, 1, 0)]


@pytest.mark.usefixtures("gpu_seconds")
def test_folded_or_not_the_answer_is_the_same() -> None:
    state(4)
    make.ingested(make.event(), make.event(subject="nobody"))
    before = lines()
    receipts.fold()
    make.ingested(make.event())

    after = the_line()

    assert before[0].missing == 2
    assert (after.missing, after.counted, after.waiting) == (1, 2, 1)


@pytest.mark.usefixtures("gpu_seconds")
def test_days_add_their_hours_up_and_show_the_worst() -> None:
    state(1)
    state(2, hour=TEN.replace(hour=9))
    make.ingested(make.event(), make.event(time="2026-10-15T08:00:00Z"), make.event(time="2026-10-16T00:00:00Z"))

    found = completeness.days(Scope(start=DAY.start, end=DAY.end + timedelta(days=1)))

    assert [(line.day.day, line.tally.state, line.tally.missing, line.tally.received) for line in found] == [
        (15, State.MISSING, 2, 2),
        (16, State.UNSTATED, 0, 1),
    ]
    assert found[0].tally.hours[State.COMPLETE] == 1


def test_the_page_says_how_each_source_stands(gpu_seconds: Meter) -> None:
    state(1206, meter="gpu-seconds")
    make.ingested(make.event(), make.event(source="cluster/2"), make.event(subject="nobody"))

    page = words(signed_in(Role.SUPPORT).get(PAGE, ASKED))

    assert "Missing 1,204 events" in page
    assert f"cluster/2 {GPU_USED}" in page
    assert "No statement" in page
    assert "0 of 1" in page
    assert gpu_seconds.name in page


def test_an_empty_house_says_that_nothing_came_in() -> None:
    page = words(signed_in(Role.SUPPORT).get(PAGE))

    assert "Nothing came in, and nothing was stated" in page


@pytest.mark.usefixtures("gpu_seconds")
def test_the_page_is_narrowed_by_source_meter_dates_and_to_differences() -> None:
    state(2)
    make.ingested(make.event(), make.event(source="cluster/2"))
    other = make.meter(event_type="other")
    client = signed_in(Role.SUPPORT)

    def listed(**asked: str) -> list[dict[str, str]]:
        answer = client.get(PAGE, {**ASKED, "format": "csv", **asked})
        return list(csv.DictReader(StringIO(answer.content.decode())))

    assert [(row["source"], row["state"], row["missing"]) for row in listed()] == [("cluster/1", "Missing", "1")]
    assert {row["source"] for row in listed(show="all")} == {"cluster/1", "cluster/2"}
    assert {row["source"] for row in listed(show="all", source="cluster/2")} == {"cluster/2"}
    assert listed(show="all", meter=str(other.pk)) == []
    assert listed(show="all", to="2026-10-14") == []
    assert len(listed(show="all", day="2026-10-15")) == 2
    assert listed(show="all", day="2026-10-14") == []


@pytest.mark.parametrize("asked", [{"from": "x", "to": "9999-99-99"}, {"from": "0001-01-01"}, {"to": "9999-12-31"}])
def test_dates_that_are_none_are_left_out(asked: dict[str, str]) -> None:
    assert signed_in(Role.SUPPORT).get(PAGE, {**asked, "day": "y", "meter": "z"}).status_code == 200


@pytest.mark.usefixtures("gpu_seconds")
def test_an_hour_shows_its_statements_loads_and_quarantine() -> None:
    state(3)
    state(4)
    batch = make.ingested(make.event(), make.event(subject="nobody")).batch_id
    client = signed_in(Role.SUPPORT)
    asked = {"source": "cluster/1", "type": GPU_USED, "hour": TEN.isoformat()}

    page = words(client.get(reverse("metering:completeness-hour"), asked))

    assert "Missing 2 events" in page
    assert "4 events statement 2" in page
    assert "3 events statement 1" in page
    assert f"{batch} 15 Oct 2026" in page
    assert "The subject belongs to no customer at that time Waiting 1" in page
    assert client.get(reverse("metering:completeness-hour"), {**asked, "hour": "soon"}).status_code == 404
    assert client.get(reverse("metering:completeness-hour"), {**asked, "source": ""}).status_code == 404


def test_sums_are_stated_and_shown_from_before_a_meter_divides() -> None:
    make.subject("project-1")
    meter = make.meter(code="gpu-minutes", divisor=Decimal(60))
    state(1, meter=meter.code, sum=Decimal(90))
    make.ingested(make.event(seconds=80))
    client = signed_in(Role.SUPPORT)

    line = next(each for each in lines() if each.meter_id == meter.pk)
    shown = words(client.get(PAGE, ASKED))
    hour = words(client.get(reverse("metering:completeness-hour"), hour_of(line)))

    assert (line.state, line.sum, line.expected_sum, line.unit) == (
        State.SUM_DIFFERS,
        Decimal(80),
        Decimal(90),
        "1/60 s",
    )
    assert "80 of 90 1/60 s" in shown
    assert "1 event , 90 1/60 s" in hour


def hour_of(line: HourLine) -> dict[str, str]:
    return {"source": line.source, "type": line.type, "hour": line.hour.isoformat()}


def test_completeness_is_for_whom_usage_is_for() -> None:
    client = signed_in()

    assert client.get(PAGE).status_code == 403
    assert client.get(reverse("metering:findings")).status_code == 403
    assert client.get(reverse("metering:completeness-hour")).status_code == 403


def test_pages_take_as_many_queries_for_fifty_rows_as_for_one(gpu_seconds: Meter) -> None:
    state(3)
    make.ingested(make.event(), make.event(subject="nobody"))
    client = signed_in(Role.FINANCE_ANALYST)
    dates = "from=2026-10-10&to=2026-10-16"
    addresses = [
        f"{PAGE}?{dates}&show=all",
        f"{reverse('metering:findings')}?{dates}",
        f"{reverse('metering:completeness-hour')}?source=cluster/1&type={GPU_USED}&hour=2026-10-15T10:00:00Z",
    ]
    for address in addresses:
        queries(client, address)

    for_one = [queries(client, address) for address in addresses]
    for number in range(25):
        source = f"cluster/{number + 2}"
        state(3, source=source)
        state(5, source=source, hour=TEN.replace(day=10))
        state(number, hour=TEN)
        make.ingested(make.event(source=source), make.event(), make.event(subject="nobody", source=source))

    assert [queries(client, address) for address in addresses] == for_one
    assert gpu_seconds.pk
