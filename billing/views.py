"""Home, the customer page, and the health of the machinery."""

from __future__ import annotations

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from accounts import audit_search
from accounts.access import Permission
from accounts.pages import Crumb, StaffRequest, actor_of, fragment, page, page_of, staff_page, whole_number
from billing import customer_overview, home, home_figures, invoice_list, usage_charts, work_health
from metering.retention import partitions
from metering.sources import kafka_lag

INVOICES_SHOWN = 12


@require_GET
@staff_page()
def home_page(request: StaffRequest) -> HttpResponseBase:
    """Show what waits for the reader, key figures, charts and what happened last."""
    actor, now = actor_of(request), timezone.now()
    return page(
        request,
        "billing/home.html",
        title="Home",
        tasks=home.tasks(actor, at=now),
        figures=home_figures.figures(actor, at=now),
        tables=home_figures.tables(actor, at=now),
        invoiced=home.invoiced_by_month() if actor.may(Permission.VIEW_INVOICES) else [],
        acts=home.activity(actor),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def usage_chart(request: StaffRequest) -> HttpResponseBase:
    """Show usage day by day, of all customers or of one; loaded after the page, for it adds up many hours."""
    customer_id = whole_number(request.GET.get("customer"))
    usage = usage_charts.usage_by_day(
        at=timezone.now(),
        meter_id=whole_number(request.GET.get("meter")),
        in_events=request.GET.get("meter") == "events",
        customer_id=customer_id,
    )
    return fragment(request, "billing/usage_chart.html", usage=usage, customer_id=customer_id)


@require_GET
@staff_page(Permission.VIEW_CUSTOMERS)
def customer_page(request: StaffRequest, customer_id: int) -> HttpResponseBase:
    """Show one customer: what they agreed, use, were billed and owe."""
    customer = get_object_or_404(customer_overview.customers(), pk=customer_id)
    actor = actor_of(request)
    sees_money = actor.may(Permission.VIEW_INVOICES)
    invoices = invoice_list.for_list(customer.invoices.order_by("-period", "-id")) if sees_money else []
    return page(
        request,
        "billing/customer.html",
        title=customer.name,
        crumbs=[Crumb("Customers", reverse("admin:accounts_customer_changelist"))],
        customer=customer,
        zone=customer.legal_entity.time_zone,
        today=timezone.now().date(),
        contracts=customer_overview.contracts_of(customer),
        subjects=customer_overview.subjects_of(customer)[:INVOICES_SHOWN],
        subject_count=customer.subject_assignments.count(),
        figures=customer_overview.figures_of(customer) if sees_money else None,
        billed=customer_overview.billed_by_month(customer) if sees_money else None,
        rows=page_of(request, invoices, INVOICES_SHOWN),
        entries=audit_search.about(customer)[:12],
    )


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def health_page(request: StaffRequest) -> HttpResponseBase:
    """Show what waits in each queue of work, and what failed."""
    return page(
        request,
        "billing/health.html",
        title="Health",
        queues=work_health.queues(),
        missing_tables=partitions.missing_months(at=timezone.now()),
        last_load=work_health.last_load(),
        streams=kafka_lag.streams(at=timezone.now()),
        failed_mails=work_health.failed_mails()[: work_health.FAILURES_SHOWN],
        documents=work_health.documents_with_errors()[: work_health.FAILURES_SHOWN],
    )
