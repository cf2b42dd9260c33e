"""The usage explorer's pages: what was used, window by window, and the events behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from django.http import HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.pages import Crumb, StaffRequest, csv_answer, fragment, page, staff_page
from metering.models import Meter
from metering.reading import explorer_form, usage_explorer
from metering.reading.event_list import EventQuestion, cursor_text, list_events, read_cursor
from metering.reading.usage_explorer import Addresses
from metering.reading.usage_questions import ABSENT, UsageQuestion, customer_asked, period_asked, zone_asked
from metering.retention import retention

EVENTS_SHOWN = 100


@require_GET
@staff_page(Permission.VIEW_USAGE)
def explorer(request: StaffRequest) -> HttpResponseBase:
    """Show usage as the address asks for it; as a CSV or Parquet file too. HTMX is given the part that changes."""
    at = timezone.now()
    form = explorer_form.form_of(_words(request), at=at)
    shown, problem = None, ""
    if form.customer_text and (form.meter or not form.customer):
        try:
            question = explorer_form.question_of(form)
            if request.GET.get("format") in {"csv", "parquet"}:
                return _file(question, request.GET["format"])
            addresses = Addresses(reverse("metering:explorer"), reverse("metering:explorer-events"))
            shown = usage_explorer.show(question, compares=form.compares, addresses=addresses, at=at)
        except CountinghouseError as error:
            problem = str(error)
    # Going back in the browser's history asks for the whole page.
    if request.headers.get("HX-Request") and not request.headers.get("HX-History-Restore-Request"):
        answer: HttpResponseBase = fragment(
            request, "metering/explorer_part.html", form=form, shown=shown, problem=problem
        )
    else:
        answer = page(
            request, "metering/explorer.html", title="Usage explorer", form=form, shown=shown, problem=problem
        )
    answer["Vary"] = "HX-Request"
    return answer


@require_GET
@staff_page(Permission.VIEW_USAGE)
def explorer_events(request: StaffRequest) -> HttpResponseBase:
    """List the raw events behind a bar or a group, page by page."""
    words = _words(request)
    events, period, customer, zone, problem = None, None, None, "UTC", ""
    try:
        customer = customer_asked(_one(words, "customer"), own_customer_id=None)
        zone = zone_asked(_one(words, "time_zone"), customer)
        meter_code, cursor = _one(words, "meter"), _one(words, "cursor")
        period = period_asked(words, zone)
        question = EventQuestion(
            customer_id=customer.pk,
            period=period,
            type=_one(words, "type"),
            source=_one(words, "source"),
            event_id=_one(words, "id"),
            meter_id=Meter.objects.filter(code=meter_code).values_list("pk", flat=True).first() if meter_code else None,
            filters=_filters(words),
        )
        events = list_events(question, limit=EVENTS_SHOWN, after=read_cursor(cursor) if cursor else None)
    except CountinghouseError as error:
        problem = str(error)
    following = cursor_text(events.following) if events and events.following else ""
    return page(
        request,
        "metering/explorer_events.html",
        title="Events",
        crumbs=[Crumb("Usage explorer", reverse("metering:explorer"))],
        found=events,
        following=following,
        zone=zone,
        period=period,
        archived=retention.archived_months(period.start, period.end) if period else [],
        problem=problem,
        customer=customer,
        words={key: values[-1] for key, values in words.items()},
        hidden=[(key, value) for key, values in words.items() if key not in _TYPED for value in values],
    )


_TYPED = frozenset({"type", "source", "id", "cursor"})


def _file(question: UsageQuestion, kind: str) -> HttpResponse:
    header, rows = usage_explorer.export_rows(question, at=timezone.now())
    name = f"usage-{question.customer_code.strip('()')}-{question.meter.code}"
    if kind == "csv":
        return csv_answer(f"{name}.csv", header, ([_cell(value) for value in row] for row in rows))
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    table = pa.table(dict(zip(header, map(_column, columns), strict=True)))
    buffer = BytesIO()
    pq.write_table(table, buffer)
    answer = HttpResponse(buffer.getvalue(), content_type="application/vnd.apache.parquet")
    answer["Content-Disposition"] = f'attachment; filename="{name}.parquet"'
    return answer


def _column(values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowInvalid:
        # More digits than a decimal column can hold: exact as text rather than rounded as a number.
        return pa.array([str(value) for value in values])


def _cell(value: object) -> object:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _words(request: StaffRequest) -> dict[str, list[str]]:
    return {name: request.GET.getlist(name) for name in request.GET}


def _one(words: Mapping[str, Sequence[str]], name: str) -> str:
    values = words.get(name, ())
    return values[-1] if values else ""


def _filters(words: Mapping[str, Sequence[str]]) -> dict[str, list[str | None]]:
    return {
        name[len("filter[") : -1]: [None if value == ABSENT else value for value in values]
        for name, values in words.items()
        if name.startswith("filter[") and name.endswith("]")
    }
