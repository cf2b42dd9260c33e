from __future__ import annotations

import pytest

from accounts import contacts
from accounts.access import Actor
from accounts.errors import ContactUnknown, CustomerUnknown, DetailsInvalid, PermissionMissing, ReasonMissing
from accounts.models import AuditEntry, Contact, Customer
from tests import make_accounts as make
from tests.accounts.conftest import NOON

pytestmark = pytest.mark.django_db

WHY = "She married."


def add_ada(acme: Customer, actor: Actor, *, email: str = "ada@acme.example", name: str = "Ada") -> Contact:
    return contacts.add_contact(
        customer_id=acme.pk,
        name=name,
        email=email,
        receives_invoices=True,
        actor=actor,
        at=NOON,
    )


def change_ada(ada: Contact, actor: Actor, *, email: str = "ada@acme.example", reason: str = WHY) -> Contact:
    return contacts.change_contact(
        contact_id=ada.pk,
        name="Ada Byron",
        email=email,
        receives_invoices=False,
        reason=reason,
        actor=actor,
        at=NOON,
    )


def test_a_contact_is_added_once(acme: Customer, analyst: Actor) -> None:
    first = add_ada(acme, analyst)

    second = add_ada(acme, analyst)

    assert first == second
    assert first.history.get().history_user_id == analyst.user_id
    assert AuditEntry.objects.get(verb="contact.added").data == {"customer": acme.code}


def test_one_address_is_one_person_at_a_customer(acme: Customer, analyst: Actor) -> None:
    add_ada(acme, analyst)

    with pytest.raises(DetailsInvalid, match="already has a contact"):
        add_ada(acme, analyst, name="Bob", email="ADA@acme.example")


def test_the_same_person_may_stand_for_two_customers(acme: Customer, analyst: Actor) -> None:
    add_ada(acme, analyst)

    add_ada(make.customer(), analyst)

    assert Contact.objects.count() == 2


def test_adding_needs_a_valid_address_a_customer_and_the_permission(
    acme: Customer,
    analyst: Actor,
    product_manager: Actor,
) -> None:
    with pytest.raises(DetailsInvalid):
        add_ada(acme, analyst, email="not an address")
    with pytest.raises(CustomerUnknown):
        contacts.add_contact(customer_id=make.UNKNOWN_ID, name="Ada", email="a@b.example", actor=analyst, at=NOON)
    with pytest.raises(PermissionMissing):
        add_ada(acme, product_manager)


def test_a_contact_is_changed_with_a_reason(acme: Customer, analyst: Actor) -> None:
    ada = add_ada(acme, analyst)

    changed = change_ada(ada, analyst)
    change_ada(ada, analyst)

    assert (changed.name, changed.receives_invoices) == ("Ada Byron", False)
    assert changed.history.latest().history_change_reason == WHY
    assert AuditEntry.objects.filter(verb="contact.changed").count() == 1


def test_changing_needs_a_reason_a_contact_a_free_address_and_the_permission(
    acme: Customer,
    analyst: Actor,
    product_manager: Actor,
) -> None:
    ada = add_ada(acme, analyst)
    bob = add_ada(acme, analyst, name="Bob", email="bob@acme.example")

    with pytest.raises(ReasonMissing):
        change_ada(ada, analyst, reason="")
    with pytest.raises(ContactUnknown):
        change_ada(Contact(pk=make.UNKNOWN_ID), analyst)
    with pytest.raises(DetailsInvalid, match="already has a contact"):
        change_ada(ada, analyst, email=bob.email)
    with pytest.raises(PermissionMissing):
        change_ada(ada, product_manager)


def test_a_removed_contact_lives_on_in_history(acme: Customer, analyst: Actor) -> None:
    ada = add_ada(acme, analyst)

    contacts.remove_contact(contact_id=ada.pk, reason="Left Acme.", actor=analyst, at=NOON)

    last = Contact.history.latest()
    assert not Contact.objects.exists()
    assert (last.history_type, last.name, last.history_change_reason) == ("-", "Ada", "Left Acme.")
    assert AuditEntry.objects.get(verb="contact.removed").reason == "Left Acme."


def test_removing_needs_a_reason_a_contact_and_the_permission(
    acme: Customer,
    analyst: Actor,
    product_manager: Actor,
) -> None:
    ada = add_ada(acme, analyst)

    with pytest.raises(ReasonMissing):
        contacts.remove_contact(contact_id=ada.pk, reason="", actor=analyst, at=NOON)
    with pytest.raises(ContactUnknown):
        contacts.remove_contact(contact_id=make.UNKNOWN_ID, reason=WHY, actor=analyst, at=NOON)
    with pytest.raises(PermissionMissing):
        contacts.remove_contact(contact_id=ada.pk, reason=WHY, actor=product_manager, at=NOON)
