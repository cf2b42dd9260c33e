"""Builders for what it costs: products, price books with approved versions, contracts. They go through the verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count

from django.db import connection
from django.utils import timezone

from accounts import approvals
from accounts.access import Actor, Role
from accounts.models import ApprovalRequest, Customer
from metering.meters.meters import define_meter
from metering.models import Meter
from pricing import contracts, price_books, publication
from pricing.models import Contract, PriceBook, PriceBookVersion, Product
from tests import make_accounts

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
TEN_CENTS: Mapping[str, object] = {"model": "per_unit", "unit_price": "0.10"}

_number = count(1)
SYSTEM = Actor.system("tests")


def meter(
    *,
    code: str = "",
    unit: str = "GPU-hour",
    event_type: str = "",
    aggregation: str = Meter.Aggregation.SUM,
    divisor: Decimal = Decimal(1),
    dimensions: Sequence[str] = ("sku",),
) -> Meter:
    """Make a meter of a quantity; it adds up unless told otherwise."""
    number = next(_number)
    return define_meter(
        code=code or f"meter-{number}",
        name=f"Meter {number}",
        event_type=event_type or f"example.usage.{number}",
        aggregation=aggregation,
        value_path="" if aggregation == Meter.Aggregation.COUNT else "quantity",
        unit=unit,
        divisor=divisor,
        dimensions=dimensions,
        actor=SYSTEM,
        at=timezone.now(),
    )


def product(
    *,
    code: str = "",
    name: str = "",
    group: str = "Compute",
    unit: str = "GPU-hour",
    meter: Meter | None = None,
    dimension_filter: Mapping[str, str] | None = None,
) -> Product:
    """Add a product; a recurring fee unless it is given a meter."""
    code = code or f"SKU-{next(_number)}"
    return price_books.add_product(
        code=code,
        name=name or f"Product {code}",
        group=group,
        unit=unit,
        meter_id=meter.pk if meter else None,
        dimension_filter=dimension_filter,
        actor=SYSTEM,
        at=LONG_AGO,
    )


def metered_product(sku: str = "") -> Product:
    """Add a product that takes the usage of a meter of its own, or the part of it that has this SKU."""
    return product(code=sku, meter=meter(), dimension_filter={"sku": sku} if sku else None)


def price_book(*, code: str = "", name: str = "List prices", currency: str = "EUR") -> PriceBook:
    """Open a price book without a version."""
    return price_books.open_price_book(
        code=code or f"book-{next(_number)}", name=name, currency=currency, actor=SYSTEM, at=LONG_AGO
    )


def draft(
    *,
    book: PriceBook | None = None,
    prices: Mapping[Product, Mapping[str, object]] | None = None,
    at: datetime = LONG_AGO,
) -> PriceBookVersion:
    """Open the next version of a price book, with one price unless told which."""
    version = price_books.open_draft(book_id=(book or price_book()).pk, actor=SYSTEM, at=at)
    wanted = {metered_product(): TEN_CENTS} if prices is None else prices
    price_books.set_prices(
        version_id=version.pk, specs={each.pk: spec for each, spec in wanted.items()}, actor=SYSTEM, at=at
    )
    return version


def submitted_version(
    *,
    book: PriceBook | None = None,
    prices: Mapping[Product, Mapping[str, object]] | None = None,
    effective_from: datetime = LONG_AGO,
    by: Actor | None = None,
    at: datetime = LONG_AGO,
) -> PriceBookVersion:
    """Draft a version and submit it, by a product manager of its own unless one is given."""
    return price_books.submit_version(
        version_id=draft(book=book, prices=prices, at=at).pk,
        effective_from=effective_from,
        reason="Prices of the season",
        actor=by or make_accounts.actor(Role.PRODUCT_MANAGER),
        at=at,
    )


def approval_of(version: PriceBookVersion) -> ApprovalRequest:
    """The request that waits for a decision on a submitted version."""
    return ApprovalRequest.objects.get(
        kind=publication.APPROVAL_KIND, subject_id=version.pk, status=ApprovalRequest.Status.PENDING
    )


def approved_version(
    *,
    book: PriceBook | None = None,
    prices: Mapping[Product, Mapping[str, object]] | None = None,
    effective_from: datetime = LONG_AGO,
    at: datetime = LONG_AGO,
) -> PriceBookVersion:
    """Bring a version through submission and approval; it is live if it takes effect by `at`."""
    version = submitted_version(book=book, prices=prices, effective_from=effective_from, at=at)
    approvals.decide(
        request_id=approval_of(version).pk,
        outcome="approve",
        actor=make_accounts.actor(Role.PRICING_APPROVER),
        at=at,
    )
    version.refresh_from_db()
    return version


def contract(
    *,
    customer: Customer | None = None,
    book: PriceBook | None = None,
    starts_on: date = date(2024, 1, 1),
    ends_on: date | None = None,
    anchor_day: int = 1,
) -> Contract:
    """Sign a contract, of a customer and for a price book of its own unless they are given."""
    signer = customer or make_accounts.customer()
    return contracts.sign_contract(
        customer_id=signer.pk,
        price_book_id=(book or price_book(currency=signer.currency)).pk,
        starts_on=starts_on,
        ends_on=ends_on,
        anchor_day=anchor_day,
        actor=SYSTEM,
        at=LONG_AGO,
    )


def tamper(sql: str, key: int) -> None:
    """Change a row behind the triggers' back, as only the owner of the database can."""
    with connection.cursor() as cursor:
        # What waits for the end of the transaction has to be settled before the rules are switched off.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(sql, [key])
        cursor.execute("SET LOCAL session_replication_role = origin")
