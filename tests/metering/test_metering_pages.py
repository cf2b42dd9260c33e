"""The quarantine and the loads, as people see them."""

from __future__ import annotations

import pytest
from django.urls import reverse

from accounts.access import Role
from metering.models import QuarantinedEvent, UsageBatch
from metering.quarantine.quarantine_overview import REMEDIES, GroupKey
from tests import make_accounts
from tests import make_metering as make
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

Status = QuarantinedEvent.Status


def _group(event: QuarantinedEvent) -> str:
    return GroupKey(event.reason, event.type, event.subject).as_text()


def test_an_empty_quarantine_says_so() -> None:
    page = words(signed_in(Role.SUPPORT).get("/usage/quarantine/"))

    assert "The quarantine is empty" in page


def test_events_that_cannot_be_counted_are_grouped_by_cause() -> None:
    make.meter()
    make.ingested(make.event(subject="nobody"), make.event(subject="nobody"), make.event(subject="stranger"))

    page = words(signed_in(Role.SUPPORT).get("/usage/quarantine/"))

    assert "Waiting 3" in page
    assert "nobody 2 2" in page
    assert "stranger 1 1" in page
    assert "1–2 of 2" in page


def test_the_quarantine_is_searched_and_filtered() -> None:
    make.meter()
    make.ingested(make.event(subject="nobody"), make.event(subject="stranger"))
    client = signed_in(Role.SUPPORT)

    by_subject = words(client.get("/usage/quarantine/", {"q": "nobo"}))
    by_reason = words(client.get("/usage/quarantine/", {"reason": "unknown_type"}))

    assert "nobody" in by_subject
    assert "stranger" not in by_subject
    assert "Nothing fits" in by_reason


def test_a_group_shows_its_events_with_their_data() -> None:
    make.meter()
    make.ingested(make.event("event-77", subject="nobody"))
    event = QuarantinedEvent.objects.get()

    page = words(signed_in(Role.SUPPORT).get(reverse("metering:quarantine-group"), {"group": _group(event)}))

    assert "event-77" in page


@pytest.mark.parametrize("group", ["", "no json", "[1, 2, 3]", '["no_such_reason", "type", "subject"]'])
def test_a_group_that_is_none_is_not_found(group: str) -> None:
    response = signed_in(Role.SUPPORT).get(reverse("metering:quarantine-group"), {"group": group})

    assert response.status_code == 404


def test_releasing_a_group_counts_what_can_be_counted_now() -> None:
    make.meter()
    make.ingested(make.event(subject="late-comer"), make.event(subject="stranger"))
    make.subject("late-comer", customer=make_accounts.customer())
    groups = [_group(event) for event in QuarantinedEvent.objects.all()]

    answer = signed_in(Role.FINANCE_ANALYST).post(reverse("metering:release"), {"group": groups})

    assert said(answer) == "1 counted; 1 still cannot be and wait on."
    assert QuarantinedEvent.objects.get(subject="late-comer").status == Status.RELEASED
    assert QuarantinedEvent.objects.get(subject="stranger").status == Status.OPEN


def test_discarding_needs_a_reason() -> None:
    make.meter()
    make.ingested(make.event(subject="stranger"))
    event = QuarantinedEvent.objects.get()
    client = signed_in(Role.FINANCE_ANALYST)

    without = client.post(reverse("metering:discard"), {"event": event.pk})
    event.refresh_from_db()
    was_open = event.status == Status.OPEN
    client.post(reverse("metering:discard"), {"event": event.pk, "reason": "A test device"})

    event.refresh_from_db()
    assert "reason" in said(without)
    assert was_open
    assert event.status == Status.DISCARDED
    assert event.closing_reason == "A test device"


def test_choosing_nothing_does_nothing() -> None:
    answer = signed_in(Role.FINANCE_ANALYST).post(reverse("metering:release"))

    assert said(answer) == "Nothing was chosen."


def test_who_may_only_look_has_no_buttons_and_cannot_release() -> None:
    make.meter()
    make.ingested(make.event(subject="stranger"))
    event = QuarantinedEvent.objects.get()
    client = signed_in(Role.SUPPORT)

    page = words(client.get("/usage/quarantine/"))
    answer = client.post(reverse("metering:discard"), {"event": event.pk, "reason": "I said so"})

    event.refresh_from_db()
    assert "events chosen" not in page
    assert answer.status_code == 403
    assert event.status == Status.OPEN


def test_each_batch_tells_what_became_of_it() -> None:
    make.meter()
    make.subject("project-1", customer=make_accounts.customer())
    make.ingested(make.event("same"), make.event("same"), make.event(subject="stranger"), {"no": "event"})
    batch = UsageBatch.objects.get()
    client = signed_in(Role.SUPPORT)

    batches = words(client.get("/usage/batches/"))
    page = words(client.get(reverse("metering:batch", args=[batch.pk])))

    assert "Accepted 1" in batches
    assert "Duplicates 1" in batches
    assert "Quarantined 1" in batches
    assert "Refused 1" in batches
    assert "Not a valid event" in page


def test_usage_is_for_whom_it_is_for() -> None:
    client = signed_in()

    assert client.get("/usage/quarantine/").status_code == 403
    assert client.get("/usage/batches/").status_code == 403


def test_pages_take_as_many_queries_for_fifty_rows_as_for_one() -> None:
    make.meter()
    make.ingested(make.event(subject="stranger-0"))
    client = signed_in(Role.FINANCE_ANALYST)
    group = _group(QuarantinedEvent.objects.get())
    addresses = [
        "/usage/quarantine/",
        "/usage/batches/",
        f"{reverse('metering:quarantine-group')}?group={group}",
    ]
    for address in addresses:
        queries(client, address)

    for_one = [queries(client, address) for address in addresses]
    for number in range(49):
        make.ingested(make.event(subject=f"stranger-{number + 1}"), make.event(subject="stranger-0"))

    assert [queries(client, address) for address in addresses] == for_one


def test_a_batch_shows_its_events_and_leads_to_those_that_wait() -> None:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    batch = make.ingested(make.event("counted"), make.event("stray", subject="nobody")).batch_id
    other = make.ingested(make.event("other", subject="no one")).batch_id
    client = signed_in(Role.FINANCE_ANALYST)

    shown = client.get(f"/usage/batches/{batch}/").text

    assert "counted" in shown
    assert customer.name in shown
    assert f"/usage/quarantine/?batch={batch}" in shown
    assert "nobody" in client.get(f"/usage/quarantine/?batch={batch}").text
    assert "nobody" not in client.get(f"/usage/quarantine/?batch={other}").text


def test_every_cause_of_quarantine_comes_with_what_to_do() -> None:
    assert set(REMEDIES) == set(QuarantinedEvent.Reason.values)
