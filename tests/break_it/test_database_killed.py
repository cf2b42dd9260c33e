"""The database server itself is killed while it works, and started again: what was told as done is there, once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from config.embedded_postgres import embedded_postgres, embedded_url
from tests import make_metering as make
from tests.programs import held_in_its_second_write, running

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
        self.url = embedded_url(folder)

    def run(self, *command: str) -> str:
        with running(*command, database=self.url) as program:
            return program.output()

    def ask(self, program: str, *arguments: str) -> list[object]:
        told = json.loads(self.run("-c", f"import django; django.setup()\n{program}", *arguments))
        assert isinstance(told, list)
        return told

    def kill(self, kind: signal.Signals) -> None:
        os.kill(int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0]), kind)


@pytest.fixture
def server() -> Iterator[Server]:
    # Not pytest's own folder: its path is long, and closed to the user that Postgres runs as.
    with TemporaryDirectory(prefix="ch-") as parent:
        yield Server(Path(parent) / "postgres")


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
        command = ("manage.py", "load_usage", str(path))
        with held_in_its_second_write("metering_usagebatch", *command, database=server.url) as loading:
            server.kill(signal.SIGKILL)
            code, said = loading.end(), loading.errors()
    with embedded_postgres(server.folder):
        report = json.loads(server.run("manage.py", "load_usage", str(path), "--json"))
        with held_in_its_second_write("billing_invoice", "-c", ONE_BY_ONE, database=server.url) as drafting:
            server.kill(signal.SIGQUIT)
            assert drafting.end() != 0
    with embedded_postgres(server.folder):
        billed = json.loads(server.run("manage.py", "bill", "--period", "2026-10", "--entity", entity, "--json"))
        told = server.ask(TELL)

    assert code == 1
    assert "Run the command again" in said
    assert "Traceback" not in said
    assert (report["rows"], report["accepted"], report["duplicates"]) == (EVENTS, EVENTS, 0)
    total = str(sum(range(EVENTS)) + CUSTOMERS)
    assert told == [EVENTS + CUSTOMERS, total, total, CUSTOMERS, CUSTOMERS]
    assert (billed["contracts"], billed["invoices"], billed["parked"]) == (CUSTOMERS, CUSTOMERS, 0)


# One contract at a time, so that there is a middle in which to kill.
ONE_BY_ONE = """
import django; django.setup()
from billing.management.commands import bill
from django.core.management import call_command
bill._CONTRACTS_AT_ONCE = 1
call_command("bill", period="2026-10")
"""
