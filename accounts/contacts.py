"""Keeps the people at a customer, and who of them receives the invoices."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.errors import ContactUnknown, CustomerUnknown, DetailsInvalid
from accounts.models import Contact, Customer
from accounts.validation import change_fields, require_reason, require_valid


@transaction.atomic
def add_contact(
    *,
    customer_id: int,
    name: str,
    email: str,
    receives_invoices: bool = False,
    actor: Actor,
    at: datetime,
) -> Contact:
    """Add a person to a customer. The same address with the same name and purpose again returns the first contact.

    Raises: PermissionMissing, CustomerUnknown, DetailsInvalid (also when the address is there for another name).
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    customer = Customer.objects.select_for_update(no_key=True).filter(pk=customer_id).first()
    if customer is None:
        raise CustomerUnknown
    contact = Contact(customer=customer, name=name, email=email.strip(), receives_invoices=receives_invoices)
    require_valid(contact)
    same = customer.contacts.filter(email__iexact=contact.email).first()
    if same is not None:
        if (same.name, same.receives_invoices) == (name, receives_invoices):
            return same
        raise DetailsInvalid({"email": [f"{customer.name} already has a contact with the address {same.email}."]})

    history.save(contact, actor=actor, at=at)
    audit.record(actor=actor, verb="contact.added", subject=contact, at=at, data={"customer": customer.code})
    return contact


@transaction.atomic
def change_contact(
    *,
    contact_id: int,
    name: str,
    email: str,
    receives_invoices: bool,
    reason: str,
    actor: Actor,
    at: datetime,
) -> Contact:
    """Replace what is kept about a contact. Changing nothing writes nothing.

    Raises: PermissionMissing, ReasonMissing, ContactUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    contact = _lock(contact_id)
    changes = change_fields(contact, {"name": name, "email": email.strip(), "receives_invoices": receives_invoices})
    if not changes:
        return contact
    if Contact.objects.filter(customer=contact.customer, email__iexact=contact.email).exclude(pk=contact.pk).exists():
        raise DetailsInvalid({"email": [f"{contact.customer.name} already has a contact with this address."]})

    history.save(contact, update_fields=list(changes), reason=reason, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="contact.changed",
        subject=contact,
        at=at,
        reason=reason,
        data={"changes": changes},
    )
    return contact


@transaction.atomic
def remove_contact(*, contact_id: int, reason: str, actor: Actor, at: datetime) -> None:
    """Remove a person who no longer speaks for the customer; history and documents keep what they hold.

    Raises: PermissionMissing, ReasonMissing, ContactUnknown.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    contact = _lock(contact_id)
    audit.record(actor=actor, verb="contact.removed", subject=contact, at=at, reason=reason)
    history.delete(contact, reason=reason, actor=actor, at=at)


def _lock(contact_id: int) -> Contact:
    """Lock the customer and re-read the contact, in the order in which contacts are added."""
    found = Contact.objects.filter(pk=contact_id).first()
    if found is None:
        raise ContactUnknown
    Customer.objects.select_for_update(no_key=True).get(pk=found.customer_id)
    contact = Contact.objects.select_related("customer").filter(pk=contact_id).first()
    if contact is None:
        raise ContactUnknown
    return contact
