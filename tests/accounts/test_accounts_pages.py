"""The page frame, the approval inbox and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.test import Client
from django.urls import reverse

from accounts import audit
from accounts.access import Actor, Role
from accounts.models import ApprovalRequest, AuditEntry, Customer
from tests import make_accounts as make
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)
Submit = Callable[..., ApprovalRequest]


def test_who_is_not_signed_in_is_asked_to_sign_in_and_comes_back() -> None:
    response = Client().get("/approvals/")

    assert response.status_code == 302
    assert response["Location"] == "/admin/login/?next=/approvals/"


def test_a_page_without_permission_names_the_permission() -> None:
    response = signed_in(Role.PRODUCT_MANAGER).get("/audit/")

    assert response.status_code == 403
    assert "“See the audit log”" in words(response)


def test_the_sidebar_shows_only_where_a_person_may_go() -> None:
    page = words(signed_in(Role.PRODUCT_MANAGER).get("/approvals/"))

    assert "Price books" in page
    assert "Bill runs" not in page
    assert "Audit log" not in page


def test_the_inbox_shows_what_waits_for_the_reader_and_not_what_they_asked_for(
    acme: Customer, approver: Actor, submit: Submit
) -> None:
    other = make.actor(Role.PRODUCT_MANAGER, name="Olga Other")
    submit(acme, actor=other)
    submit(make.customer(name="Own Request Inc"), actor=approver)

    page = words(signed_in(actor=approver).get("/approvals/"))

    assert "Terms of Acme" in page
    assert "Olga Other" in page
    assert "Own Request Inc" not in page
    assert "Waiting for me 1" in page


def test_an_empty_inbox_says_so(approver: Actor) -> None:
    page = words(signed_in(actor=approver).get("/approvals/"))

    assert "Nothing waits for you" in page


def test_approving_on_the_page_approves(acme: Customer, approver: Actor, analyst: Actor, submit: Submit) -> None:
    request = submit(acme, actor=analyst, amount="120.50")
    client = signed_in(actor=approver)

    shown = words(client.get(reverse("accounts:approval", args=[request.pk])))
    answer = client.post(reverse("accounts:decide", args=[request.pk]), {"outcome": "approve", "comment": "Fine"})

    request.refresh_from_db()
    assert "EUR 120.50" in shown
    assert request.status == ApprovalRequest.Status.APPROVED
    assert said(answer) == "“Terms of Acme” is approved."


def test_rejecting_without_a_reason_changes_nothing_and_asks_for_one(
    acme: Customer, approver: Actor, analyst: Actor, submit: Submit
) -> None:
    request = submit(acme, actor=analyst)

    answer = signed_in(actor=approver).post(reverse("accounts:decide", args=[request.pk]), {"outcome": "reject"})

    request.refresh_from_db()
    assert request.status == ApprovalRequest.Status.PENDING
    assert "Say why" in said(answer)


@pytest.mark.parametrize("outcome", ["", "maybe", "APPROVE"])
def test_a_word_that_is_neither_yes_nor_no_decides_nothing(
    acme: Customer, approver: Actor, analyst: Actor, submit: Submit, outcome: str
) -> None:
    request = submit(acme, actor=analyst)

    answer = signed_in(actor=approver).post(
        reverse("accounts:decide", args=[request.pk]), {"outcome": outcome, "comment": "Hm"}
    )

    request.refresh_from_db()
    assert request.status == ApprovalRequest.Status.PENDING
    assert "approve or reject" in said(answer)


def test_the_requester_sees_why_they_do_not_decide_and_cannot(acme: Customer, approver: Actor, submit: Submit) -> None:
    request = submit(acme, actor=approver)
    client = signed_in(actor=approver)

    shown = words(client.get(reverse("accounts:approval", args=[request.pk])))
    client.post(reverse("accounts:decide", args=[request.pk]), {"outcome": "approve"})

    request.refresh_from_db()
    assert "somebody else decides it" in shown
    assert request.status == ApprovalRequest.Status.PENDING


def test_the_requester_withdraws_on_the_page(acme: Customer, analyst: Actor, submit: Submit) -> None:
    request = submit(acme, actor=analyst)

    answer = signed_in(actor=analyst).post(
        reverse("accounts:withdraw", args=[request.pk]), {"reason": "Too early", "next": "/approvals/?tab=mine"}
    )

    request.refresh_from_db()
    assert request.status == ApprovalRequest.Status.WITHDRAWN
    assert answer["Location"] == "/approvals/?tab=mine"


def test_a_form_never_leads_to_another_site(acme: Customer, analyst: Actor, submit: Submit) -> None:
    request = submit(acme, actor=analyst)

    answer = signed_in(actor=analyst).post(
        reverse("accounts:withdraw", args=[request.pk]), {"reason": "Too early", "next": "https://evil.example/"}
    )

    assert answer["Location"] == reverse("accounts:approval", args=[request.pk])


def test_a_request_is_shown_only_to_whom_it_concerns(acme: Customer, analyst: Actor, submit: Submit) -> None:
    request = submit(acme, actor=analyst)

    response = signed_in(Role.SUPPORT).get(reverse("accounts:approval", args=[request.pk]))

    assert response.status_code == 403


def test_a_decision_without_the_token_of_the_form_is_refused(
    acme: Customer, approver: Actor, analyst: Actor, submit: Submit
) -> None:
    request = submit(acme, actor=analyst)
    client = Client(enforce_csrf_checks=True)
    client.cookies = signed_in(actor=approver).cookies

    response = client.post(reverse("accounts:decide", args=[request.pk]), {"outcome": "approve"})

    assert response.status_code == 403


def test_the_inbox_takes_as_many_queries_for_fifty_requests_as_for_one(
    acme: Customer, approver: Actor, analyst: Actor, submit: Submit
) -> None:
    client = signed_in(actor=approver)
    submit(acme, actor=analyst)
    queries(client, "/approvals/")

    for_one = queries(client, "/approvals/")
    for number in range(49):
        submit(make.customer(name=f"Customer {number}"), actor=analyst)

    assert queries(client, "/approvals/") == for_one


def _entries(acme: Customer, count: int, *, actor: Actor, verb: str = "customer.opened", reason: str = "") -> None:
    for _ in range(count):
        audit.record(actor=actor, verb=verb, subject=acme, at=NOON, reason=reason, data={"before": 1, "after": 2})


def test_the_audit_log_is_filtered_by_who_what_whom_and_when(acme: Customer, analyst: Actor, controller: Actor) -> None:
    _entries(acme, 1, actor=analyst, verb="customer.praised", reason="Well paid")
    _entries(acme, 1, actor=controller, verb="customer.scolded", reason="Badly paid")
    client = signed_in(Role.AUDITOR)

    by_verb = words(client.get("/audit/", {"verb": "customer.praised"}))
    by_actor = words(client.get("/audit/", {"actor": controller.label}))
    by_day = words(client.get("/audit/", {"since": "2026-10-01", "until": "2026-10-01", "subject": "Acme"}))
    by_other_day = words(client.get("/audit/", {"since": "2026-10-02", "subject": "Acme", "verb": "customer.praised"}))

    assert "Well paid" in by_verb
    assert "Badly paid" not in by_verb
    assert "Badly paid" in by_actor
    assert "Well paid" not in by_actor
    assert "Well paid" in by_day
    assert "Badly paid" in by_day
    assert "No entry fits" in by_other_day


def test_the_audit_log_as_csv_hands_no_formula_to_a_spreadsheet(acme: Customer, analyst: Actor) -> None:
    _entries(acme, 1, actor=analyst, verb="customer.praised", reason='=HYPERLINK("http://evil.example")')

    response = signed_in(Role.AUDITOR).get("/audit/", {"format": "csv", "verb": "customer.praised"})

    lines = response.content.decode().splitlines()
    assert lines[0].startswith("at,actor,verb")
    assert "'=HYPERLINK" in lines[1]


def test_the_audit_log_takes_as_many_queries_for_fifty_entries_as_for_one(acme: Customer, analyst: Actor) -> None:
    client = signed_in(Role.AUDITOR)
    AuditEntry.objects.count()
    _entries(acme, 1, actor=analyst)
    queries(client, "/audit/")

    for_one = queries(client, "/audit/")
    _entries(acme, 49, actor=analyst)

    assert queries(client, "/audit/") == for_one


@pytest.mark.parametrize("name", ["actor", "verb", "subject", "request", "since"])
def test_text_that_the_database_cannot_hold_is_answered_with_400(controller: Actor, name: str) -> None:
    answer = signed_in(actor=controller).get("/audit/", {name: "a\0b"})

    assert answer.status_code == 400


def test_changing_ones_own_password_is_audited_and_keeps_the_session() -> None:
    user = make.staff(Role.SUPPORT, password=make.PASSWORD)
    client = Client()
    client.force_login(user)
    new = "another long enough phrase"

    wrong = client.post(reverse("admin:password_change"), _passwords("not the old one", new))
    answer = client.post(reverse("admin:password_change"), _passwords(make.PASSWORD, new))

    user.refresh_from_db()
    assert (wrong.status_code, answer.status_code) == (200, 302)
    assert user.check_password(new)
    assert client.get("/approvals/").status_code == 200
    entry = AuditEntry.objects.get(verb="staff.password_changed")
    assert (entry.actor_id, entry.subject_id) == (user.pk, str(user.pk))


def _passwords(old: str, new: str) -> dict[str, str]:
    return {"old_password": old, "new_password1": new, "new_password2": new}
