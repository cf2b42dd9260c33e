"""usage_read_p99: milliseconds to answer one customer's month by day and dimension, with 10 million events stored.

What is stored is what ingestion and the fold would have made: series, hours and batches in one statement each, from the
same readings as the events, and each event with its series. A sample of customers is counted again from its events
(`usage_contribution`), and has to agree. One customer in a hundred has a day that is not folded yet. The answer is that
of `GET /api/v1/usage` with key, question, ETag and JSON, in one process without a network. It is measured with a
million events and with ten, for the cost must not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from random import Random
from statistics import median
from time import perf_counter

from django.db import connection
from django.test import Client

from accounts.access import Actor
from accounts.api_keys import issue_api_key
from accounts.legal_entities import LegalEntityDetails, open_legal_entity
from accounts.models import Customer
from accounts.postal import Address
from benchmarks.scratch_database import scratch_database
from metering.meters.meters import define_meter
from metering.models import Meter

BUDGET_MILLISECONDS = 25
# Each customer: 4 regions, a reading of each region every 36 minutes of a month of 30 days: 4,800 events, 2,880 hours
# of series.
CUSTOMERS = 2_084
CUSTOMERS_SMALL = 209
REGIONS = 4
READINGS = 1_200
READS = 1_000

_HOUSE = Actor.system("benchmark")
_LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
_ADDRESS = Address(address_line1="1 Bench Street", city="Dublin", country="IE")

_SERIES = """
    INSERT INTO usage_series (customer_id, meter_id, dimensions, dimensions_key)
    SELECT customer.id, %(meter)s, jsonb_build_object('region', 'region-' || number), gen_random_uuid()
    FROM accounts_customer customer CROSS JOIN generate_series(1, %(regions)s) number
    WHERE customer.id BETWEEN %(first)s AND %(last)s
"""
_EVENTS = """
    INSERT INTO usage_event
        (customer_id, time, key, batch_id, source, event_id, type, subject, data, series_ids)
    SELECT series.customer_id, timestamptz '2026-09-01 00:00Z' + reading * interval '36 minutes', gen_random_uuid(), 1,
           'bench', series.id || '-' || reading, 'bench.used', 'project-' || series.customer_id,
           jsonb_build_object('quantity', reading %% 97 + 0.25, 'region', series.dimensions ->> 'region'),
           ARRAY[series.id]
    FROM usage_series series CROSS JOIN generate_series(0, %(readings)s - 1) reading
    WHERE series.customer_id BETWEEN %(first)s AND %(last)s
"""
# In the order in which the fold comes to them: the hours of one series lie far apart, as they do in a real house.
_HOURS = """
    INSERT INTO usage_hour (customer_id, hour, series_id, sum, count, min, max, last, last_at)
    SELECT customer_id, hour, series_id, sum(value), count(*), min(value), max(value),
           (array_agg(value ORDER BY time DESC))[1], max(time)
    FROM (
        SELECT series.customer_id, series.id AS series_id, reading %% 97 + 0.25 AS value,
               timestamptz '2026-09-01 00:00Z' + reading * interval '36 minutes' AS time,
               date_trunc('hour', timestamptz '2026-09-01 00:00Z' + reading * interval '36 minutes', 'UTC') AS hour
        FROM usage_series series CROSS JOIN generate_series(0, %(readings)s - 1) reading
        WHERE series.customer_id BETWEEN %(first)s AND %(last)s
    ) reading
    GROUP BY customer_id, series_id, hour ORDER BY hour, customer_id, series_id
"""
# The hour goes out by the way it came in: a delta that no fold has seen.
_UNFOLD = """
    WITH taken AS (
        UPDATE usage_hour SET sum = 0, count = 0
        FROM (
            SELECT customer_id, series_id, hour, sum, count FROM usage_hour
            WHERE customer_id BETWEEN %(first)s AND %(last)s AND customer_id %% 100 = 0
              AND hour >= '2026-09-30 00:00Z'
        ) before
        WHERE usage_hour.customer_id = before.customer_id AND usage_hour.series_id = before.series_id
          AND usage_hour.hour = before.hour
        RETURNING before.*, usage_hour.min, usage_hour.max, usage_hour.last, usage_hour.last_at
    )
    INSERT INTO usage_delta (customer_id, series_id, hour, sum, count, min, max, last, last_at, batch_id)
    SELECT customer_id, series_id, hour, sum, count, min, max, last, last_at, 1 FROM taken
"""
_RECOUNT = """
    SELECT sum(value), count(*) FROM usage_contribution
    WHERE customer_id = %s AND time >= '2026-09-01 00:00Z' AND time < '2026-10-01 00:00Z'
"""


def run() -> Iterator[dict[str, object]]:
    """Measure with a million events, then with ten."""
    with scratch_database():
        meter = _meter()
        secret = issue_api_key(name="Bench", scopes=["usage:read"], actor=_HOUSE, at=_LONG_AGO).secret
        ids = _customers()
        with connection.cursor() as cursor:
            cursor.execute("SELECT make_usage_event_partition('2026-09-01')")
        few, many = ids[:CUSTOMERS_SMALL], ids[CUSTOMERS_SMALL:]
        _store(meter, few)
        small = _measure(secret, few)
        _store(meter, many)
        large = _measure(secret, ids)
        for number in Random(2).sample(ids, 5):
            _require_agreement(secret, number)
    yield {
        "name": "usage_read_p99",
        "value": large["p99"],
        "unit": "ms",
        "budget": BUDGET_MILLISECONDS,
        "median": large["median"],
        "events": large["events"],
        "customers": CUSTOMERS,
        "series_each": REGIONS,
        "rows_each": REGIONS * 30,
        "reads": READS,
    }
    yield {
        "name": "usage_read_growth",
        "value": round(large["median"] / small["median"], 2),
        "unit": "times the median for ten times the events",
        "events": [small["events"], large["events"]],
        "medians": [small["median"], large["median"]],
        "p99s": [small["p99"], large["p99"]],
    }


def _meter() -> Meter:
    return define_meter(
        code="bench",
        name="Bench",
        event_type="bench.used",
        aggregation=Meter.Aggregation.SUM,
        value_path="quantity",
        unit="h",
        dimensions=["region"],
        actor=_HOUSE,
        at=_LONG_AGO,
    )


def _customers() -> list[int]:
    entity = open_legal_entity(
        code="bench",
        currency="EUR",
        time_zone="UTC",
        details=LegalEntityDetails(name="Bench", email="billing@bench.example", address=_ADDRESS),
        actor=_HOUSE,
        at=_LONG_AGO,
    )
    made = Customer.objects.bulk_create(
        Customer(
            legal_entity=entity,
            code=f"bench-{number}",
            name=f"Customer {number}",
            currency="EUR",
            address_line1=_ADDRESS.address_line1,
            city=_ADDRESS.city,
            country=_ADDRESS.country,
            created_at=_LONG_AGO,
        )
        for number in range(CUSTOMERS)
    )
    return sorted(each.pk for each in made)


def _store(meter: Meter, ids: list[int]) -> None:
    values = {"meter": meter.pk, "regions": REGIONS, "readings": READINGS, "first": ids[0], "last": ids[-1]}
    with connection.cursor() as cursor:
        # What was stored need not survive this program.
        cursor.execute("SET synchronous_commit = off")
        for statement in (_SERIES, _EVENTS, _HOURS, _UNFOLD):
            cursor.execute(statement, values)
        cursor.execute("VACUUM ANALYZE")
        # What was stored is on disk before the clock starts.
        cursor.execute("CHECKPOINT")


def _measure(secret: str, ids: list[int]) -> dict[str, float]:
    client, random = Client(SERVER_NAME="localhost"), Random(1)
    times = []
    for number in range(READS + 20):
        start = perf_counter()
        _read(client, secret, random.choice(ids), "day")
        if number >= 20:  # the first ones warm the process up
            times.append((perf_counter() - start) * 1000)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_event")
        (events,) = cursor.fetchone()
    times.sort()
    return {"p99": round(times[READS * 99 // 100], 2), "median": round(median(times), 2), "events": events}


def _read(client: Client, secret: str, customer_id: int, window: str) -> list[dict[str, str]]:
    answer = client.get(
        "/api/v1/usage",
        {
            "customer": str(customer_id),
            "meter": "bench",
            "month": "2026-09",
            "window": window,
            "group_by": "region" if window == "day" else "",
        },
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == HTTPStatus.OK, answer.content
    rows: list[dict[str, str]] = answer.json()["rows"]
    assert len(rows) == (REGIONS * 30 if window == "day" else 1), len(rows)
    return rows


def _require_agreement(secret: str, customer_id: int) -> None:
    (row,) = _read(Client(SERVER_NAME="localhost"), secret, customer_id, "none")
    with connection.cursor() as cursor:
        cursor.execute(_RECOUNT, [customer_id])
        quantity, events = cursor.fetchone()
    assert (row["quantity"], row["events"]) == (f"{quantity.normalize():f}", events), row
