"""The pages of corrections: all of them, a new one, and one with its preview and its progress."""

from __future__ import annotations

from collections.abc import Sequence

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
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, fragment, page, page_of, staff_page
from metering.corrections import correction_form, correction_words, correction_work, corrections
from metering.models import Meter, UsageCorrection, UsageCorrectionItem, UsageEvent

_ITEMS_SHOWN = 20


@require_GET
@staff_page(Permission.VIEW_USAGE)
def correction_list(request: StaffRequest) -> HttpResponseBase:
    """Show every correction and where it stands."""
    status = request.GET.get("status", "")
    found = UsageCorrection.objects.defer("preview").select_related("requested_by")
    if status in UsageCorrection.Status.values:
        found = found.filter(status=status)
    return page(
        request,
        "metering/corrections.html",
        title="Corrections",
        status=status,
        statuses=UsageCorrection.Status.choices,
        rows=page_of(request, found),
    )


@staff_page(Permission.CORRECT_USAGE)
def new_correction(request: StaffRequest) -> HttpResponseBase:
    """Say which events, what counts instead, and why; then see what it would change.

    Events that were ticked in a list come as a form that is not sent yet: `step` is then "choose".
    """
    sent = request.POST if request.method == "POST" else request.GET
    if request.method == "POST" and sent.get("step") != "choose":
        try:
            correction = _ask(request)
        except CountinghouseError as refusal:
            messages.error(request, str(refusal))
        else:
            return redirect("metering:correction", correction.pk)
    matching = None
    try:
        matching = correction_form.matching_events(sent)
    except CountinghouseError as refusal:
        messages.error(request, str(refusal))
    customer = Customer.objects.select_related("legal_entity").filter(code=sent.get("customer", "").strip()).first()
    return page(
        request,
        "metering/correction_form.html",
        title="New correction",
        crumbs=[Crumb("Corrections", reverse("metering:corrections"))],
        customers=Customer.objects.order_by("name").values_list("code", "name")[:500],
        types=Meter.objects.order_by("event_type").values_list("event_type", flat=True).distinct()[:500],
        sent=sent,
        way=correction_form.way_of(sent),
        matching=matching,
        ticked=correction_form.ticked_events(sent),
        voids=sent.get("effect") == "void",
        zone=customer.legal_entity.time_zone if customer else "UTC",
    )


def _ask(request: StaffRequest) -> UsageCorrection:
    actor, at = actor_of(request), timezone.now()
    asked = correction_form.read_form(request.POST, request.FILES.get("file"))
    correction = corrections.request_correction(
        events=asked.events,
        changes=asked.changes,
        reason=request.POST.get("reason", ""),
        actor=actor,
        at=at,
    )
    try:
        return corrections.ask_preview(correction_id=correction.pk, actor=actor, at=at)
    except CountinghouseError:
        corrections.drop_correction(correction_id=correction.pk, actor=actor, at=at)
        raise


@require_GET
@staff_page(Permission.VIEW_USAGE)
def correction_page(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """Show one correction: what it changes for whom, its events, and how far it has come."""
    correction = get_object_or_404(UsageCorrection, pk=correction_id)
    settled = correction.applied + correction.skipped
    percent = settled * 100 // correction.events
    if request.headers.get("HX-Request"):
        answer: HttpResponse = fragment(
            request,
            "metering/correction_progress.html",
            correction=correction,
            settled=settled,
            percent=percent,
            asked_for=correction_words.events_asked_for(correction),
        )
        if not correction.is_being_worked_on:
            # There is more to be seen now than this part of the page.
            answer["HX-Refresh"] = "true"
        return answer
    items = list(correction.items.order_by("customer_id", "time", "key")[:_ITEMS_SHOWN])
    return page(
        request,
        "metering/correction.html",
        title=f"Correction {correction.pk}",
        crumbs=[Crumb("Corrections", reverse("metering:corrections"))],
        correction=correction,
        settled=settled,
        percent=percent,
        asked_for=correction_words.events_asked_for(correction),
        preview=None if correction.preview_asked_at else correction.preview,
        rows=correction_words.changes_of(correction.preview or {})[:200],
        items=_with_events(items),
        needs_approval=corrections.needs_approval(correction),
        approval=ApprovalRequest.objects.filter(kind=corrections.APPROVAL_KIND, subject_id=correction.pk).last(),
        revert=correction.reverted_by.exclude(status=UsageCorrection.Status.DROPPED).first(),
        entries=audit_search.about(correction)[:12],
    )


def _with_events(items: Sequence[UsageCorrectionItem]) -> list[tuple[UsageCorrectionItem, UsageEvent | None]]:
    keys = [item.key for item in items]
    times = [item.time for item in items]
    events = {
        event.key: event
        for event in UsageEvent.objects.filter(
            customer_id__in={item.customer_id for item in items}, time__in=times, key__in=keys
        )
    }
    return [(item, events.get(item.key)) for item in items]


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def take_preview(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """Work out anew what a draft would change."""
    attempt(
        request,
        lambda: corrections.ask_preview(correction_id=correction_id, actor=actor_of(request), at=timezone.now()),
        _said_of_preview,
    )
    return redirect("metering:correction", correction_id)


def _said_of_preview(correction: UsageCorrection) -> str:
    return "It is being worked out." if correction.preview_asked_at else "This is what would change."


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def submit(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """Apply a draft, or ask for its approval."""
    attempt(
        request,
        lambda: corrections.submit_correction(correction_id=correction_id, actor=actor_of(request), at=timezone.now()),
        lambda done: "Submitted for approval." if done.status == "in_review" else "It is being applied.",
    )
    return redirect("metering:correction", correction_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def drop(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """Drop a draft."""
    attempt(
        request,
        lambda: corrections.drop_correction(correction_id=correction_id, actor=actor_of(request), at=timezone.now()),
        "Dropped; nothing was changed.",
    )
    return redirect("metering:correction", correction_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def leave_out(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """End a correction that cannot go on."""
    attempt(
        request,
        lambda: correction_work.leave_out_rest(
            correction_id=correction_id,
            reason=request.POST.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "The rest was left out; what was applied stands.",
    )
    return redirect("metering:correction", correction_id)


@require_POST
@staff_page(Permission.CORRECT_USAGE)
def revert(request: StaffRequest, correction_id: int) -> HttpResponseBase:
    """Draft the revert of an applied correction and show what it would change."""

    def ask() -> UsageCorrection:
        actor, at = actor_of(request), timezone.now()
        asked = corrections.request_revert(
            correction_id=correction_id, reason=request.POST.get("reason", ""), actor=actor, at=at
        )
        return corrections.ask_preview(correction_id=asked.pk, actor=actor, at=at)

    done = attempt(request, ask, _said_of_preview)
    return redirect("metering:correction", done.pk if done else correction_id)
