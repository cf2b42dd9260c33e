"""The database server itself is killed while it works, and started again: what was told as done is there, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from django.conf import settings

from config.embedded_postgres import embedded_postgres, embedded_url
from tests import make_metering as make

pytestmark = pytest.mark.xdist_group("embedded postgres")

EVENTS = 20_000
CUSTOMERS = 60
PREPARE = """
import json, sys
from tests import make_billing as make
shop = make.shop()
for number in range(int(sys.argv[1])):
    customer = make.subscriber(shop, name=f"Customer {number}", email=None)
    if not number:
        print(json.dumps([make.subject_of(customer), shop.meter.event_type, shop.entity.code]))
    make.use(shop, customer, "1", on=make.OCT_10)
"""
TELL = """
import json
from django.db import connection
from tests.break_it.rules import assert_all_rules_hold
assert_all_rules_hold()
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*), sum((data ->> 'quantity')::numeric) FROM usage_event")
    events, sent = cursor.fetchone()
    cursor.execute("SELECT sum(sum) FROM (SELECT sum FROM usage_delta UNION ALL SELECT sum FROM usage_hour) AS part")
    (counted,) = cursor.fetchone()
    cursor.execute("SELECT count(*), count(DISTINCT contract_id) FROM billing_invoice")
    invoices, contracts = cursor.fetchone()
print(json.dumps([events, str(sent), str(counted), invoices, contracts]))
"""


class Server:
    """A Postgres of our own, with programs that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "DATABASE_URL": embedded_url(folder),
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=settings.PROJECT_FOLDER,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> str:
        process = self.start(*command)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output

    def ask(self, program: str, *arguments: str) -> list[object]:
        told = json.loads(self.run("-c", f"import django; django.setup()\n{program}", *arguments))
        assert isinstance(told, list)
        return told

    def kill_once(self, query: str, kind: signal.Signals) -> None:
        """Kill the server as soon as the query finds something."""
        with psycopg.connect(embedded_url(self.folder), autocommit=True) as connection:
            ends_at = time.monotonic() + 30
            while connection.execute(f"SELECT EXISTS ({query})").fetchone() != (True,):
                assert time.monotonic() < ends_at, query
            postmaster = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(postmaster, kind)
        time.sleep(0.3)


@pytest.fixture
def server() -> Iterator[Server]:
    # Not pytest's own folder: its path is long, and closed to the user that Postgres runs as.
    with TemporaryDirectory(prefix="ch-") as parent:
        yield Server(Path(parent) / "postgres")


def stopped_with_a_sentence(process: subprocess.Popen[str]) -> bool:
    _, errors = process.communicate(timeout=60)
    return process.returncode == 1 and "Run the command again" in errors and "Traceback" not in errors


def test_a_database_killed_in_mid_load_and_in_mid_run_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with embedded_postgres(server.folder):
        server.run("manage.py", "migrate", "--verbosity", "0")
        subject, event_type, entity = map(str, server.ask(PREPARE, str(CUSTOMERS)))
        lines = (
            json.dumps(
                make.event(
                    f"load-{number}",
                    subject=subject,
                    event_type=event_type,
                    time=f"2026-10-{number % 28 + 1:02}T10:00:00Z",
                    quantity=str(number),
                    sku="any",
                )
            )
            for number in range(EVENTS)
        )
        path.write_text("\n".join(lines))
        loading = server.start("manage.py", "load_usage", str(path))
        server.kill_once("SELECT FROM usage_event WHERE event_id LIKE 'load-%'", signal.SIGKILL)
        assert stopped_with_a_sentence(loading)
    with embedded_postgres(server.folder):
        report = json.loads(server.run("manage.py", "load_usage", str(path), "--json"))
        drafting = server.start("-c", f"import sys; sys.argv = ['manage.py', 'bill', '--period', '2026-10']\n{SLOWLY}")
        server.kill_once("SELECT FROM billing_invoice", signal.SIGQUIT)
        drafting.communicate(timeout=60)
        assert drafting.returncode != 0
    with embedded_postgres(server.folder):
        billed = json.loads(server.run("manage.py", "bill", "--period", "2026-10", "--entity", entity, "--json"))
        told = server.ask(TELL)

    assert (report["rows"], report["accepted"], report["duplicates"]) == (EVENTS, EVENTS, 0)
    total = str(sum(range(EVENTS)) + CUSTOMERS)
    assert told == [EVENTS + CUSTOMERS, total, total, CUSTOMERS, CUSTOMERS]
    assert (billed["contracts"], billed["invoices"], billed["parked"]) == (CUSTOMERS, CUSTOMERS, 0)


# One contract at a time, so that there is a middle in which to kill.
SLOWLY = """
import django; django.setup()
from billing.management.commands import bill
from django.core.management import call_command
bill._CONTRACTS_AT_ONCE = 1
call_command("bill", period="2026-10")
"""
