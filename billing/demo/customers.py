"""Open the demonstration's customers: contact, subject and contract with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from accounts import contacts, customers, periods
from accounts.customers import CustomerDetails, NewCustomer
from accounts.models import LegalEntity
from billing.demo.people import DemoStaff
from metering import attribution
from pricing import contracts
from pricing.contracts import Agreement
from pricing.models import PriceBook


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """A customer of the demonstration and the subject under which its usage arrives."""

    code: str
    subject: str
    details: CustomerDetails


def open_customers(
    wanted: Sequence[DemoCustomer],
    *,
    entity: LegalEntity,
    book: PriceBook,
    since: date,
    staff: DemoStaff,
    at: datetime,
) -> None:
    """Open each customer with a contact who receives its invoices, its subject and its contract, from `since` on.

    Each of these verbs returns what is there already, so that doing it again adds nothing.
    """
    opened = customers.open_customers(
        legal_entity_id=entity.pk,
        customers=[NewCustomer(code=each.code, details=each.details) for each in wanted],
        actor=staff.analyst,
        at=at,
    )
    for customer in opened:
        contacts.add_contact(
            customer_id=customer.pk,
            name="Accounts payable",
            email=f"payables+{customer.code.lower()}@customer.example",
            receives_invoices=True,
            actor=staff.analyst,
            at=at,
        )
    starts_at = periods.start_of_day(since, entity.time_zone)
    attribution.assign_subjects(
        assignments=[
            attribution.NewAssignment(name=each.subject, customer_id=customer.pk, starts_at=starts_at)
            for each, customer in zip(wanted, opened, strict=True)
        ],
        actor=staff.analyst,
        at=at,
    )
    contracts.sign_contracts(
        agreements=[Agreement(customer_id=customer.pk, price_book_id=book.pk, starts_on=since) for customer in opened],
        actor=staff.analyst,
        at=at,
    )
