"""The page of what came after a period was billed."""

from __future__ import annotations

from django.http import HttpResponseBase
from django.views.decorators.http import require_GET

from accounts.access import Permission
from accounts.models import Customer
from accounts.pages import StaffRequest, csv_answer, page, page_of, staff_page
from accounts.periods import Month, MonthInvalid, parse_month
from metering.corrections import closing, closing_overview


@require_GET
@staff_page(Permission.VIEW_USAGE)
def after_closing(request: StaffRequest) -> HttpResponseBase:
    """Show the billed periods of which usage came or was corrected after, and where that was billed."""
    code, month = request.GET.get("customer", "").strip(), _month(request.GET.get("month", ""))
    customer_id = Customer.objects.filter(code=code).values_list("pk", flat=True).first() if code else None
    found = [] if code and customer_id is None else closing.what_came_after(customer_id=customer_id)
    if month:
        found = closing_overview.of_month(found, month)
    if request.GET.get("format") == "csv":
        rows = (closing_overview.csv_row(each) for each in closing_overview.late(found))
        return csv_answer("after-closing.csv", closing_overview.CSV_HEADER, rows)
    shown = page_of(request, found)
    return page(
        request,
        "metering/after_closing.html",
        title="After closing",
        rows=shown,
        late=closing_overview.late(list(shown)),
        customer=code,
        month=f"{month.year:04}-{month.month:02}" if month else "",
        customers=Customer.objects.order_by("name").values_list("code", "name")[:500],
    )


def _month(text: str) -> Month | None:
    try:
        return parse_month(text) if text else None
    except MonthInvalid:
        return None
