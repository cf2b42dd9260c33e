"""ingest_core and ingest_http: events a second taken in for good, each with a new identity, attributed and added up.

The events are those of a GPU cloud: 200 projects of 100 customers report seconds of use by region and GPU type, over
the last two hours. Batches of 1,000; every commit is durable where the server's settings make it so.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Sequence
from statistics import median
from time import perf_counter

import msgspec
from django.db import connection
from django.utils import timezone

from accounts.api_keys import issue_api_key
from accounts.models import ApiKey
from benchmarks import gpu_usage, web_server
from benchmarks.gpu_usage import BATCH, HOUSE
from benchmarks.scratch_database import scratch_database
from metering.events import decode_body
from metering.ingestion import Door, ingest
from metering.models import UsageBatch

RUNS = 7
CORE_BATCHES = 30
HTTP_BATCHES = 80
CORE_BUDGET = 35_000
HTTP_BUDGET = 40_000
SENDERS = 4


def run() -> Iterator[dict[str, object]]:
    """Measure the function alone on one connection, and the whole door over HTTP with keys."""
    with scratch_database() as name:
        gpu_usage.open_the_shop()
        yield _core()
        yield _http(name)


def _core() -> dict[str, object]:
    _ingest_all(gpu_usage.bodies(5))
    rates = []
    for _ in range(RUNS):
        bodies = gpu_usage.bodies(CORE_BATCHES)
        rates.append(CORE_BATCHES * BATCH / _ingest_all(bodies))
    return _result("ingest_core", rates, CORE_BUDGET, connections=1)


def _ingest_all(bodies: Sequence[bytes]) -> float:
    batches = [decode_body(body) for body in bodies]
    start = perf_counter()
    for events in batches:
        result = ingest(events=events, door=Door.API, actor=HOUSE, at=timezone.now())
        assert result.accepted == BATCH
    return perf_counter() - start


def _http(database: str) -> dict[str, object]:
    secret = issue_api_key(name="bench", scopes=[ApiKey.Scope.EVENTS_WRITE], actor=HOUSE, at=timezone.now()).secret
    port = web_server.free_port()
    server = web_server.serve(port, database)
    try:
        web_server.wait_for(port)
        _send_all(port, secret, gpu_usage.bodies(16))
        rates = []
        for _ in range(RUNS):
            bodies = gpu_usage.bodies(HTTP_BATCHES)
            before = UsageBatch.objects.count()
            seconds = _send_all(port, secret, bodies)
            assert UsageBatch.objects.count() == before + HTTP_BATCHES
            rates.append(HTTP_BATCHES * BATCH / seconds)
    finally:
        server.terminate()
        server.wait(timeout=20)
    return _result("ingest_http", rates, HTTP_BUDGET, senders=SENDERS, server=web_server.DESCRIPTION)


def _result(name: str, rates: Sequence[float], budget: int, **details: object) -> dict[str, object]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('fsync') || '/' || current_setting('synchronous_commit')")
        row = cursor.fetchone()
    return {
        "name": name,
        "value": round(median(rates)),
        "unit": "events/s",
        "budget": budget,
        "runs": [round(rate) for rate in rates],
        "events_per_batch": BATCH,
        "fsync/synchronous_commit": row[0] if row else "",
        **details,
    }


def _send_all(port: int, secret: str, bodies: list[bytes]) -> float:
    remaining = iter(bodies)
    lock = threading.Lock()
    failures: list[bytes] = []

    def send() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port)
        headers = {
            "Authorization": f"Bearer {secret}",
            "Content-Type": "application/json",
            "X-Forwarded-Proto": "https",
        }
        while True:
            with lock:
                body = next(remaining, None)
            if body is None:
                break
            client.request("POST", "/api/v1/events", body, headers)
            response = client.getresponse()
            answer = response.read()
            if response.status != http.HTTPStatus.OK or msgspec.json.decode(answer)["accepted"] != BATCH:
                failures.append(answer)
        client.close()

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    start = perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    seconds = perf_counter() - start
    if failures:
        msg = failures[0].decode()
        raise RuntimeError(msg)
    return seconds
