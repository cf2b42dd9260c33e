"""Why a line of an invoice costs what it does: from the amount down to price, approval, hours and events, and back.

Back means that the line is worked out once more, from the quantities that it keeps, by the same code that bills; and
that its usage is read once more and compared with what the line billed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from django.db.models import Q, QuerySet, Sum

from accounts.models import ApprovalDecision, ApprovalRequest
from accounts.periods import Period, billing_period_at, local_date
from billing.assessment import usage_digest
from billing.errors import InvoiceUnknown
from billing.models import Invoice, InvoiceLine
from metering.aggregations import Aggregation, combine, divided, quantity_unit
from metering.models import Meter, UsageEvent
from metering.reading import usage
from metering.reading.carried_levels import CarriedLevel, carried_levels
from metering.retention.erasure_guard import reaches_beyond
from pricing.charges import Billed, ContractTerms, MeteredUsage, PriceInForce, charges
from pricing.models import Contract, Price, PriceBookVersion
from pricing.money import ZERO, add, subtract
from pricing.rating import parse_price

EVENTS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPart:
    """What one series gives to a line, as it reads now.

    Only of some aggregations do the quantities of several series add up to the line's.
    """

    series_id: int
    meter: Meter
    dimensions: dict[str, str]
    quantity: Decimal
    event_count: int
    carried: CarriedLevel | None = None

    @property
    def carried_level(self) -> Decimal | None:
        """The level by which a gauge began the period, in the meter's unit; None where none was read before it."""
        return divided(self.carried.level, self.meter.divisor) if self.carried else None

    @property
    def unit(self) -> str:
        """What the quantity is counted in."""
        return quantity_unit(self.meter.aggregation, self.meter.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerating:
    """The line worked out once more from the quantities that it keeps; amounts in its currency."""

    exact: Decimal
    amount: Decimal
    is_same: bool


class UsageNow(StrEnum):
    """How a line's usage, read again, compares with what it billed."""

    SAME = "same"
    LATER_USAGE = "later_usage"
    ERASED = "erased"
    DIFFERENT = "different"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rereading:
    """The usage of a line's service period and price as it is now.

    `same`: nothing was added since. `later_usage`: usage came after the line was drafted, `later_quantity` and
    `later_events` of it, which a later line bills. `erased`: it is as much as was billed, and what it is made of was
    erased by law since. `different`: it is not what was billed, and neither is the reason, which must never be.
    `none`: a fee bills no usage.
    """

    outcome: UsageNow
    quantity: Decimal
    event_count: int
    later_quantity: Decimal = ZERO
    later_events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LineExplanation:
    """Everything behind one line."""

    line: InvoiceLine
    invoice: Invoice
    contract: Contract
    price: Price
    version: PriceBookVersion
    approval: ApprovalRequest | None
    decisions: list[ApprovalDecision]
    steps: list[dict[str, Any]]
    series: list[SeriesPart]
    events: list[UsageEvent]
    rerating: Rerating
    rereading: Rereading
    other_lines: list[InvoiceLine]

    @property
    def event_count(self) -> int:
        """How many events the line bills."""
        return self.line.event_count


def explain_line(line_id: int) -> LineExplanation:
    """Explain one line of an invoice.

    `other_lines` are the live lines of other invoices that bill the same price for the same service period.

    Raises: InvoiceUnknown.
    """
    line = (
        InvoiceLine.objects.select_related(
            "invoice__customer", "invoice__contract__price_book", "product", "price__version__book", "price__product"
        )
        .filter(pk=line_id)
        .first()
    )
    if line is None:
        raise InvoiceUnknown
    version = line.price.version
    approval = _approval(version)
    totals = _series_now(line)
    return LineExplanation(
        line=line,
        invoice=line.invoice,
        contract=line.invoice.contract,
        price=line.price,
        version=version,
        approval=approval,
        decisions=list(approval.decisions.select_related("decided_by")) if approval else [],
        steps=line.steps,
        series=_parts(line, totals),
        events=usage.events(
            customer_id=line.invoice.customer_id,
            series_ids=line.series_ids,
            start=line.service_period.lower,
            end=line.service_period.upper,
            limit=EVENTS_SHOWN,
        )
        if line.series_ids
        else [],
        rerating=rerate(line),
        rereading=_reread(line, totals),
        other_lines=list(_of_same_period(line).exclude(pk=line.pk).select_related("invoice").order_by("invoice_id")),
    )


def _approval(version: PriceBookVersion) -> ApprovalRequest | None:
    if version.approval_id is None:
        return None
    return ApprovalRequest.objects.select_related("requested_by").get(pk=version.approval_id)


def rerate(line: InvoiceLine) -> Rerating:
    """Work a line out once more, by the code that bills and from the quantities that lines keep.

    Tiers count from the start of the service period, so lines of the same product that stand before it take part, and
    so does what invoices before this one billed.
    """
    so_far = list(_of_same_product(line).filter(invoice_id__lte=line.invoice_id).select_related("price"))
    before = [each for each in so_far if each.invoice_id < line.invoice_id]
    found = charges(
        terms=_terms(line, so_far),
        prices=_prices(line, so_far),
        usage={
            price_id: MeteredUsage(total.quantity, total.event_count)
            for price_id, total in _totals(so_far).items()
            if line.kind != InvoiceLine.Kind.FEE
        },
        period=_billing_period(line),
        billed=_totals(before),
    )
    again = next((each for each in found if each.price_key == line.price_id), None)
    exact, amount = (again.exact, again.amount) if again else (ZERO, ZERO)
    return Rerating(exact=exact, amount=amount, is_same=(exact, amount) == (line.exact_amount, line.amount))


def _of_same_period(line: InvoiceLine) -> QuerySet[InvoiceLine]:
    """The live lines of the contract that bill the line's price for its service period."""
    return InvoiceLine.objects.filter(
        invoice__contract_id=line.invoice.contract_id,
        price_id=line.price_id,
        service_period=line.service_period,
    ).exclude(invoice__status=Invoice.Status.VOID)


def _of_same_product(line: InvoiceLine) -> QuerySet[InvoiceLine]:
    """The live lines of the contract that bill the line's product for its billing period, whatever the price."""
    period = _billing_period(line)
    return InvoiceLine.objects.filter(
        ~Q(invoice__status=Invoice.Status.VOID) | Q(invoice_id=line.invoice_id),
        invoice__contract_id=line.invoice.contract_id,
        product_id=line.product_id,
        service_period__startswith__gte=period.start,
        service_period__startswith__lt=period.end,
    )


def _billing_period(line: InvoiceLine) -> Period:
    contract, time_zone = line.invoice.contract, line.invoice.time_zone
    return billing_period_at(contract.anchor_day, line.service_period.lower, time_zone)


def _terms(line: InvoiceLine, so_far: Sequence[InvoiceLine]) -> ContractTerms:
    """The terms as they were billed; the contract may have been ended since, which changes no bill."""
    time_zone = line.invoice.time_zone
    first = min(each.service_period.lower for each in so_far)
    last = max(each.service_period.upper for each in so_far) - timedelta(microseconds=1)
    ends_on = local_date(last, time_zone) + timedelta(days=1)
    return ContractTerms(
        line.currency, local_date(first, time_zone), ends_on, line.invoice.contract.anchor_day, time_zone
    )


def _prices(line: InvoiceLine, so_far: Sequence[InvoiceLine]) -> list[PriceInForce]:
    """Each price in force for the slice that its lines bill."""
    slices = {each.price_id: each for each in so_far}
    return [
        PriceInForce(
            str(line.product_id),
            price_id,
            parse_price(each.price.spec),
            each.service_period.lower,
            each.service_period.upper,
        )
        for price_id, each in slices.items()
    ]


def _totals(lines: Sequence[InvoiceLine]) -> dict[int, Billed]:
    totals: dict[int, Billed] = {}
    for each in lines:
        so_far = totals.get(each.price_id, Billed(ZERO, ZERO, 0))
        totals[each.price_id] = Billed(
            add(so_far.quantity, each.quantity),
            add(so_far.amount, each.amount),
            so_far.event_count + each.event_count,
        )
    return totals


def _series_now(line: InvoiceLine) -> list[usage.SeriesTotal]:
    """What the line's series add up to in its service period, read again."""
    if not line.series_ids:
        return []
    of_line = set(line.series_ids)
    window = usage.UsageWindow(
        customer_id=line.invoice.customer_id, start=line.service_period.lower, end=line.service_period.upper
    )
    return [each for each in usage.series_totals([window]) if each.series_id in of_line]


def _parts(line: InvoiceLine, totals: Sequence[usage.SeriesTotal]) -> list[SeriesPart]:
    meters = Meter.objects.in_bulk({each.meter_id for each in totals})
    carried = carried_levels(
        customer_id=line.invoice.customer_id,
        series_ids=[each.series_id for each in totals if each.aggregation == Aggregation.GAUGE],
        before=line.service_period.lower,
    )
    return [
        SeriesPart(
            series_id=each.series_id,
            meter=meters[each.meter_id],
            dimensions=each.dimensions,
            quantity=each.quantity,
            event_count=each.count,
            carried=carried.get(each.series_id),
        )
        for each in totals
    ]


def _reread(line: InvoiceLine, totals: Sequence[usage.SeriesTotal]) -> Rereading:
    """Compare the line's usage, read again, with what the line billed."""
    if line.usage_digest is None:
        return Rereading(outcome=UsageNow.NONE, quantity=ZERO, event_count=0)
    start, end = line.service_period.lower, line.service_period.upper
    digest = usage_digest((each.series_id, each.digest) for each in totals)
    quantity = combine(totals[0].aggregation, totals) if totals else ZERO
    event_count = sum(each.count for each in totals)
    if digest == bytes(line.usage_digest):
        return Rereading(outcome=UsageNow.SAME, quantity=quantity, event_count=event_count)
    unseen = usage.UnseenWindow(
        customer_id=line.invoice.customer_id, start=start, end=end, snapshot=line.invoice.usage_watermark
    )
    billed = (
        _of_same_period(line)
        .filter(invoice_id__lte=line.invoice_id)
        .aggregate(quantity=Sum("quantity"), event_count=Sum("event_count"))
    )
    later_quantity = subtract(quantity, billed["quantity"] or ZERO)
    later_events = event_count - (billed["event_count"] or 0)
    outcome = UsageNow.DIFFERENT
    if usage.windows_with_unseen_usage([unseen]):
        outcome = UsageNow.LATER_USAGE
    elif not later_quantity and not later_events and reaches_beyond(customer_id=unseen.customer_id, moment=start):
        outcome = UsageNow.ERASED
    return Rereading(
        outcome=outcome,
        quantity=quantity,
        event_count=event_count,
        later_quantity=later_quantity,
        later_events=later_events,
    )
