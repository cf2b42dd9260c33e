"""What the database itself refuses, whoever asks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, models
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from metering import rollups
from metering.models import (
    Meter,
    MeterVersion,
    QuarantinedEvent,
    RefusedEvent,
    Subject,
    SubjectAssignment,
    UsageBatch,
    UsageDelta,
    UsageEvent,
    UsageHour,
    UsageIdentity,
    UsageSeries,
)
from metering.quarantine.quarantine import discard
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import NOON

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _some_usage() -> None:
    """One row at least in every table."""
    make.meter()
    make.subject("project-1")
    make.ingested(make.event("e1"), make.event(subject="nobody"), {})
    rollups.fold()
    make.ingested(make.event("e2"))


APPEND_ONLY: list[tuple[type[models.Model], dict[str, Any], str]] = [
    (UsageIdentity, {"content_hash": uuid.uuid4()}, "identity is taken for ever"),
    (UsageSeries, {"dimensions": {}}, "it never changes"),
    (UsageBatch, {"accepted": 7}, "batch is a fact"),
    (UsageEvent, {"subject": "other"}, "accepted event is a fact"),
    (RefusedEvent, {"detail": "other"}, "refused event is a fact"),
]


@pytest.mark.parametrize(("model", "change", "saying"), APPEND_ONLY)
def test_the_database_refuses_to_change_delete_or_empty_what_is_of_record(
    model: type[models.Model],
    change: dict[str, Any],
    saying: str,
) -> None:
    rows = model._default_manager.all()
    assert rows.exists()

    with refused(saying):
        rows.update(**change)
    with refused(saying):
        rows._raw_delete(using="default")
    with refused(saying):
        truncate(model._meta.db_table)


def truncate(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"TRUNCATE {table} CASCADE")


def test_the_database_refuses_to_empty_the_events_of_one_month() -> None:
    with refused("accepted event is a fact"):
        truncate("usage_event_2026_10")


def test_the_database_refuses_to_change_deltas_and_to_throw_totals_away() -> None:
    with refused("folded into its hour or stays"):
        UsageDelta.objects.update(sum=7)
    with refused("never thrown away"):
        truncate("usage_delta")
    with refused("never thrown away"):
        truncate("usage_hour")
    with refused("never thrown away"):
        UsageHour.objects.all()._raw_delete(using="default")


@pytest.mark.parametrize(
    "change",
    [
        {"key": uuid.uuid4()},
        {"content_hash": uuid.uuid4()},
        {"source": "other"},
        {"subject": "project-1"},
        {"time": NOON},
        {"data": {"seconds": "1000000"}},
        {"first_seen_at": NOON - timedelta(days=1)},
        {"batch_id": 0},
    ],
)
def test_the_database_refuses_to_change_what_a_quarantined_event_says(change: dict[str, Any]) -> None:
    with refused("content never changes"):
        QuarantinedEvent.objects.update(**change)


def test_the_database_refuses_to_reopen_delete_or_empty_quarantine() -> None:
    with refused("never deleted"):
        QuarantinedEvent.objects.all()._raw_delete(using="default")
    with refused("never deleted"):
        truncate("metering_quarantinedevent")
    ids = list(QuarantinedEvent.objects.values_list("pk", flat=True))
    discard(event_ids=ids, reason="test", actor=make.SYSTEM, at=NOON)

    for change in ({"status": "open", "closed_at": None}, {"status": "released"}, {"closing_reason": "other"}):
        with refused("stays so"):
            QuarantinedEvent.objects.update(**change)


def test_the_database_refuses_to_close_quarantine_without_a_time() -> None:
    with refused("quarantined_event_is_open_or_closed_with_a_time"):
        QuarantinedEvent.objects.update(status="released")


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "other"},
        {"aggregation": "count"},
        {"unit": "h"},
        {"divisor": 2},
    ],
)
def test_the_database_refuses_to_change_what_a_meter_is(change: dict[str, Any]) -> None:
    with refused("of a meter never change"):
        Meter.objects.update(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"value_path": "other"},
        {"event_filter": {"tier": "spot"}},
        {"conversion": 2},
        {"dimensions": ["region"]},
        {"valid_from": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_the_database_refuses_to_change_what_a_version_reads(change: dict[str, Any]) -> None:
    with refused("Usage was counted by this version"):
        MeterVersion.objects.update(**change)
    with refused("Usage was counted by this version"):
        MeterVersion.objects.all()._raw_delete("default")


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"value_path": ""}, "meter_has_a_value_unless_it_counts"),
        ({"number": 1}, "meter_version_follows_the_others"),
        ({"valid_from": datetime(1900, 1, 1, tzinfo=UTC)}, "meter_version_follows_the_others"),
        ({"valid_from": datetime(2026, 1, 1, 0, 30, tzinfo=UTC)}, "meter_version_begins_on_the_hour"),
        ({"conversion": 0}, "meter_conversion_is_positive"),
        ({"dimensions": ["gpu", "(customer)"]}, "meter_dimension_is_not_the_customer"),
    ],
)
def test_the_database_refuses_a_version_that_contradicts_its_meter(change: dict[str, Any], constraint: str) -> None:
    version = {
        "meter": Meter.objects.get(),
        "number": 2,
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        "value_path": "x",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }

    with refused(constraint):
        MeterVersion.objects.create(**{**version, **change})


@pytest.mark.parametrize(
    ("meter", "constraint"),
    [
        ({"code": "new", "aggregation": "median"}, "meter_aggregation_is_known"),
        ({"code": None, "aggregation": "count"}, "meter_code_is_unique"),
        ({"code": "new", "aggregation": "count", "series_limit": 0}, "meter_takes_at_least_one_series"),
        ({"code": "new", "aggregation": "sum", "divisor": 0}, "meter_divisor_is_positive"),
        ({"code": "new", "aggregation": "sum", "divisor": Decimal("1e38")}, "meter_divisor_is_positive"),
        ({"code": "new", "aggregation": "count", "divisor": 2}, "meter_divides_no_number_of_things"),
        ({"code": "new", "aggregation": "unique", "divisor": 2}, "meter_divides_no_number_of_things"),
    ],
)
def test_the_database_refuses_a_meter_that_contradicts_itself(meter: dict[str, Any], constraint: str) -> None:
    meter = {**meter, "code": meter["code"] or Meter.objects.get().code}

    with refused(constraint):
        Meter.objects.create(name="m", event_type="t", unit="s", **meter)


def day(number: int) -> datetime:
    return datetime(2026, 10, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "is_refused"),
    [
        (day(5), day(10), True),
        (day(9), day(20), True),
        (day(1), day(6), True),
        (None, None, True),
        (day(10), None, False),
        (None, day(5), False),
    ],
)
def test_the_database_refuses_two_customers_of_one_subject_at_a_time(
    start: datetime | None,
    end: datetime | None,
    *,
    is_refused: bool,
) -> None:
    subject = Subject.objects.create(name="shared")
    first, second = make_accounts.customer(), make_accounts.customer()
    SubjectAssignment.objects.create(subject=subject, customer=first, valid_during=DateTimeTZRange(day(5), day(10)))

    def assign() -> None:
        SubjectAssignment.objects.create(subject=subject, customer=second, valid_during=DateTimeTZRange(start, end))

    if is_refused:
        with refused("subject_belongs_to_one_customer_at_a_time"):
            assign()
    else:
        assign()


def test_the_database_refuses_an_assignment_that_lasts_no_time() -> None:
    subject, customer = Subject.objects.create(name="brief"), make_accounts.customer()
    never = DateTimeTZRange(day(5), day(5))

    with refused("subject_assignment_lasts_some_time"):
        SubjectAssignment.objects.create(subject=subject, customer=customer, valid_during=never)


@pytest.mark.parametrize(
    "change",
    [
        "customer_id = customer_id + 1",
        "subject_id = subject_id + 1",
        "valid_during = tstzrange('2026-10-02Z', upper(valid_during))",
        "valid_during = tstzrange(NULL, upper(valid_during))",
        "valid_during = tstzrange(lower(valid_during), '2026-10-11Z')",
        "valid_during = tstzrange(lower(valid_during), NULL)",
    ],
)
def test_the_database_refuses_to_rewrite_whose_usage_it_is(change: str) -> None:
    make.subject("ended", starts_at=day(5), ends_at=day(10))

    with refused("subject_assignment_only_ends"):
        execute(f"UPDATE metering_subjectassignment SET {change} WHERE NOT upper_inf(valid_during)")  # noqa: S608


@pytest.mark.parametrize("end", [10, 7], ids=["ends", "ends earlier"])
def test_the_database_lets_an_assignment_end(end: int) -> None:
    assignment = make.subject("ends", starts_at=day(5), ends_at=None if end == 10 else day(10))

    SubjectAssignment.objects.filter(pk=assignment.pk).update(valid_during=DateTimeTZRange(day(5), day(end)))

    assignment.refresh_from_db()
    assert assignment.valid_during.upper == day(end)


@pytest.mark.parametrize(
    ("write", "rule"),
    [
        ("DELETE FROM metering_subjectassignment", "subject_assignment_is_never_deleted"),
        ("TRUNCATE metering_subjectassignment", "subject_assignment_is_never_emptied"),
        ("UPDATE metering_subject SET name = 'other'", "subject_never_changes"),
        ("DELETE FROM metering_subject", "subject_is_never_deleted"),
        ("TRUNCATE metering_subject CASCADE", "subject_(assignment_)?is_never_emptied"),
    ],
)
def test_the_database_refuses_to_forget_whose_usage_it_was(write: str, rule: str) -> None:
    execute("SELECT 1")

    with refused(rule):
        execute(write)


def test_the_database_refuses_to_forget_a_subject_or_a_customer_with_usage() -> None:
    assignment = SubjectAssignment.objects.get()

    with pytest.raises(models.ProtectedError):
        assignment.subject.delete()


@pytest.mark.parametrize(
    ("table", "constraint"),
    [
        ("usage_identity (key, content_hash) SELECT key, content_hash FROM usage_identity", "usage_identity_pkey"),
        ("usage_event SELECT * FROM usage_event", "usage_event_2026_10_pkey"),
        ("usage_series OVERRIDING USER VALUE SELECT * FROM usage_series", "usage_series_is_unique"),
        ("metering_subject (name) SELECT name FROM metering_subject", "subject_name_is_unique"),
    ],
)
def test_the_database_refuses_the_same_twice(table: str, constraint: str) -> None:
    def insert() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table}")

    with refused(constraint):
        insert()


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"door": "window"}, "usage_door_is_known"),
        ({"accepted": 1}, "usage_batch_knows_its_earliest_event"),
        ({"earliest_at": NOON}, "usage_batch_knows_its_earliest_event"),
    ],
)
def test_the_database_refuses_a_batch_that_contradicts_itself(changes: dict[str, Any], constraint: str) -> None:
    counts = {"accepted": 0, "duplicates": 0, "quarantined": 0, "rejected": 0}
    batch = {"door": "api", "actor_label": "x", "received_at": NOON, **counts, **changes}

    with refused(constraint):
        UsageBatch.objects.create(**batch)


@pytest.mark.parametrize(
    ("model", "change", "constraint"),
    [
        (QuarantinedEvent, {"reason": "other"}, "quarantine_reason_is_known"),
        (QuarantinedEvent, {"status": "lost", "closed_at": NOON}, "quarantined_event_is_open_or_closed_with_a_time"),
    ],
)
def test_the_database_refuses_words_it_does_not_know(
    model: type[models.Model],
    change: dict[str, Any],
    constraint: str,
) -> None:
    with refused(constraint):
        model._default_manager.update(**change)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [({"reason": "mood"}, "refusal_reason_is_known"), ({"fingerprint": None}, "refusal_is_kept_once")],
)
def test_the_database_refuses_a_refusal_of_an_unknown_kind_or_twice(changes: dict[str, Any], constraint: str) -> None:
    known = RefusedEvent.objects.get()
    fields = {"reason": "malformed", "fingerprint": uuid.uuid4(), **changes}
    fields["fingerprint"] = fields["fingerprint"] or known.fingerprint

    with refused(constraint):
        RefusedEvent.objects.create(
            batch_id=known.batch_id, position=0, detail="x", payload="", refused_at=NOON, **fields
        )
