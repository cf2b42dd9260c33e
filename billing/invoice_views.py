"""The invoice pages: lists by state, one invoice with its papers, and why each line costs what it does."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from django.http import Http404, HttpResponse, HttpResponseBase, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts import audit_search
from accounts.access import Permission
from accounts.models import LegalEntity
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    csv_answer,
    page,
    page_of,
    staff_page,
    whole_number,
)
from accounts.periods import MonthInvalid, parse_month
from billing import delivery, invoice_list, invoice_overview
from billing.invoice_list import InvoiceQuestion
from billing.models import Invoice, InvoiceDocument
from pricing.money import DecimalInvalid, parse_decimal

CSV_ROWS = 20_000
_CSV_HEADER = [
    "number",
    "status",
    "customer number",
    "customer",
    "legal entity",
    "currency",
    "net",
    "tax",
    "total",
    "issued on",
    "due on",
]


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def invoice_index(request: StaffRequest) -> HttpResponseBase:
    """Show invoices by state and filter, with totals; as CSV too."""
    question = _question(request.GET)
    today = timezone.now().date()
    found = invoice_list.invoices(question, today=today)
    if request.GET.get("format") == "csv":
        rows = found.select_related("customer", "legal_entity")[:CSV_ROWS]
        return csv_answer("invoices.csv", _CSV_HEADER, (_csv_row(invoice) for invoice in rows))
    counts = invoice_list.tab_counts(question, today=today)
    return page(
        request,
        "billing/invoices.html",
        title="Invoices",
        question=question,
        month=f"{question.month:%Y-%m}" if question.month else "",
        tabs=[(tab, label, counts[f"in_{tab}"]) for tab, label in invoice_list.TABS.items()],
        rows=page_of(request, invoice_list.for_list(found)),
        totals=invoice_list.totals(found),
        entities=LegalEntity.objects.all(),
        currencies=invoice_list.currencies(),
        today=today,
    )


def _question(query: QueryDict) -> InvoiceQuestion:
    tab = query.get("tab", "all")
    return InvoiceQuestion(
        tab=tab if tab in invoice_list.TABS else "all",
        search=query.get("q", "").strip(),
        legal_entity_id=whole_number(query.get("entity")),
        currency=query.get("currency", "").strip().upper(),
        month=_month(query.get("month", "")),
        least=_amount(query.get("least", "")),
        most=_amount(query.get("most", "")),
    )


def _month(text: str) -> date | None:
    try:
        month = parse_month(text)
    except MonthInvalid:
        return None
    return date(month.year, month.month, 1)


def _amount(text: str) -> Decimal | None:
    try:
        return parse_decimal(text.strip())
    except DecimalInvalid:
        return None


def _csv_row(invoice: Invoice) -> list[object]:
    return [
        invoice.number or "",
        invoice.status,
        invoice.customer.code,
        invoice.customer.name,
        invoice.legal_entity.name,
        invoice.currency,
        invoice.net_amount,
        invoice.tax_amount,
        invoice.total_amount,
        invoice.issued_on or "",
        invoice.due_on or "",
    ]


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def invoice_page(request: StaffRequest, invoice_id: int) -> HttpResponseBase:
    """Show one invoice with everything that led to it and came of it."""
    invoice = get_object_or_404(invoice_overview.invoices(), pk=invoice_id)
    return page(
        request,
        "billing/invoice.html",
        title=invoice.number or f"Draft for {invoice.customer.name}",
        crumbs=[Crumb("Invoices", reverse("billing:invoices"))],
        invoice=invoice,
        zone=invoice.time_zone,
        steps=invoice_overview.steps_of(invoice),
        parties=invoice_overview.parties_of(invoice),
        groups=invoice_overview.line_groups(invoice),
        papers=invoice_overview.papers_of(invoice),
        before=invoice_overview.bill_before(invoice),
        recipients=invoice_overview.recipients_of(invoice),
        is_overdue=bool(invoice.due_on and invoice.due_on < timezone.now().date()),
        entries=audit_search.about(invoice, invoice.bill_run)[:20],
    )


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def invoice_pdf(request: StaffRequest, invoice_id: int) -> HttpResponseBase:
    """Answer with an issued invoice's PDF, to look at or (with ?download) to keep."""
    document = get_object_or_404(InvoiceDocument.objects.select_related("invoice"), invoice_id=invoice_id)
    if document.content is None:
        msg = "The PDF of this invoice is not made yet."
        raise Http404(msg)
    answer = HttpResponse(bytes(document.content), content_type="application/pdf")
    disposition = "attachment" if "download" in request.GET else "inline"
    answer["Content-Disposition"] = f'{disposition}; filename="{document.invoice.number}.pdf"'
    # The page shows it in a frame of its own.
    answer["X-Frame-Options"] = "SAMEORIGIN"
    return answer


@require_POST
@staff_page(Permission.SEND_INVOICES)
def resend_invoice(request: StaffRequest, invoice_id: int) -> HttpResponseBase:
    """Mail an issued invoice once more."""
    attempt(
        request,
        lambda: delivery.resend_invoice(invoice_id=invoice_id, actor=actor_of(request), at=timezone.now()),
        lambda mail: f"The invoice is on its way to {', '.join(mail.recipients)} again.",
    )
    return redirect("billing:invoice", invoice_id)
