"""The pages of meters: what they count, defining one with a preview, further versions, and back-fills."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts import audit_search
from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    fragment,
    page,
    page_of,
    staff_page,
    whole_number,
)
from metering.aggregations import quantity_unit
from metering.meters import meter_backfill, meter_forms, meter_overview, meter_preview, meter_words, meters
from metering.models import Meter, MeterBackfill, QuarantinedEvent

_EXAMPLES_SHOWN = 5
_NO_CONVERSION = {"conversion": "1", "divisor": "1"}


def _crumbs(meter: Meter | None = None) -> list[Crumb]:
    first = Crumb("Meters", reverse("metering:meters"))
    return [first] if meter is None else [first, Crumb(meter.name, reverse("metering:meter", args=[meter.pk]))]


@require_GET
@staff_page(Permission.VIEW_USAGE)
def meter_list(request: StaffRequest) -> HttpResponseBase:
    """Show every meter with what it counts, in words."""
    text, aggregation = request.GET.get("q", "").strip(), request.GET.get("aggregation", "")
    state = request.GET.get("state", "")
    rows = page_of(request, meter_overview.search(text=text, aggregation=aggregation, state=state))
    return page(
        request,
        "metering/meters.html",
        title="Meters",
        rows=rows,
        meters=meter_overview.rows_of(list(rows), at=timezone.now()),
        search=text,
        aggregation=aggregation,
        state=state,
        aggregations=Meter.Aggregation.choices,
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def meter_page(request: StaffRequest, meter_id: int) -> HttpResponseBase:
    """Show one meter: its versions, late events and how they count, and who uses it."""
    meter = get_object_or_404(Meter, pk=meter_id)
    now = timezone.now()
    versions = list(meter.versions.order_by("valid_from"))
    current = meter_overview.current(versions, at=now)
    (row,) = meter_overview.rows_of([meter], at=now)
    return page(
        request,
        "metering/meter.html",
        title=meter.name,
        crumbs=_crumbs(),
        meter=meter,
        row=row,
        unit=quantity_unit(meter.aggregation, meter.unit),
        explained=meter_words.EXPLAINED[meter.aggregation],
        versions=[
            (version, meter_words.sentence(meter, version), version == current, version.valid_from > now)
            for version in reversed(versions)
        ],
        beginning=meters.THE_BEGINNING,
        examples=meter_preview.examples_of(meter, limit=_EXAMPLES_SHOWN),
        in_use=meter_overview.series_in_use(meter),
        backfills=meter.backfills.select_related("requested_by")[:10],
        entries=audit_search.about(meter)[:12],
        zone="UTC",
    )


@staff_page(Permission.EDIT_METERS)
def define_page(request: StaffRequest) -> HttpResponseBase:
    """Ask what a meter counts, try it on events, and define it."""
    typed = request.POST if request.method == "POST" else {"event_type": request.GET.get("type", ""), **_NO_CONVERSION}
    if request.method == "POST":
        meter = attempt(request, lambda: _define(request), lambda meter: f"{meter} counts from now on.")
        if meter is not None:
            return redirect("metering:meter", meter.pk)
    return _form_page(request, typed, title="Define a meter", meter=None)


def _define(request: StaffRequest) -> Meter:
    form = request.POST
    draft = meter_forms.draft_of(form)
    return meters.define_meter(
        code=form.get("code", "").strip(),
        name=form.get("name", "").strip(),
        event_type=draft.event_type,
        aggregation=draft.aggregation,
        value_path=draft.reading.value_path,
        event_filter=draft.reading.event_filter,
        conversion=draft.reading.conversion,
        unit=form.get("unit", "").strip(),
        divisor=draft.divisor,
        dimensions=draft.reading.dimensions,
        actor=actor_of(request),
        at=timezone.now(),
    )


@staff_page(Permission.EDIT_METERS)
def version_page(request: StaffRequest, meter_id: int) -> HttpResponseBase:
    """Ask what a meter reads from a moment on, try it on events, and add the version."""
    meter = get_object_or_404(Meter, pk=meter_id)
    newest = meter.versions.order_by("-number")[0]
    typed: Mapping[str, str]
    if request.method == "POST":
        typed = request.POST
        version = attempt(
            request,
            lambda: meters.add_version(
                meter_id=meter.pk,
                reading=meter_forms.reading_of(request.POST),
                valid_from=meter_forms.moment_of(request.POST),
                reason=request.POST.get("reason", ""),
                actor=actor_of(request),
                at=timezone.now(),
            ),
            lambda version: f"Version {version.number} reads events from {version.valid_from:%-d %b %Y, %H:%M} UTC on.",
        )
        if version is not None:
            return redirect("metering:meter", meter.pk)
    else:
        tomorrow = timezone.now() + timedelta(days=1)
        typed = {**meter_forms.typed_of(newest), "valid_day": f"{tomorrow:%Y-%m-%d}", "valid_hour": "00:00"}
    return _form_page(request, typed, title=f"New version of {meter.name}", meter=meter)


def _form_page(request: StaffRequest, typed: Mapping[str, str], *, title: str, meter: Meter | None) -> HttpResponseBase:
    return page(
        request,
        "metering/meter_form.html",
        title=title,
        crumbs=_crumbs(meter),
        meter=meter,
        typed=typed,
        aggregation=typed.get("aggregation") or Meter.Aggregation.SUM,
        explained=meter_words.EXPLAINED.items(),
        event_types=meter_overview.event_types(),
        days=meter_forms.days_of(typed, at=timezone.now()),
        notice=meters.VERSION_NOTICE,
    )


@require_POST
@staff_page(Permission.EDIT_METERS)
def try_draft(request: StaffRequest) -> HttpResponseBase:
    """Show what the meter of a form would count, as a part of its page."""
    number = whole_number(request.POST.get("meter"))
    meter = get_object_or_404(Meter, pk=number) if number is not None else None
    now = timezone.now()
    days = meter_forms.days_of(request.POST, at=now)
    event_type = meter.event_type if meter else request.POST.get("event_type", "").strip()
    found, problem, draft = None, "", None
    if event_type:
        try:
            draft = meter_forms.draft_of(request.POST, meter)
            found = meter_preview.preview(draft=draft, start=days.start, end=days.end, actor=actor_of(request), at=now)
        except CountinghouseError as refusal:
            problem = str(refusal)
    return fragment(
        request,
        "metering/meter_preview.html",
        event_type=event_type,
        found=found,
        problem=problem,
        days=days,
        unit=quantity_unit(draft.aggregation, draft.unit) if draft else "",
        divisor=draft.divisor if draft else 1,
        names=meter_overview.names_in(event_type) if event_type else [],
        reasons=dict(QuarantinedEvent.Reason.choices),
    )


@require_POST
@staff_page(Permission.EDIT_METERS)
def change(request: StaffRequest, meter_id: int) -> HttpResponseBase:
    """Change a meter's name or limit, or let it rest."""
    form = request.POST
    attempt(
        request,
        lambda: meters.change_meter(
            meter_id=meter_id,
            name=form.get("name", "").strip(),
            is_active="is_active" in form,
            series_limit=whole_number(form.get("series_limit")) or 0,
            reason=form.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "The change is made.",
    )
    return redirect("metering:meter", meter_id)


@staff_page(Permission.EDIT_METERS)
def ask_backfill(request: StaffRequest, meter_id: int) -> HttpResponseBase:
    """Show what a back-fill of a period would count, and ask for it."""
    meter = get_object_or_404(Meter, pk=meter_id)
    now = timezone.now()
    if request.method == "POST":
        days = meter_forms.days_of(request.POST, at=now)
        backfill = attempt(
            request,
            lambda: meter_backfill.request_backfill(
                meter_id=meter.pk,
                start=days.start,
                end=days.end,
                reason=request.POST.get("reason", ""),
                actor=actor_of(request),
                at=now,
            ),
            _backfill_words,
        )
        if backfill is not None:
            return redirect("metering:backfill", backfill.pk)
    days = meter_forms.days_of(request.POST or request.GET, at=now, days=31)
    is_asked = "first_day" in (request.POST or request.GET)
    shown: dict[str, Any] = _backfill_preview(request, meter, days) if is_asked else {}
    return page(
        request,
        "metering/backfill_form.html",
        title="Back-fill",
        crumbs=_crumbs(meter),
        meter=meter,
        unit=quantity_unit(meter.aggregation, meter.unit),
        days=days,
        reason=request.POST.get("reason", ""),
        limit=meter_backfill.EVENTS_WITHOUT_APPROVAL,
        reasons=dict(QuarantinedEvent.Reason.choices),
        **shown,
    )


def _backfill_words(backfill: MeterBackfill) -> str:
    if backfill.status == MeterBackfill.Status.IN_REVIEW:
        return "A second person is asked to approve it; then it begins by itself."
    return "It begins within seconds."


def _backfill_preview(request: StaffRequest, meter: Meter, days: meter_forms.Days) -> dict[str, Any]:
    newest = meter.versions.order_by("-number")[0]
    try:
        found = meter_preview.preview(
            draft=meter_forms.draft_of(meter_forms.typed_of(newest), meter),
            start=days.start,
            end=days.end,
            actor=actor_of(request),
            at=timezone.now(),
        )
    except CountinghouseError as refusal:
        messages.error(request, str(refusal))
        return {}
    expected = meter_backfill.events_of(meter=meter, start=days.start, end=days.end)
    return {
        "found": found,
        "expected": expected,
        "waiting": meter_backfill.waiting_of(meter=meter, start=days.start, end=days.end),
        "needs_approval": expected > meter_backfill.EVENTS_WITHOUT_APPROVAL,
    }


@require_GET
@staff_page(Permission.VIEW_USAGE)
def backfill_page(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Show how far a back-fill has got and what became of the events."""
    backfill = get_object_or_404(MeterBackfill.objects.select_related("meter", "requested_by"), pk=backfill_id)
    context: dict[str, Any] = {
        "backfill": backfill,
        "percent": min(backfill.read * 100 // max(backfill.expected, 1), 100),
        "waiting": meter_backfill.waiting_of(meter=backfill.meter, start=backfill.starts_at, end=backfill.ends_at),
        "not_read": [
            (QuarantinedEvent.Reason(reason).label, count) for reason, count in sorted(backfill.not_read.items())
        ],
    }
    if request.headers.get("HX-Request"):
        return fragment(request, "metering/backfill_progress.html", **context)
    return page(
        request,
        "metering/backfill.html",
        title=f"Back-fill {backfill.pk}",
        crumbs=_crumbs(backfill.meter),
        entries=audit_search.about(backfill)[:12],
        zone="UTC",
        **context,
    )
