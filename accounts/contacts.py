"""Keeps the people at a customer, and who of them receives the invoices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRow:
    """One row of a list of contacts as somebody edited it; without an id it is new."""

    contact_id: int | None
    name: str
    email: str
    receives_invoices: bool
    is_removed: bool = False


@transaction.atomic
def change_contacts(
    *,
    customer_id: int,
    rows: Sequence[ContactRow],
    reason: str,
    actor: Actor,
    at: datetime,
) -> None:
    """Add, change and remove contacts of one customer as the rows say, each by its own verb, all or nothing.

    Raises: what the verbs raise; ContactUnknown also for the contact of another customer.
    """
    own = set(Contact.objects.filter(customer_id=customer_id).values_list("pk", flat=True))
    for row in rows:
        if row.contact_id is not None and row.contact_id not in own:
            raise ContactUnknown
    for row in sorted(rows, key=lambda row: not row.is_removed):
        _change_row(customer_id, row, reason=reason, actor=actor, at=at)


def _change_row(customer_id: int, row: ContactRow, *, reason: str, actor: Actor, at: datetime) -> None:
    if row.contact_id is not None and row.is_removed:
        remove_contact(contact_id=row.contact_id, reason=reason, actor=actor, at=at)
    elif row.contact_id is not None:
        change_contact(
            contact_id=row.contact_id,
            name=row.name,
            email=row.email,
            receives_invoices=row.receives_invoices,
            reason=reason,
            actor=actor,
            at=at,
        )
    elif not row.is_removed:
        add_contact(
            customer_id=customer_id,
            name=row.name,
            email=row.email,
            receives_invoices=row.receives_invoices,
            actor=actor,
            at=at,
        )


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
