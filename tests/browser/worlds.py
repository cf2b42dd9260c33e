"""What the database holds when people sit down at their browsers. Months are the last ones, as seen from today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from accounts.access import Actor, Role
from accounts.models import Customer
from billing import delivery, documents
from billing.demo.people import DEMO_PASSWORD, DemoStaff, hire_staff
from billing.models import BillRun
from metering import ingestion
from metering.models import UsageBatch
from pricing import price_books, publication
from pricing.models import PriceBookVersion
from tests import make_accounts, make_billing, make_pricing
from tests.make_billing import Shop

SECOND_CONTROLLER = "cora@countinghouse.example"
FEE: Mapping[str, object] = {"model": "flat", "amount": "9.90"}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop with two customers, and the people who work there."""

    shop: Shop
    staff: DemoStaff
    acme: Customer
    bolt: Customer
    now: datetime


def month_before(day: date, months: int = 1) -> date:
    """Return the first day of the month that is so many months before the one of `day`."""
    first = day.replace(day=1)
    for _ in range(months):
        first = (first - timedelta(days=1)).replace(day=1)
    return first


def noon_of(month: date, day: int = 15) -> datetime:
    """Return noon of a day of a month, in UTC."""
    return datetime.combine(month.replace(day=day), time(12), tzinfo=UTC)


def opened(*, approved: bool, fee_code: str = "platform-fee") -> World:
    """Open a shop: GPU hours by tiers and a monthly fee; its prices are yet to be made unless `approved`."""
    now = datetime.now(UTC)
    staff = hire_staff(at=now)
    shop = replace(make_billing.shop(approved=False), analyst=staff.analyst, controller=staff.controller)
    fee = make_pricing.product(
        code=fee_code, name="Platform fee", group="Platform, support and on-call service", unit="month"
    )
    if approved:
        make_pricing.approved_version(book=shop.book, prices={shop.product: make_billing.GRADUATED, fee: FEE})
    return World(
        shop=shop,
        staff=staff,
        acme=make_billing.subscriber(shop, email="payables@acme.example", starts_on=date(2024, 1, 1)),
        bolt=make_billing.subscriber(
            shop, name="Bolt Mobility GmbH", email="ap@bolt.example", starts_on=date(2024, 1, 1), locale="de_DE"
        ),
        now=now,
    )


def usage_event(shop: Shop, subject: str, quantity: str, *, on: datetime, name: str) -> dict[str, object]:
    """Make a CloudEvent of usage."""
    return {
        "specversion": "1.0",
        "id": name,
        "source": "cluster/berlin",
        "type": shop.meter.event_type,
        "subject": subject,
        "time": on.isoformat(),
        "data": {"quantity": quantity, "sku": "h100"},
    }


def use(world: World, customer: Customer, quantity: str, *, month: date) -> None:
    """Let ten events of usage come in, a day each."""
    subject = make_billing.subject_of(customer)
    events = [
        usage_event(world.shop, subject, quantity, on=noon_of(month, day), name=f"{subject}/{month}/{day}")
        for day in range(1, 11)
    ]
    _ingest(events, at=world.now)


def _ingest(events: list[dict[str, object]], *, at: datetime) -> None:
    ingestion.ingest(events=events, door=UsageBatch.Door.FILE, origin="usage.jsonl", actor=Actor.system("tests"), at=at)


def in_full_work() -> World:
    """Make a house where each page has something to show: bills issued and in review, prices in review, quarantine."""
    world = opened(approved=True)
    today = world.now.date()
    older, newer = month_before(today, 2), month_before(today)
    for month, hours in ((older, "12"), (newer, "15.5")):
        use(world, world.acme, hours, month=month)
        use(world, world.bolt, "4", month=month)
    make_billing.subscriber(world.shop, name="Parked Ltd", book=make_pricing.price_book(name="Empty list"))
    stray = usage_event(world.shop, "nobody's-project", "3", on=noon_of(newer), name="stray")
    malformed = {**stray, "id": "malformed", "time": "yesterday"}
    _ingest([stray, malformed], at=world.now)

    make_billing.issued_run(world.shop, older, at=world.now)
    while documents.make_due_documents(limit=10, at=world.now):
        pass
    while delivery.deliver_due(limit=10, at=world.now):
        pass
    make_billing.submitted_run(world.shop, newer, at=world.now)
    propose_prices(world)
    make_accounts.api_key(at=world.now)
    return world


def propose_prices(world: World) -> PriceBookVersion:
    """Submit a second version of the shop's prices, to take effect in some months."""
    draft = price_books.open_draft(book_id=world.shop.book.pk, actor=world.staff.product_manager, at=world.now)
    cheaper = {"model": "per_unit", "unit_price": "0.45"}
    price_books.set_prices(
        version_id=draft.pk, specs={world.shop.product.pk: cheaper}, actor=world.staff.product_manager, at=world.now
    )
    return publication.submit_version(
        version_id=draft.pk,
        effective_from=noon_of(month_before(world.now.date() + timedelta(days=62), 0), 1),
        reason="Cheaper hours",
        actor=world.staff.product_manager,
        at=world.now,
    )


def run_to_decide(number: int, *, approved: bool = False) -> BillRun:
    """Open one more shop and bill its last month as far as the controller, or past the approval."""
    world = opened(approved=True, fee_code=f"fee-{number}")
    month = month_before(world.now.date())
    use(world, world.acme, "10", month=month)
    use(world, world.bolt, "5", month=month)
    if approved:
        return make_billing.approved_run(world.shop, month, at=world.now)
    return make_billing.submitted_run(world.shop, month, at=world.now)


def hire_second_controller() -> None:
    """Hire somebody who may decide what the first controller may."""
    make_accounts.staff(
        Role.FINANCE_CONTROLLER, name="Cora Controller", email=SECOND_CONTROLLER, password=DEMO_PASSWORD
    )
