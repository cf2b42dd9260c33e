"""Eight senders of the same events, in different orders and sizes, through both doors and beside the fold."""

from __future__ import annotations

import io
import random
import threading
from collections import defaultdict
from decimal import Decimal
from functools import partial

import msgspec
import pytest
from django.db import connections

from accounts.access import Role
from metering import rollups
from metering.models import QuarantinedEvent, RefusedEvent, UsageBatch, UsageEvent, UsageIdentity
from metering.quarantine import quarantine
from metering.sources.loading import FileFormat, load_usage
from tests import make_accounts
from tests import make_metering as make
from tests.break_it.at_once import at_once
from tests.break_it.rules import assert_all_rules_hold

pytestmark = pytest.mark.django_db(transaction=True)

ENCODER = msgspec.json.Encoder(decimal_format="number")
EVENTS = 5_000
# An event that says something else under a known identity, from one of the senders.
CONFLICTS = 50


def test_eight_senders_of_the_same_five_thousand_events_count_each_once() -> None:
    customer = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=customer)
    chance = random.Random(8)  # noqa: S311 -- any events will do
    events = [
        make.event(
            f"e{number}",
            time=f"2026-{chance.randint(5, 10):02}-{chance.randint(1, 14):02}T{chance.randint(0, 23):02}:00:00Z",
            subject="project-1" if number % 10 else "unknown",
            seconds=Decimal(chance.randint(-100, 10**9)) / 1000,
            region=f"r{chance.randint(1, 30)}",
        )
        for number in range(EVENTS)
    ]
    conflicting = [{**event, "data": {"seconds": "1", "region": "other"}} for event in events[:CONFLICTS]]
    done = threading.Event()

    def send(seed: int) -> None:
        order = random.Random(seed)  # noqa: S311 -- any order will do
        mine = [*events, *(conflicting if seed == 3 else ())]
        order.shuffle(mine)
        if seed % 4 == 0:
            lines = b"\n".join(ENCODER.encode(each) for each in mine)
            load_usage(
                stream=io.BytesIO(lines),
                file_format=FileFormat.CLOUDEVENTS,
                origin=f"{seed}",
                actor=make.SYSTEM,
                at=make.NOON,
            )
            return
        while mine:
            size = order.randint(1, 1_500)
            make.ingested(*mine[:size])
            del mine[:size]

    def keep_folding() -> None:
        while not done.is_set():
            rollups.fold(limit=200)
        connections.close_all()

    folder = threading.Thread(target=keep_folding)
    folder.start()
    try:
        at_once(*[partial(send, seed) for seed in range(8)])
    finally:
        done.set()
        folder.join()

    # Of two contents of one identity the first that came counts; whichever it was, it is what the event now says.
    kept = {event.event_id: event for event in UsageEvent.objects.all()}
    expected: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in events:
        data = kept[str(event["id"])].data if event["id"] in kept else None
        if data is not None:
            expected[data["region"]] += Decimal(str(data["seconds"]))
    assert UsageIdentity.objects.count() == EVENTS
    assert (UsageEvent.objects.count(), QuarantinedEvent.objects.count()) == (EVENTS * 9 // 10, EVENTS // 10)
    assert {total.dimensions["region"]: total.sum for total in make.totals(customer, start=make.LONG_AGO)} == expected
    assert RefusedEvent.objects.filter(reason="conflict").count() >= CONFLICTS
    told = UsageBatch.objects.values_list("accepted", "duplicates", "quarantined", "rejected")
    assert sum(map(sum, told)) == EVENTS * 8 + CONFLICTS
    assert_all_rules_hold()


def test_releases_in_several_parts_and_senders_never_wait_in_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    # Parts as small as this one are what a hundred thousand events are to the real size.
    monkeypatch.setattr(quarantine, "MAX_EVENTS", 10)
    customer = make_accounts.customer()
    events = [make.event(f"e{number}", subject="later", region=f"r{number % 7}", seconds="1") for number in range(200)]
    make.ingested(*events)
    make.meter(dimensions=["region"])
    make.subject("later", customer=customer)
    ids = list(QuarantinedEvent.objects.values_list("pk", flat=True))
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)

    for _ in range(3):
        at_once(
            *[
                partial(quarantine.release, event_ids=ids[::step], actor=analyst, at=make.NOON)
                for step in (1, -1, 2, -3)
            ],
            partial(make.ingested, *events),
            partial(make.ingested, *events[::-1]),
            partial(quarantine.discard, event_ids=ids, reason="no", actor=analyst, at=make.NOON),
        )

    released = QuarantinedEvent.objects.filter(status="released").count()
    assert UsageEvent.objects.count() == released
    assert not QuarantinedEvent.objects.filter(status="open").exists()
    assert_all_rules_hold()
