"""What the customer page shows: what a customer owes and was billed, and their usage day by day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from django.db.models import Prefetch, QuerySet, Sum

from accounts.charts import Chart, chart
from accounts.models import Contact, Customer
from billing import ledger
from billing.models import Invoice
from metering.models import SubjectAssignment
from pricing.models import Contract
from pricing.money import ZERO
from pricing.price_texts import amount_text

Status = Invoice.Status
MONTHS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class CustomerFigures:
    """What a customer owes by the ledger, what was billed in all, and the last bill."""

    receivable: Decimal
    billed: Decimal
    last: Invoice | None
    open_drafts: int


def customers() -> QuerySet[Customer]:
    """Return customers with what their page shows of them."""
    return Customer.objects.select_related("legal_entity", "parent").prefetch_related(
        Prefetch("contacts", Contact.objects.order_by("name")),
    )


def contracts_of(customer: Customer) -> QuerySet[Contract]:
    """Return a customer's contracts, the newest first."""
    return customer.contracts.select_related("price_book").order_by("-starts_on")


def subjects_of(customer: Customer) -> QuerySet[SubjectAssignment]:
    """Return the names under which a customer's usage arrives."""
    return customer.subject_assignments.select_related("subject").order_by("subject__name", "valid_during")


def figures_of(customer: Customer) -> CustomerFigures:
    """Work out what a customer owes and was billed, in the customer's currency."""
    issued = customer.invoices.filter(status=Status.ISSUED, currency=customer.currency)
    drafts = customer.invoices.filter(status__in=[Status.DRAFT, Status.IN_REVIEW, Status.APPROVED])
    return CustomerFigures(
        receivable=ledger.receivable_of(customer_id=customer.pk, currency=customer.currency),
        billed=issued.aggregate(sum=Sum("total_amount"))["sum"] or ZERO,
        last=issued.order_by("-period", "-id").first(),
        open_drafts=drafts.count(),
    )


def billed_by_month(customer: Customer) -> Chart:
    """Chart what a customer was billed before tax, by the month of the bill run, the last twelve of them."""
    rows = (
        customer.invoices.exclude(status=Status.VOID)
        .filter(currency=customer.currency)
        .order_by()
        .values_list("bill_run__month")
        .annotate(net=Sum("net_amount"))
        .order_by("-bill_run__month")[:MONTHS_SHOWN]
    )
    by_month: dict[date, Decimal] = dict(reversed(list(rows)))
    return chart(
        labels=[f"{month:%b %Y}" for month in by_month],
        series={f"Net, {customer.currency}": list(by_month.values())} if by_month else {},
        write=lambda _name, value: amount_text(value, customer.currency),
        unit=customer.currency,
    )
