"""A source's own word on what it sent: kept with its history, the same again is the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.access import Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry
from metering.completeness.control_totals import StatedTotals, Statement, state_control_totals
from metering.errors import ControlTotalsForeign, ControlTotalsInvalid
from metering.models import ControlTotal
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import GPU_USED, NOON, SYSTEM

pytestmark = pytest.mark.django_db

ADDRESS = "/api/v1/control-totals"
TEN = datetime(2026, 10, 15, 10, tzinfo=UTC)


def statement(**fields: Any) -> Statement:
    return Statement(**{"source": "cluster/1", "type": GPU_USED, "hour": TEN, "count": 5, **fields})


def stated(*statements: Statement, at: datetime = NOON) -> StatedTotals:
    return state_control_totals(statements=statements, actor=SYSTEM, at=at)


def test_a_statement_is_kept_once_however_often_it_is_made() -> None:
    meter = make.meter(code="gpu-seconds")
    of_meter = statement(type=None, meter="gpu-seconds", count=3, sum=Decimal("1.50"))

    first = stated(statement(), of_meter)
    again = stated(of_meter, statement(), statement(hour=datetime.fromisoformat("2026-10-15T12:00:00+02:00")))

    kept = [(t.type, t.meter_id, t.hour, t.number, t.count, t.sum) for t in ControlTotal.objects.all()]
    assert first == StatedTotals(2, 0, 0)
    assert again == StatedTotals(0, 0, 2)
    assert kept == [(GPU_USED, meter.pk, TEN, 1, 3, Decimal("1.5")), (GPU_USED, None, TEN, 1, 5, None)]


def test_a_later_statement_supersedes_the_one_before_which_is_kept() -> None:
    stated(statement(count=5))

    outcome = stated(statement(count=7))
    stated(statement(count=5))

    assert outcome == StatedTotals(0, 1, 0)
    assert [(t.number, t.count) for t in ControlTotal.objects.order_by("number")] == [(1, 5), (2, 7), (3, 5)]
    assert AuditEntry.objects.filter(verb="control_total.superseded").count() == 2


@pytest.mark.parametrize(
    ("wrong", "saying"),
    [
        ({"meter": "gpu-seconds"}, "either a meter or a type"),
        ({"type": None}, "either a meter or a type"),
        ({"type": None, "meter": "gpu\0"}, "no meter has the code"),
        ({"type": None, "meter": "nothing"}, "no meter has the code 'nothing'"),
        ({"sum": Decimal(1)}, "a sum is that of a meter"),
        ({"type": None, "meter": "gpu-seconds", "sum": Decimal("NaN")}, "at most 38 digits"),
        ({"type": None, "meter": "gpu-seconds", "sum": Decimal("1e38")}, "at most 38 digits"),
        ({"source": "a\tb"}, "printable"),
        ({"hour": TEN.replace(minute=30)}, "minute 0"),
        ({"hour": NOON.replace(hour=14)}, "not begun"),
        ({"hour": datetime.fromisoformat("0001-01-01T00:00:00+14:00")}, "no moment of the calendar"),
        ({"count": 6}, "something else of an hour"),
    ],
)
def test_one_statement_that_cannot_be_right_refuses_them_all(wrong: dict[str, Any], saying: str) -> None:
    make.meter(code="gpu-seconds")

    with pytest.raises(ControlTotalsInvalid, match=saying):
        stated(statement(), statement(**wrong))

    assert not ControlTotal.objects.exists()


def test_a_key_speaks_for_its_own_source_and_a_customer_for_none() -> None:
    state_control_totals(statements=[statement()], source="cluster/1", actor=SYSTEM, at=NOON)

    with pytest.raises(ControlTotalsForeign, match="cluster/2"):
        state_control_totals(statements=[statement(count=9)], source="cluster/2", actor=SYSTEM, at=NOON)
    with pytest.raises(ControlTotalsForeign, match="one customer"):
        state_control_totals(statements=[statement(count=9)], customer_id=1, actor=SYSTEM, at=NOON)
    with pytest.raises(PermissionMissing):
        state_control_totals(statements=[], actor=make_accounts.actor(Role.SUPPORT), at=NOON)
    assert ControlTotal.objects.get().count == 5


def test_many_statements_take_as_many_queries_as_one(django_assert_num_queries: Any) -> None:
    with CaptureQueriesContext(connections["default"]) as one:
        stated(statement(count=1), at=NOON)
    many = [statement(hour=TEN.replace(day=day, hour=hour)) for day in range(1, 15) for hour in range(4)]

    with django_assert_num_queries(len(one)):
        stated(*many, at=NOON)


@pytest.mark.django_db(transaction=True)
def test_two_who_speak_at_once_have_numbers_of_their_own() -> None:
    hours = [TEN.replace(hour=hour) for hour in range(10)]

    def speak(count: int) -> StatedTotals:
        try:
            return stated(*(statement(hour=hour, count=count) for hour in (hours if count % 2 else hours[::-1])))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(speak, [1, 2, 3, 4]))

    assert sum(each.stated for each in outcomes) == 10
    assert sum(each.superseded for each in outcomes) == 30
    for hour in hours:
        assert list(ControlTotal.objects.filter(hour=hour).order_by("number").values_list("number", flat=True)) == [
            1,
            2,
            3,
            4,
        ]


def post(client: Client, body: object, secret: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(ADDRESS, content, content_type="application/json", headers={"Authorization": f"Bearer {secret}"})


def test_the_door_takes_an_array_and_says_what_was_new(client: Client) -> None:
    make.meter(code="gpu-seconds")
    key = make_accounts.api_key("events:write")
    body = [
        {"source": "cluster/1", "type": GPU_USED, "hour": "2026-10-15T10:00:00Z", "count": 5},
        {"source": "cluster/1", "meter": "gpu-seconds", "hour": "2026-10-15T12:00:00+02:00", "count": 5, "sum": "0.1"},
    ]

    first, again = post(client, body, key.secret), post(client, body, key.secret)

    assert first.status_code == 200
    assert first.json() == {"stated": 2, "superseded": 0, "unchanged": 0}
    assert again.json() == {"stated": 0, "superseded": 0, "unchanged": 2}
    assert ControlTotal.objects.filter(sum=Decimal("0.1"), api_key_id=key.key.pk).count() == 1


@pytest.mark.parametrize(
    ("body", "status", "saying"),
    [
        (b"[", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        ({"source": "a"}, 422, "array"),
        ([{"source": "a", "hour": "2026-10-15T10:00:00Z", "type": "t", "count": -1}], 422, "$[0].count"),
        ([{"source": "a", "hour": "2026-10-15T10:00:00", "type": "t", "count": 1}], 422, "$[0].hour"),
        ([{"source": "a", "hour": "2026-10-15T10:00:00Z", "type": "t", "count": 1, "more": 1}], 422, "more"),
        ([{"source": "a", "hour": "2026-10-15T10:30:00Z", "type": "t", "count": 1}], 422, "Statement 0"),
        (b"[" + b" " * 3_000_000 + b"]", 413, "at most 10,000"),
    ],
)
def test_the_door_says_what_is_wrong(client: Client, body: object, status: int, saying: str) -> None:
    answer = post(client, body, make_accounts.api_key("events:write").secret)

    assert answer.status_code == status
    assert saying in answer.json()["detail"]


def test_the_door_is_for_keys_that_send_events(client: Client) -> None:
    reader = make_accounts.api_key("usage:read").secret

    assert post(client, [], "ch_unknown").status_code == 401
    assert post(client, [], reader).status_code == 403
    assert client.get(ADDRESS).status_code == 405


def test_the_description_of_the_api_knows_the_door(client: Client) -> None:
    schema = client.get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"}).json()

    assert schema["paths"]["/api/v1/control-totals"]["post"]["operationId"] == "control_totals_create"


def test_the_database_refuses_to_rewrite_what_was_stated() -> None:
    stated(statement())
    execute("SET CONSTRAINTS ALL IMMEDIATE")

    with refused("supersedes it"):
        ControlTotal.objects.update(count=7)
    with refused("supersedes it"):
        ControlTotal.objects.all().delete()
    with refused("supersedes it"):
        execute("TRUNCATE metering_controltotal")


def keep(**fields: Any) -> None:
    """Write a control total behind the verb's back."""
    values = {"source": "s", "type": "t", "hour": TEN, "number": 1, "count": 1, "stated_at": NOON, **fields}
    ControlTotal.objects.create(**values)


def test_the_database_refuses_a_statement_that_cannot_be_one() -> None:
    keep()

    with refused("control_total_has_its_own_number"):
        keep()
    with refused("control_total_is_for_a_full_hour"):
        keep(number=2, hour=TEN.replace(second=1))
    with refused("control_total_is_for_a_full_hour"):
        keep(number=2, hour=TEN.replace(microsecond=1))
    with refused("control_total_counts_from_zero"):
        keep(number=2, count=-1)
    with refused("control_total_counts_from_zero"):
        keep(number=0)
    with refused("control_total_sums_what_a_meter_reads"):
        keep(number=2, sum=Decimal(1))
