"""More usage than can be taken at once: told to come again, and in the end counted exactly once."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.db.models import Sum
from django.test import Client
from django.utils import timezone

from metering.door import admission
from metering.events import event_key
from metering.models import Meter, UsageBatch, UsageDelta, UsageEvent
from metering.rollups import fold
from tests import make_accounts
from tests import make_metering as make
from tests.database_address import url_of_the_test_database
from tests.patience import wait_until
from tests.web_server import EVENTS, Answer, WebServer, web_server

pytestmark = pytest.mark.django_db(transaction=True)

SENDERS = 10
BATCHES = 6
BATCH = 300


def events(name: str, number: int) -> bytes:
    moment = (timezone.now() - timedelta(minutes=5)).isoformat()
    return json.dumps([make.event(f"{name}-{each}", time=moment, seconds="1") for each in range(number)]).encode()


def hold_identity(rival: psycopg.Connection[Any], event_id: str) -> None:
    """Let whoever sends this event wait until the rival lets go."""
    rival.execute("INSERT INTO usage_identity VALUES (%s, gen_random_uuid())", [event_key("cluster/1", event_id)])


def send_until_taken(server: WebServer, body: bytes, *, secret: str, seen: Counter[int]) -> None:
    while True:
        answer = server.post(body, secret=secret)
        seen[answer.status] += 1
        if answer.status == 200:
            return
        assert (answer.status, answer.body["code"]) == (429, "ingest_busy")
        assert int(answer.headers["Retry-After"]) >= 1
        time.sleep(0.1)


def test_more_senders_than_are_taken_at_once_are_told_to_come_again_and_lose_nothing() -> None:
    make.meter()
    make.subject("project-1")
    secret = make_accounts.api_key("events:write").secret
    seen: Counter[int] = Counter()

    def send(sender: int) -> None:
        for number in range(BATCHES):
            send_until_taken(server, events(f"{sender}-{number}", BATCH), secret=secret, seen=seen)

    with (
        web_server(threads=8, INGEST_AT_ONCE="1", INGEST_LOCK_TIMEOUT_SECONDS="60") as server,
        psycopg.connect(url_of_the_test_database()) as rival,
    ):
        hold_identity(rival, "0-0-0")
        senders = [threading.Thread(target=send, args=[number]) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        wait_until(lambda: seen[429])
        rival.rollback()
        for sender in senders:
            sender.join()

    assert seen[200] == SENDERS * BATCHES
    assert seen[429] > 0
    assert UsageEvent.objects.count() == SENDERS * BATCHES * BATCH
    assert UsageDelta.objects.aggregate(Sum("sum"), Sum("count")) == {
        "sum__sum": SENDERS * BATCHES * BATCH,
        "count__sum": SENDERS * BATCHES * BATCH,
    }
    assert UsageBatch.objects.count() == SENDERS * BATCHES


def test_who_waits_too_long_for_another_sender_is_told_so_and_leaves_nothing_behind() -> None:
    make.meter()
    make.subject("project-1")
    secret = make_accounts.api_key("events:write").secret
    contested, other_events = events("contested", 3), events("other", 3)
    waited: list[Answer] = []

    with (
        web_server(threads=4, INGEST_AT_ONCE="1", INGEST_LOCK_TIMEOUT_SECONDS="8") as server,
        psycopg.connect(url_of_the_test_database()) as rival,
    ):
        hold_identity(rival, "contested-1")
        waiting = threading.Thread(target=lambda: waited.append(server.post(contested, secret=secret)))
        waiting.start()
        wait_until(_somebody_waits_for_a_lock)
        busy = server.post(other_events, secret=secret)
        waiting.join()
        rival.rollback()
        again = [server.post(body, secret=secret) for body in (contested, other_events)]

    assert (waited[0].status, waited[0].body["code"], waited[0].headers["Retry-After"]) == (
        429,
        "ingest_timed_out",
        "2",
    )
    assert (busy.status, busy.body["code"]) == (429, "ingest_busy")
    assert [(answer.status, answer.body["accepted"]) for answer in again] == [(200, 3), (200, 3)]
    assert UsageEvent.objects.count() == 6


def _somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ILIKE '%usage_identity%')"
        )
        (waits,) = cursor.fetchone()
    return bool(waits)


def test_a_backlog_that_nobody_folds_closes_the_door_until_it_is_folded(client: Client, settings: Any) -> None:
    make.meter()
    make.subject("project-1")
    headers = {"Authorization": f"Bearer {make_accounts.api_key('events:write').secret}"}
    settings.INGEST_BACKLOG_LIMIT = 0

    answers: list[Any] = []
    for step in (lambda: None, lambda: None, fold):
        step()
        admission.backlog.forget()
        body = events(f"e{len(answers)}", 2)
        answers.append(client.post(EVENTS, body, content_type="application/json", headers=headers))
    admission.backlog.forget()

    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert (answers[1].json()["code"], answers[1]["Retry-After"]) == ("fold_backlog_full", "10")
    assert UsageEvent.objects.count() == 4


def test_what_is_counted_exactly_waits_for_the_fold_too(client: Client, settings: Any) -> None:
    make.meter(aggregation=Meter.Aggregation.UNIQUE, value_path="seconds")
    make.subject("project-1")
    headers = {"Authorization": f"Bearer {make_accounts.api_key('events:write').secret}"}
    moment = (timezone.now() - timedelta(minutes=5)).isoformat()
    three_values = json.dumps([make.event(time=moment, seconds=number) for number in range(3)]).encode()
    settings.INGEST_BACKLOG_LIMIT = 3

    answers = []
    for _ in range(2):
        admission.backlog.forget()
        answers.append(client.post(EVENTS, three_values, content_type="application/json", headers=headers).status_code)
    admission.backlog.forget()

    assert answers == [200, 429]
