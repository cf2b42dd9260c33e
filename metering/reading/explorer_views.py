"""The usage explorer's pages: what was used, window by window, and the events behind it."""

from __future__ import annotations

from collections.abc import Sequence
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
from metering.corrections.correction_selection import count_by_filter, filter_of
from metering.errors import EventsSearchedTooLong
from metering.reading import explorer_form, usage_explorer
from metering.reading.event_list import cursor_text, list_events, read_cursor
from metering.reading.usage_explorer import Addresses
from metering.reading.usage_questions import EventsAsked, UsageQuestion, read_events_asked
from metering.reading.words import Words
from metering.retention import retention

EVENTS_SHOWN = 100
# On each page of the list; who corrects them is told the full number.
COUNTED_AT_MOST = 10_000


@require_GET
@staff_page(Permission.VIEW_USAGE)
def explorer(request: StaffRequest) -> HttpResponseBase:
    """Show usage as the address asks for it; as a CSV or Parquet file too. HTMX is given the part that changes."""
    at = timezone.now()
    words = Words(dict(request.GET.lists()))
    form = explorer_form.form_of(words, at=at)
    shown, problem = None, ""
    if form.customer_text and (form.meter or not form.customer):
        try:
            explorer_form.require_known(words)
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
    words = Words(dict(request.GET.lists()))
    events, asked, problem = None, None, ""
    try:
        asked = read_events_asked(words, own_customer_id=None)
        cursor = words.one("cursor")
        events = list_events(asked.question, limit=EVENTS_SHOWN, after=read_cursor(cursor) if cursor else None)
    except CountinghouseError as error:
        problem = str(error)
    period = asked.question.period if asked else None
    is_paged = events is not None and (events.following is not None or bool(words.one("cursor")))
    following = cursor_text(events.following) if events and events.following else ""
    return page(
        request,
        "metering/explorer_events.html",
        title="Events",
        crumbs=[Crumb("Usage explorer", reverse("metering:explorer"))],
        found=events,
        following=following,
        zone=asked.time_zone if asked else "UTC",
        period=period,
        archived=retention.archived_months(period.start, period.end) if period else [],
        problem=problem,
        customer=asked.customer if asked else None,
        words=request.GET.dict(),
        matching=_matching(asked) if asked and is_paged else 0,
        counted_at_most=COUNTED_AT_MOST,
        question=_without_place(request),
        hidden=[(key, value) for key, values in request.GET.lists() if key not in _TYPED for value in values],
    )


def _matching(asked: EventsAsked) -> int:
    """Return how many events match and still count, 10,001 if more; 0 where that cannot be told soon."""
    try:
        return count_by_filter(filter_of(asked.question), limit=COUNTED_AT_MOST)
    except EventsSearchedTooLong:
        return 0


def _without_place(request: StaffRequest) -> str:
    question = request.GET.copy()
    question.pop("cursor", None)
    return question.urlencode()


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
