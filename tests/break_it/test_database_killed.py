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


EVENTS_DECIDED_OF = 2_500
DECIDE = """
import json, sys
from metering.corrections.correction_selection import EventFilter
from tests import make_accounts, make_corrections
from tests import make_metering as make
customer = make_accounts.customer()
make.meter()
make.meter(aggregation="max")
make.subject("project-1", customer=customer)
times = [f"2026-10-{number % 14 + 1:02}T{number % 24:02}:10:00Z" for number in range(int(sys.argv[1]))]
make.ingested(*[make.event(seconds="5", time=time) for time in times])
draft = make_corrections.drafted(EventFilter(customer_id=customer.pk), changes={"seconds": "2"})
make_corrections.submitted(draft)
print(json.dumps([customer.pk]))
"""
ERASE = """
import json, sys
from datetime import UTC, datetime
from accounts import approvals
from accounts.access import Role
from accounts.models import ApprovalRequest
from metering.retention import erasure
from tests import make_accounts
at = datetime(2026, 11, 20, 9, tzinfo=UTC)
asked = erasure.erase_raw_events(
    customer_id=int(sys.argv[1]),
    reason="They asked",
    legal_basis="GDPR Art. 17",
    actor=make_accounts.actor(Role.ADMINISTRATOR, name="Ada"),
    at=at,
)
request = ApprovalRequest.objects.get(kind="usage_erasure", subject_id=asked.pk)
controller = make_accounts.actor(Role.FINANCE_CONTROLLER, name="Carl")
approvals.decide(request_id=request.pk, outcome="approve", actor=controller, at=at)
print(json.dumps([asked.pk]))
"""
DECIDED = """
import json, sys
from accounts.models import AuditEntry
from metering.models import UsageAmendment, UsageCorrection, UsageErasure, UsageEvent
from tests import make_metering as make
from tests.break_it.rules import assert_all_rules_hold
from tests.ties import assert_everything_ties_and_recounts
assert_all_rules_hold()
assert_everything_ties_and_recounts()
correction = UsageCorrection.objects.get()
print(json.dumps([
    [correction.status, correction.applied, correction.skipped],
    [UsageAmendment.objects.count(), UsageEvent.objects.count(), UsageEvent.objects.filter(event_id="").count()],
    [[erasure.status, erasure.events] for erasure in UsageErasure.objects.all()],
    sorted(AuditEntry.objects.filter(
        verb__in=["usage_correction.applied", "usage_erasure.done"]).values_list("verb", flat=True)),
    {total.aggregation: int(total.quantity) for total in make.totals(int(sys.argv[1]))},
]))
"""


def work(task: str) -> tuple[str, ...]:
    """Do what a worker does when it is asked for this task."""
    return "-c", f"import django; django.setup()\nfrom metering import tasks\ntasks.{task}()"


def test_a_database_killed_in_mid_correction_and_in_mid_erasure_ends_each_of_them_once(server: Server) -> None:
    with embedded_postgres(server.folder):
        server.run("manage.py", "migrate", "--verbosity", "0")
        (customer,) = map(str, server.ask(DECIDE, str(EVENTS_DECIDED_OF)))
        with held_in_its_second_write("usage_amendment", *work("apply_corrections"), database=server.url) as applying:
            server.kill(signal.SIGKILL)
            assert applying.end() != 0
    with embedded_postgres(server.folder):
        in_mid_correction = server.ask(DECIDED, customer)
        for _ in range(2):
            server.run(*work("apply_corrections"))
        corrected = server.ask(DECIDED, customer)
        server.ask(ERASE, customer)
        with held_in_its_second_write("usage_event", *work("keep_retention"), database=server.url) as erasing:
            server.kill(signal.SIGKILL)
            assert erasing.end() != 0
    with embedded_postgres(server.folder):
        in_mid_erasure = server.ask(DECIDED, customer)
        for _ in range(2):
            server.run(*work("keep_retention"))
        erased = server.ask(DECIDED, customer)
        # Answers 1 where a total differs from its events.
        server.run("manage.py", "verify_usage")

    number = EVENTS_DECIDED_OF
    still, done = {"sum": 5 * number - 3 * 1_000, "max": 5}, {"sum": 2 * number, "max": 2}
    applied = ["usage_correction.applied"]
    assert in_mid_correction == [["approved", 1_000, 0], [1_000, number + 1_000, 0], [], [], still]
    assert corrected == [["applied", number, 0], [number, 2 * number, 0], [], applied, done]
    assert in_mid_erasure == [*corrected[:1], [number, 2 * number, 2_000], [["approved", 2_000]], applied, done]
    both = [*applied, "usage_erasure.done"]
    assert erased == [*corrected[:1], [number, 2 * number, 2 * number], [["done", 2 * number]], both, done]


FILL = """
import json
from tests import make_accounts, make_usage_backfills
from tests import make_metering as make
make.subject("project-1", customer=make_accounts.customer())
for aggregation in ("sum", "max", "unique", "gauge"):
    make.meter(aggregation=aggregation)
def week(prefix, count, seconds):
    return [
        make.event(f"{prefix}{n}", time=f"2026-10-{n % 7 + 5:02}T{n % 24:02}:10:{n % 60:02}Z", seconds=seconds)
        for n in range(count)
    ]
make.ingested(*week("old", 300, "50"), *week("e", 100, "7"))
backfill = make_usage_backfills.replacing()
make_usage_backfills.staged(backfill, *week("e", 500, "3"))
make_usage_backfills.closing(backfill)
print(json.dumps([backfill.pk]))
"""
CLOSE = """
import sys
from metering.usage_backfills.work import work_on
from tests.make_metering import NOON, SYSTEM
while work_on(backfill_id=int(sys.argv[1]), limit=100, actor=SYSTEM, at=NOON):
    pass
"""
REPORT = """
import json, sys
from metering.models import UsageBackfill, UsageEvent
from tests.make_metering import totals
from tests.ties import assert_everything_ties_and_recounts
assert_everything_ties_and_recounts()
found = UsageBackfill.objects.get(pk=int(sys.argv[1]))
(customer,) = UsageEvent.objects.values_list("customer_id", flat=True).distinct()
summed = min(totals(customer), key=lambda total: total.meter_id)
print(json.dumps([
    found.status, found.items, found.counted, found.replaced, found.voided, found.left_out,
    found.events.exclude(state="waiting").count(), UsageEvent.objects.count(), str(summed.sum), summed.count,
]))
"""


def test_a_database_killed_in_the_middle_of_closing_a_backfill_closes_it_once(server: Server) -> None:
    settle = f"import django; django.setup()\n{CLOSE}"
    with embedded_postgres(server.folder):
        server.run("manage.py", "migrate", "--verbosity", "0")
        (backfill,) = map(str, server.ask(FILL))
        with held_in_its_second_write("metering_usagebatch", "-c", settle, backfill, database=server.url) as closing:
            server.kill(signal.SIGKILL)
            assert closing.end() != 0
    with embedded_postgres(server.folder):
        between = server.ask(REPORT, backfill)
        server.run("-c", settle, backfill)
        after = server.ask(REPORT, backfill)
        server.run("-c", settle, backfill)
        asked_again = server.ask(REPORT, backfill)
        server.run("manage.py", "verify_usage")

    # Of the 800 events to settle, those of the first step are, and of the second none.
    assert (between[0], between[1], between[6]) == ("closing", 800, 100)
    assert after == ["closed", 800, 400, 100, 300, 0, 800, 900, "1500", 500]
    assert asked_again == after
