"""The pages of backfills: all of them, a new one, and one with how to fill it, its preview and its progress."""

from __future__ import annotations

from dataclasses import asdict

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts import audit_search
from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.models import ApprovalRequest, Customer
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    csv_answer,
    fragment,
    page,
    page_of,
    staff_page,
)
from metering.completeness import completeness
from metering.models import UsageBackfill
from metering.usage_backfills import backfill_overview as overview
from metering.usage_backfills import decisions

Status = UsageBackfill.Status
_REFUSALS_SHOWN = 50


@require_GET
@staff_page(Permission.VIEW_USAGE)
def backfill_list(request: StaffRequest) -> HttpResponseBase:
    """Show every backfill and where it stands."""
    status, source = request.GET.get("status", ""), request.GET.get("source", "").strip()
    return page(
        request,
        "metering/usage_backfills.html",
        title="Backfills",
        status=status,
        statuses=Status.choices,
        source=source,
        rows=page_of(request, overview.backfills(status=status, source=source)),
    )


@staff_page(Permission.CORRECT_USAGE)
def new_backfill(request: StaffRequest) -> HttpResponseBase:
    """Say of which source and period, and what becomes of what is there."""
    if request.method == "POST":
        try:
            asked = overview.read_form(request.POST)
            backfill = decisions.open_backfill(**asdict(asked), actor=actor_of(request), at=timezone.now())
        except CountinghouseError as refusal:
            messages.error(request, str(refusal))
        else:
            messages.success(request, "It is open. Fill the events in now; nothing counts before it is closed.")
            return redirect("metering:usage-backfill", backfill.pk)
    return page(
        request,
        "metering/usage_backfill_form.html",
        title="New backfill",
        crumbs=[Crumb("Backfills", reverse("metering:usage-backfills"))],
        customers=Customer.objects.order_by("name").values_list("code", "name")[:500],
        types=overview.event_types(),
        sources=completeness.sources(),
        modes=UsageBackfill.Mode.choices,
        sent=request.POST if request.method == "POST" else request.GET,
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def backfill_page(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Show one backfill: what it is of, how it is filled, what it changes for whom, and how far it has come."""
    backfill = get_object_or_404(UsageBackfill.objects.select_related("opened_by"), pk=backfill_id)
    if request.GET.get("format") == "csv":
        cells = overview.problem_cells(backfill)
        return csv_answer(f"backfill-{backfill.pk}-problems.csv", overview.CSV_HEADER, cells)
    progress = overview.progress_of(backfill)
    if request.headers.get("HX-Request"):
        answer: HttpResponse = fragment(
            request, "metering/usage_backfill_progress.html", backfill=backfill, progress=progress
        )
        if progress is None and backfill.preview_asked_at is None:
            answer["HX-Refresh"] = "true"
        return answer
    items = page_of(request, overview.problem_items(backfill))
    return page(
        request,
        "metering/usage_backfill.html",
        title=f"Backfill {backfill.pk}",
        crumbs=[Crumb("Backfills", reverse("metering:usage-backfills"))],
        backfill=backfill,
        progress=progress,
        customers=overview.customers_of(backfill),
        closing=overview.closing_of(backfill),
        revert=overview.revert_of(backfill),
        results=overview.results_of(backfill),
        rows=items,
        problems=[overview.problem_row(item) for item in items],
        refused=list(overview.refused_rows(backfill, limit=_REFUSALS_SHOWN)),
        needs_approval=decisions.needs_approval(backfill),
        takes_all_out=decisions.takes_all_out(backfill),
        approval=_approval(backfill),
        address=request.build_absolute_uri("/api/v1/events"),
        files=backfill.files.order_by("-id")[:20],
        entries=audit_search.about(backfill)[:12],
    )


def _approval(backfill: UsageBackfill) -> ApprovalRequest | None:
    if backfill.status not in {Status.IN_REVIEW, Status.REVERT_REVIEW}:
        return None
    return ApprovalRequest.objects.filter(kind=decisions.APPROVAL_KIND, subject_id=backfill.pk).last()


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def take_preview(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Work out what the closing, or of a closed one the revert, would change."""
    attempt(
        request,
        lambda: decisions.ask_preview(backfill_id=backfill_id, actor=actor_of(request), at=timezone.now()),
        lambda done: "It is being worked out." if done.preview_asked_at else "This is what would change.",
    )
    return redirect("metering:usage-backfill", backfill_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def close(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Have what was previewed counted, or ask for its approval."""
    attempt(
        request,
        lambda: decisions.close_backfill(backfill_id=backfill_id, actor=actor_of(request), at=timezone.now()),
        lambda done: "Submitted for approval." if done.status == Status.IN_REVIEW else "It is being closed.",
    )
    return redirect("metering:usage-backfill", backfill_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def abandon(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Give an open backfill up."""
    attempt(
        request,
        lambda: decisions.abandon_backfill(
            backfill_id=backfill_id,
            reason=request.POST.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "Abandoned; its events are gone and nothing was changed.",
    )
    return redirect("metering:usage-backfill", backfill_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def revert(request: StaffRequest, backfill_id: int) -> HttpResponseBase:
    """Have a closed backfill undone, or ask for the approval of that."""
    attempt(
        request,
        lambda: decisions.revert_backfill(
            backfill_id=backfill_id,
            reason=request.POST.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda done: "Submitted for approval." if done.status == Status.REVERT_REVIEW else "It is being reverted.",
    )
    return redirect("metering:usage-backfill", backfill_id)
