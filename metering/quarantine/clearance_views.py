"""The pages of the quarantine by rule: what a rule is about, the decision, and how far it has been carried out."""

from __future__ import annotations

from datetime import UTC, datetime

from django.http import HttpResponseBase, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, fragment, page, page_of, staff_page, whole_number
from metering.models import QuarantineClearance, QuarantinedEvent, UsageFile
from metering.quarantine import clearances
from metering.quarantine.clearances import Rule

Act = QuarantineClearance.Act


@require_GET
@staff_page(Permission.VIEW_USAGE)
def rule_page(request: StaffRequest) -> HttpResponseBase:
    """Show what waits and fits a rule, and let it be released or discarded as a whole."""
    rule = _rule(request.GET)
    rows = page_of(request, QuarantineClearance.objects.select_related("file").order_by("-id"), per_page=20)
    return page(
        request,
        "metering/quarantine_rule.html",
        title="By rule",
        crumbs=[Crumb("Quarantine", reverse("metering:quarantine"))],
        rule=rule,
        file=UsageFile.objects.filter(pk=rule.file_id or 0).first(),
        outlook=clearances.outlook(rule),
        reasons=QuarantinedEvent.Reason.choices,
        rows=rows,
        decisions=[(clearance, rule_lines(clearance)) for clearance in rows],
    )


@require_POST
@staff_page(Permission.RELEASE_QUARANTINE)
def decide(request: StaffRequest) -> HttpResponseBase:
    """Have everything that fits a rule released or discarded."""
    act = Act.DISCARD if request.POST.get("act") == Act.DISCARD else Act.RELEASE
    clearance = attempt(
        request,
        lambda: clearances.decide_clearance(
            act=act,
            rule=_rule(request.POST),
            explanation=request.POST.get("explanation", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "It is under way; you may leave this page.",
    )
    return redirect("metering:clearance", clearance.pk) if clearance else redirect("metering:quarantine-rule")


@require_GET
@staff_page(Permission.VIEW_USAGE)
def clearance_page(request: StaffRequest, clearance_id: int) -> HttpResponseBase:
    """Show one decision by rule: what it is about, and how far it has been carried out."""
    clearance = get_object_or_404(QuarantineClearance.objects.select_related("file"), pk=clearance_id)
    return page(
        request,
        "metering/clearance.html",
        title=str(clearance),
        crumbs=[
            Crumb("Quarantine", reverse("metering:quarantine")),
            Crumb("By rule", reverse("metering:quarantine-rule")),
        ],
        clearance=clearance,
        lines=rule_lines(clearance),
        percent=_percent(clearance),
    )


@require_GET
@staff_page(Permission.VIEW_USAGE)
def clearance_progress(request: StaffRequest, clearance_id: int) -> HttpResponseBase:
    """Show how far a decision has been carried out; once it is, have the whole page loaded anew."""
    clearance = get_object_or_404(QuarantineClearance, pk=clearance_id)
    answer = fragment(request, "metering/clearance_progress.html", clearance=clearance, percent=_percent(clearance))
    if clearance.state != QuarantineClearance.State.RUNNING:
        answer["HX-Refresh"] = "true"
    return answer


@require_POST
@staff_page(Permission.RELEASE_QUARANTINE)
def stop(request: StaffRequest, clearance_id: int) -> HttpResponseBase:
    """Stop what was decided by rule; what was done stays done."""
    attempt(
        request,
        lambda: clearances.stop_clearance(clearance_id=clearance_id, actor=actor_of(request), at=timezone.now()),
        "It stops; what was done stays done.",
    )
    return redirect("metering:clearance", clearance_id)


def rule_lines(clearance: QuarantineClearance) -> list[tuple[str, str]]:
    """Return in words what a rule asks for."""
    parts = [
        ("Reason", str(QuarantinedEvent.Reason(clearance.reason).label) if clearance.reason else ""),
        ("Type", clearance.type),
        ("Subject", clearance.subject),
        ("Source", clearance.source),
        ("From", f"{clearance.time_from:%Y-%m-%d %H:%M} UTC" if clearance.time_from else ""),
        ("Until", f"{clearance.time_until:%Y-%m-%d %H:%M} UTC" if clearance.time_until else ""),
        ("File", str(clearance.file) if clearance.file else ""),
    ]
    return [(name, words) for name, words in parts if words] or [("Events", "everything that waits")]


def _percent(clearance: QuarantineClearance) -> int:
    done = clearance.closed + clearance.still_waiting
    return min(100, done * 100 // clearance.events) if clearance.events else 100


def _rule(sent: QueryDict) -> Rule:
    reason = sent.get("reason", "")
    return Rule(
        reason=reason if reason in QuarantinedEvent.Reason.values else "",
        type=sent.get("type", "").strip()[:200],
        subject=sent.get("subject", "").strip()[:200],
        source=sent.get("source", "").strip()[:200],
        time_from=_moment(sent.get("from", "")),
        time_until=_moment(sent.get("until", "")),
        file_id=whole_number(sent.get("file")),
    )


def _moment(text: str) -> datetime | None:
    """Read a moment as browsers send it, in UTC; anything else is none."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
