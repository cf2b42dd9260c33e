"""September 2024, from 1,000 real records: 66 customers, 239 prices, and every record accounted for."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from django.db.models import Count, Sum

from accounts import legal_entities
from accounts.customers import CustomerDetails
from accounts.legal_entities import LegalEntityDetails
from accounts.models import LegalEntity
from accounts.postal import Address
from billing.demo.approving import approve_pending
from billing.demo.customers import DemoCustomer, open_customers
from billing.demo.months import Progress, bill_month
from billing.demo.people import DemoStaff
from billing.models import BillRun, InvoiceDelivery, InvoiceDocument, InvoiceLine
from metering.meters import meters
from metering.models import Meter, QuarantinedEvent, RefusedEvent, UsageEvent
from metering.sources import focus
from metering.sources.loading import FileFormat, LoadReport, load_usage
from pricing import money, price_books, publication, spreadsheet
from pricing.models import Price, PriceBook, PriceBookVersion, Product
from pricing.rating import Usage, parse_price, rate

SAMPLE_FILE = Path(__file__).parent / "data" / "focus_sample.csv"
MONTH = date(2024, 9, 1)
MONTH_START = datetime(2024, 9, 1, tzinfo=UTC)
ENTITY_CODE = "sunbird"
BOOK_CODE = "aws-list"
METER_CODE = "aws-usage"
CURRENCY = "USD"
EVENT_TYPE = focus.event_type("AWS")

# The sample's cost column is kept to ten places: every record's quantity x price, rounded half up there, is its cost.
RECORD_PLACES = 10


@dataclass(frozen=True, slots=True)
class SampleMonth:
    """What the demonstration has to show for the sample month; amounts in USD."""

    load: LoadReport
    run: BillRun
    billable_events: int
    customers: int
    quarantined: dict[str, int]
    refused: dict[str, int]
    rated_total: Decimal
    records_at_list_cost: int
    unrounded_total: Decimal
    invoiced_total: Decimal
    invoices: int
    lines: int
    documents: int
    mails: int


def bill_sample_month(staff: DemoStaff, *, at: datetime, progress: Progress) -> SampleMonth:
    """Load, price, bill, approve, issue and send the sample month; done again, it adds nothing."""
    records = _usage_records()
    entity = _entity(staff, at=at)
    meter = _meter(staff, at=at)
    book = _price_book(records, meter, staff, at=at)
    open_customers(_customers(records), entity=entity, book=book, since=MONTH, staff=staff, at=at)
    with SAMPLE_FILE.open("rb") as stream:
        load = load_usage(
            stream=stream,
            file_format=FileFormat.FOCUS,
            origin=SAMPLE_FILE.name,
            actor=staff.analyst,
            at=at,
        )
    run = bill_month(entity, MONTH, staff, at=at, progress=progress)
    return _summary(entity, run, load)


def _usage_records() -> list[dict[str, str]]:
    """Return the AWS usage records of the sample, for the master data that they mention."""
    with SAMPLE_FILE.open("rb") as stream:
        events = [row.event for row in focus.read_focus(stream) if row.event is not None]
    return [dict(event["data"]) for event in events if event["type"] == EVENT_TYPE]  # type: ignore[call-overload]


def _entity(staff: DemoStaff, *, at: datetime) -> LegalEntity:
    return legal_entities.open_legal_entity(
        code=ENTITY_CODE,
        currency=CURRENCY,
        time_zone="UTC",
        details=LegalEntityDetails(
            name="SunBird Cloud, Inc.",
            email="billing@sunbird.example",
            address=Address(
                address_line1="500 Example Plaza",
                city="Portland",
                region="OR",
                postal_code="97201",
                country="US",
            ),
            registration="Registered in Delaware, file no. 0000001",
            tax_id="EIN 00-0000001",
            bank_name="First Example Bank",
            bank_account="0000 1234 5678",
            bank_code="000000001",
            tax_name="Sales tax",
        ),
        actor=staff.house,
        at=at,
    )


def _meter(staff: DemoStaff, *, at: datetime) -> Meter:
    known = Meter.objects.filter(code=METER_CODE).first()
    return known or meters.define_meter(
        code=METER_CODE,
        name="AWS usage (FOCUS)",
        event_type=EVENT_TYPE,
        aggregation=Meter.Aggregation.SUM,
        value_path="PricingQuantity",
        unit="pricing units",
        dimensions=["SkuPriceId"],
        actor=staff.house,
        at=at,
    )


def _price_book(records: list[dict[str, str]], meter: Meter, staff: DemoStaff, *, at: datetime) -> PriceBook:
    """Make the book of 239 list prices through the files that a product manager would upload."""
    spreadsheet.import_products(content=_product_file(records, meter), actor=staff.product_manager, at=at)
    book = price_books.open_price_book(
        code=BOOK_CODE,
        name="AWS list prices",
        currency=CURRENCY,
        description="List unit prices of the SKUs in the FOCUS sample of September 2024.",
        actor=staff.product_manager,
        at=at,
    )
    version = book.versions.first() or price_books.open_draft(book_id=book.pk, actor=staff.product_manager, at=at)
    if version.status == PriceBookVersion.Status.DRAFT:
        spreadsheet.import_prices(
            version_id=version.pk,
            content=_price_file(records),
            actor=staff.product_manager,
            at=at,
        )
        publication.submit_version(
            version_id=version.pk,
            effective_from=MONTH_START,
            reason="List prices as published",
            actor=staff.product_manager,
            at=at,
        )
    approve_pending(
        kind=publication.APPROVAL_KIND,
        subject_id=version.pk,
        comment="Agrees with the published list.",
        actor=staff.pricing_approver,
        at=at,
    )
    return book


def _product_file(records: list[dict[str, str]], meter: Meter) -> str:
    rows = [
        {
            "sku": record["SkuPriceId"],
            "name": record["ChargeDescription"][:254],
            "group": record["ServiceName"],
            "unit": record["PricingUnit"],
            "meter": meter.code,
            "filter": json.dumps({"SkuPriceId": record["SkuPriceId"]}),
        }
        for record in _one_per_sku(records)
    ]
    return _csv(rows)


def _price_file(records: list[dict[str, str]]) -> str:
    rows = [
        {"sku": record["SkuPriceId"], "model": "per_unit", "unit_price": record["ListUnitPrice"]}
        for record in _one_per_sku(records)
    ]
    return _csv(rows)


def _one_per_sku(records: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({record["SkuPriceId"]: record for record in records}.values())


def _csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _customers(records: list[dict[str, str]]) -> list[DemoCustomer]:
    """Return a customer for each sub-account of the sample; street numbers are invented."""
    accounts = {record["SubAccountId"]: record.get("SubAccountName", "") for record in records}
    return [
        DemoCustomer(
            code=code,
            subject=code,
            details=CustomerDetails(
                name=name or f"Account {code}",
                address=Address(
                    address_line1=f"{100 + number} Sample Street",
                    city="Portland",
                    region="OR",
                    postal_code="97201",
                    country="US",
                ),
            ),
        )
        for number, (code, name) in enumerate(sorted(accounts.items()), start=1)
    ]


def _summary(entity: LegalEntity, run: BillRun, load: LoadReport) -> SampleMonth:
    billed = InvoiceLine.objects.filter(invoice__bill_run=run)
    sums = billed.aggregate(exact=Sum("exact_amount"), amount=Sum("amount"))
    rated, at_list_cost, events = _rate_each_record(entity)
    quarantined = QuarantinedEvent.objects.filter(source__startswith="focus/", status=QuarantinedEvent.Status.OPEN)
    refused = RefusedEvent.objects.filter(reason=RefusedEvent.Reason.NOT_USAGE)
    return SampleMonth(
        load=load,
        run=run,
        billable_events=events,
        customers=entity.customers.count(),
        quarantined=dict(quarantined.values_list("reason").annotate(Count("id")).order_by("reason")),
        refused=dict(refused.values_list("detail").annotate(Count("id")).order_by("detail")),
        rated_total=rated,
        records_at_list_cost=at_list_cost,
        unrounded_total=sums["exact"] or Decimal(0),
        invoiced_total=sums["amount"] or Decimal(0),
        invoices=run.invoices.count(),
        lines=billed.count(),
        documents=InvoiceDocument.objects.filter(
            invoice__bill_run=run,
            state=InvoiceDocument.State.MADE,
        ).count(),
        mails=InvoiceDelivery.objects.filter(invoice__bill_run=run, state=InvoiceDelivery.State.SENT).count(),
    )


def _rate_each_record(entity: LegalEntity) -> tuple[Decimal, int, int]:
    """Rate each stored record by itself, to the ten places of its source: total, how many equal their cost, how many.

    An independent check of the bill: it goes from the events and the approved prices, not through series and lines.
    """
    products = {
        product.dimension_filter["SkuPriceId"]: product.pk for product in Product.objects.filter(meter__code=METER_CODE)
    }
    live = Price.objects.filter(version__book__code=BOOK_CODE, version__status=PriceBookVersion.Status.LIVE)
    prices = {price.product_id: parse_price(price.spec) for price in live}
    total, equal, count = Decimal(0), 0, 0
    records = UsageEvent.objects.filter(
        customer_id__in=list(entity.customers.values_list("id", flat=True)),
        type=EVENT_TYPE,
    ).values_list("data", flat=True)
    for record in records:
        price = prices[products[record["SkuPriceId"]]]
        exact = rate(price, Usage(Decimal(record["PricingQuantity"])), CURRENCY).exact
        cost = money.rounded_quotient(exact, Decimal(1), places=RECORD_PLACES, mode=money.RoundingMode.HALF_UP)
        total += cost
        equal += cost == Decimal(record["ListCost"])
        count += 1
    return total, equal, count
