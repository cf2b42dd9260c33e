"""Lists of invoices: by state and filter, with totals per currency and the change against the bill before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from django.db.models import (
    Case,
    Count,
    DecimalField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    When,
)
from django.db.models.functions import Abs, Coalesce

from billing.models import Invoice, InvoiceDelivery

Status = Invoice.Status
_AMOUNT: DecimalField[Decimal, Decimal] = DecimalField()


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceQuestion:
    """Which invoices; whatever is empty does not narrow. `tab` is a key of `TABS`, `month` a first of the month."""

    tab: str = "all"
    search: str = ""
    legal_entity_id: int | None = None
    currency: str = ""
    month: date | None = None
    least: Decimal | None = None
    most: Decimal | None = None


@dataclass(frozen=True, slots=True)
class CurrencyTotal:
    """What some invoices come to in one currency."""

    currency: str
    invoices: int
    net: Decimal
    tax: Decimal
    total: Decimal


TABS: Mapping[str, str] = {
    "all": "All",
    "draft": "Draft",
    "in_review": "In review",
    "approved": "Approved",
    "issued": "Issued",
    "overdue": "Overdue",
    "void": "Void",
}


def _in_tab(tab: str, today: date) -> Q:
    if tab == "overdue":
        return Q(status=Status.ISSUED, due_on__lt=today)
    return Q(status=tab) if tab in Status.values else Q()


def invoices(question: InvoiceQuestion, *, today: date) -> QuerySet[Invoice]:
    """Return the invoices that fit, last issued first, drafts last; what was due before `today` is overdue."""
    found = Invoice.objects.filter(_in_tab(question.tab, today))
    if question.search:
        found = found.filter(
            Q(number__icontains=question.search)
            | Q(customer__name__icontains=question.search)
            | Q(customer__code__icontains=question.search),
        )
    if question.legal_entity_id:
        found = found.filter(legal_entity_id=question.legal_entity_id)
    if question.currency:
        found = found.filter(currency=question.currency)
    if question.month:
        found = found.filter(bill_run__month=question.month)
    if question.least is not None:
        found = found.filter(total_amount__gte=question.least)
    if question.most is not None:
        found = found.filter(total_amount__lte=question.most)
    return found.order_by(F("issued_on").desc(nulls_last=True), "-period", F("number").desc(nulls_last=True), "-id")


def for_list(found: QuerySet[Invoice]) -> QuerySet[Invoice]:
    """Add what a list shows of each invoice: customer, document, the state of its mail, the bill before."""
    last_mail = InvoiceDelivery.objects.filter(invoice=OuterRef("pk")).order_by("-id")
    return (
        with_bill_before(found)
        .select_related("customer", "legal_entity", "bill_run")
        .annotate(
            mail_state=Subquery(last_mail.values("state")[:1]),
            has_document=Exists(found.model.objects.filter(pk=OuterRef("pk"), document__state="made")),
        )
    )


def with_bill_before(found: QuerySet[Invoice]) -> QuerySet[Invoice]:
    """Add the total of the customer's bill before each (`before_total`), the difference, and that in percent."""
    before = (
        Invoice.objects.filter(
            customer=OuterRef("customer"),
            currency=OuterRef("currency"),
            period__fully_lt=OuterRef("period"),
        )
        .exclude(status=Status.VOID)
        .order_by("-period", "-id")
    )
    difference = ExpressionWrapper(F("total_amount") - F("before_total"), output_field=_AMOUNT)
    return found.annotate(before_total=Subquery(before.values("total_amount")[:1])).annotate(
        difference=difference,
        difference_percent=Case(
            When(
                before_total__gt=0, then=ExpressionWrapper(difference * 100 / F("before_total"), output_field=_AMOUNT)
            ),
            output_field=_AMOUNT,
        ),
    )


def ranked_by_change(found: QuerySet[Invoice]) -> QuerySet[Invoice]:
    """Order invoices by how much they differ from the bill before, in money; a first bill differs by all of itself."""
    return found.annotate(size=Abs(Coalesce(F("difference"), F("total_amount")))).order_by("-size", "id")


def totals(found: QuerySet[Invoice]) -> list[CurrencyTotal]:
    """Add invoices up, currency by currency."""
    rows = (
        found.order_by()
        .values("currency")
        .annotate(invoices=Count("id"), net=Sum("net_amount"), tax=Sum("tax_amount"), total=Sum("total_amount"))
        .order_by("currency")
    )
    return [CurrencyTotal(**row) for row in rows]


def tab_counts(question: InvoiceQuestion, *, today: date) -> dict[str, int]:
    """Return how many invoices each tab holds under the other filters."""
    everything = InvoiceQuestion(
        search=question.search,
        legal_entity_id=question.legal_entity_id,
        currency=question.currency,
        month=question.month,
        least=question.least,
        most=question.most,
    )
    counts = {tab: Count("id", filter=_in_tab(tab, today)) if tab != "all" else Count("id") for tab in TABS}
    return dict(invoices(everything, today=today).order_by().aggregate(**{f"in_{tab}": n for tab, n in counts.items()}))


def currencies() -> list[str]:
    """Return every currency that invoices are in."""
    return list(Invoice.objects.order_by("currency").values_list("currency", flat=True).distinct())
