"""A million events by four senders, duplicates and all, while workers, the fold and the database itself are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
import pytest
from django.conf import settings

from config.embedded_postgres import embedded_postgres, embedded_url
from tests.break_it import million
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.xdist_group("embedded postgres")

PREPARE = """
import json
from decimal import Decimal
from tests import make_accounts
from tests import make_metering as make
from tests.break_it import million
for number in range(million.SUBJECTS // 2):
    customer = make_accounts.customer()
    for subject in (number, number + million.SUBJECTS // 2):
        make.subject(f"subject-{subject}", customer=customer)
for code, aggregation, kind, path in (
    ("milliseconds", "sum", "gpu.used", "milliseconds"), ("calls", "count", "gpu.used", ""),
    ("nodes", "unique", "node.seen", "node"), ("bytes", "p95", "net.sent", "bytes"),
    ("level", "gauge", "disk.level", "gb"),
):
    make.meter(code=code, aggregation=aggregation, event_type=kind, value_path=path,
               dimensions=["project", "region"])
print(json.dumps(make_accounts.api_key("events:write").secret))
"""
FOLD = """
import time
from metering import rollups
print("ready", flush=True)
while True:
    time.sleep(0.05 if rollups.fold(limit=20_000) else 0.5)
"""
TELL = """
import json
from django.db import connection
from metering import rollups
from tests.break_it.rules import assert_all_rules_hold
while rollups.fold():
    pass
assert_all_rules_hold()
def rows(columns, table, where="true", grouped=""):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT dimensions ->> 'project', dimensions ->> 'region', {columns} FROM {table} AS kept"
                       " JOIN usage_series AS series ON series.id = kept.series_id"
                       f" JOIN metering_meter AS meter ON meter.id = series.meter_id WHERE {where} {grouped}")
        return sorted([str(cell) for cell in row] for row in cursor.fetchall())
MINUTE = "to_char(hour + part::int * interval '1 minute', 'YYYY-MM-DD HH24:MI')"
with connection.cursor() as cursor:
    cursor.execute("SELECT (SELECT count(*) FROM usage_event), (SELECT count(*) FROM usage_identity)")
    events = list(cursor.fetchone())
print(json.dumps({
    "events": events,
    "milliseconds": rows("sum(sum), sum(count)::bigint", "usage_hour", "code = 'milliseconds'", "GROUP BY 1, 2"),
    "calls": rows("sum(sum), sum(count)::bigint", "usage_hour", "code = 'calls'", "GROUP BY 1, 2"),
    "nodes": rows("count(DISTINCT part)", "usage_part", "kind = 'v' AND kept.count > 0", "GROUP BY 1, 2"),
    "slots": rows(f"{MINUTE}, kept.sum", "usage_part", "kind = 's'"),
    "readings": rows("hour + left(part, 10)::bigint * interval '1 microsecond', substr(part, 12), kept.count",
                     "usage_part", "kind = 'r'"),
}))
"""


class House:
    """The site with its database, of which anything may be killed at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = ExitStack()
        self.programs = ExitStack()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "DATABASE_URL": embedded_url(folder),
        }

    def start_postgres(self) -> None:
        self.postgres.enter_context(embedded_postgres(self.folder))

    def kill_postgres(self) -> None:
        os.kill(int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGKILL)
        time.sleep(0.5)
        self.postgres.close()
        self.start_postgres()

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=settings.PROJECT_FOLDER,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.programs.callback(_end, process)
        return process

    def ask(self, program: str) -> object:
        process = self.start("-c", f"import django; django.setup()\n{program}")
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0
        return json.loads(output)

    def accepted(self) -> int:
        with suppress(psycopg.Error), psycopg.connect(embedded_url(self.folder)) as connection:
            row = connection.execute("SELECT coalesce(sum(accepted), 0) FROM metering_usagebatch").fetchone()
            return int(row[0]) if row else 0
        return 0


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(timeout=PATIENCE_SECONDS)
    assert process.stdout
    process.stdout.close()


@pytest.fixture
def house() -> Iterator[House]:
    # Not pytest's own folder: its path is long, and closed to the user that Postgres runs as.
    with TemporaryDirectory(prefix="ch-") as parent:
        house = House(Path(parent) / "postgres")
        with house.postgres, house.programs:
            house.start_postgres()
            yield house


def test_a_million_events_are_counted_once_whatever_is_killed_meanwhile(house: House) -> None:
    migrating = house.start("manage.py", "migrate", "--verbosity", "0")
    assert migrating.wait(timeout=PATIENCE_SECONDS * 5) == 0
    secret = str(house.ask(PREPARE))
    server = house.start(
        *("-m", "gunicorn", "--no-control-socket", "config.wsgi", "--log-level", "critical"),
        *("--bind", f"127.0.0.1:{house.port}", "--workers", "2", "--threads", "2"),
    )
    senders = [
        house.start("-m", "tests.break_it.million", str(house.port), secret, str(number))
        for number in range(million.SENDERS)
    ]

    killed = kill_until_done(house, server, senders)
    told = [json.loads(sender.communicate(timeout=PATIENCE_SECONDS)[0]) for sender in senders]
    found = house.ask(TELL)

    assert killed["workers"] >= 5
    assert killed["folds"] >= 2
    assert killed["databases"] == 2
    assert sum(each["acknowledged"] for each in told) >= million.EVENTS * 1.2
    # Nothing but silence, "too much at the moment" and "the database does not answer" made anybody send again.
    assert {status for each in told for status in each} <= {"acknowledged", "0", "429", "503"}
    assert found == on_paper()


def kill_until_done(
    house: House, server: subprocess.Popen[str], senders: list[subprocess.Popen[str]]
) -> dict[str, int]:
    """Kill at random moments while the senders send; give up after half an hour."""
    chance = random.Random(2026)  # noqa: S311 -- any moments will do
    killed = {"workers": 0, "folds": 0, "databases": 0}
    marks = [million.EVENTS * 3 // 10, million.EVENTS * 7 // 10]
    fold = house.start("-c", f"import django; django.setup()\n{FOLD}")
    ends_at = time.monotonic() + 1_800
    while any(sender.poll() is None for sender in senders):
        assert time.monotonic() < ends_at, "the senders do not come to an end"
        time.sleep(chance.uniform(1, 4))
        if marks and house.accepted() > marks[0]:
            marks.pop(0)
            house.kill_postgres()
            killed["databases"] += 1
        if fold.poll() is not None or chance.random() < 0.2:
            killed["folds"] += fold.poll() is None
            fold.kill()
            fold.wait(timeout=PATIENCE_SECONDS)
            fold = house.start("-c", f"import django; django.setup()\n{FOLD}")
        if chance.random() < 0.5 and (workers := psutil.Process(server.pid).children()):
            with suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
                killed["workers"] += 1
    return killed


def on_paper() -> dict[str, object]:
    """What the house has to tell, from the count on paper."""
    count = million.counted_on_paper()

    def rows(found: Iterable[tuple[object, ...]]) -> list[list[str]]:
        return sorted([str(cell) for cell in row] for row in found)

    return {
        "events": [million.EVENTS, million.EVENTS],
        "milliseconds": rows((*place, total, count.calls[place]) for place, total in count.milliseconds.items()),
        "calls": rows((*place, calls, calls) for place, calls in count.calls.items()),
        "nodes": rows((*place, len(nodes)) for place, nodes in count.nodes.items()),
        "slots": rows((*place, f"{slot:%Y-%m-%d %H:%M}", total) for (*place, slot), total in count.slots.items()),
        "readings": rows((*place, moment, level, 1) for (*place, moment), level in count.readings.items()),
    }
