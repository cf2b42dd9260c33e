"""The Python client against the real server: whatever dies in between, each event is counted exactly once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from accounts.models import Customer
from countinghouse import BufferFull, Client, ClientClosed, EventInvalid, NotDelivered, Rejection
from metering.events import event_key
from metering.models import UsageDelta, UsageEvent
from tests import make_accounts
from tests import make_metering as make
from tests.database_address import url_of_the_test_database
from tests.patience import wait_until
from tests.web_server import WebServer, free_port, web_server

pytestmark = pytest.mark.django_db(transaction=True)

SENDER = Path(__file__).with_name("sender.py")
Made = Callable[..., Client]


@pytest.fixture
def acme() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    return customer


@pytest.fixture
def key() -> str:
    return make_accounts.api_key("events:write").secret


@pytest.fixture
def made(tmp_path: Path, key: str) -> Iterator[Made]:
    """Make a client that is quick to try again."""
    clients = []

    def make_client(url: str, *, directory: str = "buffer", **options: Any) -> Client:
        quick = {"batch_seconds": 0.02, "first_retry_seconds": 0.05, "longest_retry_seconds": 0.3, "source": "fleet"}
        client = Client(**{"url": url, "key": key, "directory": tmp_path / directory, **quick, **options})
        clients.append(client)
        return client

    yield make_client
    for client in clients:
        client.close(timeout_seconds=0)


def use(client: Client, name: str, **changes: Any) -> str:
    event = {"type": make.GPU_USED, "subject": "project-1", "data": {"seconds": 1}, "time": timezone.now(), **changes}
    return client.send(id=name, **event)


def assert_counted_once(names: set[str]) -> None:
    assert set(UsageEvent.objects.values_list("event_id", flat=True)) == names
    assert UsageEvent.objects.count() == len(names)
    assert UsageDelta.objects.aggregate(sum=Sum("sum"), count=Sum("count")) == {"sum": len(names), "count": len(names)}


def test_events_go_in_batches_and_flush_waits_until_they_are_counted(acme: Customer, made: Made) -> None:
    with web_server() as server:
        client = made(server.url, batch_events=100)
        names = {use(client, f"e{number}") for number in range(350)}
        client.send_many({"type": make.GPU_USED, "subject": "project-1", "data": {"seconds": Decimal(1)}} for _ in "ab")
        client.flush(timeout_seconds=30)
        stats = client.stats

    events = UsageEvent.objects.all()
    assert {event.event_id for event in events} > names
    assert (events.count(), stats.accepted, stats.delivered, stats.rejected) == (352, 352, 352, 0)
    assert 4 <= len({event.batch_id for event in events}) <= 20
    assert {event.source for event in events} == {"fleet"}


def test_what_the_server_refuses_is_told_and_kept_and_the_rest_is_counted(
    acme: Customer, made: Made, tmp_path: Path
) -> None:
    told: list[Rejection] = []

    def listen(rejection: Rejection) -> None:
        told.append(rejection)
        raise ZeroDivisionError  # a mistake of the listener changes nothing

    moment = timezone.now()
    with web_server() as server:
        client = made(server.url, on_rejected=listen)
        use(client, "e1", time=moment)
        client.flush(timeout_seconds=30)
        use(client, "e1", time=moment)
        use(client, "e1", time=moment, data={"seconds": 2})
        use(client, "e2", time=moment)
        use(client, "e3", type="unheard.of")
        client.flush(timeout_seconds=30)

    (letter,) = (tmp_path / "buffer" / "dead-letters.jsonl").read_text().splitlines()
    assert [(each.event["data"], each.reason) for each in told] == [({"seconds": 2}, "conflict")]
    assert (json.loads(letter)["event"]["id"], json.loads(letter)["reason"]) == ("e1", "conflict")
    stats = client.stats
    assert (stats.accepted, stats.duplicates, stats.quarantined, stats.rejected) == (2, 1, 1, 1)
    assert_counted_once({"e1", "e2"})


def test_a_batch_that_is_too_large_for_the_server_is_halved_until_it_is_not(acme: Customer, made: Made) -> None:
    heavy = {"seconds": 1, "tags": ["x"] * 15_000}

    with web_server() as server:
        client = made(server.url, batch_seconds=5, batch_bytes=64 * 1024 * 1024)
        names = {use(client, f"e{number}", data=heavy) for number in range(50)}
        client.flush(timeout_seconds=60)

    assert_counted_once(names)
    assert (client.stats.rejected, UsageEvent.objects.values("batch_id").distinct().count()) == (0, 2)


def test_a_server_that_is_down_killed_and_up_again_loses_nothing(acme: Customer, made: Made) -> None:
    port = free_port()
    client = made(f"http://127.0.0.1:{port}", batch_events=10)
    names = {use(client, f"down{number}") for number in range(25)}
    with pytest.raises(NotDelivered, match="25 events wait"):
        client.flush(timeout_seconds=0.5)

    for round_number in range(3):
        with web_server(port=port) as server:
            for number in range(60):
                names.add(use(client, f"up{round_number}-{number}"))
                time.sleep(0.005)
            _kill_worker(server)
            names |= {use(client, f"killed{round_number}-{number}") for number in range(20)}
    with web_server(port=port):
        client.flush(timeout_seconds=60)

    assert_counted_once(names)
    assert client.stats.failed_tries > 0


def _kill_worker(server: WebServer) -> None:
    for worker in server.workers():
        worker.send_signal(signal.SIGKILL)


def test_a_program_that_is_killed_at_random_moments_loses_nothing_that_send_returned_for(
    acme: Customer, made: Made, key: str, tmp_path: Path
) -> None:
    folder = tmp_path / "buffer"
    moment = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    environment = {**os.environ, "MOMENT": moment, "PYTHONPATH": str(settings.PROJECT_FOLDER / "clients/python")}
    taken: set[str] = set()

    with web_server() as server:
        for round_number in range(10):
            first = round_number * 10_000
            program = subprocess.Popen(
                [sys.executable, str(SENDER), str(folder), server.url, key, str(first), "10000"],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert program.stdout
            for _ in range(random.randint(1, 40)):  # noqa: S311 -- any moment will do
                taken.add(f"f{int(program.stdout.readline())}")
            time.sleep(random.uniform(0, 0.1))  # noqa: S311 -- any moment will do
            program.kill()
            taken |= {
                f"f{int(line)}" for line in program.stdout.read().splitlines(keepends=True) if line.endswith("\n")
            }
            program.wait()
            program.stdout.close()
        made(server.url).flush(timeout_seconds=60)

    counted = set(UsageEvent.objects.values_list("event_id", flat=True))
    assert taken <= counted
    # One more a round may have been taken by the buffer before the program could say so.
    assert len(counted - taken) <= 10
    assert_counted_once(counted)


def other_pythons() -> dict[str, str]:
    """Every Python on this machine that the client promises to run on, by its version; this one at least."""
    names = [f"python3.{minor}" for minor in range(9, 20)]
    managed = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3"))
    found = [sys.executable, *filter(None, map(shutil.which, names)), *map(str, managed)]
    pythons = {}
    for path in found:
        asked = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        version = tuple(map(int, asked.stdout.split()))
        if version >= (3, 9):
            pythons[".".join(map(str, version))] = path
    return pythons


def test_it_runs_on_every_python_that_is_to_be_found(acme: Customer, key: str, tmp_path: Path) -> None:
    pythons = other_pythons()
    environment = {
        "PYTHONPATH": str(settings.PROJECT_FOLDER / "clients" / "python"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error",
        "MOMENT": (timezone.now() - timedelta(minutes=5)).isoformat(),
    }

    with web_server() as server:
        for place, (version, path) in enumerate(pythons.items()):
            arguments = [str(SENDER), str(tmp_path / version), server.url, key, str(place * 100), "100"]
            subprocess.run([path, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60)

    assert f"{sys.version_info.major}.{sys.version_info.minor}" in pythons
    assert_counted_once({f"f{number}" for number in range(len(pythons) * 100)})


def test_many_clients_at_a_door_for_one_are_told_to_wait_and_lose_nothing(acme: Customer, made: Made) -> None:
    with (
        web_server(threads=8, INGEST_AT_ONCE="1", INGEST_WAITING="0", INGEST_LOCK_TIMEOUT_SECONDS="60") as server,
        psycopg.connect(url_of_the_test_database()) as rival,
    ):
        # While somebody else is at the identity of the first event, its sender stands in the door.
        rival.execute("INSERT INTO usage_identity VALUES (%s, gen_random_uuid())", [event_key("fleet", "c0-0")])
        clients = [made(server.url, directory=f"buffer{number}", batch_events=250) for number in range(6)]
        names = {use(client, f"c{each}-{number}") for number in range(1_000) for each, client in enumerate(clients)}
        wait_until(lambda: any(client.stats.failed_tries for client in clients))
        rival.rollback()
        for client in clients:
            client.flush(timeout_seconds=90)

    assert_counted_once(names)


def test_a_disk_that_does_not_take_the_note_of_a_delivery_neither_hides_nor_repeats_it(
    acme: Customer, made: Made, tmp_path: Path
) -> None:
    told: list[str] = []
    # In the place of the file to which the note would be written: no disk writes into a folder.
    (tmp_path / "buffer" / "position.draft").mkdir(parents=True)

    with web_server() as server:
        client = made(server.url, on_error=told.append, batch_events=2)
        names = {use(client, f"e{number}") for number in range(5)}
        client.flush(timeout_seconds=60)

    assert (client.waiting, client.stats.delivered, client.stats.accepted, client.stats.failed_tries) == (0, 5, 5, 0)
    assert "could not be noted" in client.stats.last_error
    assert told
    assert_counted_once(names)


def test_a_strangers_answer_delivers_nothing(acme: Customer, made: Made) -> None:
    errors: list[str] = []
    stranger = HTTPServer(("127.0.0.1", 0), _Stranger)
    thread = threading.Thread(target=stranger.serve_forever)
    thread.start()
    client = made(f"http://127.0.0.1:{stranger.server_port}", on_error=errors.append)
    use(client, "e1")
    with pytest.raises(NotDelivered):
        client.flush(timeout_seconds=0.5)
    stranger.shutdown()
    thread.join()
    stranger.server_close()
    waiting = client.waiting
    client.close(timeout_seconds=0)

    with web_server() as server:
        made(server.url).flush(timeout_seconds=30)

    assert waiting == 1
    assert "right address" in errors[0]
    assert_counted_once({"e1"})


class _Stranger(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"accepted": 7}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its own name
        pass


def test_a_key_that_opens_nothing_is_said_and_the_events_wait(acme: Customer, made: Made, key: str) -> None:
    with web_server() as server:
        client = made(server.url, key="ch_000000000000_" + "0" * 64)
        use(client, "e1")
        names = {
            use(client, f"large{number}", data={"seconds": 1, "note": os.urandom(32_000).hex()}) for number in range(20)
        }
        wait_until(lambda: client.stats.last_error)
        with pytest.raises(NotDelivered, match="401 api_key_unknown"):
            client.flush(timeout_seconds=0.2)
        client.close(timeout_seconds=0)
        made(server.url).flush(timeout_seconds=30)

    assert_counted_once({"e1", *names})


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "x" * 201},
        {"id": "a\nb"},
        {"subject": "\ud800"},
        {"source": ""},
        {"time": datetime(2026, 10, 1)},  # noqa: DTZ001 -- the mistake that is meant
        {"data": {"seconds": float("nan")}},
        {"data": {"seconds": Decimal("Infinity")}},
        {"data": {"when": timedelta(1)}},
        {"data": {"seconds": "9" * 70_000}},
        {"data": {"note": "\ud800"}},
    ],
)
def test_an_event_that_could_only_be_refused_is_not_taken(made: Made, changes: dict[str, Any]) -> None:
    client = made("http://127.0.0.1:9")

    with pytest.raises(EventInvalid):
        client.send(**{"type": "gpu.used", **changes})

    assert client.waiting == 0


def test_a_full_buffer_is_said_and_a_closed_client_takes_nothing(made: Made) -> None:
    client = made("http://127.0.0.1:9", max_buffer_bytes=1_000)
    while client.waiting < 3:
        use(client, "small")
    waiting = client.waiting
    with pytest.raises(BufferFull, match="of at most 1,000 bytes"):
        use(client, "e" * 200, data={"note": "x" * 1_000})

    client.close(timeout_seconds=0)
    client.close()

    assert waiting == 3
    with pytest.raises(ClientClosed):
        use(client, "late")


def test_a_client_made_before_a_fork_is_of_no_use_after_it(made: Made) -> None:
    client = made("http://127.0.0.1:9")
    child = os.fork()
    if child == 0:
        try:
            use(client, "e1")
        except ClientClosed:
            os._exit(7)
        os._exit(0)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 7


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    for url in ("billing.example.com", "ftp://x", ""):
        with pytest.raises(ValueError, match="no address"):
            Client(url=url, key="k", directory=tmp_path)
