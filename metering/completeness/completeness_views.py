"""The completeness pages: what sources say they sent against what came in, and usage that is unlike the usual week."""

from __future__ import annotations

from datetime import UTC, datetime

from django.http import Http404, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    back_to,
    csv_answer,
    fragment,
    page,
    page_of,
    staff_page,
)
from metering.completeness import completeness, completeness_overview, findings
from metering.completeness.completeness_overview import HOURS_SHOWN


@require_GET
@staff_page(Permission.VIEW_USAGE)
def completeness_page(request: StaffRequest) -> HttpResponseBase:
    """Show what was expected, came in, waits, is missing or too much: by day, and by hour."""
    question = completeness_overview.question_of(request.GET.dict(), today=timezone.now().date())
    hours = completeness.hours(question.scope_of_hours, only_differences=not question.every_hour, limit=HOURS_SHOWN)
    if request.GET.get("format") == "csv":
        rows = (completeness_overview.csv_row(line) for line in hours.lines)
        return csv_answer("completeness.csv", completeness_overview.CSV_HEADER, rows)
    strips = completeness_overview.strips(completeness.days(question.scope), question)
    return page(
        request,
        "metering/completeness.html",
        title="Completeness",
        question=question,
        sources=completeness.sources(),
        meters=completeness_overview.meters(),
        strips=strips,
        summary=completeness_overview.summary(strips),
        hours=hours,
        rows=page_of(request, hours.lines),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def hour_page(request: StaffRequest) -> HttpResponseBase:
    """Show one hour of what a source sent: every statement, the batches that brought it, and what is in quarantine."""
    hour = _instant(request.GET.get("hour"))
    source, kind = request.GET.get("source", ""), request.GET.get("type", "")
    if hour is None or hour != hour.replace(minute=0, second=0, microsecond=0) or not source:
        raise Http404
    lines = completeness.of_hour(hour=hour, source=source, kind=kind)
    return page(
        request,
        "metering/completeness_hour.html",
        title=f"{hour:%-d %b %Y, %H:00} UTC",
        crumbs=[Crumb("Completeness", reverse("metering:completeness"))],
        hour=hour,
        source=source,
        kind=kind,
        lines=lines,
        is_short=any(line.missing or line.state == completeness.State.SUM_DIFFERS for line in lines),
        statements=completeness.statements(hour=hour, source=source, kind=kind),
        batches=completeness.batches(hour=hour, source=source, kind=kind),
        quarantined=completeness_overview.quarantine_of(hour=hour, source=source, kind=kind),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def findings_list(request: StaffRequest) -> HttpResponseBase:
    """Show what is unlike the usual week, and what differs from what was stated; loaded after the page.

    It is asked for with the whole address of the page that it stands on, so that its links keep it.
    """
    question = completeness_overview.question_of(request.GET.dict(), today=timezone.now().date())
    scope = question.scope
    end = min(scope.end, findings.settled_until(timezone.now()))
    found = [
        each
        for each in findings.findings(scope.start, end)
        if (not scope.source or each.source == scope.source)
        and (scope.meter_id is None or each.meter_id == scope.meter_id)
    ]
    return fragment(
        request,
        "metering/findings.html",
        rows=page_of(request, found, named="findings"),
        open_findings=sum(each.is_open for each in found),
        start=scope.start,
        end=end,
        next=f"{reverse('metering:completeness')}?{request.GET.urlencode()}",
    )


@require_POST
@staff_page(Permission.RELEASE_QUARANTINE)
def acknowledge(request: StaffRequest) -> HttpResponseBase:
    """Say of one finding that it is as it should be."""
    start, end = _instant(request.POST.get("start")), _instant(request.POST.get("end"))
    if start is None or end is None:
        raise Http404
    attempt(
        request,
        lambda: findings.acknowledge(
            key=request.POST.get("finding", ""),
            start=start,
            end=end,
            reason=request.POST.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "Noted; it is asked of no more.",
    )
    return redirect(back_to(request, reverse("metering:completeness")))


def _instant(text: str | None) -> datetime | None:
    """Read a full moment in UTC from an address or a form; anything else is None."""
    try:
        instant = parse_datetime(text or "")
        return instant.astimezone(UTC) if instant and instant.tzinfo else None
    except (ValueError, OverflowError):
        return None
