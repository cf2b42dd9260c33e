"""Each rule of usage finds the breach that it is there for, and nothing in honest data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection

from metering import rollups
from metering.completeness import receipts
from metering.invariants import RULES
from metering.models import QuarantinedEvent
from metering.quarantine.quarantine import release
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

BY_NAME = {rule.name.removeprefix("metering."): rule for rule in RULES}


@pytest.fixture(autouse=True)
def _honest_usage() -> None:
    customer = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.meter(aggregation="count")
    for aggregation in ("unique", "gauge", "p95"):
        make.meter(aggregation=aggregation)
    make.subject("project-1", customer=customer)
    make.ingested(
        make.event("e1", seconds="1.5", region="eu"), make.event("e2", seconds=2), make.event(subject="later")
    )
    rollups.fold()
    receipts.fold()
    make.ingested(make.event("e3", seconds="1e-3", region="eu"), make.event(subject="nobody"), {})
    make.subject("later", customer=customer)
    release(event_ids=list(QuarantinedEvent.objects.values_list("pk", flat=True)), actor=SYSTEM, at=NOON)


def breaches(name: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(BY_NAME[name].sql)
        return len(cursor.fetchall())


@contextmanager
def past_the_triggers() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        yield
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize("name", BY_NAME)
def test_honest_usage_breaks_no_rule(name: str) -> None:
    assert breaches(name) == 0


@pytest.mark.parametrize(
    ("name", "tampering"),
    [
        ("identity_is_an_event_or_in_quarantine", "DELETE FROM usage_event WHERE event_id = 'e1'"),
        ("identity_is_an_event_or_in_quarantine", "DELETE FROM usage_identity"),
        ("identity_is_an_event_or_in_quarantine", "DELETE FROM metering_quarantinedevent WHERE status = 'open'"),
        (
            "identity_is_an_event_or_in_quarantine",
            "UPDATE metering_quarantinedevent SET status = 'open', closed_at = NULL WHERE status = 'released'",
        ),
        ("released_event_counts", "DELETE FROM usage_event WHERE subject = 'later'"),
        ("totals_are_those_of_the_events", "UPDATE usage_hour SET sum = sum + 0.000000000001"),
        ("totals_are_those_of_the_events", "UPDATE usage_delta SET count = count + 1"),
        ("totals_are_those_of_the_events", "DELETE FROM usage_hour"),
        ("totals_are_those_of_the_events", "DELETE FROM usage_event WHERE event_id = 'e3'"),
        ("parts_are_those_of_the_events", "UPDATE usage_part SET count = count + 1 WHERE kind = 'v'"),
        ("parts_are_those_of_the_events", "UPDATE usage_part SET sum = sum + 0.000000000001 WHERE kind = 's'"),
        ("parts_are_those_of_the_events", "UPDATE usage_part SET part = part || '1' WHERE kind = 'r'"),
        ("parts_are_those_of_the_events", "UPDATE usage_part_delta SET part = '55' WHERE kind = 's'"),
        ("parts_are_those_of_the_events", "DELETE FROM usage_part_delta"),
        ("parts_are_those_of_the_events", "DELETE FROM usage_part"),
        ("levels_are_those_of_the_parts", "UPDATE usage_level SET area = area + 1"),
        ("levels_are_those_of_the_parts", "UPDATE usage_level SET last = last + 0.000000000001"),
        ("levels_are_those_of_the_parts", "UPDATE usage_level SET first_at = first_at + interval '1 microsecond'"),
        ("levels_are_those_of_the_parts", "DELETE FROM usage_level"),
        ("levels_are_those_of_the_parts", "DELETE FROM usage_part WHERE kind = 'r'"),
        ("event_counts_in_a_series_of_its_customer", "UPDATE usage_event SET series_ids = '{}' WHERE event_id = 'e1'"),
        ("event_counts_in_a_series_of_its_customer", "UPDATE usage_event SET customer_id = 0"),
        ("batch_holds_the_events_it_accepted", "UPDATE metering_usagebatch SET accepted = accepted + 1"),
        ("batch_holds_the_events_it_accepted", "DELETE FROM metering_usagebatch"),
        ("batch_holds_the_events_it_accepted", "DELETE FROM usage_event"),
        (
            "batches_were_written_in_this_cluster",
            "UPDATE metering_usagebatch SET transaction_id = transaction_id + 1000000",
        ),
        ("receipts_are_those_of_the_events", "DELETE FROM usage_receipt_hour"),
        ("receipts_are_those_of_the_events", "UPDATE usage_receipt SET waiting = waiting + 1 WHERE meter_id = 0"),
        ("receipts_are_those_of_the_events", "UPDATE usage_receipt_hour SET count = count + 1 WHERE meter_id <> 0"),
        ("receipts_are_those_of_the_events", "UPDATE usage_event SET source = 'other' WHERE event_id = 'e3'"),
        ("receipts_sum_up_to_the_totals", "UPDATE usage_receipt SET sum = sum + 0.000000000001 WHERE meter_id <> 0"),
        ("receipts_sum_up_to_the_totals", "DELETE FROM usage_delta"),
        ("series_belongs_to_a_customer_and_a_meter", "UPDATE usage_series SET customer_id = 0"),
        ("what_staff_edit_has_history", "DELETE FROM metering_historicalmeter"),
        ("what_staff_edit_has_history", "DELETE FROM metering_historicalsubjectassignment"),
    ],
)
def test_each_rule_finds_its_breach(name: str, tampering: str) -> None:
    with past_the_triggers(), connection.cursor() as cursor:
        cursor.execute(tampering)
        assert cursor.rowcount > 0

    assert breaches(name) > 0
