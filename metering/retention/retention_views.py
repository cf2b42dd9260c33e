"""The pages of retention: months and their files, legal holds, erasures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from urllib.parse import urlencode

from django.http import Http404, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts.access import Permission
from accounts.customers import customer_of_code
from accounts.errors import CountinghouseError
from accounts.pages import Crumb, StaffRequest, actor_of, attempt, page, page_of, staff_page
from metering.errors import ErasureInvalid, LegalHoldInvalid, MonthUnknown
from metering.models import ArchivedMonth
from metering.retention import erasure, legal_holds, retention, retention_overview

MONTHS_SHOWN = 36
HOLDS_SHOWN = 20

_STEPS: dict[str, tuple[Callable[..., ArchivedMonth], str]] = {
    "archive": (retention.plan_archive, "{} is planned: its files are written and verified within minutes."),
    "detach": (retention.detach_month, "The events of {} are detached; totals stay as they are."),
    "drop": (retention.ask_drop, "The files of {} are compared with its events once more; then these are dropped."),
    "bring-back": (retention.ask_back, "The events of {} are coming back; from files that takes minutes."),
    "check": (retention.check_archive, "The files of {} are whole."),
}


@require_GET
@staff_page(Permission.VIEW_USAGE)
def retention_page(request: StaffRequest) -> HttpResponseBase:
    """Show every month with its table or file, what is held, and what was erased."""
    now = timezone.now()
    rows = retention_overview.months(at=now)
    return page(
        request,
        "metering/retention.html",
        title="Retention",
        rows=page_of(request, rows, MONTHS_SHOWN),
        figures=retention_overview.figures(rows, at=now),
        holds=retention_overview.holds()[:HOLDS_SHOWN],
        erasures=retention_overview.erasures()[:HOLDS_SHOWN],
    )


@require_POST
@staff_page(Permission.MANAGE_RETENTION)
def take_step(request: StaffRequest, month: str, step: str) -> HttpResponseBase:
    """Take a month one step on its way into the archive or back."""
    if step not in _STEPS:
        raise Http404
    verb, said = _STEPS[step]

    def take() -> ArchivedMonth:
        first_day = _month(month)
        if first_day is None:
            raise MonthUnknown
        return verb(month=first_day, actor=actor_of(request), at=timezone.now())

    attempt(request, take, lambda found: said.format(f"{found.month:%B %Y}"))
    return redirect("metering:retention")


@require_POST
@staff_page(Permission.MANAGE_RETENTION)
def set_hold(request: StaffRequest) -> HttpResponseBase:
    """Set a legal hold."""
    form = request.POST
    code = form.get("customer", "").strip()
    attempt(
        request,
        lambda: legal_holds.set_hold(
            customer_id=customer_of_code(code).pk if code else None,
            first_month=_month(form.get("first_month", "")),
            last_month=_month(form.get("last_month", "")),
            reason=form.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "The hold is set. What it covers is neither archived away nor erased.",
    )
    return redirect("metering:retention")


@require_POST
@staff_page(Permission.MANAGE_RETENTION)
def lift_hold(request: StaffRequest, hold_id: int) -> HttpResponseBase:
    """End a legal hold."""
    attempt(
        request,
        lambda: legal_holds.lift_hold(
            hold_id=hold_id, reason=request.POST.get("reason", ""), actor=actor_of(request), at=timezone.now()
        ),
        "The hold is lifted.",
    )
    return redirect("metering:retention")


@require_GET
@staff_page(Permission.MANAGE_RETENTION)
def erasure_page(request: StaffRequest) -> HttpResponseBase:
    """Ask for an erasure: first whose events and how many they are, then why."""
    code, until = request.GET.get("customer", "").strip(), request.GET.get("before", "").strip()
    problem, customer, counts = "", None, None
    if code:
        try:
            customer = customer_of_code(code)
            counts = erasure.counts(customer_id=customer.pk, before=_moment(until) or timezone.now())
        except CountinghouseError as refusal:
            problem = str(refusal)
    return page(
        request,
        "metering/erasure.html",
        title="Ask for an erasure",
        crumbs=[Crumb("Retention", reverse("metering:retention"))],
        code=code,
        until=until,
        problem=problem,
        customer=customer,
        counts=counts,
    )


@require_POST
@staff_page(Permission.MANAGE_RETENTION)
def ask_erasure(request: StaffRequest) -> HttpResponseBase:
    """Ask for the erasure that the page showed."""
    form = request.POST
    asked = attempt(
        request,
        lambda: erasure.erase_raw_events(
            customer_id=customer_of_code(form.get("customer", "")).pk,
            before=_moment(form.get("before", "")),
            reason=form.get("reason", ""),
            legal_basis=form.get("legal_basis", ""),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        "A second person has to approve it now; nothing is erased before.",
    )
    if asked is not None:
        return redirect("metering:retention")
    query = urlencode({"customer": form.get("customer", ""), "before": form.get("before", "")})
    return redirect(f"{reverse('metering:erasure')}?{query}")


def _month(text: str) -> date | None:
    """Read a month such as 2025-01 as its first day; None for nothing. Raises: LegalHoldInvalid."""
    try:
        return date.fromisoformat(f"{text.strip()}-01") if text.strip() else None
    except ValueError:
        msg = f"“{text}” is no month such as 2025-01."
        raise LegalHoldInvalid(msg) from None


def _moment(text: str) -> datetime | None:
    """Read a date as its first moment in UTC; None, which stands for now, for nothing. Raises: ErasureInvalid."""
    try:
        start = datetime.min.time()
        return datetime.combine(date.fromisoformat(text.strip()), start, tzinfo=UTC) if text.strip() else None
    except ValueError:
        msg = f"“{text}” is no date such as 2025-01-31."
        raise ErasureInvalid(msg) from None
