"""ingest_core and ingest_http: events a second taken in for good, each with a new identity, attributed and added up.

The events are those of a GPU cloud: 200 projects of 100 customers report seconds of use by region and GPU type, over
the last two hours. Batches of 1,000; every commit is durable where the server's settings make it so.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from statistics import median
from time import perf_counter, sleep
from urllib.parse import quote, urlencode

import msgspec
from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts.access import Actor
from accounts.api_keys import issue_api_key
from accounts.customers import CustomerDetails, open_customer
from accounts.legal_entities import LegalEntityDetails, open_legal_entity
from accounts.models import ApiKey
from benchmarks.scratch_database import scratch_database
from metering.attribution import NewAssignment, assign_subjects
from metering.events import decode_body
from metering.ingestion import Door, ingest
from metering.meters import define_meter
from metering.models import Meter, UsageBatch

RUNS = 7
BATCH = 1_000
CORE_BATCHES = 30
HTTP_BATCHES = 80
CORE_BUDGET = 35_000
HTTP_BUDGET = 40_000
SENDERS = 4
WORKERS = 2
THREADS = 2

CUSTOMERS = 100
SUBJECTS = 200
REGIONS = ("us-east", "us-west", "eu-central", "ap-south")
GPUS = ("h100", "a100", "l40s")

_HOUSE = Actor.system("benchmark")
_serial = count()


def run() -> Iterator[dict[str, object]]:
    """Measure the function alone on one connection, and the whole door over HTTP with keys."""
    with scratch_database() as name:
        _open_the_shop()
        yield _core()
        yield _http(name)


def _core() -> dict[str, object]:
    _ingest_all(_bodies(5))
    rates = []
    for _ in range(RUNS):
        bodies = _bodies(CORE_BATCHES)
        rates.append(CORE_BATCHES * BATCH / _ingest_all(bodies))
    return _result("ingest_core", rates, CORE_BUDGET, connections=1)


def _ingest_all(bodies: Sequence[bytes]) -> float:
    batches = [decode_body(body) for body in bodies]
    start = perf_counter()
    for events in batches:
        result = ingest(events=events, door=Door.API, actor=_HOUSE, at=timezone.now())
        assert result.accepted == BATCH
    return perf_counter() - start


def _http(database: str) -> dict[str, object]:
    secret = issue_api_key(name="bench", scopes=[ApiKey.Scope.EVENTS_WRITE], actor=_HOUSE, at=timezone.now()).secret
    port = _free_port()
    server = _serve(port, database)
    try:
        _wait_for(port)
        _send_all(port, secret, _bodies(16))
        rates = []
        for _ in range(RUNS):
            bodies = _bodies(HTTP_BATCHES)
            before = UsageBatch.objects.count()
            seconds = _send_all(port, secret, bodies)
            assert UsageBatch.objects.count() == before + HTTP_BATCHES
            rates.append(HTTP_BATCHES * BATCH / seconds)
    finally:
        server.terminate()
        server.wait(timeout=20)
    return _result(
        "ingest_http", rates, HTTP_BUDGET, senders=SENDERS, server=f"gunicorn {WORKERS} workers x {THREADS} threads"
    )


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


def _serve(port: int, database: str) -> subprocess.Popen[bytes]:
    """Start the site as in production: gunicorn, settings and all, behind a proxy that speaks TLS."""
    server = connection.settings_dict
    host = urlencode({"host": server["HOST"], "port": server["PORT"], "password": server["PASSWORD"]})
    environment = {
        "DJANGO_SETTINGS_MODULE": "config.settings.production",
        "DATABASE_URL": f"postgresql://{quote(server['USER'])}@/{database}?{host}",
        "SECRET_KEY": "benchmark" * 8,
        "ALLOWED_HOSTS": "127.0.0.1",
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_PORT": "465",
        "EMAIL_HOST_USER": "nobody",
        "EMAIL_HOST_PASSWORD": "none",
        "DEFAULT_FROM_EMAIL": "billing@bench.example",
        "PYTHONWARNINGS": "ignore:No directory at",
    }
    command = [sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS), "--log-level", "warning", "--no-control-socket"]
    return subprocess.Popen(command, env={**os.environ, **environment}, cwd=settings.PROJECT_FOLDER)


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.1)
        else:
            return
    msg = "The web server did not start."
    raise RuntimeError(msg)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bodies(batches: int) -> list[bytes]:
    now = timezone.now()
    return [msgspec.json.encode([_event(next(_serial), now) for _ in range(BATCH)]) for _ in range(batches)]


def _event(serial: int, now: datetime) -> dict[str, object]:
    project = serial * 7919 % SUBJECTS
    moment = now - timedelta(seconds=serial * 31 % 7_200, milliseconds=serial % 1_000)
    return {
        "specversion": "1.0",
        "id": f"bench-{serial:012}",
        "source": f"cluster/{project % 8}",
        "type": "gpu.used",
        "subject": f"project-{project:04}",
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {
            "region": REGIONS[project % len(REGIONS)],
            "gpu": GPUS[project % len(GPUS)],
            "seconds": f"{serial % 3_600}.{serial % 1_000:03}",
            "node": f"node-{serial % 512:03}",
        },
    }


def _open_the_shop() -> None:
    at = timezone.now()
    entity = open_legal_entity(
        code="bench",
        currency="EUR",
        time_zone="UTC",
        details=LegalEntityDetails(name="Benchmark Cloud", email="billing@bench.example"),
        actor=_HOUSE,
        at=at,
    )
    customers = [
        open_customer(
            legal_entity_id=entity.pk,
            code=f"bench-{number:03}",
            currency="EUR",
            details=CustomerDetails(name=f"Customer {number}"),
            actor=_HOUSE,
            at=at,
        )
        for number in range(CUSTOMERS)
    ]
    define_meter(
        code="gpu-seconds",
        name="GPU seconds",
        event_type="gpu.used",
        aggregation=Meter.Aggregation.SUM,
        value_path="seconds",
        unit="s",
        dimensions=["region", "gpu"],
        actor=_HOUSE,
        at=at,
    )
    assign_subjects(
        assignments=[
            NewAssignment(
                name=f"project-{number:04}",
                customer_id=customers[number % CUSTOMERS].pk,
                starts_at=at - timedelta(days=365),
            )
            for number in range(SUBJECTS)
        ],
        actor=_HOUSE,
        at=at,
    )
