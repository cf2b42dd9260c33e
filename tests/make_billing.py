"""Builders for what is owed: a shop with one metered product, its customers and their usage, and billed months."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count

from accounts import approvals
from accounts.access import Actor, Role
from accounts.models import Customer, LegalEntity
from accounts.postal import Address
from billing import bill_runs, issuing
from billing.models import BillRun, BillRunItem, Invoice
from metering import attribution, ingestion
from metering.ingestion import IngestResult
from metering.models import Meter, UsageBatch
from pricing.models import PriceBook, Product
from tests import make_accounts, make_pricing

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
OCTOBER, NOVEMBER, DECEMBER = date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1)
OCT_10 = datetime(2026, 10, 10, 12, tzinfo=UTC)
NOV_2, NOV_3 = datetime(2026, 11, 2, 9, tzinfo=UTC), datetime(2026, 11, 3, 9, tzinfo=UTC)
NOV_10 = datetime(2026, 11, 10, 12, tzinfo=UTC)
DEC_2, DEC_3 = datetime(2026, 12, 2, 9, tzinfo=UTC), datetime(2026, 12, 3, 9, tzinfo=UTC)

# 0.50 each up to 100, 0.30 each above.
GRADUATED: Mapping[str, object] = {
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_price": "0.50"}, {"up_to": None, "unit_price": "0.30"}],
}

_number = count(1)
_system = Actor.system("tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A legal entity in Berlin with 19 % VAT that sells GPU hours by one price book, and the people who bill."""

    entity: LegalEntity
    meter: Meter
    product: Product
    book: PriceBook
    analyst: Actor
    controller: Actor


def shop(
    *, price: Mapping[str, object] = GRADUATED, approved: bool = True, tax_rate: str = "19", currency: str = "EUR"
) -> Shop:
    """Open a shop whose price is approved, unless told otherwise."""
    meter = make_pricing.meter()
    product = make_pricing.product(name="H100 hours", meter=meter)
    book = make_pricing.price_book(currency=currency)
    if approved:
        make_pricing.approved_version(book=book, prices={product: price})
    return Shop(
        entity=make_accounts.legal_entity(tax_rate=tax_rate, currency=currency),
        meter=meter,
        product=product,
        book=book,
        analyst=make_accounts.actor(Role.FINANCE_ANALYST),
        controller=make_accounts.actor(Role.FINANCE_CONTROLLER),
    )


def subscriber(
    shop: Shop,
    *,
    name: str = "Acme Robotics Ltd",
    email: str | None = "",
    address: Address = make_accounts.DUBLIN,
    starts_on: date = date(2026, 1, 1),
    ends_on: date | None = None,
    anchor_day: int = 1,
    book: PriceBook | None = None,
    locale: str = "en_US",
    tax_treatment: str = Customer.TaxTreatment.STANDARD,
) -> Customer:
    """Open a customer with a contract, a subject of the name `subject_of` and, unless None, an invoice recipient."""
    customer = make_accounts.customer(
        entity=shop.entity, name=name, address=address, locale=locale, tax_treatment=tax_treatment
    )
    if email is not None:
        make_accounts.contact(customer=customer, email=email)
    make_pricing.contract(
        customer=customer, book=book or shop.book, starts_on=starts_on, ends_on=ends_on, anchor_day=anchor_day
    )
    attribution.assign_subject(
        name=subject_of(customer), customer_id=customer.pk, starts_at=LONG_AGO, actor=_system, at=LONG_AGO
    )
    return customer


def subject_of(customer: Customer) -> str:
    """The name under which the usage of a customer of `subscriber` arrives."""
    return f"project-{customer.pk}"


def use(
    shop: Shop,
    customer: Customer,
    quantity: str,
    *,
    on: datetime,
    sku: str = "",
    event_type: str = "",
    event_id: str = "",
) -> IngestResult:
    """Let one event of usage come in, in a batch of its own."""
    return ingestion.ingest(
        events=[
            {
                "specversion": "1.0",
                "id": event_id or f"event-{next(_number)}",
                "source": "tests",
                "type": event_type or shop.meter.event_type,
                "subject": subject_of(customer),
                "time": on.isoformat(),
                "data": {"quantity": quantity, "sku": sku or "any"},
            }
        ],
        door=UsageBatch.Door.FILE,
        actor=_system,
        at=datetime(2027, 6, 1, tzinfo=UTC),
    )


def drafted_run(shop: Shop, month: date = OCTOBER, *, at: datetime = NOV_2) -> BillRun:
    """Start the run of a month and draft every contract of it."""
    run = bill_runs.start_bill_run(legal_entity_id=shop.entity.pk, month=month, actor=shop.analyst, at=at)
    while bill_runs.draft_chunk(run_id=run.pk, limit=10, at=at):
        pass
    return run


def submitted_run(shop: Shop, month: date = OCTOBER, *, at: datetime = NOV_2) -> BillRun:
    """Draft a month and submit it."""
    run = drafted_run(shop, month, at=at)
    return bill_runs.submit_bill_run(run_id=run.pk, reason="Month end", actor=shop.analyst, at=at)


def approved_run(shop: Shop, month: date = OCTOBER, *, at: datetime = NOV_2) -> BillRun:
    """Draft a month, submit it, and have it approved by somebody else."""
    run = submitted_run(shop, month, at=at)
    approve(shop, run, at=at)
    run.refresh_from_db()
    return run


def approve(shop: Shop, run: BillRun, *, at: datetime = NOV_2) -> None:
    """Approve what a run asks for."""
    assert run.approval_id is not None
    approvals.decide(request_id=run.approval_id, outcome="approve", actor=shop.controller, at=at)


def issued_run(shop: Shop, month: date = OCTOBER, *, at: datetime = NOV_2) -> BillRun:
    """Bill a month from the first draft to the last number."""
    run = approved_run(shop, month, at=at)
    issue(shop, run, at=at)
    run.refresh_from_db()
    return run


def issue(shop: Shop, run: BillRun, *, at: datetime = NOV_2) -> None:
    """Issue every invoice of an approved run that can be."""
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=at)
    while issuing.issue_chunk(run_id=run.pk, limit=10, actor=shop.controller, at=at):
        pass


def invoice_of(customer: Customer, month: date = OCTOBER) -> Invoice:
    """The live invoice of a customer for the month."""
    return Invoice.objects.exclude(status=Invoice.Status.VOID).get(customer=customer, bill_run__month=month)


def item_of(customer: Customer, month: date = OCTOBER) -> BillRunItem:
    """The customer's share of the live run of the month."""
    return BillRunItem.objects.exclude(run__status="cancelled").get(contract__customer=customer, run__month=month)


def amounts(invoice: Invoice) -> list[tuple[str, Decimal, Decimal]]:
    """The lines of an invoice as kind, quantity and amount, in the order in which they are printed."""
    return [(line.kind, line.quantity, line.amount) for line in invoice.lines.order_by("position")]
