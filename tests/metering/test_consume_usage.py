"""Usage from Kafka, read by the real command from real brokers: killed, frozen, cut off, and each event once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from accounts.models import Customer
from metering.models import KafkaPartition, QuarantinedEvent, RefusedEvent, UsageBatch, UsageEvent
from tests import make_accounts
from tests import make_metering as make
from tests.break_it.rules import assert_all_rules_hold
from tests.database_address import url_of_the_test_database
from tests.kafka_brokers import PARTITIONS, Sender, running_brokers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("kafka")]

# A reader that is gone is missed after four seconds, not 45. The brokers themselves let a new group wait for three.
QUICK = "session.timeout.ms=4000\nheartbeat.interval.ms=200\n\n# for tests\nclient.id = quick\n"
LONGEST_SECONDS = 30


@pytest.fixture(scope="module")
def brokers() -> Iterator[str]:
    with running_brokers() as addresses:
        yield addresses


@pytest.fixture
def sender(brokers: str) -> Sender:
    return Sender(brokers)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def readers(brokers: str, tmp_path: Path) -> Iterator[Readers]:
    with_settings = tmp_path / "client.properties"
    with_settings.write_text(QUICK)
    found = Readers(brokers, with_settings)
    yield found
    found.end()


class Readers:
    """Programs that read usage, each as `manage.py consume_usage`."""

    def __init__(self, brokers: str, with_settings: Path) -> None:
        self._address = ("--bootstrap", brokers, "--config", str(with_settings))
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "consume_usage", *self._address, *arguments],
            cwd=settings.PROJECT_FOLDER,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "config.settings.local",
                "DATABASE_URL": url_of_the_test_database(),
                "LOG_LEVEL": "ERROR",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=20)


def event(number: int, **changes: str) -> dict[str, object]:
    """Return an event of as many seconds as its number, in a past whose month is over for any clock."""
    return make.event(f"event-{number}", time=f"2024-10-{number % 28 + 1:02}T10:30:00Z", seconds=str(number), **changes)


def message(number: int) -> bytes:
    return json.dumps(event(number)).encode()


def counted() -> tuple[int, Decimal, Decimal]:
    """Return how many events there are, what they say, and what the totals say."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), coalesce(sum((data ->> 'seconds')::numeric), 0) FROM usage_event")
        events, said = cursor.fetchone()
        cursor.execute(
            "SELECT coalesce(sum(sum), 0) FROM (SELECT sum FROM usage_delta UNION ALL SELECT sum FROM usage_hour) x"
        )
        (total,) = cursor.fetchone()
    return events, said, total


def offsets(topic: str) -> dict[int, int]:
    rows = KafkaPartition.objects.filter(topic=topic)
    return dict(rows.values_list("partition", "next_offset"))


def until(holds: Callable[[], object]) -> None:
    ends_at = time.monotonic() + LONGEST_SECONDS
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_everything_that_is_there_is_taken_in_and_what_is_no_event_is_listed(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    sender.send("mixed", *[message(number) for number in range(1, 101)], partition=0)
    sender.send("mixed", message(1), b"not json", None, json.dumps([event(101), event(102)]).encode(), partition=1)
    sender.send("mixed", json.dumps(event(200, subject="nobody")).encode(), b'{"id": "half"}', partition=2)
    binary = {f"ce_{name}": str(value) for name, value in event(103).items() if name != "data"}
    sender.send("mixed", b'{"seconds": "103"}', partition=3, headers={**binary, "content-type": "application/json"})
    sender.arrive()

    output, errors = readers.start("--topic", "mixed", "--until-end").communicate(timeout=LONGEST_SECONDS)

    assert output == "108 events read.\n", errors
    assert counted() == (103, Decimal(5356), Decimal(5356))
    assert offsets("mixed") == {0: 100, 1: 4, 2: 2, 3: 1}
    assert QuarantinedEvent.objects.get().event_id == "event-200"
    origins = dict(UsageBatch.objects.values_list("pk", "origin"))
    refusals = RefusedEvent.objects.order_by("batch_id", "position").values_list("batch_id", "position", "detail")
    assert sorted((origins[batch], position, detail.split(": ")[0]) for batch, position, detail in refusals) == [
        ("mixed[1]@0-3", 1, "mixed[1]@1"),
        ("mixed[1]@0-3", 2, "mixed[1]@2"),
        ("mixed[2]@0-1", 1, "Object missing required field `source`"),
    ]
    assert sum(UsageBatch.objects.values_list("duplicates", flat=True)) == 1
    assert set(KafkaPartition.objects.values_list("reader", flat=True)) == {""}
    assert_all_rules_hold()


def send_slowly(sender: Sender, topics: Sequence[str], *, events: int, seed: int) -> list[int]:
    """Send each event once or twice, in no order, over some seconds; returns the numbers of the events."""
    chance = random.Random(seed)  # noqa: S311 -- any order will do
    numbers = list(range(1, events + 1))
    twice = numbers + chance.sample(numbers, events // 4)
    chance.shuffle(twice)
    for place, number in enumerate(twice):
        sender.send(chance.choice(topics), message(number), partition=chance.randrange(PARTITIONS))
        if place % 100 == 0:
            sender.send(chance.choice(topics), b"poison %d" % place, partition=chance.randrange(PARTITIONS))
            time.sleep(0.1)
    sender.arrive()
    return numbers


def cut_off_a_reader() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " ORDER BY random() LIMIT 1"
        )


def test_readers_killed_and_cut_off_at_random_lose_and_double_nothing(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    chance = random.Random(7)  # noqa: S311 -- any moments will do
    topics = ("killed-1", "killed-2")
    command = ("--topic", "killed-1", "--topic", "killed-2", "--max-batch", "40")
    numbers: list[int] = []
    sending = threading.Thread(target=lambda: numbers.extend(send_slowly(sender, topics, events=8_000, seed=7)))

    running = [readers.start(*command) for _ in range(3)]
    sending.start()
    until(UsageEvent.objects.exists)
    for _ in range(5):
        time.sleep(chance.uniform(0.3, 1.5))
        victim = chance.randrange(len(running))
        running[victim].kill()
        cut_off_a_reader()
        running[victim] = readers.start(*command)
    sending.join()
    until(lambda: UsageEvent.objects.count() == len(numbers))
    for reader in running:
        reader.send_signal(signal.SIGTERM)
    codes = [reader.wait(timeout=LONGEST_SECONDS) for reader in running]
    readers.start(*command, "--until-end").communicate(timeout=LONGEST_SECONDS)

    total = Decimal(sum(numbers))
    assert codes == [0, 0, 0]
    assert counted() == (8_000, total, total)
    messages = sum(sum(offsets(topic).values()) for topic in topics)
    assert messages == 10_100
    assert RefusedEvent.objects.count() == 100
    became = UsageBatch.objects.values_list("accepted", "duplicates", "quarantined", "rejected")
    assert [sum(column) for column in zip(*became, strict=True)] == [8_000, 2_000, 0, 100]
    assert_all_rules_hold()
