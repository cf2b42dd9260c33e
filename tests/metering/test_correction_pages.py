"""The pages of corrections: asked for, previewed, applied, reverted, by people in a browser's words."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from django.test import Client

from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from accounts.periods import Period
from metering.corrections import correction_selection
from metering.corrections.correction_work import apply_some
from metering.models import UsageCorrection
from metering.reading.event_list import EventQuestion, list_events
from metering.reading.usage_questions import read_events_asked
from metering.reading.words import Words
from tests import make_accounts, make_corrections
from tests import make_metering as make

pytestmark = pytest.mark.django_db

OCTOBER = {"first_day": "2026-10-01", "last_day": "2026-10-31"}


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=found)
    make.ingested(make.event("e1", seconds="1", region="eu"), make.event("e2", seconds="999", region="us"))
    return found


def signed_in(client: Client, role: Role) -> Client:
    client.force_login(make_accounts.staff(role))
    return client


def test_one_event_is_replaced_by_way_of_its_preview(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    answer = client.post(
        "/usage/corrections/new/",
        {"source": "cluster/1", "event_id": "e1", "changes": "seconds = 2", "reason": "a misread sensor"},
        follow=True,
    )
    correction = UsageCorrection.objects.get()
    assert "1,000" in answer.text
    assert "1,001" in answer.text
    client.post(f"/usage/corrections/{correction.pk}/submit/")
    apply_some(correction_id=correction.pk, actor=make.SYSTEM, at=make.NOON)

    shown = client.get(f"/usage/corrections/{correction.pk}/").text
    assert "Preview the revert" in shown
    assert "a misread sensor" in client.get("/usage/corrections/?status=applied").text
    client.post(f"/usage/corrections/{correction.pk}/revert/", {"reason": "it was right"})
    assert UsageCorrection.objects.filter(kind="revert", reverts=correction).count() == 1


def test_a_large_correction_waits_in_the_inbox_of_a_second_person(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)
    client.post("/usage/corrections/new/", {"data": "region=us", "reason": "a test run", **OCTOBER})
    correction = UsageCorrection.objects.get()

    answer = client.post(f"/usage/corrections/{correction.pk}/submit/", follow=True)

    assert "It waits for a second person" in answer.text
    request = ApprovalRequest.objects.get(kind="usage_correction")
    signed_in(client, Role.FINANCE_CONTROLLER)
    assert "a test run" in client.get(f"/approvals/{request.pk}/").text


def test_events_of_a_file_are_corrected(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)
    file = SimpleUploadedFile("wrong.csv", b"source,id,seconds\ncluster/1,e1,5\ncluster/1,e2,6\n")

    client.post("/usage/corrections/new/", {"file": file, "reason": "both"})

    assert UsageCorrection.objects.get().events == 2


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"reason": "x"}, "No event that counts is chosen"),
        ({"reason": " ", "type": make.GPU_USED}, "for a reason"),
        ({"reason": "x", "data": "eu"}, "not written as name=value"),
        ({"reason": "x", "customer": "nobody"}, "No customer has the number"),
        ({"reason": "x", "first_day": "soon"}, "is not a day"),
        ({"reason": "x", "event_id": "e9", "source": "s"}, "there is no such event"),
        ({"reason": "x", "type": make.GPU_USED}, "from when to when"),
        ({"reason": "x", "type": make.GPU_USED, "changes": "seconds=many", **OCTOBER}, "could not be counted"),
    ],
)
def test_what_cannot_be_corrected_is_said_and_what_was_filled_in_stays(
    client: Client, customer: Customer, sent: dict[str, str], said: str
) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    answer = client.post("/usage/corrections/new/", sent)

    assert said in answer.text
    assert not UsageCorrection.objects.exclude(status="dropped").exists()


def test_a_draft_is_dropped_and_who_only_looks_cannot_correct(client: Client, customer: Customer) -> None:
    correction = make_corrections.drafted(make_corrections.named("e1"))
    signed_in(client, Role.SUPPORT)
    assert client.get(f"/usage/corrections/{correction.pk}/").status_code == 200
    assert client.get("/usage/corrections/new/").status_code == 403
    assert client.post(f"/usage/corrections/{correction.pk}/drop/").status_code == 403
    signed_in(client, Role.FINANCE_ANALYST)

    answer = client.post(f"/usage/corrections/{correction.pk}/drop/", follow=True)

    assert "Dropped" in answer.text


def ticked(customer: Customer) -> dict[str, object]:
    """Say of both events that they were ticked in the explorer."""
    period = Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    events = list_events(EventQuestion(customer_id=customer.pk, period=period), limit=10).events
    return {"customer": customer.code, "event": [event.place for event in events]}


def test_ticked_events_are_shown_with_what_counts_of_them_before_anything_is_asked_for(
    client: Client, customer: Customer
) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    answer = client.post("/usage/corrections/new/", {**ticked(customer), "step": "choose"})

    assert "The 2 events that you ticked" in answer.text
    assert "now 999" in answer.text
    assert not UsageCorrection.objects.exists()


def test_ticked_events_are_replaced_each_by_its_own_value(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)
    new = {"new-0-0": "1", "new-1-0": "9", "changes": "region=eu", "effect": "replace", "way": "ticked", "reason": "x"}

    answer = client.post("/usage/corrections/new/", {**ticked(customer), **new}, follow=True)

    correction = UsageCorrection.objects.get()
    wanted = [{"region": "eu"}, {"region": "eu", "seconds": "9"}]
    assert [item.changes for item in correction.items.order_by("pk")] in (wanted, wanted[::-1])
    assert "−990" in answer.text


def test_ticked_events_are_voided(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    client.post(
        "/usage/corrections/new/",
        {**ticked(customer), "way": "ticked", "effect": "void", "new-1-0": "9", "reason": "a test"},
    )

    correction = UsageCorrection.objects.get()
    assert (correction.kind, correction.events) == ("void", 2)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"way": "shared", "effect": "replace", "type": make.GPU_USED}, "Say which values count instead"),
        ({"way": "ticked", "effect": "replace"}, "is changed: give it another value"),
        ({"way": "ticked", "effect": "void", "event": ["nonsense"]}, "No event that counts is chosen"),
        ({"way": "listed"}, "read"),
    ],
)
def test_a_form_that_changes_nothing_is_refused(
    client: Client, customer: Customer, sent: dict[str, object], said: str
) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    answer = client.post("/usage/corrections/new/", {**ticked(customer), **sent, "reason": "x"})

    assert said in answer.text
    assert not UsageCorrection.objects.exists()


def test_days_are_those_of_the_customers_invoices_and_the_last_is_included(client: Client) -> None:
    customer = make_accounts.customer(entity=make_accounts.legal_entity(time_zone="America/New_York"))
    make.meter()
    make.subject("project-1", customer=customer)
    times = ("2026-10-15T03:59:59Z", "2026-10-15T04:00:00Z", "2026-10-16T03:59:59Z", "2026-10-16T04:00:00Z")
    make.ingested(*[make.event(time=time) for time in times], at=datetime(2026, 10, 17, tzinfo=UTC))
    signed_in(client, Role.FINANCE_ANALYST)

    client.post(
        "/usage/corrections/new/",
        {"customer": customer.code, "first_day": "2026-10-15", "last_day": "2026-10-15", "reason": "a day"},
    )

    assert UsageCorrection.objects.get().events == 2


def listed(customer: Customer, **words: str) -> str:
    """Return the address of a list of events of October."""
    asked = {"customer": customer.code, "start": "2026-10-01", "end": "2026-11-01", "time_zone": "UTC", **words}
    return f"/usage/explorer/events/?{urlencode(asked)}"


def test_all_events_that_match_a_list_are_corrected_however_many_pages_it_has(
    client: Client, customer: Customer
) -> None:
    make.ingested(
        *[make.event(seconds="1", region="eu") for _ in range(120)], make.event("odd", region="eu", seconds="1")
    )
    make_corrections.voided("odd")
    signed_in(client, Role.FINANCE_ANALYST)
    address = listed(customer, **{"data[region]": "eu"})

    assert "Correct all 121 that match" in client.get(address).text
    question = {"question": address.partition("?")[2], "customer": customer.code}
    chosen = client.post("/usage/corrections/new/", {**question, "step": "choose", "way": "asked"})
    assert "All 121 events that your search found, on all its pages" in chosen.text
    assert "region = eu" in chosen.text
    client.post("/usage/corrections/new/", {**question, "way": "asked", "effect": "void", "reason": "a test"})

    correction = UsageCorrection.objects.exclude(status="applied").get()
    assert (correction.kind, correction.events) == ("void", 121)
    shown = client.get(f"/usage/corrections/{correction.pk}/").text
    assert "region = eu" in shown
    make_corrections.applied(correction)
    assert sum(total.sum for total in make.totals(customer)) == 999


def test_a_list_of_one_page_is_ticked(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    shown = client.get(listed(customer)).text

    assert "Correct them" in shown
    assert "that match" not in shown


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"type": make.GPU_USED, "source": "cluster/1"},
        {"id": "e1"},
        {"subject": "project-1", "data[region]": "us"},
        {"meter": "by-region", "filter[region]": "us"},
        {"meter": "by-region", "filter[region]": "(none)"},
        {"start": "2026-10-15T10:30:00Z", "end": "2026-10-15T10:30:01Z"},
        {"end": "2026-10-15T10:30:00Z"},
    ],
)
def test_what_matches_is_what_the_list_shows_as_counted(customer: Customer, words: dict[str, str]) -> None:
    make.meter(code="by-region", dimensions=["region"])
    make.ingested(
        make.event("e3", region="us", seconds="4"), make.event("e4", time="2026-10-15T10:59:00Z", seconds="4")
    )
    make_corrections.replaced("e2", region="eu")
    make_corrections.voided("e3")
    make.ingested(make.event("e5", region="us", seconds="4"))
    sent = QueryDict(listed(customer, **words).partition("?")[2])
    question = read_events_asked(Words(dict(sent.lists())), own_customer_id=None).question

    counted = [event.id for event in list_events(question, limit=50).events if event.state == "counted"]
    found = correction_selection.count_by_filter(correction_selection.filter_of(question))

    assert found == len(counted)


@pytest.mark.parametrize("question", ["", "customer=nobody", "customer=%00", "meter=&filter[a]=b"])
def test_a_list_that_asked_nothing_clear_corrects_nothing(client: Client, customer: Customer, question: str) -> None:
    signed_in(client, Role.FINANCE_ANALYST)

    sent = {"question": question, "way": "asked", "effect": "void", "reason": "x"}
    answer = client.post("/usage/corrections/new/", sent)

    assert "cannot be read" in answer.text
    assert not UsageCorrection.objects.exists()
