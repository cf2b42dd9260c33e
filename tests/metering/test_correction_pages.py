"""The pages of corrections: asked for, previewed, applied, reverted, by people in a browser's words."""

from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from accounts.access import Role
from accounts.models import ApprovalRequest, Customer
from metering.correction_work import apply_some
from metering.models import UsageCorrection
from tests import make_accounts, make_corrections
from tests import make_metering as make

pytestmark = pytest.mark.django_db


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
    assert "1000" in answer.text
    assert "1001" in answer.text
    client.post(f"/usage/corrections/{correction.pk}/submit/")
    apply_some(correction_id=correction.pk, actor=make.SYSTEM, at=make.NOON)

    shown = client.get(f"/usage/corrections/{correction.pk}/").text
    assert "Preview the revert" in shown
    assert "a misread sensor" in client.get("/usage/corrections/?status=applied").text
    client.post(f"/usage/corrections/{correction.pk}/revert/", {"reason": "it was right"})
    assert UsageCorrection.objects.filter(kind="revert", reverts=correction).count() == 1


def test_a_large_correction_waits_in_the_inbox_of_a_second_person(client: Client, customer: Customer) -> None:
    signed_in(client, Role.FINANCE_ANALYST)
    client.post("/usage/corrections/new/", {"data": "region=us", "reason": "a test run"})
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
        ({"reason": "x", "type": make.GPU_USED, "changes": "seconds=many"}, "could not be counted"),
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
