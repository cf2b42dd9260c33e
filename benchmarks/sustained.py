"""ingest_sustained: the door for five minutes on end, as fast as it takes events, with the fold at work beside it.

Answers must not take longer at the end than at the start, deltas must not pile up, and the workers must not grow.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from time import perf_counter, sleep

import msgspec
import psutil
from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts.api_keys import issue_api_key
from accounts.models import ApiKey
from benchmarks import gpu_usage, web_server
from benchmarks.scratch_database import scratch_database

SECONDS = 300
MINUTE = 60
BUDGET = 40_000
SENDERS = 4

_FOLD = """
import time, django; django.setup()
from metering import rollups
while True:
    time.sleep(0 if rollups.fold() else 1)
"""
# What each sending replaces in a body, so that its events are new.
_ROUND = b"bench-0"

Answer = tuple[float, float]
"""When an answer came, in seconds from the start, and how long it took."""


def run() -> Iterator[dict[str, object]]:
    """Send for five minutes and say how each of them went."""
    with scratch_database() as name:
        gpu_usage.open_the_shop()
        yield _sustained(name)


def _sustained(database: str) -> dict[str, object]:
    issued = issue_api_key(name="bench", scopes=[ApiKey.Scope.EVENTS_WRITE], actor=gpu_usage.HOUSE, at=timezone.now())
    port = web_server.free_port()
    server = web_server.serve(port, database)
    fold = subprocess.Popen(
        [sys.executable, "-c", _FOLD], env=web_server.environment(database), cwd=settings.PROJECT_FOLDER
    )
    memory: list[int] = []
    try:
        web_server.wait_for(port)
        answers = _send(port, issued.secret, psutil.Process(server.pid), memory)
        backlog = _one("SELECT count(*) FROM usage_delta")
    finally:
        for process in (server, fold):
            process.terminate()
            process.wait(timeout=20)
    return _result(answers, memory, backlog)


def _send(port: int, secret: str, server: psutil.Process, memory: list[int]) -> list[Answer]:
    """Send on all lines until the time is over; `memory` takes what the workers hold, once a second, in MiB."""
    answers: list[Answer] = []
    failures: list[bytes] = []
    begun = perf_counter()

    def send(line: int) -> None:
        templates = gpu_usage.bodies(8)
        client = http.client.HTTPConnection("127.0.0.1", port)
        headers = {
            "Authorization": f"Bearer {secret}",
            "Content-Type": "application/json",
            "X-Forwarded-Proto": "https",
        }
        number = 0
        while perf_counter() - begun < SECONDS and not failures:
            body = templates[number % len(templates)].replace(_ROUND, b"%d-%d-" % (line, number))
            number += 1
            sent = perf_counter()
            client.request("POST", "/api/v1/events", body, headers)
            response = client.getresponse()
            answer = response.read()
            answers.append((sent - begun, perf_counter() - sent))
            if response.status != http.HTTPStatus.OK or msgspec.json.decode(answer)["accepted"] != gpu_usage.BATCH:
                failures.append(answer)
        client.close()

    senders = [threading.Thread(target=send, args=[line]) for line in range(SENDERS)]
    for sender in senders:
        sender.start()
    while any(sender.is_alive() for sender in senders):
        memory.append(sum(worker.memory_info().rss for worker in server.children()) >> 20)
        sleep(1)
    if failures:
        raise RuntimeError(failures[0].decode())
    return answers


def _result(answers: Sequence[Answer], memory: Sequence[int], backlog: int) -> dict[str, object]:
    minutes = [
        [took for at, took in answers if start <= at < start + MINUTE]
        for start in range(0, SECONDS - MINUTE + 1, MINUTE)
    ]
    rates = [len(minute) * gpu_usage.BATCH / MINUTE for minute in minutes]
    slowest = [round(quantiles(minute, n=100)[98] * 1000, 1) for minute in minutes]
    return {
        "name": "ingest_sustained",
        "value": round(median(rates)),
        "unit": "events/s",
        "budget": BUDGET,
        "runs": [round(rate) for rate in rates],
        "p50_ms_by_minute": [round(median(minute) * 1000, 1) for minute in minutes],
        "p99_ms_by_minute": slowest,
        "events": len(answers) * gpu_usage.BATCH,
        "deltas_left_to_fold": backlog,
        "workers_mib_after_30_s_and_at_the_end": [memory[min(30, len(memory) - 1)], memory[-1]],
        "server": web_server.DESCRIPTION,
        "senders": SENDERS,
    }


def _one(query: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(query)
        (value,) = cursor.fetchone()
    return int(value)
