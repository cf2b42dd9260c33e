"""What is kept of every act: audit entries, history rows, hashes and the rules that check them."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from accounts import approvals, audit, customers, history, invariants, policies
from accounts.access import Actor, Permission
from accounts.canonical import canonical_hash
from accounts.models import AuditEntry, Contact, Customer
from accounts.request_context import RequestContextMiddleware, current_request_id, request_context
from tests import make_accounts as make
from tests.accounts.conftest import NOON


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"p": Decimal("1.50")}, {"p": Decimal("1.5")}),
        ({"p": Decimal("-0.00")}, {"p": Decimal(0)}),
        ({"p": Decimal("1E+3")}, {"p": Decimal(1000)}),
        ({"p": (1, 2)}, {"p": [1, 2]}),
        (
            {"at": datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
            {"at": datetime(2026, 1, 1, tzinfo=UTC)},
        ),
        ({"c": Colour.RED}, {"c": "red"}),
        (
            {"u": uuid.UUID(int=1), "d": date(2026, 1, 2), "n": None, "t": True},
            {"t": True, "n": None, "d": "2026-01-02", "u": str(uuid.UUID(int=1))},
        ),
    ],
    ids=["order of keys", "trailing zeros", "zero", "exponent", "sequences", "time zones", "enums", "the rest"],
)
def test_equal_content_has_equal_hashes(one: dict[str, object], same: dict[str, object]) -> None:
    assert canonical_hash(one) == canonical_hash(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"p": Decimal("0.1")}, {"p": Decimal("0.10000000000000000000000000000000000001")}),
        ({"p": Decimal(100)}, {"p": Decimal(1)}),
        ({"a": None}, {}),
        ({"a": ["b", "c"]}, {"a": ["c", "b"]}),
        ({"a": True}, {"a": 1}),
    ],
    ids=["the 38th place", "zeros that count", "nothing and missing", "order of a list", "truth and one"],
)
def test_different_content_has_different_hashes(one: dict[str, object], other: dict[str, object]) -> None:
    assert canonical_hash(one) != canonical_hash(other)


@pytest.mark.parametrize(
    "content",
    [{"a": 0.1}, {"a": Decimal("NaN")}, {"a": NOON.replace(tzinfo=None)}, {"a": object()}, {1: "a"}],
    ids=["float", "not a number", "no time zone", "object", "key"],
)
def test_content_without_one_fixed_form_is_refused(content: Any) -> None:
    with pytest.raises(TypeError):
        canonical_hash(content)


@pytest.mark.django_db
def test_an_audit_entry_says_who_did_what_to_what_when_and_why(acme: Customer, analyst: Actor) -> None:
    entry = audit.record(
        actor=analyst,
        verb="customer.noted",
        subject=acme,
        at=NOON,
        reason="Called.",
        data={"amount": Decimal("1.50"), "on": date(2026, 1, 2)},
    )

    entry.refresh_from_db()
    assert (entry.at, entry.actor_id, entry.actor_label) == (NOON, analyst.user_id, analyst.label)
    assert (entry.subject_type, entry.subject_id, entry.subject_label) == ("accounts.customer", str(acme.pk), "Acme")
    assert (entry.reason, entry.data) == ("Called.", {"amount": "1.50", "on": "2026-01-02"})


@pytest.mark.django_db
def test_an_audit_entry_names_the_api_key_that_acted(acme: Customer) -> None:
    key = make.api_key().key

    entry = audit.record(actor=Actor.of_key(key), verb="usage.sent", subject=acme, at=NOON)

    assert (entry.actor_id, entry.api_key_id, entry.actor_label) == (None, key.pk, f"api-key:{key.prefix} Test sender")


@pytest.mark.django_db
def test_many_audit_entries_are_one_statement(django_assert_num_queries: Any) -> None:
    subjects = [make.customer(name=f"Customer {n}") for n in range(50)]

    with django_assert_num_queries(1):
        added = audit.record_many(actor=Actor.system("job"), verb="customer.noted", subjects=subjects, at=NOON)

    assert added == AuditEntry.objects.filter(verb="customer.noted", actor_label="system:job").count() == 50


@pytest.mark.django_db
def test_bulk_work_keeps_history_too(acme: Customer, analyst: Actor) -> None:
    people = [Contact(customer=acme, name=f"P{n}", email=f"p{n}@acme.example") for n in range(3)]

    with request_context("job-9"):
        created = history.bulk_create(people, model=Contact, reason="Import.", actor=analyst, at=NOON)
        for person in created:
            person.receives_invoices = True
        changed = history.bulk_update(
            created,
            model=Contact,
            fields=["receives_invoices"],
            reason="All of them.",
            actor=analyst,
            at=NOON + timedelta(hours=1),
        )

    kept = [
        (row.history_type, row.history_change_reason, row.history_user_id, row.request_id)
        for row in created[0].history.order_by("history_id")
    ]
    assert changed == 3
    assert kept == [("+", "Import.", analyst.user_id, "job-9"), ("~", "All of them.", analyst.user_id, "job-9")]


def test_a_web_request_has_an_id_while_it_lasts() -> None:
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(current_request_id())
        return HttpResponse()

    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    RequestContextMiddleware(view)(request)
    request.request_id = "given"  # type: ignore[attr-defined]
    RequestContextMiddleware(view)(request)

    assert len(seen[0]) == 32
    assert seen[1] == "given"
    assert current_request_id() == ""


def breaches() -> dict[str, int]:
    found = {}
    with connection.cursor() as cursor:
        for rule in invariants.RULES:
            cursor.execute(rule.sql)
            found[rule.name] = len(cursor.fetchall())
    return {name: number for name, number in found.items() if number}


@pytest.mark.django_db
def test_the_rules_hold_after_ordinary_work(acme: Customer, analyst: Actor) -> None:
    make.contact(customer=acme)
    make.api_key(customer=acme)
    customers.deactivate_customer(customer_id=acme.pk, reason="Gone.", actor=analyst, at=NOON)

    assert breaches() == {}


TAMPERING = {
    "accounts.requester_never_decides": """
        ALTER TABLE accounts_approvaldecision DROP CONSTRAINT approval_is_not_decided_by_its_requester;
        UPDATE accounts_approvaldecision SET decided_by_id = requested_by_id;
    """,
    "accounts.approved_with_enough_approvals": "UPDATE accounts_approvalrequest SET approvals_required = 2",
    "accounts.pending_until_decided": "UPDATE accounts_approvalrequest SET status = 'pending', closed_at = NULL",
    "accounts.decisions_lie_within_the_request": "UPDATE accounts_approvaldecision SET decided_at = '2000-01-01Z'",
    "accounts.closed_requests_are_audited": "DELETE FROM accounts_auditentry WHERE verb = 'approval.approved'",
    "accounts.api_keys_are_audited": "DELETE FROM accounts_auditentry WHERE verb = 'api_key.issued'",
    "accounts.no_customer_above_itself": """
        ALTER TABLE accounts_customer DROP CONSTRAINT customer_is_not_its_own_parent;
        UPDATE accounts_customer SET parent_id = id;
    """,
    "accounts.user_has_history": "DELETE FROM accounts_historicaluser",
    "accounts.legalentity_has_history": "DELETE FROM accounts_historicallegalentity",
    "accounts.customer_has_history": "DELETE FROM accounts_historicalcustomer",
    "accounts.contact_has_history": "DELETE FROM accounts_historicalcontact",
    "accounts.approvalpolicy_has_history": "DELETE FROM accounts_historicalapprovalpolicy",
}


def test_every_rule_is_broken_on_purpose_below() -> None:
    assert {rule.name for rule in invariants.RULES} == set(TAMPERING)


@pytest.mark.django_db
@pytest.mark.parametrize("name", TAMPERING)
def test_a_rule_finds_what_was_done_behind_the_verbs_back(name: str, books: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(TAMPERING[name])
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")

    assert name in breaches()


@pytest.fixture
def books(acme: Customer, product_manager: Actor, approver: Actor, administrator: Actor, submit: Any) -> None:
    make.contact(customer=acme)
    make.api_key(customer=acme)
    policies.set_approval_policy(
        kind="customer_terms",
        from_amount=Decimal(1000),
        permission=Permission.APPROVE_PRICES,
        approvals_required=2,
        reason="Large ones.",
        actor=administrator,
        at=NOON,
    )
    request = submit(acme, actor=product_manager)
    approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=NOON)
