"""Three months of the synthetic GPU cloud: two issued, the third waiting for its approver."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from io import BytesIO

from accounts import legal_entities, periods
from accounts.customers import CustomerDetails
from accounts.legal_entities import LegalEntityDetails
from accounts.models import LegalEntity
from accounts.postal import Address
from billing.demo import after_the_bill, gpu_cloud, gpu_services
from billing.demo.approving import approve_pending
from billing.demo.control_totals import Sent, sent_by_hour, state_what_was_sent
from billing.demo.customers import DemoCustomer, open_customers
from billing.demo.months import Progress, bill_month, submit_month
from billing.demo.people import DemoStaff
from billing.demo.recounted import Recounted, recount_lines
from billing.models import BillRun
from metering.meters import meters
from metering.models import Meter, UsageEvent
from metering.sources.loading import FileFormat, load_usage
from pricing import price_books, products, publication
from pricing.models import Contract, PriceBook, PriceBookVersion
from pricing.products import ProductTerms

ENTITY_CODE = "nimbus"
BOOK_CODE = "gpu-cloud"
CURRENCY = "EUR"
TIME_ZONE = "Europe/Berlin"
PRODUCTS = (*gpu_cloud.PRODUCTS, *gpu_services.PRODUCTS)


@dataclass(frozen=True, slots=True)
class SyntheticMonths:
    """What the synthetic months came to."""

    months: list[date]
    events: int
    new_events: int
    customers: int
    runs: list[BillRun]
    recounted: Recounted


def bill_synthetic_months(staff: DemoStaff, *, at: datetime, progress: Progress) -> SyntheticMonths:
    """Make the synthetic cloud, bill two months and submit the third; done again, it adds nothing.

    The months are the last three complete ones when it is first made, and stay those.
    """
    before = stored()
    entity = _entity(staff, at=at)
    first = Contract.objects.filter(customer__legal_entity=entity).order_by("starts_on").first()
    months = (
        [first.starts_on, *_after(first.starts_on, 2)]
        if first
        else gpu_cloud.first_months(periods.local_date(at, TIME_ZONE))
    )
    for meter in (*gpu_cloud.METERS, *gpu_services.METERS):
        _meter(meter, staff, at=at)
    book = _price_book(months, staff, at=at)
    open_customers(
        [_customer(customer) for customer in gpu_cloud.customers()],
        entity=entity,
        book=book,
        since=months[0],
        staff=staff,
        at=at,
    )
    sent: Sent = {}
    for index, month in enumerate(months):
        period = _period(month)
        sent |= _load(index, month, period.start, period.end, staff, at=at, progress=progress)
    late = list(after_the_bill.late_events(_period(months[0]).start))
    if first is None:
        # The month that runs, up to this morning: usage that nobody has billed yet.
        today = periods.local_date(at, TIME_ZONE)
        since = periods.start_of_day(today.replace(day=1), TIME_ZONE)
        until = periods.start_of_day(today, TIME_ZONE)
        sent |= _load(len(months), today.replace(day=1), since, until, staff, at=at, progress=progress)
        state_what_was_sent(sent | sent_by_hour(late), staff, at=at)
    runs = [bill_month(entity, months[0], staff, at=at, progress=progress)]
    _load_file(f"synthetic-{months[0]:%Y-%m}-late.jsonl", late, staff, at=at, told=lambda _rows: None)
    runs.append(bill_month(entity, months[1], staff, at=at, progress=progress))
    after_the_bill.void_what_was_read_twice(months[1], staff, at=at)
    runs.append(submit_month(entity, months[2], staff, at=at, progress=progress))
    _propose_prices(book, months, staff, at=at)
    return SyntheticMonths(
        months=months,
        events=stored(),
        new_events=stored() - before,
        customers=entity.customers.count(),
        runs=runs,
        recounted=recount_lines(runs),
    )


def _period(month: date) -> periods.Period:
    return periods.month_period(month.year, month.month, TIME_ZONE)


def _after(month: date, count: int) -> list[date]:
    following = periods.Month(month.year, month.month)
    later = []
    for _ in range(count):
        following = following.next()
        later.append(date(following.year, following.month, 1))
    return later


def _entity(staff: DemoStaff, *, at: datetime) -> LegalEntity:
    return legal_entities.open_legal_entity(
        code=ENTITY_CODE,
        currency=CURRENCY,
        time_zone=TIME_ZONE,
        details=LegalEntityDetails(
            name="Nimbus GPU Cloud GmbH (synthetic)",
            email="rechnung@nimbus.example",
            address=Address(address_line1="Wolkenallee 1", postal_code="10115", city="Berlin", country="DE"),
            registration="Amtsgericht Musterstadt, HRB 000000",
            tax_id="DE000000000",
            bank_name="Musterbank",
            bank_account="DE00 0000 0000 0000 0000 00",
            bank_code="MUSTDEFFXXX",
            tax_name="USt",
            tax_rate=Decimal(19),
        ),
        is_synthetic=True,
        actor=staff.house,
        at=at,
    )


def _meter(meter: gpu_cloud.SyntheticMeter, staff: DemoStaff, *, at: datetime) -> None:
    if not Meter.objects.filter(code=meter.code).exists():
        meters.define_meter(
            code=meter.code,
            name=meter.name,
            event_type=meter.event_type,
            aggregation=meter.aggregation,
            value_path=meter.value_path,
            unit=meter.unit,
            dimensions=list(meter.dimensions),
            actor=staff.house,
            at=at,
        )


def _price_book(months: list[date], staff: DemoStaff, *, at: datetime) -> PriceBook:
    """Make the price book with its two approved versions: the opening prices, and a cut from the third month on."""
    book = price_books.open_price_book(
        code=BOOK_CODE,
        name="GPU cloud list prices",
        currency=CURRENCY,
        description="Synthetic list prices of the GPU cloud.",
        actor=staff.product_manager,
        at=at,
    )
    ids = _products(staff, at=at)
    opening = {product.sku: product.price for product in PRODUCTS}
    for month, prices in ((months[0], opening), (months[2], gpu_cloud.PRICE_CUT)):
        version = _submit(book, prices, ids, periods.start_of_day(month, TIME_ZONE), staff, at=at)
        approve_pending(
            kind=publication.APPROVAL_KIND,
            subject_id=version.pk,
            comment="Agreed in the pricing round.",
            actor=staff.pricing_approver,
            at=at,
        )
    return book


def _products(staff: DemoStaff, *, at: datetime) -> dict[str, int]:
    """Return the id of each product by SKU, adding those that are not there yet."""
    meter_ids = dict(Meter.objects.values_list("code", "id"))
    added = products.add_products(
        products=[
            ProductTerms(
                code=product.sku,
                name=product.name,
                group=product.group,
                unit=product.unit,
                meter_id=meter_ids.get(product.meter),
                dimension_filter=product.filter,
            )
            for product in PRODUCTS
        ],
        actor=staff.product_manager,
        at=at,
    )
    return {product.code: product.pk for product in added}


def _submit(
    book: PriceBook,
    prices: dict[str, dict[str, object]],
    product_ids: dict[str, int],
    effective_from: datetime,
    staff: DemoStaff,
    *,
    at: datetime,
) -> PriceBookVersion:
    """Draft and submit the version that takes effect then; one that was submitted before is returned as it is."""
    submitted = book.versions.filter(effective_from=effective_from).first()
    if submitted is not None:
        return submitted
    version = book.versions.filter(status=PriceBookVersion.Status.DRAFT).first() or price_books.open_draft(
        book_id=book.pk,
        actor=staff.product_manager,
        at=at,
    )
    price_books.set_prices(
        version_id=version.pk,
        specs={product_ids[sku]: spec for sku, spec in prices.items()},
        actor=staff.product_manager,
        at=at,
    )
    return publication.submit_version(
        version_id=version.pk,
        effective_from=effective_from,
        reason="Synthetic demonstration prices",
        actor=staff.product_manager,
        at=at,
    )


def _propose_prices(book: PriceBook, months: list[date], staff: DemoStaff, *, at: datetime) -> None:
    """Leave a price change in review, so that its approver finds something to decide."""
    third = periods.start_of_day(months[2], TIME_ZONE)
    if not book.versions.filter(effective_from__gt=third).exists():
        next_month = _after(periods.local_date(at, TIME_ZONE).replace(day=1), 1)[0]
        effective_from = periods.start_of_day(next_month, TIME_ZONE)
        _submit(book, gpu_cloud.PROPOSED_CHANGE, _products(staff, at=at), effective_from, staff, at=at)


def _customer(synthetic: gpu_cloud.SyntheticCustomer) -> DemoCustomer:
    return DemoCustomer(
        code=synthetic.code,
        subject=gpu_cloud.project_of(synthetic),
        details=CustomerDetails(
            name=synthetic.name,
            locale=synthetic.locale,
            tax_id=synthetic.tax_id,
            tax_treatment=synthetic.tax_treatment,
            address=Address(
                address_line1=synthetic.street,
                postal_code=synthetic.postal_code,
                city=synthetic.city,
                country=synthetic.country,
            ),
        ),
    )


def stored() -> int:
    """Return how many synthetic events are stored."""
    return UsageEvent.objects.filter(source=gpu_cloud.SOURCE).count()


def _load(
    index: int,
    month: date,
    start: datetime,
    end: datetime,
    staff: DemoStaff,
    *,
    at: datetime,
    progress: Progress,
) -> Sent:
    """Load usage of `[start, end)` through the very door that a file of it would take; returns what was sent."""
    events = [*gpu_cloud.usage_events(index, start, end), *gpu_services.usage_events(index, start, end)]
    done = 0

    def told(rows: int) -> None:
        nonlocal done
        done += rows
        progress(f"loading synthetic usage of {month:%B %Y}", done, len(events))

    _load_file(f"synthetic-{month:%Y-%m}.jsonl", events, staff, at=at, told=told)
    return sent_by_hour(events)


def _load_file(
    name: str, events: Sequence[Mapping[str, object]], staff: DemoStaff, *, at: datetime, told: Callable[[int], None]
) -> None:
    load_usage(
        stream=BytesIO("\n".join(json.dumps(event) for event in events).encode()),
        file_format=FileFormat.CLOUDEVENTS,
        origin=name,
        on_progress=told,
        actor=staff.analyst,
        at=at,
    )
