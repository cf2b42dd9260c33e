"""The page of what came after a period was billed."""

from __future__ import annotations

from django.http import HttpResponseBase
from django.views.decorators.http import require_GET

from accounts.access import Permission
from accounts.models import Customer
from accounts.pages import StaffRequest, csv_answer, page, page_of, staff_page
from metering.corrections import closing


@require_GET
@staff_page(Permission.VIEW_USAGE)
def after_closing(request: StaffRequest) -> HttpResponseBase:
    """Show the billed periods of which usage came or was corrected after, and where that was billed."""
    code = request.GET.get("customer", "").strip()
    customer_id = Customer.objects.filter(code=code).values_list("pk", flat=True).first() if code else None
    found = [] if code and customer_id is None else closing.what_came_after(customer_id=customer_id)
    if request.GET.get("format") == "csv":
        header = ["customer", "meter", "unit", "from", "until", "events added", "events taken back", "billed first",
                  "billed by now", "changes not billed yet"]  # fmt: skip
        rows = [
            (each.customer, each.meter, each.unit, each.starts_at.isoformat(), each.ends_at.isoformat(), each.added,
             each.taken_back, each.billed, each.billed_since, each.waiting)
            for each in found
        ]  # fmt: skip
        return csv_answer("after-closing.csv", header, rows)
    return page(
        request, "metering/after_closing.html", title="After closing", rows=page_of(request, found), customer=code
    )
