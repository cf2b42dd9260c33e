from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.access import Role
from accounts.models import AuditEntry, User
from metering.models import Meter, RefusedEvent, SubjectAssignment, UsageBatch
from tests import make_accounts
from tests import make_metering as make

pytestmark = pytest.mark.django_db

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)


def signed_in(*roles: Role) -> tuple[Client, User]:
    user = make_accounts.staff(*roles)
    client = Client()
    client.force_login(user)
    return client, user


def some_records() -> dict[str, int]:
    meter, assignment = make.meter(), make.subject()
    make.ingested(make.event(), {})
    return {
        "meter": meter.pk,
        "subjectassignment": assignment.pk,
        "usagebatch": UsageBatch.objects.get().pk,
        "refusedevent": RefusedEvent.objects.get().pk,
    }


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.FINANCE_ANALYST, Role.PRODUCT_MANAGER])
@pytest.mark.parametrize("name", ["meter", "subjectassignment", "usagebatch", "refusedevent"])
def test_the_records_of_each_kind_are_listed_and_shown(name: str, role: Role) -> None:
    client, _ = signed_in(role)
    records = some_records()

    listed = client.get(reverse(f"admin:metering_{name}_changelist"))
    shown = client.get(reverse(f"admin:metering_{name}_change", args=[records[name]]))

    assert (listed.status_code, shown.status_code) == (200, 200)


@pytest.mark.parametrize("name", ["usagebatch", "refusedevent"])
def test_facts_are_neither_added_nor_deleted_by_anybody(name: str) -> None:
    client, _ = signed_in(*Role)
    records = some_records()

    added = client.get(reverse(f"admin:metering_{name}_add"))
    deleted = client.post(reverse(f"admin:metering_{name}_delete", args=[records[name]]), {"post": "yes"})

    assert (added.status_code, deleted.status_code) == (403, 403)


def test_a_meter_is_defined_renamed_and_rested_but_counts_what_it_counted() -> None:
    client, user = signed_in(Role.PRODUCT_MANAGER)
    typed = {
        "code": "gpu",
        "name": "GPU hours",
        "event_type": "gpu.used",
        "aggregation": "sum",
        "value_path": "hours",
        "unit": "h",
        "dimensions": "gpu,region",
        "event_filter": "{}",
        "conversion": "1",
        "divisor": "1",
        "series_limit": "10000",
    }

    added = client.post(reverse("admin:metering_meter_add"), typed)
    meter = Meter.objects.get()
    changed = client.post(
        reverse("admin:metering_meter_change", args=[meter.pk]),
        {**typed, "name": "Hours of GPU", "value_path": "minutes", "reason": "Clearer"},
    )

    assert (added.status_code, changed.status_code) == (302, 302)
    meter.refresh_from_db()
    version = meter.versions.get()
    assert (meter.name, meter.is_active, version.value_path, version.dimensions) == (
        "Hours of GPU",
        False,
        "hours",
        ["gpu", "region"],
    )
    assert meter.history.latest().history_user == user
    assert AuditEntry.objects.get(verb="meter.changed").reason == "Clearer"


def test_a_meter_that_contradicts_itself_comes_back_with_the_refusal() -> None:
    client, _ = signed_in(Role.PRODUCT_MANAGER)
    typed = {"code": "gpu", "name": "GPU", "event_type": "t", "aggregation": "count", "value_path": "x", "unit": "h"}

    client.post(reverse("admin:metering_meter_add"), {**typed, "dimensions": "", "event_filter": "{}"})

    assert not Meter.objects.exists()


def test_a_subject_is_given_to_a_customer_and_its_time_ends_with_a_reason() -> None:
    client, _ = signed_in(Role.FINANCE_ANALYST)
    customer = make_accounts.customer()
    typed = {"name": "project-9", "customer": customer.pk, "starts_at_0": "2026-01-01", "starts_at_1": "00:00:00"}

    added = client.post(reverse("admin:metering_subjectassignment_add"), {**typed, "ends_at_0": "", "ends_at_1": ""})
    assignment = SubjectAssignment.objects.get()
    ended = client.post(
        reverse("admin:metering_subjectassignment_change", args=[assignment.pk]),
        {"ends_at_0": "2026-10-01", "ends_at_1": "00:00:00", "reason": "Left"},
    )

    assert (added.status_code, ended.status_code) == (302, 302)
    assignment.refresh_from_db()
    assert (assignment.subject.name, assignment.customer) == ("project-9", customer)
    assert assignment.valid_during.upper == OCTOBER
    assert AuditEntry.objects.get(verb="subject.assignment_ended").reason == "Left"


def test_a_list_of_fifty_batches_takes_as_many_queries_as_one_and_counts_no_further_than_it_pages() -> None:
    client, _ = signed_in(Role.AUDITOR)
    counts = []
    for number in (1, 49):
        for _ in range(number):
            make.ingested()
        with CaptureQueriesContext(connection) as queries:
            client.get(reverse("admin:metering_usagebatch_changelist"))
        counts.append(len(queries))

    assert counts[0] == counts[1]
    counting = [query["sql"] for query in queries if "COUNT(*)" in query["sql"] and "usagebatch" in query["sql"]]
    assert counting
    assert all("LIMIT 10001" in sql for sql in counting)


def test_the_start_of_a_subject_can_be_filled_in_by_an_address_and_what_waits_for_it_is_said() -> None:
    make.meter()
    make.ingested(make.event(subject="stray"))
    customer = make_accounts.customer()
    client, _ = signed_in(Role.FINANCE_ANALYST)
    add = "/admin/metering/subjectassignment/add/"

    form = client.get(add, {"name": "stray", "starts_at": "2026-10-15T10:30:00+00:00"}).text
    sent = {"name": "stray", "customer": customer.pk, "starts_at_0": "2026-10-15", "starts_at_1": "10:30:00"}
    answer = client.post(add, {**sent, "ends_at_0": "", "ends_at_1": ""}, follow=True)

    assert 'value="2026-10-15"' in form
    assert 'value="10:30:00"' in form
    assert "1 event waits in quarantine for it" in answer.text
    assert client.get(add, {"starts_at": "soon"}).status_code == 200
