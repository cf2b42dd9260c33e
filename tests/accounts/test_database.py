"""What the database itself refuses, however one comes to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from accounts import audit
from accounts.access import Actor, Role
from accounts.constraints import named
from accounts.errors import DetailsInvalid
from accounts.models import (
    ApiKey,
    ApprovalDecision,
    ApprovalPolicy,
    ApprovalRequest,
    AuditEntry,
    Contact,
    Customer,
    LegalEntity,
    User,
)
from tests import make_accounts as make
from tests.accounts.conftest import NOON
from tests.behind_the_back import refused

pytestmark = pytest.mark.django_db

Submit = Callable[..., ApprovalRequest]
HASH = bytes(32)


def execute(sql: str, *params: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def a_request(**changes: Any) -> ApprovalRequest:
    values = {
        "kind": "customer_terms",
        "subject_id": 1,
        "title": "Terms",
        "content_hash": HASH,
        "permission": "approve_prices",
        "approvals_required": 1,
        "requested_by": make.staff(),
        "requested_at": NOON,
    }
    return ApprovalRequest.objects.create(**(values | changes))


def a_decision(request: ApprovalRequest, **changes: Any) -> ApprovalDecision:
    values = {
        "request": request,
        "requested_by_id": request.requested_by_id,
        "decided_by": changes.get("decided_by") or make.staff(),
        "outcome": "approve",
        "decided_at": NOON,
    }
    return ApprovalDecision.objects.create(**(values | changes))


def test_what_a_trigger_refuses_can_be_named_like_any_other_rule(acme: Customer) -> None:
    with pytest.raises(DetailsInvalid), named("customer_entity_and_currency_are_settled", DetailsInvalid({})):
        Customer.objects.filter(pk=acme.pk).update(currency="JPY")


@pytest.mark.parametrize("act", ["update", "delete"])
def test_the_database_refuses_to_change_or_delete_an_audit_entry(acme: Customer, act: str) -> None:
    entry = audit.record(actor=Actor.system(), verb="customer.opened", subject=acme, at=NOON)
    entries = AuditEntry.objects.filter(pk=entry.pk)

    with refused("Audit entries are only ever added"):
        entries.update(reason="") if act == "update" else entries.delete()


def test_the_database_refuses_to_empty_the_audit_log() -> None:
    with refused("Audit entries are only ever added"):
        execute("TRUNCATE accounts_auditentry")


@pytest.mark.parametrize("act", ["update", "delete"])
def test_the_database_refuses_to_change_or_delete_a_decision(act: str) -> None:
    decision = a_decision(a_request())
    decisions = ApprovalDecision.objects.filter(pk=decision.pk)

    with refused("only ever added"):
        decisions.update(comment="") if act == "update" else decisions.delete()


def test_the_database_refuses_to_empty_the_decisions() -> None:
    with refused("only ever added"):
        execute("TRUNCATE accounts_approvaldecision")


def test_the_database_refuses_a_decision_by_the_requester() -> None:
    request = a_request()

    with refused("approval_is_not_decided_by_its_requester"):
        a_decision(request, decided_by=request.requested_by)


def test_the_database_refuses_a_decision_that_names_another_requester() -> None:
    request = a_request()
    other = make.staff()

    with refused("approval_decision_repeats_the_requester_of_its_request"):
        a_decision(request, requested_by_id=other.pk, decided_by=request.requested_by)


def test_the_database_refuses_a_second_decision_by_the_same_person() -> None:
    request = a_request(approvals_required=2)
    decider = make.staff()
    a_decision(request, decided_by=decider)

    with refused("approval_is_decided_once_per_person"):
        a_decision(request, decided_by=decider)


def test_the_database_refuses_an_unknown_outcome() -> None:
    request = a_request()

    with refused("approval_outcome_is_known"):
        a_decision(request, outcome="perhaps")


def test_the_database_refuses_a_decision_on_a_closed_request() -> None:
    request = a_request()
    ApprovalRequest.objects.filter(pk=request.pk).update(status="withdrawn", closed_at=NOON)

    with refused("Only a pending approval request takes decisions"):
        a_decision(request)


def test_the_database_refuses_a_request_that_does_not_begin_pending() -> None:
    with refused("begins as pending"):
        a_request(status="approved", closed_at=NOON)


@pytest.mark.parametrize("status", ["pending", "approved", "rejected", "voided"])
def test_the_database_refuses_to_reopen_or_turn_a_closed_request(status: str) -> None:
    request = a_request()
    found = ApprovalRequest.objects.filter(pk=request.pk)
    found.update(status="withdrawn", closed_at=NOON)

    with refused("closed approval request never changes|only with all"):
        found.update(status=status)


@pytest.mark.parametrize(
    ("column", "value"),
    [("content_hash", bytes(31) + b"x"), ("approvals_required", 2), ("permission", "view_usage"), ("amount", 1)],
)
def test_the_database_refuses_to_change_what_a_pending_request_asks_for(column: str, value: object) -> None:
    request = a_request(currency="EUR")

    with refused("What an approval request covers never changes"):
        ApprovalRequest.objects.filter(pk=request.pk).update(**{column: value})


def test_the_database_refuses_approval_without_enough_approvals() -> None:
    request = a_request(approvals_required=2)
    a_decision(request)
    found = ApprovalRequest.objects.filter(pk=request.pk)

    with refused("only with all its approvals"):
        found.update(status="approved", closed_at=NOON)


def test_the_database_refuses_approval_against_a_rejection() -> None:
    request = a_request()
    a_decision(request)
    a_decision(request, outcome="reject")
    found = ApprovalRequest.objects.filter(pk=request.pk)

    with refused("only with all its approvals"):
        found.update(status="approved", closed_at=NOON)


def test_the_database_refuses_to_delete_a_request() -> None:
    request = a_request()

    with refused("never deleted"):
        ApprovalRequest.objects.filter(pk=request.pk).delete()


def test_the_database_refuses_to_empty_the_requests() -> None:
    with refused("never deleted"):
        execute("TRUNCATE accounts_approvalrequest CASCADE")


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("approval_request_status_is_known|begins as pending", {"status": "maybe"}),
        ("approval_request_is_closed_with_a_time", {"closed_at": NOON}),
        ("approval_request_needs_an_approval", {"approvals_required": 0}),
        ("approval_request_content_is_hashed", {"content_hash": b"short"}),
        ("approval_request_amount_has_a_currency", {"amount": 5}),
    ],
    ids=["status", "time of closing", "approvals", "hash", "currency"],
)
def test_the_database_refuses_a_request_with_a_bad(rule: str, changes: dict[str, object]) -> None:
    with refused(rule):
        a_request(**changes)


def test_an_approval_covers_an_amount_of_any_size_to_the_last_digit() -> None:
    amount = Decimal("123456789012345678901234567890.12345")

    request = a_request(amount=amount, currency="EUR")

    request.refresh_from_db()
    assert request.amount == amount


def test_the_database_refuses_a_second_pending_request_for_a_subject() -> None:
    a_request()

    with refused("approval_request_is_pending_once_per_subject"):
        a_request()


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("approval_policy_needs_one_to_five_approvals", {"approvals_required": 0}),
        ("approval_policy_needs_one_to_five_approvals", {"approvals_required": 6}),
        ("approval_policy_amount_is_not_negative", {"from_amount": -1}),
    ],
)
def test_the_database_refuses_a_policy_with_a_bad(rule: str, values: dict[str, object]) -> None:
    policy = {"kind": "customer_terms", "permission": "approve_prices"} | values

    with refused(rule):
        ApprovalPolicy.objects.create(**policy)


def test_the_database_refuses_two_policies_for_one_amount() -> None:
    policy = {"kind": "customer_terms", "permission": "approve_prices", "from_amount": 100}
    ApprovalPolicy.objects.create(**policy)

    with refused("approval_policy_is_unique_per_amount"):
        ApprovalPolicy.objects.create(**policy)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scopes", ["usage:read"]),
        ("secret_hash", bytes(32)),
        ("expires_at", None),
        ("customer_id", 1),
        ("source", "s"),
        ("name", "x"),
    ],
)
def test_the_database_refuses_to_change_what_an_api_key_may_do(column: str, value: object) -> None:
    key = make.api_key("events:write", expires_at=NOON).key

    with refused("is another key"):
        ApiKey.objects.filter(pk=key.pk).update(**{column: value})


def test_the_database_refuses_to_take_a_revocation_back() -> None:
    keys = ApiKey.objects.filter(pk=make.api_key().key.pk)
    keys.update(revoked_at=NOON)

    with refused("stays revoked"):
        keys.update(revoked_at=None)


def test_the_database_refuses_to_delete_an_api_key() -> None:
    key = make.api_key().key

    with refused("revoked, never deleted"):
        ApiKey.objects.filter(pk=key.pk).delete()


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("api_key_scopes_are_known", {"scopes": []}),
        ("api_key_scopes_are_known", {"scopes": ["everything"]}),
        ("api_key_secret_is_kept_as_a_hash", {"secret_hash": b"ch_secret"}),
        ("api_key_of_a_source_sends_events", {"source": "cluster/1"}),
        ("api_key_source_is_one_that_events_can_have", {"source": "a\tb", "scopes": ["events:write"]}),
        ("api_key_expires_after_it_was_made", {"expires_at": NOON - timedelta(days=1)}),
    ],
)
def test_the_database_refuses_an_api_key_with_a_bad(rule: str, values: dict[str, Any]) -> None:
    key = {"name": "k", "prefix": "p", "secret_hash": HASH, "scopes": ["usage:read"], "created_at": NOON} | values

    with refused(rule):
        ApiKey.objects.create(**key)


def test_the_database_refuses_two_api_keys_with_one_prefix() -> None:
    prefix = make.api_key().key.prefix
    key = {"name": "k", "prefix": prefix, "secret_hash": HASH, "scopes": ["usage:read"], "created_at": NOON}

    with refused("api_key_prefix_is_unique"):
        ApiKey.objects.create(**key)


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("audit_entry_names_its_actor", {"actor_label": ""}),
        ("audit_entry_verb_is_a_noun_and_what_was_done", {"verb": "Did something"}),
    ],
)
def test_the_database_refuses_an_audit_entry_with_a_bad(rule: str, values: dict[str, object]) -> None:
    entry = {"at": NOON, "actor_label": "somebody", "verb": "customer.opened", "subject_type": "t", "subject_id": "1"}

    with refused(rule):
        AuditEntry.objects.create(**(entry | values))


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("customer_currency_is_a_code", {"currency": "eur"}),
        ("customer_country_is_a_code", {"country": "D"}),
        ("customer_tax_treatment_is_known", {"tax_treatment": "none"}),
        ("customer_terms_are_within_a_year", {"payment_terms_days": 366}),
    ],
)
def test_the_database_refuses_a_customer_with_a_bad(rule: str, values: dict[str, Any]) -> None:
    customer = {"legal_entity": make.legal_entity(), "code": "C-1", "name": "Acme", "currency": "EUR"} | values

    with refused(rule):
        Customer.objects.create(**customer)


def test_the_database_refuses_two_customers_with_one_number(acme: Customer) -> None:
    with refused("customer_code_is_unique"):
        Customer.objects.create(
            legal_entity=acme.legal_entity,
            code=acme.code,
            name="Other",
            currency="EUR",
        )


def test_the_database_refuses_a_customer_as_its_own_parent(acme: Customer) -> None:
    found = Customer.objects.filter(pk=acme.pk)

    with refused("customer_is_not_its_own_parent"):
        found.update(parent=acme)


@pytest.mark.parametrize("column", ["currency", "legal_entity"])
def test_the_database_refuses_to_move_a_customer_to_another(acme: Customer, column: str) -> None:
    value = "USD" if column == "currency" else make.legal_entity()

    with refused("keeps the legal entity and the currency"):
        Customer.objects.filter(pk=acme.pk).update(**{column: value})


@pytest.mark.parametrize(("column", "value"), [("currency", "USD"), ("time_zone", "UTC")])
def test_the_database_refuses_to_move_a_legal_entity_to_another(column: str, value: str) -> None:
    entity = make.legal_entity()

    with refused("keeps its currency and its time zone"):
        LegalEntity.objects.filter(pk=entity.pk).update(**{column: value})


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("legal_entity_currency_is_a_code", {"currency": "euro"[:3]}),
        ("legal_entity_country_is_a_code", {"country": "de"}),
        ("legal_entity_tax_rate_is_a_percentage", {"tax_rate": 101}),
        ("legal_entity_tax_rate_is_a_percentage", {"tax_rate": -1}),
        ("legal_entity_bills_on_the_hour", {"time_zone": "Asia/Kolkata"}),
        ("legal_entity_bills_on_the_hour", {"time_zone": "Australia/Lord_Howe"}),
    ],
)
def test_the_database_refuses_a_legal_entity_with_a_bad(rule: str, values: dict[str, Any]) -> None:
    entity = {"code": "e", "name": "E", "email": "e@e.example", "currency": "EUR"} | values

    with refused(rule):
        LegalEntity.objects.create(**entity)


def test_the_database_refuses_two_legal_entities_with_one_code() -> None:
    code = make.legal_entity().code

    with refused("legal_entity_code_is_unique"):
        LegalEntity.objects.create(code=code, name="E", currency="EUR")


def test_the_database_refuses_one_address_twice_at_a_customer(acme: Customer) -> None:
    make.contact(customer=acme, email="ap@acme.example")

    with refused("contact_email_is_unique_per_customer"):
        Contact.objects.create(customer=acme, name="Other", email="AP@acme.example")


def test_the_database_refuses_two_members_of_staff_with_one_address() -> None:
    email = make.staff().email

    with refused("user_email_is_unique"):
        User.objects.create(email=email, name="Other")


def test_the_database_refuses_an_address_of_staff_in_capital_letters() -> None:
    with refused("user_email_is_in_lower_case"):
        User.objects.create(email="Ada@house.example", name="Ada")


def test_the_database_refuses_to_delete_what_others_hang_on(acme: Customer) -> None:
    def delete() -> None:
        execute("DELETE FROM accounts_legalentity WHERE id = %s", acme.legal_entity_id)
        execute("SET CONSTRAINTS ALL IMMEDIATE")

    with refused("violates foreign key"):
        delete()


def test_roles_are_groups_with_exactly_their_permissions() -> None:
    approver = make.actor(Role.PRICING_APPROVER)

    assert approver.permissions == {"view_customers", "view_usage", "view_prices", "approve_prices"}
