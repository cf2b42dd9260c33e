"""Builders for who: staff, legal entities, customers, keys. They act as the house itself, through the verbs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

from django.contrib.auth.models import Group

from accounts.access import Actor, Role, sync_roles
from accounts.api_keys import IssuedKey, issue_api_key
from accounts.contacts import add_contact
from accounts.customers import CustomerDetails, open_customer
from accounts.legal_entities import LegalEntityDetails, open_legal_entity
from accounts.models import Contact, Customer, LegalEntity, User
from accounts.postal import Address
from accounts.staff import invite_staff

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
PASSWORD = "correct horse battery staple"
BERLIN = Address(address_line1="Lindenstraße 9", postal_code="10969", city="Berlin", country="DE")
# Keys begin at 1, and a sequence goes on from test to test: any higher number is somebody's sooner or later.
UNKNOWN_ID = 0
DUBLIN = Address(address_line1="1 Grand Canal Square", postal_code="D02 P820", city="Dublin", country="IE")

_number = count(1)


def staff(*roles: Role, name: str = "", email: str = "", password: str | None = None) -> User:
    """Make a member of staff who holds these roles; without a password, which takes a while to hash."""
    if not Group.objects.filter(name=Role.ADMINISTRATOR).exists():
        sync_roles()
    number = next(_number)
    return invite_staff(
        email=email or f"person{number}@countinghouse.example",
        name=name or f"Person {number}",
        roles=roles,
        password=password,
        actor=Actor.system("tests"),
        at=LONG_AGO,
    )


def actor(*roles: Role, name: str = "") -> Actor:
    """Make a member of staff and return them as an actor."""
    return Actor.of(staff(*roles, name=name))


def legal_entity(
    *,
    code: str = "",
    name: str = "Stratus Compute GmbH",
    currency: str = "EUR",
    time_zone: str = "Europe/Berlin",
    tax_rate: str = "19",
    address: Address = BERLIN,
) -> LegalEntity:
    """Open a company of the operator; German, in euros, unless told otherwise."""
    return open_legal_entity(
        code=code or f"entity-{next(_number)}",
        currency=currency,
        time_zone=time_zone,
        details=LegalEntityDetails(
            name=name,
            email="billing@stratus.example",
            address=address,
            registration="HRB 12345, Amtsgericht Berlin",
            tax_id="DE123456789",
            bank_name="Beispielbank",
            bank_account="DE02120300000000202051",
            bank_code="BYLADEM1001",
            tax_rate=Decimal(tax_rate),
        ),
        actor=Actor.system("tests"),
        at=LONG_AGO,
    )


def customer(
    *,
    entity: LegalEntity | None = None,
    code: str = "",
    name: str = "Acme Robotics Ltd",
    currency: str = "",
    address: Address = DUBLIN,
    tax_treatment: str = Customer.TaxTreatment.STANDARD,
    payment_terms_days: int = 30,
    locale: str = "en_US",
) -> Customer:
    """Open a customer, of a company of its own unless one is given."""
    return open_customer(
        legal_entity_id=(entity or legal_entity()).pk,
        code=code or f"C-{next(_number):04d}",
        currency=currency,
        details=CustomerDetails(
            name=name,
            address=address,
            tax_treatment=tax_treatment,
            payment_terms_days=payment_terms_days,
            locale=locale,
        ),
        actor=Actor.system("tests"),
        at=LONG_AGO,
    )


def contact(*, customer: Customer, email: str = "", receives_invoices: bool = True) -> Contact:
    """Add a person to a customer, who receives invoices unless told otherwise."""
    return add_contact(
        customer_id=customer.pk,
        name="Ada Payable",
        email=email or f"ap{next(_number)}@customer.example",
        receives_invoices=receives_invoices,
        actor=Actor.system("tests"),
        at=LONG_AGO,
    )


def api_key(
    *scopes: str,
    customer: Customer | None = None,
    source: str = "",
    expires_at: datetime | None = None,
    at: datetime = LONG_AGO,
) -> IssuedKey:
    """Issue an API key with these scopes (all of them when none is named)."""
    wanted: Collection[str] = scopes or ("events:write", "usage:read", "invoices:read")
    return issue_api_key(
        name="Test sender",
        scopes=wanted,
        customer_id=customer.pk if customer else None,
        source=source,
        expires_at=expires_at,
        actor=Actor.system("tests"),
        at=at,
    )
