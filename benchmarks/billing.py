"""bill_draft and bill_issue: invoices a second.

Every customer has a contract and a month of usage in four series of four meters, a reading a day; each invoice has four
lines of graduated prices with their steps. The month is drafted for 500 and for 5,000 customers, so that the growth
shows. One process; chunks of 200.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from statistics import median
from time import perf_counter

from django.db import connection

from accounts import approvals
from accounts.access import Actor, Role
from accounts.legal_entities import LegalEntityDetails, open_legal_entity
from accounts.models import ApprovalRequest, Customer, LegalEntity
from accounts.postal import Address
from accounts.staff import invite_staff
from benchmarks.scratch_database import scratch_database
from billing import bill_runs, issuing
from billing.models import BillRun, Invoice
from metering.meters.meters import define_meter
from metering.models import Meter
from pricing import price_books
from pricing.models import Contract, PriceBook

SMALL, LARGE = 500, 5_000
RUNS = 3
CHUNK = 200
LINES = 4
DAYS = 30

_HOUSE = Actor.system("benchmark")
_LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
_MONTH = date(2026, 9, 1)
_AFTER = datetime(2026, 10, 2, 9, tzinfo=UTC)
_ADDRESS = Address(address_line1="1 Bench Street", city="Dublin", country="IE")

_SERIES = """
    INSERT INTO usage_series (customer_id, meter_id, dimensions, dimensions_key)
    SELECT customer.id, meter.id, '{}', gen_random_uuid()
    FROM accounts_customer customer CROSS JOIN metering_meter meter WHERE customer.legal_entity_id = %s
"""
_HOURS = """
    INSERT INTO usage_hour (customer_id, hour, series_id, sum, count, min, max, last, last_at)
    SELECT series.customer_id, reading, series.id, 7.25 + series.id %% 13, 12, 0.5, 2, 1, reading
    FROM usage_series series
    JOIN accounts_customer customer ON customer.id = series.customer_id
    CROSS JOIN generate_series(timestamptz '2026-09-01 00:00Z', timestamptz '2026-09-30 00:00Z', '1 day') reading
    WHERE customer.legal_entity_id = %s
"""


def run() -> Iterator[dict[str, object]]:
    """Measure drafting at two sizes, then issuing."""
    with scratch_database():
        analyst, controller = _person(Role.FINANCE_ANALYST), _person(Role.FINANCE_CONTROLLER)
        book = _price_book()
        small, large = _entity("bench-small", SMALL, book), _entity("bench-large", LARGE, book)
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
        seconds = {entity.code: _draft_times(entity, analyst) for entity in (small, large)}
        rates = [LARGE / each for each in seconds[large.code]]
        yield {
            "name": "bill_draft",
            "value": round(median(rates)),
            "unit": "invoices/s",
            "budget": 500,
            "runs": [round(rate) for rate in rates],
            "customers": LARGE,
            "lines_each": LINES,
            "hours_read_each": LINES * DAYS,
            "processes": 1,
        }
        # The best of each, for a machine that is busy with something else slows the long run and may spare the short.
        growth = min(seconds[large.code]) / min(seconds[small.code])
        yield {
            "name": "bill_draft_growth",
            "value": round(growth, 2),
            "unit": f"times the time for {LARGE // SMALL} times the customers",
            "budget": 11,
            "small_seconds": round(min(seconds[small.code]), 3),
            "large_seconds": round(min(seconds[large.code]), 3),
        }
        rate = _issue_rate(large, analyst, controller)
        yield {
            "name": "bill_issue",
            "value": round(rate),
            "unit": "invoices/s",
            "budget": 500,
            "invoices": LARGE,
            "chunk": CHUNK,
            "processes": 1,
        }


def _draft_times(entity: LegalEntity, analyst: Actor) -> list[float]:
    """Draft the month several times over; throwing the drafts away is not measured."""
    bill_run = bill_runs.start_bill_run(legal_entity_id=entity.pk, month=_MONTH, actor=analyst, at=_AFTER)
    times = []
    for round_number in range(RUNS):
        if round_number:
            bill_runs.redo_bill_run(run_id=bill_run.pk, reason="Measure again", actor=analyst, at=_AFTER)
        start = perf_counter()
        while bill_runs.draft_chunk(run_id=bill_run.pk, limit=CHUNK, at=_AFTER):
            pass
        times.append(perf_counter() - start)
    drafted = Invoice.objects.filter(bill_run=bill_run).count()
    assert drafted == entity.customers.count(), f"{drafted} invoices"
    return times


def _issue_rate(entity: LegalEntity, analyst: Actor, controller: Actor) -> float:
    bill_run = BillRun.objects.get(legal_entity=entity)
    bill_run = bill_runs.submit_bill_run(run_id=bill_run.pk, actor=analyst, at=_AFTER)
    assert bill_run.approval_id is not None
    approvals.decide(request_id=bill_run.approval_id, outcome="approve", actor=controller, at=_AFTER)
    issuing.start_issuing(run_id=bill_run.pk, actor=controller, at=_AFTER)
    start = perf_counter()
    while issuing.issue_chunk(run_id=bill_run.pk, limit=CHUNK, actor=controller, at=_AFTER):
        pass
    return LARGE / (perf_counter() - start)


def _person(role: Role) -> Actor:
    email = f"{role.name.lower()}@bench.example"
    return Actor.of(invite_staff(email=email, name=role, roles=[role], actor=_HOUSE, at=_LONG_AGO))


def _price_book() -> PriceBook:
    """A price book with a graduated price of three tiers for each of four meters, approved."""
    book = price_books.open_price_book(code="bench", name="Bench", currency="EUR", actor=_HOUSE, at=_LONG_AGO)
    version = price_books.open_draft(book_id=book.pk, actor=_HOUSE, at=_LONG_AGO)
    spec = {
        "model": "graduated",
        "tiers": [
            {"up_to": "50", "unit_price": "0.31"},
            {"up_to": "200", "unit_price": "0.27"},
            {"up_to": None, "unit_price": "0.2345"},
        ],
    }
    for number in range(LINES):
        meter = define_meter(
            code=f"bench-{number}",
            name=f"Meter {number}",
            event_type=f"bench.{number}",
            aggregation=Meter.Aggregation.SUM,
            value_path="quantity",
            unit="h",
            actor=_HOUSE,
            at=_LONG_AGO,
        )
        product = price_books.add_product(
            code=f"bench-{number}",
            name=f"Product {number}",
            group="Compute",
            unit="h",
            meter_id=meter.pk,
            actor=_HOUSE,
            at=_LONG_AGO,
        )
        price_books.set_price(version_id=version.pk, product_id=product.pk, spec=spec, actor=_HOUSE, at=_LONG_AGO)
    price_books.submit_version(
        version_id=version.pk,
        effective_from=_LONG_AGO,
        reason="Bench",
        actor=_person(Role.PRODUCT_MANAGER),
        at=_LONG_AGO,
    )
    request = ApprovalRequest.objects.get(kind="price_book_version", subject_id=version.pk)
    approvals.decide(request_id=request.pk, outcome="approve", actor=_person(Role.PRICING_APPROVER), at=_LONG_AGO)
    return book


def _entity(code: str, size: int, book: PriceBook) -> LegalEntity:
    entity = open_legal_entity(
        code=code,
        currency="EUR",
        time_zone="UTC",
        details=LegalEntityDetails(name=code, email="billing@bench.example", address=_ADDRESS),
        actor=_HOUSE,
        at=_LONG_AGO,
    )
    customers = Customer.objects.bulk_create(
        Customer(
            legal_entity=entity,
            code=f"{code}-{number}",
            name=f"Customer {number}",
            currency="EUR",
            address_line1=_ADDRESS.address_line1,
            city=_ADDRESS.city,
            country=_ADDRESS.country,
            created_at=_LONG_AGO,
        )
        for number in range(size)
    )
    Contract.objects.bulk_create(
        Contract(customer=customer, price_book=book, currency="EUR", starts_on=date(2025, 1, 1), created_at=_LONG_AGO)
        for customer in customers
    )
    with connection.cursor() as cursor:
        cursor.execute(_SERIES, [entity.pk])
        cursor.execute(_HOURS, [entity.pk])
    return entity
