"""Why a line of an invoice costs what it does, and the very events behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_GET

from accounts.access import Permission
from accounts.pages import Crumb, StaffRequest, csv_answer, fragment, page, staff_page
from billing import explanations, invoice_overview, ladder
from billing.explanations import SeriesPart
from billing.models import InvoiceLine
from metering.aggregations import SLOT, Aggregation
from metering.corrections import correction_marks
from metering.models import Meter, UsageEvent
from metering.reading import usage
from metering.reading.billed_slots import billed_slot
from metering.retention import retention
from pricing.price_texts import price_text

EVENTS_SHOWN = 200
CSV_EVENTS = 50_000
_AT_ONCE = 5_000


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def why(request: StaffRequest, line_id: int) -> HttpResponseBase:
    """Show the ladder from quantity to amount, the price with its approval, the usage, and that it still adds up."""
    explanation = explanations.explain_line(line_id)
    return fragment(
        request,
        "billing/why.html",
        explanation=explanation,
        line=explanation.line,
        zone=explanation.invoice.time_zone,
        rungs=ladder.rungs(explanation.line),
        price_words=price_text(
            explanation.price.spec,
            currency=explanation.line.currency,
            unit=explanation.line.unit,
        ),
        series=[(part, _reading_address(explanation.line, part)) for part in explanation.series],
        measured=ladder.how_measured(explanation.line, explanation.series),
        slot=_slot(explanation.line, explanation.series),
        chart=ladder.usage_by_day(explanation.line, explanation.series),
        archived=_archived(explanation.line),
        before=invoice_overview.line_before(explanation.line),
    )


@require_GET
@staff_page(Permission.VIEW_INVOICES, Permission.VIEW_USAGE)
def line_events(request: StaffRequest, line_id: int) -> HttpResponseBase:
    """List the events that a line bills; as CSV too."""
    line = get_object_or_404(InvoiceLine.objects.select_related("invoice"), pk=line_id)
    if request.GET.get("format") == "csv":
        header = ["time", "source", "id", "type", "subject", "batch", "data"]
        return csv_answer(f"line-{line.pk}-events.csv", header, (_csv_row(event) for event in _all_events(line)))
    invoice = line.invoice
    events = _events(line, limit=EVENTS_SHOWN)
    marks = correction_marks.marks_of(event.key for event in events)
    return page(
        request,
        "billing/line_events.html",
        title=f"Events behind {line.description}",
        crumbs=[
            Crumb("Invoices", reverse("billing:invoices")),
            Crumb(invoice.number or "Draft", reverse("billing:invoice", args=[invoice.pk])),
        ],
        line=line,
        zone=invoice.time_zone,
        events=[(event, marks.get(event.key)) for event in events],
        archived=_archived(line),
        most=EVENTS_SHOWN,
    )


def _reading_address(line: InvoiceLine, part: SeriesPart) -> str:
    """Return the address of the reading by which a gauge began the line's period; empty where there was none."""
    if part.carried is None:
        return ""
    filters = {f"filter[{name}]": value for name, value in part.dimensions.items()}
    return _events_address(line, part.meter, part.carried.read_at, timedelta(minutes=1), filters)


def _slot(line: InvoiceLine, series: Sequence[SeriesPart]) -> tuple[datetime, str] | None:
    """Return the five minutes that a percentile is taken from, and the address of their events."""
    if not series or series[0].meter.aggregation != Aggregation.P95:
        return None
    found = billed_slot(
        customer_id=line.invoice.customer_id,
        series_ids=[part.series_id for part in series],
        start=line.service_period.lower,
        end=line.service_period.upper,
    )
    return (found.starts_at, _events_address(line, series[0].meter, found.starts_at, SLOT, {})) if found else None


def _events_address(
    line: InvoiceLine, meter: Meter, start: datetime, length: timedelta, filters: Mapping[str, str]
) -> str:
    asked = {
        "customer": line.invoice.customer.code,
        "meter": meter.code,
        "start": start.isoformat(),
        "end": (start + length).isoformat(),
        "time_zone": line.invoice.time_zone,
        **filters,
    }
    return f"{reverse('metering:explorer-events')}?{urlencode(asked)}"


def _archived(line: InvoiceLine) -> list[retention.AwayMonth]:
    """Return the months of the line whose events are in the archive."""
    period = line.service_period
    return retention.archived_months(period.lower, period.upper) if line.series_ids else []


def _events(line: InvoiceLine, *, limit: int, after: UsageEvent | None = None) -> list[UsageEvent]:
    if not line.series_ids:
        return []
    return usage.events(
        customer_id=line.invoice.customer_id,
        series_ids=line.series_ids,
        start=line.service_period.lower,
        end=line.service_period.upper,
        limit=limit,
        after=(after.time, after.key) if after else None,
    )


def _all_events(line: InvoiceLine) -> Iterator[UsageEvent]:
    given = 0
    last: UsageEvent | None = None
    while given < CSV_EVENTS and (found := _events(line, limit=_AT_ONCE, after=last)):
        yield from found
        given, last = given + len(found), found[-1]


def _csv_row(event: UsageEvent) -> list[object]:
    return [
        event.time.isoformat(),
        event.source,
        event.event_id,
        event.type,
        event.subject,
        event.batch_id,
        event.data,
    ]
