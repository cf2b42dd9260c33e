"""The records in the admin, through Django's test client: rights, verbs, reasons, history."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from accounts import approvals, staff
from accounts.access import Actor, Role
from accounts.api_keys import authenticate_api_key
from accounts.models import ApiKey, ApprovalPolicy, AuditEntry, Contact, Customer, LegalEntity, User
from tests import make_accounts as make
from tests.accounts.conftest import NOON, Effects

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]
EMPTY_CONTACTS = {"contacts-TOTAL_FORMS": "0", "contacts-INITIAL_FORMS": "0"}


@pytest.fixture
def sign_in() -> SignIn:
    def sign_in(*roles: Role) -> Client:
        client = Client()
        client.force_login(make.staff(*roles))
        return client

    return sign_in


def changelist(model: type[Any]) -> str:
    return reverse(f"admin:accounts_{model._meta.model_name}_changelist")


def add(model: type[Any]) -> str:
    return reverse(f"admin:accounts_{model._meta.model_name}_add")


def change(record: Any) -> str:
    return reverse(f"admin:accounts_{record._meta.model_name}_change", args=[record.pk])


def act(record: Any, name: str) -> str:
    return reverse(f"admin:accounts_{record._meta.model_name}_{name}", args=[record.pk])


def of_customer(customer: Customer, **changes: Any) -> dict[str, Any]:
    """Return what the form of a customer posts."""
    names = (
        *("name", "address_line1", "address_line2", "postal_code", "city", "region", "country", "tax_id"),
        *("tax_treatment", "payment_terms_days", "locale", "purchase_order"),
    )
    return {name: getattr(customer, name) for name in names} | {"parent": ""} | EMPTY_CONTACTS | changes


def test_who_signs_in_with_an_address_and_a_password_comes_in(client: Client) -> None:
    make.staff(Role.ADMINISTRATOR, email="ada@countinghouse.example", password=make.PASSWORD)

    answer = client.post(
        reverse("admin:login"),
        {"username": "Ada@Countinghouse.example", "password": make.PASSWORD, "next": changelist(User)},
    )

    assert answer.status_code == 302
    assert client.get(changelist(User)).status_code == 200


def test_nobody_comes_in_without_signing_in(client: Client) -> None:
    assert client.get(reverse("admin:login")).status_code == 200
    assert client.get(changelist(Customer)).status_code == 302


@pytest.mark.parametrize(
    ("model", "roles"),
    [
        (Customer, set(Role)),
        (LegalEntity, set(Role) - {Role.PRODUCT_MANAGER, Role.PRICING_APPROVER}),
        (User, {Role.ADMINISTRATOR}),
        (ApiKey, {Role.ADMINISTRATOR}),
        (ApprovalPolicy, {Role.ADMINISTRATOR, Role.FINANCE_CONTROLLER, Role.AUDITOR}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_list_is_for_those_who_may_see_it(sign_in: SignIn, model: type[Any], roles: set[Role]) -> None:
    seen = {role for role in Role if sign_in(role).get(changelist(model)).status_code == 200}

    assert seen == roles


def test_lists_show_their_records_and_find_them(sign_in: SignIn, acme: Customer, effects: Effects) -> None:
    make.api_key(customer=acme)
    client = sign_in(Role.ADMINISTRATOR, Role.FINANCE_ANALYST)

    for model, wanted in ((Customer, "Acme"), (LegalEntity, "Stratus"), (User, "Finance analyst"), (ApiKey, "valid")):
        assert wanted in client.get(changelist(model)).content.decode()
    assert "Acme" not in client.get(changelist(Customer), {"q": "nobody"}).content.decode()
    assert "Acme" in client.get(changelist(Customer), {"q": acme.code, "is_active__exact": "1"}).content.decode()


def test_a_customer_is_opened_with_contacts(sign_in: SignIn) -> None:
    entity = make.legal_entity(currency="EUR")
    blank = Customer(name="Beta", legal_entity=entity, country="DE", city="Bonn", address_line1="Markt 1")

    answer = sign_in(Role.FINANCE_ANALYST).post(
        add(Customer),
        of_customer(
            blank,
            code="B-1",
            currency="",
            legal_entity=entity.pk,
            **{
                "contacts-TOTAL_FORMS": "1",
                "contacts-0-name": "Bo",
                "contacts-0-email": "bo@beta.example",
                "contacts-0-receives_invoices": "on",
            },
        ),
    )

    assert answer.status_code == 302, answer.context["errors"]
    beta = Customer.objects.get(code="B-1")
    assert (beta.currency, beta.city) == ("EUR", "Bonn")
    assert beta.contacts.get().receives_invoices
    assert AuditEntry.objects.filter(verb__in=["customer.opened", "contact.added"], actor__isnull=False).count() == 2


def test_an_edit_needs_a_reason_and_keeps_it_in_the_history(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.FINANCE_ANALYST)

    without = client.post(change(acme), of_customer(acme, city="Cork"))
    acme.refresh_from_db()
    assert (without.status_code, acme.city) == (200, "Dublin")
    client.post(change(acme), of_customer(acme, city="Cork", reason="They moved."), headers={"X-Request-ID": "req-1"})

    acme.refresh_from_db()
    latest = acme.history.latest()
    assert (acme.city, latest.history_change_reason, latest.request_id) == ("Cork", "They moved.", "req-1")
    assert acme.history.count() == 2
    history = client.get(reverse("admin:accounts_customer_history", args=[acme.pk])).content.decode()
    assert "They moved." in history
    assert "req-1" in history
    assert "Cork" in history


def test_one_version_of_the_history_is_shown_but_never_brought_back(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.FINANCE_ANALYST)
    version = reverse("admin:accounts_customer_simple_history", args=[acme.pk, acme.history.get().history_id])

    shown = client.get(version)
    reverted = client.post(version, of_customer(acme, name="Forged", reason="Because."))

    acme.refresh_from_db()
    assert (shown.status_code, reverted.status_code, acme.name) == (200, 403, "Acme")


def test_a_version_of_the_history_is_no_form_and_leads_to_the_others(sign_in: SignIn, acme: Customer) -> None:
    version = reverse("admin:accounts_customer_simple_history", args=[acme.pk, acme.history.get().history_id])
    history = reverse("admin:accounts_customer_history", args=[acme.pk])

    analyst, support = (sign_in(role).get(version).content.decode() for role in (Role.FINANCE_ANALYST, Role.SUPPORT))

    for shown in (analyst, support):
        assert 'name="name"' not in shown
        assert acme.name in shown
        assert f'href="{history}"' in shown
    assert "To bring something of it back" in analyst
    assert "To bring something of it back" not in support


def test_contacts_are_changed_and_removed_with_their_customer(sign_in: SignIn, acme: Customer) -> None:
    ada, bob = make.contact(customer=acme, email="a@acme.example"), make.contact(customer=acme, email="b@acme.example")
    rows = {
        "contacts-TOTAL_FORMS": "2",
        "contacts-INITIAL_FORMS": "2",
        "contacts-0-id": ada.pk,
        "contacts-0-customer": acme.pk,
        "contacts-0-name": "Ada Byron",
        "contacts-0-email": ada.email,
        "contacts-1-id": bob.pk,
        "contacts-1-customer": acme.pk,
        "contacts-1-name": bob.name,
        "contacts-1-email": bob.email,
        "contacts-1-DELETE": "on",
    }

    answer = sign_in(Role.FINANCE_ANALYST).post(change(acme), of_customer(acme, reason="People changed.", **rows))

    assert answer.status_code == 302
    assert [contact.name for contact in acme.contacts.all()] == ["Ada Byron"]
    assert Contact.history.filter(history_change_reason="People changed.").count() == 2


def test_a_refusal_of_the_verb_is_a_message_and_nothing_is_saved(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.FINANCE_ANALYST)

    answer = client.post(change(acme), of_customer(acme, parent=acme.pk, reason="A mistake."), follow=True)

    assert "above itself" in answer.content.decode()
    assert acme.history.count() == 1


def test_who_may_only_look_cannot_edit(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.SUPPORT)

    shown = client.get(change(acme))
    posted = client.post(change(acme), of_customer(acme, name="Forged", reason="Because."))

    acme.refresh_from_db()
    assert (shown.status_code, posted.status_code, acme.name) == (200, 403, "Acme")
    assert client.get(add(Customer)).status_code == 403


def test_what_was_settled_at_the_opening_stays(sign_in: SignIn, acme: Customer) -> None:
    other = make.legal_entity()

    sign_in(Role.FINANCE_ANALYST).post(
        change(acme),
        of_customer(acme, currency="USD", code="X", legal_entity=other.pk, reason="Because."),
    )

    again = Customer.objects.get(pk=acme.pk)
    assert (again.currency, again.code, again.legal_entity_id) == (acme.currency, acme.code, acme.legal_entity_id)


def test_a_customer_is_deactivated_through_a_dialog_that_asks_why(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.FINANCE_ANALYST)

    dialog = client.get(act(acme, "deactivate"))
    unexplained = client.post(act(acme, "deactivate"), {"_form_submitted": "True"})
    done = client.post(act(acme, "deactivate"), {"_form_submitted": "True", "reason": "Insolvent."})

    acme.refresh_from_db()
    assert "Deactivate this customer" in dialog.content.decode()
    assert "HX-Redirect" not in unexplained.headers
    assert (done.headers["HX-Redirect"], acme.is_active) == (change(acme), False)
    assert client.post(act(acme, "deactivate"), {"_form_submitted": "True", "reason": "Again."}).status_code == 403
    client.post(act(acme, "reactivate"), {"_form_submitted": "True", "reason": "Solvent."})
    acme.refresh_from_db()
    assert acme.is_active


@pytest.mark.parametrize("model", [Customer, LegalEntity, User, ApiKey, ApprovalPolicy])
def test_nothing_of_record_can_be_deleted(sign_in: SignIn, acme: Customer, model: type[Any]) -> None:
    make.api_key()
    ApprovalPolicy.objects.create(kind="customer_terms", permission="approve_prices")
    client = sign_in(*Role)
    record = model.objects.first()

    answers = [
        client.post(reverse(f"admin:accounts_{model._meta.model_name}_delete", args=[record.pk]), {"post": "yes"}),
        client.post(changelist(model), {"action": "delete_selected", "_selected_action": [record.pk], "post": "yes"}),
    ]

    assert answers[0].status_code == 403
    assert model.objects.filter(pk=record.pk).exists()


def test_permissions_are_not_edited_behind_the_back_of_the_roles() -> None:
    assert not site.is_registered(Group)


def test_a_legal_entity_is_opened_and_changed(sign_in: SignIn) -> None:
    client = sign_in(Role.FINANCE_CONTROLLER)
    form = {
        "name": "Stratus Ltd",
        "code": "stratus",
        "currency": "GBP",
        "time_zone": "Europe/London",
        "email": "billing@stratus.example",
        "tax_name": "VAT",
        "tax_rate": "20",
    }

    opened = client.post(add(LegalEntity), form)
    assert opened.status_code == 302, opened.context["errors"]
    stratus = LegalEntity.objects.get(code="stratus")
    client.post(change(stratus), form | {"city": "London", "time_zone": "UTC", "reason": "An office."})

    stratus.refresh_from_db()
    assert (stratus.city, stratus.time_zone) == ("London", "Europe/London")
    assert stratus.history.latest().history_change_reason == "An office."


def test_a_bad_time_zone_is_named_at_its_field(sign_in: SignIn) -> None:
    form = {"name": "S", "code": "s", "currency": "GBP", "time_zone": "London", "email": "b@s.example", "tax_rate": "0"}

    answer = sign_in(Role.FINANCE_CONTROLLER).post(add(LegalEntity), form)

    assert "is not a time zone" in answer.content.decode()


def test_a_member_of_staff_is_invited_and_given_other_roles(sign_in: SignIn) -> None:
    client = sign_in(Role.ADMINISTRATOR)
    person = {"email": "bo@countinghouse.example", "name": "Bo", "is_active": "on"}

    client.post(add(User), person | {"roles": [Role.SUPPORT], "password": make.PASSWORD})
    bo = User.objects.get(email="bo@countinghouse.example")
    assert (staff.roles_of(bo), bo.check_password(make.PASSWORD)) == ({Role.SUPPORT}, True)
    shown = client.get(change(bo)).content.decode()
    client.post(
        change(bo),
        {"name": "Bo Diddley", "roles": [Role.AUDITOR], "reason": "New tasks."},
    )

    bo.refresh_from_db()
    assert "Reset password" in shown
    assert (bo.name, bo.is_active, staff.roles_of(bo)) == ("Bo Diddley", False, {Role.AUDITOR})


def test_nobody_gives_themselves_a_role(sign_in: SignIn) -> None:
    client = sign_in(Role.ADMINISTRATOR)
    me = User.objects.get(pk=client.session["_auth_user_id"])

    answer = client.post(
        change(me),
        {"name": me.name, "roles": list(Role), "is_active": "on", "reason": "Why not."},
        follow=True,
    )

    assert "Nobody changes their own roles" in answer.content.decode()
    assert staff.roles_of(me) == {Role.ADMINISTRATOR}


def test_a_password_is_reset_through_a_dialog(sign_in: SignIn) -> None:
    bo = make.staff(Role.SUPPORT)
    words = {"_form_submitted": "True", "reason": "Forgotten."}

    weak = sign_in(Role.ADMINISTRATOR).post(act(bo, "reset_password"), words | {"password": "123"})
    bo.refresh_from_db()
    assert ("HX-Redirect" in weak.headers, bo.has_usable_password()) == (True, False)
    sign_in(Role.ADMINISTRATOR).post(act(bo, "reset_password"), words | {"password": make.PASSWORD})

    bo.refresh_from_db()
    assert bo.check_password(make.PASSWORD)


def test_a_secret_is_shown_once(sign_in: SignIn, acme: Customer) -> None:
    client = sign_in(Role.ADMINISTRATOR)

    issued = client.post(add(ApiKey), {"name": "Fleet", "scopes": ["events:write"], "customer": acme.pk})

    secret = issued.context["issued"].secret
    assert secret in issued.content.decode()
    assert "no-store" in issued.headers["Cache-Control"]
    key = authenticate_api_key(authorization_header=f"Bearer {secret}", scope="events:write", at=NOON)
    assert key.customer_id == acme.pk
    for page in (changelist(ApiKey), change(key)):
        assert secret.rpartition("_")[2] not in client.get(page).content.decode()


def test_a_key_of_a_source_is_issued_and_listed_with_it(sign_in: SignIn) -> None:
    client = sign_in(Role.ADMINISTRATOR)

    client.post(add(ApiKey), {"name": "Fleet", "scopes": ["events:write"], "source": "cluster/7"})
    refused = client.post(add(ApiKey), {"name": "Reader", "scopes": ["usage:read"], "source": "cluster/8"})

    assert ApiKey.objects.get().source == "cluster/7"
    assert "cluster/7" in client.get(changelist(ApiKey)).content.decode()
    assert "tied to a source" in refused.content.decode()


def test_an_api_key_is_revoked_never_edited(sign_in: SignIn) -> None:
    client = sign_in(Role.ADMINISTRATOR)
    key = make.api_key("events:write").key

    edited = client.post(change(key), {"name": "Forged", "scopes": ["usage:read"]})
    client.post(act(key, "revoke"), {"_form_submitted": "True", "reason": "Leaked."})

    key.refresh_from_db()
    assert (edited.status_code, key.name) == (403, "Test sender")
    assert key.revoked_at is not None
    assert "revoked" in client.get(changelist(ApiKey)).content.decode()
    assert client.get(act(key, "revoke")).status_code == 403


def test_a_policy_is_set_for_a_kind_that_exists(sign_in: SignIn, effects: Effects) -> None:
    client = sign_in(Role.ADMINISTRATOR)
    form = {"kind": "customer_terms", "from_amount": "1000", "permission": "approve_prices", "approvals_required": "2"}

    unexplained = client.post(add(ApprovalPolicy), form)
    client.post(add(ApprovalPolicy), form | {"why": "Large ones."})
    policy = ApprovalPolicy.objects.get()
    client.post(
        change(policy),
        {"permission": "approve_prices", "approvals_required": "3", "reason": "Larger still."},
    )

    policy.refresh_from_db()
    assert unexplained.status_code == 200
    assert (policy.kind, policy.approvals_required) == ("customer_terms", 3)
    reasons = policy.history.order_by("history_id").values_list("history_change_reason", flat=True)
    assert list(reasons) == ["Large ones.", "Larger still."]
    assert approvals.policy_for(kind="customer_terms", amount=Decimal(1000)).approvals_required == 3


@pytest.mark.parametrize("model", [Customer, LegalEntity, User, ApiKey])
def test_a_list_takes_as_many_queries_for_fifty_as_for_one(
    sign_in: SignIn,
    model: type[Any],
    django_assert_num_queries: Any,
    django_assert_max_num_queries: Any,
) -> None:
    client = sign_in(Role.ADMINISTRATOR)
    entity = make.legal_entity()
    make.api_key(customer=make.customer(entity=entity))
    client.get(changelist(model))
    with django_assert_max_num_queries(40) as few:
        client.get(changelist(model))

    for _ in range(20):
        make.legal_entity()
        make.staff(Role.SUPPORT, Role.AUDITOR)
        make.api_key(customer=make.customer(entity=entity))

    with django_assert_num_queries(len(few)):
        client.get(changelist(model))


def test_a_deactivated_person_is_out_at_once(sign_in: SignIn, administrator: Actor) -> None:
    client = sign_in(Role.FINANCE_ANALYST)
    assert client.get(changelist(Customer)).status_code == 200

    person = int(client.session["_auth_user_id"])
    staff.deactivate_staff(user_id=person, reason="Left.", actor=administrator, at=NOON)

    assert client.get(changelist(Customer)).status_code == 302
