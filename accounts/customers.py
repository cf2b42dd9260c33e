"""Opens customers and keeps their details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime

from django.db import connection, transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.errors import CustomerCodeTaken, CustomerUnknown, DetailsInvalid, LegalEntityUnknown
from accounts.models import Customer, LegalEntity
from accounts.postal import Address
from accounts.validation import change_fields, require_reason, require_valid


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerDetails:
    """What staff may change about a customer; the legal entity and the currency are settled when it is opened."""

    name: str
    address: Address = field(default_factory=Address)
    tax_id: str = ""
    tax_treatment: str = Customer.TaxTreatment.STANDARD
    payment_terms_days: int = 30
    locale: str = "en_US"
    purchase_order: str = ""
    parent_id: int | None = None

    def values(self) -> dict[str, object]:
        """Return the details by the names of the model's fields."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "address"}
        return own | asdict(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    """A customer to be opened; without a currency, in the currency of its legal entity."""

    code: str
    details: CustomerDetails
    currency: str = ""


def open_customer(
    *,
    legal_entity_id: int,
    code: str,
    details: CustomerDetails,
    currency: str = "",
    actor: Actor,
    at: datetime,
) -> Customer:
    """Open one customer; `code` is the customer number, `currency` an ISO 4217 code (empty: the legal entity's).

    The same code with the same legal entity, name and currency again returns the customer opened the first time.

    Raises: PermissionMissing, LegalEntityUnknown, CustomerUnknown (the parent), DetailsInvalid, CustomerCodeTaken.
    """
    new = NewCustomer(code=code, details=details, currency=currency)
    return open_customers(legal_entity_id=legal_entity_id, customers=[new], actor=actor, at=at)[0]


@transaction.atomic
def open_customers(
    *,
    legal_entity_id: int,
    customers: Sequence[NewCustomer],
    actor: Actor,
    at: datetime,
) -> list[Customer]:
    """Open many customers of one legal entity at once, all or none, in the order given; see `open_customer`."""
    actor.require(Permission.EDIT_CUSTOMERS)
    entity = LegalEntity.objects.filter(pk=legal_entity_id).first()
    if entity is None:
        raise LegalEntityUnknown
    wanted = [_unsaved(entity, new, at=at) for new in customers]
    _require_parents({customer.parent_id for customer in wanted if customer.parent_id is not None})

    existing = Customer.objects.in_bulk([customer.code for customer in wanted], field_name="code")
    for customer in wanted:
        _require_same(customer, existing.get(customer.code))
    opened = [customer for customer in wanted if customer.code not in existing]
    with named("customer_code_is_unique", CustomerCodeTaken):
        history.bulk_create(opened, model=Customer, actor=actor, at=at)
    audit.record_many(actor=actor, verb="customer.opened", subjects=opened, at=at)
    return [existing.get(customer.code, customer) for customer in wanted]


@transaction.atomic
def change_customer(
    *,
    customer_id: int,
    details: CustomerDetails,
    reason: str,
    actor: Actor,
    at: datetime,
) -> Customer:
    """Replace a customer's details; issued documents keep what they printed. Changing nothing writes nothing.

    Raises: PermissionMissing, ReasonMissing, CustomerUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    if details.parent_id is not None:
        _lock_hierarchy()
        _require_parents({details.parent_id})
    customer = _lock(customer_id)
    _require_no_circle(customer, details.parent_id)
    _change(customer, details.values(), reason=reason, actor=actor, at=at)
    return customer


@transaction.atomic
def change_address(*, customer_id: int, address: Address, reason: str, actor: Actor, at: datetime) -> Customer:
    """Replace a customer's address; issued documents keep the one they printed.

    Raises: PermissionMissing, ReasonMissing, CustomerUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    customer = _lock(customer_id)
    _change(customer, asdict(address), reason=reason, actor=actor, at=at)
    return customer


@transaction.atomic
def deactivate_customer(*, customer_id: int, reason: str, actor: Actor, at: datetime) -> Customer:
    """Mark a customer as no longer in business with us; nothing of record goes away. Twice changes nothing.

    Raises: PermissionMissing, ReasonMissing, CustomerUnknown.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    customer = _lock(customer_id)
    _change(customer, {"is_active": False}, verb="customer.deactivated", reason=reason, actor=actor, at=at)
    return customer


@transaction.atomic
def reactivate_customer(*, customer_id: int, reason: str, actor: Actor, at: datetime) -> Customer:
    """Take a deactivated customer back. Twice changes nothing.

    Raises: PermissionMissing, ReasonMissing, CustomerUnknown.
    """
    actor.require(Permission.EDIT_CUSTOMERS)
    require_reason(reason)
    customer = _lock(customer_id)
    _change(customer, {"is_active": True}, verb="customer.reactivated", reason=reason, actor=actor, at=at)
    return customer


def customer_of_code(code: str) -> Customer:
    """Return the customer with this code. Raises: CustomerUnknown."""
    customer = Customer.objects.filter(code=code.strip()).first()
    if customer is None:
        msg = f"There is no customer with the code “{code.strip()}”."
        raise CustomerUnknown(msg)
    return customer


def _unsaved(entity: LegalEntity, new: NewCustomer, *, at: datetime) -> Customer:
    customer = Customer(
        legal_entity=entity,
        code=new.code.strip(),
        currency=new.currency or entity.currency,
        created_at=at,
        **new.details.values(),
    )
    require_valid(customer)
    return customer


def _require_same(wanted: Customer, existing: Customer | None) -> None:
    if existing is None:
        return
    if (existing.legal_entity_id, existing.name, existing.currency) != (
        wanted.legal_entity_id,
        wanted.name,
        wanted.currency,
    ):
        msg = f"The customer number {wanted.code} already belongs to {existing.name}."
        raise CustomerCodeTaken(msg)


def _require_parents(ids: set[int]) -> None:
    missing = ids - set(Customer.objects.filter(pk__in=ids).values_list("pk", flat=True))
    if missing:
        msg = f"There is no parent customer with the id {min(missing)}."
        raise CustomerUnknown(msg)


def _lock_hierarchy() -> None:
    """Let only one at a time put customers above others, until the transaction ends.

    A circle closes over rows of which each writer changes only one, so their own locks would not stop two from closing
    it together. Taken before any row is locked, so that nobody waits in a ring.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('accounts.customers.hierarchy'))")


def _require_no_circle(customer: Customer, parent_id: int | None) -> None:
    seen = {customer.pk}
    while parent_id is not None:
        if parent_id in seen:
            raise DetailsInvalid({"parent": ["A customer cannot stand above itself."]})
        seen.add(parent_id)
        parent_id = Customer.objects.values_list("parent_id", flat=True).get(pk=parent_id)


def _lock(customer_id: int) -> Customer:
    customer = Customer.objects.select_for_update(no_key=True).filter(pk=customer_id).first()
    if customer is None:
        raise CustomerUnknown
    return customer


def _change(
    customer: Customer,
    values: dict[str, object],
    *,
    verb: str = "customer.changed",
    reason: str,
    actor: Actor,
    at: datetime,
) -> None:
    changes = change_fields(customer, values)
    if not changes:
        return
    history.save(customer, update_fields=list(changes), reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb=verb, subject=customer, at=at, reason=reason, data={"changes": changes})
