"""Programs killed at random moments, again and again; afterwards everything is there once, and nothing by halves.

A program that starts Django takes a second, so one program forks a worker for each round, and the worker is killed.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from billing import bill_runs, issuing
from billing.models import Invoice, InvoiceDelivery, InvoiceDocument, InvoiceSeries, JournalEntry
from metering.models import RefusedEvent, UsageBatch, UsageEvent, UsageIdentity
from tests import make_accounts, make_metering
from tests import make_billing as make
from tests.break_it.rules import assert_all_rules_hold
from tests.mail_server import MailServer
from tests.programs import running

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 20

# Forks a worker, lets it live for a random while, kills it, and begins anew; the last one is left to finish.
FORKS = """
import os, random, signal, sys, time
import django
import psycopg
django.setup()
from django.conf import settings
from django.db import connections
from django.utils import timezone
settings.USAGE_ACCEPTANCE_MONTHS = 1200
{imports}
def work():
    {work}
def gone():
    # The server may still be busy with what the dead worker asked for last, and holds its locks meanwhile.
    with psycopg.connect(os.environ["DATABASE_URL"], application_name="beside") as beside:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        return beside.execute(sessions, [os.environ["PGAPPNAME"]]).fetchone() == (0,)
rounds, longest, seed = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
killed = 0
for number in range(rounds + 1):
    connections.close_all()
    worker = os.fork()
    if not worker:
        sys.stdout = open(os.devnull, "w")
        work()
        os._exit(0)
    if number < rounds:
        time.sleep(chance.uniform(0, longest))
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status = os.waitpid(worker, 0)
    while not gone():
        time.sleep(0.01)
    killed += os.WIFSIGNALED(status)
    if number == rounds and status:
        sys.exit("the last worker failed")
print(killed, flush=True)
"""


def run_and_kill(
    *, imports: str, work: str, longest_seconds: float, seed: int, environment: dict[str, str] | None = None
) -> int:
    """Run the work in workers that are killed, and once to its end; return how many were killed at work."""
    program = FORKS.format(imports=imports, work=work)
    with running("-c", program, str(ROUNDS), str(longest_seconds), str(seed), environment=environment) as forks:
        output = forks.output()
    return int(output)


@pytest.mark.parametrize("seed", [1])
def test_a_file_whose_loading_is_killed_twenty_times_counts_each_event_once(tmp_path: Path, seed: int) -> None:
    customer = make_accounts.customer()
    make_metering.meter(dimensions=["region"])
    make_metering.subject("project-1", customer=customer)
    chance = random.Random(seed)  # noqa: S311 -- any events will do
    events = [
        make_metering.event(
            f"event-{chance.randint(1, 5_000)}",
            time=f"2026-{chance.randint(7, 10):02}-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}:30:00Z",
            subject=chance.choice(("project-1", "project-1", "project-1", "unknown")),
            seconds=f"{chance.randint(0, 10**9)}.{chance.randint(0, 999):03}",
            region=chance.choice(("eu", "us")),
        )
        for _ in range(6_000)
    ]
    path = tmp_path / "usage.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in events) + "{torn")

    killed = run_and_kill(
        imports="from django.core.management import call_command",
        work=f"call_command('load_usage', {str(path)!r}, json=True, stdout=sys.stdout)",
        longest_seconds=0.5,
        seed=seed,
    )

    first: dict[str, dict[str, object]] = {}
    conflicts = set()
    for each in events:
        if first.setdefault(str(each["id"]), each) != each:
            conflicts.add(json.dumps(each, sort_keys=True))
    expected: defaultdict[str, Decimal] = defaultdict(Decimal)
    for each in first.values():
        data = each["data"]
        assert isinstance(data, dict)
        if each["subject"] == "project-1":
            expected[data["region"]] += Decimal(data["seconds"])
    totals = make_metering.totals(customer, start=make_metering.LONG_AGO)
    assert killed, "no round was cut short, so nothing was tried"
    assert {total.dimensions["region"]: total.sum for total in totals} == dict(expected)
    assert UsageIdentity.objects.count() == len(first)
    assert UsageEvent.objects.count() == sum(each["subject"] == "project-1" for each in first.values())
    assert RefusedEvent.objects.filter(reason="malformed").count() == 1
    assert RefusedEvent.objects.filter(reason="conflict").count() == len(conflicts)
    assert sum(UsageBatch.objects.values_list("accepted", flat=True)) == UsageEvent.objects.count()
    assert_all_rules_hold()


def test_drafting_issuing_papers_and_mails_killed_again_and_again_bill_each_contract_once(settings: Settings) -> None:
    shop = make.shop()
    customers = [make.subscriber(shop, name=f"Customer {number}") for number in range(16)]
    for customer in customers:
        make.use(shop, customer, "150", on=make.OCT_10)
    server = MailServer()
    server.start()
    imports = "from billing import bill_runs, delivery, documents, issuing\nfrom accounts.access import Actor"
    killed = 0

    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    killed += run_and_kill(
        imports=imports,
        work=f"while bill_runs.draft_chunk(run_id={run.pk}, limit=1, at=timezone.now()): pass",
        longest_seconds=0.03,
        seed=1,
    )
    bill_runs.submit_bill_run(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)
    run.refresh_from_db()
    make.approve(shop, run)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
    at = f"timezone.datetime.fromisoformat({make.NOV_2.isoformat()!r})"
    killed += run_and_kill(
        imports=imports,
        work=f"while issuing.issue_chunk(run_id={run.pk}, limit=1, actor=Actor.system('t'), at={at}): pass",
        longest_seconds=0.04,
        seed=2,
    )
    # Time passes from one worker to the next, so that what the one that was killed had taken up is due again.
    imports += "\nfrom datetime import timedelta"
    killed += run_and_kill(
        imports=imports,
        work=f"documents.make_due_documents(limit=100, at={at} + timedelta(hours=7) * number)",
        longest_seconds=0.4,
        seed=3,
    )
    killed += run_and_kill(
        imports=f"{imports}\n"
        "settings.EMAIL_BACKEND = 'django.core.mail.backends.smtp.EmailBackend'\n"
        f"settings.EMAIL_HOST, settings.EMAIL_PORT = '127.0.0.1', {server.port}",
        work=f"delivery.deliver_due(limit=3, at={at} + timedelta(minutes=11) * number)\n"
        f"    if number == rounds:\n        while delivery.deliver_due(limit=3, at={at} + timedelta(days=9)): pass",
        longest_seconds=0.05,
        seed=4,
    )
    server.stop()

    assert killed, "no round was cut short, so nothing was tried"
    assert Invoice.objects.exclude(status="void").count() == 16
    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == list(range(1, 17))
    assert InvoiceSeries.objects.get().next_number == 17
    assert JournalEntry.objects.count() == 16
    assert InvoiceDocument.objects.filter(state="made").count() == 16
    assert InvoiceDelivery.objects.count() == 16
    assert_all_rules_hold()
    sent = InvoiceDelivery.objects.filter(state="sent")
    assert sent.count() == 16
    got = Counter(message["Message-ID"] for message in server.mailbox.messages)
    assert set(got) == set(sent.values_list("message_id", flat=True))
    # At least once: one that was handed over in the moment of the kill comes again under the same Message-ID.
    assert all(times <= attempts for times, attempts in ((got[each.message_id], each.attempts) for each in sent))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(CASE side WHEN 'debit' THEN amount ELSE -amount END),"
            " sum(amount) FILTER (WHERE side = 'debit') FROM billing_journalline"
        )
        # 100 at 0.50 and 50 at 0.30, with 19 % tax, sixteen times.
        assert cursor.fetchone() == (0, Decimal("77.35") * 16)
