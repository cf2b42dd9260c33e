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
from collections.abc import Iterator, Sequence
from decimal import Decimal
from io import StringIO
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import sql

from accounts.models import AuditEntry, Customer
from metering.models import KafkaPartition, QuarantinedEvent, RefusedEvent, UsageBatch, UsageEvent
from tests import make_accounts
from tests import make_metering as make
from tests.break_it.rules import assert_all_rules_hold
from tests.database_address import url_of_the_test_database
from tests.kafka_brokers import PARTITIONS, Sender, running_brokers
from tests.patience import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("kafka")]

# A reader that is gone is missed after two seconds, not 45.
QUICK = "session.timeout.ms=2000\nheartbeat.interval.ms=200\n\n# for tests\nclient.id = quick\n"


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
            process.communicate(timeout=PATIENCE_SECONDS)


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


def test_everything_that_is_there_is_taken_in_and_what_is_no_event_is_listed(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    sender.send("mixed", *[message(number) for number in range(1, 101)], partition=0)
    sender.send("mixed", message(1), b"not json", None, json.dumps([event(101), event(102)]).encode(), partition=1)
    sender.send("mixed", json.dumps(event(200, subject="nobody")).encode(), b'{"id": "half"}', partition=2)
    binary = {f"ce_{name}": str(value) for name, value in event(103).items() if name != "data"}
    sender.send("mixed", b'{"seconds": "103"}', partition=3, headers={**binary, "content-type": "application/json"})
    sender.arrive()

    output, errors = readers.start("--topic", "mixed", "--until-end").communicate(timeout=PATIENCE_SECONDS)

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


def send_slowly(sender: Sender, topics: Sequence[str], *, events: int, seed: int) -> None:
    """Send each event once or twice, in no order, over some seconds, and what is no event among them."""
    chance = random.Random(seed)  # noqa: S311 -- any order will do
    numbers = list(range(1, events + 1))
    numbers += chance.sample(numbers, events // 4)
    chance.shuffle(numbers)
    for place, number in enumerate(numbers):
        sender.send(chance.choice(topics), message(number), partition=chance.randrange(PARTITIONS))
        if place % 100 == 0:
            sender.send(chance.choice(topics), b"poison %d" % place, partition=chance.randrange(PARTITIONS))
            time.sleep(0.1)
    sender.arrive()


def cut_off_readers(limit: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM ("
            " SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' ORDER BY random() LIMIT %s) AS reader",
            [limit],
        )


def take_the_database_away(seconds: float) -> None:
    """Cut every reader off, and let none in again for a while."""
    name = sql.Identifier(connection.settings_dict["NAME"])
    with psycopg.connect(url_of_the_test_database(), dbname="postgres", autocommit=True) as beside:
        beside.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        try:
            cut_off_readers(100)
            time.sleep(seconds)
        finally:
            beside.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def test_readers_killed_and_cut_off_at_random_lose_and_double_nothing(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    chance = random.Random(7)  # noqa: S311 -- any moments will do
    topics = ("killed-1", "killed-2")
    command = ("--topic", "killed-1", "--topic", "killed-2", "--max-batch", "40")
    # A quarter comes twice, and in every hundred messages one is no event.
    events, messages, poison = 4_000, 5_050, 50
    sending = threading.Thread(target=lambda: send_slowly(sender, topics, events=events, seed=7))

    running = [readers.start(*command) for _ in range(3)]
    sending.start()
    wait_until(UsageEvent.objects.exists)
    for _ in range(3):
        time.sleep(chance.uniform(0.2, 1.5))
        victim = chance.randrange(len(running))
        running[victim].kill()
        cut_off_readers(1)
        running[victim] = readers.start(*command)
    sending.join()
    wait_until(lambda: sum(sum(offsets(topic).values()) for topic in topics) == messages)
    for reader in running:
        reader.send_signal(signal.SIGTERM)

    # Who is told to stop before it has begun ends by the signal itself.
    assert {reader.wait(timeout=PATIENCE_SECONDS) for reader in running} <= {0, -signal.SIGTERM}
    total = Decimal(events * (events + 1) // 2)
    assert counted() == (events, total, total)
    assert RefusedEvent.objects.count() == poison
    became = UsageBatch.objects.values_list("accepted", "duplicates", "quarantined", "rejected")
    assert [sum(column) for column in zip(*became, strict=True)] == [events, events // 4, 0, poison]
    assert_all_rules_hold()


def test_a_reader_waits_for_a_database_that_is_away_and_goes_on(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    reading = readers.start("--topic", "away", "--max-batch", "20")
    sender.send("away", *[message(number) for number in range(1, 501)])
    sender.arrive()
    wait_until(UsageEvent.objects.exists)
    take_the_database_away(1.2)
    is_at_work = reading.poll() is None
    sender.send("away", *[message(number) for number in range(501, 601)], partition=1)
    sender.arrive()
    wait_until(lambda: UsageEvent.objects.count() == 600)

    assert is_at_work
    assert counted() == (600, Decimal(180_300), Decimal(180_300))
    assert offsets("away") == {0: 500, 1: 100, 2: 0, 3: 0}


def reader_of(topic: str) -> str:
    return KafkaPartition.objects.filter(topic=topic).order_by("partition").values_list("reader", flat=True)[0]


def test_a_reader_that_was_frozen_and_lost_its_partitions_neither_loses_nor_doubles(
    shop: Customer, sender: Sender, readers: Readers
) -> None:
    command = ("--topic", "frozen", "--group", "frozen", "--max-batch", "20")
    sent = iter(range(1, 10_000))

    def send(count: int) -> None:
        sender.send("frozen", *[message(next(sent)) for _ in range(count)])
        sender.arrive()

    frozen = readers.start(*command)
    send(100)
    wait_until(lambda: UsageEvent.objects.count() == 100)
    frozen.send_signal(signal.SIGSTOP)
    send(500)
    successor = readers.start(*command)
    wait_until(lambda: UsageEvent.objects.count() >= 200)
    frozen.send_signal(signal.SIGCONT)
    send(400)
    wait_until(lambda: UsageEvent.objects.count() == 1_000)
    for process in (frozen, successor):
        process.send_signal(signal.SIGTERM)

    assert [frozen.wait(timeout=PATIENCE_SECONDS), successor.wait(timeout=PATIENCE_SECONDS)] == [0, 0]
    assert counted() == (1_000, Decimal(500_500), Decimal(500_500))
    assert offsets("frozen")[0] == 1_000
    assert sum(UsageBatch.objects.values_list("duplicates", flat=True)) == 0
    assert reader_of("frozen") == ""


def test_an_offset_moved_on_purpose_is_noticed_by_the_reader_at_work_and_one_that_is_gone_is_said(
    shop: Customer, sender: Sender, readers: Readers, brokers: str
) -> None:
    sender.send("moved", *[message(number) for number in range(1, 51)])
    sender.arrive()
    address = ("--bootstrap", brokers, "--topic", "moved", "--group", "moved")
    reading = readers.start("--topic", "moved", "--group", "moved")
    wait_until(lambda: offsets("moved").get(0) == 50)

    call_command("move_usage_offsets", *address, "--to", "earliest", "--reason", "look again", stdout=StringIO())
    wait_until(lambda: sum(UsageBatch.objects.values_list("duplicates", flat=True)) == 50)
    wait_until(lambda: offsets("moved")[0] == 50)
    make_it_lie_beyond_the_end("moved")
    wait_until(lambda: KafkaPartition.objects.get(topic="moved", partition=0).problem)
    problem = KafkaPartition.objects.get(topic="moved", partition=0).problem
    drained = readers.start("--topic", "moved", "--group", "moved", "--until-end")
    reading.send_signal(signal.SIGTERM)
    _, errors = drained.communicate(timeout=PATIENCE_SECONDS)
    call_command(
        "move_usage_offsets", *address, "--to", "50", "--partition", "0", "--reason", "sorry", stdout=StringIO()
    )

    assert "Offset 9000 is not there any more, or not yet" in problem
    assert "move_usage_offsets" in problem
    assert drained.returncode == 1
    assert "moved[0]: Offset 9000 is not there any more" in errors
    assert counted() == (50, Decimal(1275), Decimal(1275))
    assert KafkaPartition.objects.get(topic="moved", partition=0).moves == 3


def make_it_lie_beyond_the_end(topic: str) -> None:
    KafkaPartition.objects.filter(topic=topic, partition=0).update(next_offset=9_000, moves=2)


def test_an_offset_is_found_by_number_by_name_and_by_moment(sender: Sender, brokers: str) -> None:
    sender.send("found", *[message(number) for number in range(1, 11)])
    sender.arrive()
    address = ("--bootstrap", brokers, "--topic", "found", "--reason", "begin here")

    def moved(*arguments: str) -> str:
        output = StringIO()
        call_command("move_usage_offsets", *address, *arguments, stdout=output)
        return output.getvalue()

    assert moved("--to", "latest", "--partition", "0") == "found[0]  0 -> 10\n"
    assert moved("--to", "4", "--partition", "0") == "found[0]  10 -> 4\n"
    assert moved("--to", "earliest") == "".join(f"found[{number}]  {4 * (not number)} -> 0\n" for number in range(4))
    assert moved("--to", "2990-01-01T00:00:00Z", "--partition", "0") == "found[0]  0 -> 10\n"
    for arguments, said in {
        ("--to", "11", "--partition", "0"): "found\\[0\\] has offsets from 0 to 10",
        ("--to", "4", "--partition", "9"): "There is no found\\[9\\]",
        ("--to", "yesterday"): "'yesterday' is no offset",
        ("--to", "2024-01-01T00:00:00"): "is no offset",
    }.items():
        with pytest.raises(CommandError, match=said):
            moved(*arguments)
    assert AuditEntry.objects.filter(verb="kafka_offset.moved").count() == 4


def test_a_command_that_cannot_begin_says_why(tmp_path: Path) -> None:
    def said(text: str, *arguments: str) -> str:
        path = tmp_path / "client.properties"
        path.write_text(text)
        with pytest.raises(CommandError) as refusal:
            call_command("consume_usage", "--config", str(path), *arguments)
        return str(refusal.value)

    here = ("--bootstrap", "127.0.0.1:1", "--topic", "any")

    assert "KAFKA_BOOTSTRAP_SERVERS" in said("")
    assert "KAFKA_TOPICS" in said("", *here[:2])
    assert "line 2: enable.auto.commit is not set in a file" in said("# ours\nenable.auto.commit=true", *here)
    assert (
        said("sasl.password", *here) == "client.properties, line 1: not a setting such as security.protocol=SASL_SSL."
    )
    assert 'No such configuration property: "no.such.thing"' in said("no.such.thing=1", *here)
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("consume_usage", "--config", str(tmp_path / "missing"), *here)
