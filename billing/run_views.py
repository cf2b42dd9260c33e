"""The bill run pages: the list of runs, one run with its progress, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from django.contrib import messages
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from accounts import audit_search, inbox
from accounts.access import Permission
from accounts.models import LegalEntity
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
    whole_number,
)
from accounts.periods import MonthInvalid, parse_month
from billing import bill_runs, changed_usage, issuing, run_overview
from billing.models import BillRun

Status = BillRun.Status
UNBILLED_SHOWN = 50
FINDINGS_SHOWN = 5


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def run_list(request: StaffRequest) -> HttpResponseBase:
    """Show every bill run with what it comes to."""
    rows = page_of(request, run_overview.runs())
    return page(
        request,
        "billing/runs.html",
        title="Bill runs",
        rows=rows,
        runs=run_overview.run_rows(list(rows)),
        entities=LegalEntity.objects.all(),
        last_month=_month_before(timezone.now().date()),
    )


def _month_before(today: date) -> str:
    return f"{today.year - 1}-12" if today.month == 1 else f"{today.year}-{today.month - 1:02}"


@require_POST
@staff_page(Permission.RUN_BILLING)
def start_run(request: StaffRequest) -> HttpResponseBase:
    """Start the bill run of a legal entity for a month."""
    entity = LegalEntity.objects.filter(pk=whole_number(request.POST.get("legal_entity")) or 0).first()
    try:
        month = parse_month(request.POST.get("month", ""))
    except MonthInvalid as refusal:
        messages.error(request, str(refusal))
        return redirect("billing:runs")
    if entity is None:
        messages.error(request, "Choose the legal entity that bills.")
        return redirect("billing:runs")
    run = attempt(
        request,
        lambda: bill_runs.start_bill_run(
            legal_entity_id=entity.pk,
            month=date(month.year, month.month, 1),
            actor=actor_of(request),
            at=timezone.now(),
        ),
        _started_words,
    )
    return redirect("billing:run", run.pk) if run else redirect("billing:runs")


def _started_words(run: BillRun) -> str:
    name = f"{run.legal_entity}, {run.month:%B %Y}"
    if run.status == Status.DRAFT:
        return f"The run of {name} is under way."
    return f"There is a run of {name} already, and it is {run.get_status_display().lower()}. Nothing was started."


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def run_page(request: StaffRequest, run_id: int) -> HttpResponseBase:
    """Show one run: how far it is, its invoices, what stands out, and what the reader may do."""
    run = get_object_or_404(BillRun.objects.select_related("legal_entity", "created_by", "approval"), pk=run_id)
    found = run_overview.invoices_of(run)
    if request.GET.get("format") == "csv":
        return csv_answer(f"run-{run.pk}.csv", _CSV_HEADER, (run_overview.csv_row(invoice) for invoice in found))
    asked = inbox.latest_about(kind=bill_runs.APPROVAL_KIND, subject_id=run.pk)
    progress = bill_runs.progress(run.pk)
    return page(
        request,
        "billing/run.html",
        title=str(run),
        crumbs=[Crumb("Bill runs", reverse("billing:runs"))],
        run=run,
        zone=run.legal_entity.time_zone,
        steps=run_overview.steps_of(run),
        progress=progress,
        work=run_overview.work_of(run, progress),
        rows=page_of(request, found),
        parked=list(run_overview.parked_items(run)[:UNBILLED_SHOWN]),
        problems=list(run_overview.problem_invoices(run)[:UNBILLED_SHOWN]),
        unbilled=run_overview.unbilled_rows(list(run_overview.unbilled(run)[:UNBILLED_SHOWN])),
        unbilled_counts=run_overview.unbilled_counts(run),
        groups=run_overview.net_by_group(run),
        standing=inbox.standing(asked, actor_of(request)) if asked else None,
        entries=audit_search.about(run)[:12],
    )


_CSV_HEADER = [
    "customer number",
    "customer",
    "status",
    "number",
    "currency",
    "net",
    "tax",
    "total",
    "total before",
    "difference",
]


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def run_progress(request: StaffRequest, run_id: int) -> HttpResponseBase:
    """Show how far a run is; once its work is done, have the whole page loaded anew."""
    run = get_object_or_404(BillRun, pk=run_id)
    progress = bill_runs.progress(run.pk)
    work = run_overview.work_of(run, progress)
    answer = fragment(request, "billing/run_progress.html", run=run, progress=progress, work=work)
    if not work.is_going_on:
        answer["HX-Refresh"] = "true"
    return answer


@require_GET
@staff_page(Permission.VIEW_INVOICES)
def run_findings(request: StaffRequest, run_id: int) -> HttpResponseBase:
    """Show what is odd about the usage that a run bills; loaded after the page, for it reads months of hours."""
    run = get_object_or_404(BillRun.objects.select_related("legal_entity"), pk=run_id)
    usage = run_overview.usage_to_look_at(run, at=timezone.now())
    changed = changed_usage.changed_since_drafting(run)
    return fragment(
        request,
        "billing/run_findings.html",
        run=run,
        usage=usage,
        shown=usage.open[:FINDINGS_SHOWN],
        changed=changed.priced,
        changed_shown=changed.priced[:FINDINGS_SHOWN],
        not_priced=changed.not_priced,
        not_priced_shown=changed.not_priced[:FINDINGS_SHOWN],
        waiting=run_overview.waiting_in_quarantine(run),
    )


def _act(
    permission: Permission,
    verb: Callable[[StaffRequest, int], object],
    done: str,
) -> Callable[..., HttpResponseBase]:
    """Make the page that does one thing to a run and comes back to it."""

    @require_POST
    @staff_page(permission)
    def act(request: StaffRequest, run_id: int) -> HttpResponseBase:
        attempt(request, lambda: verb(request, run_id), lambda _result: done)
        return redirect("billing:run", run_id)

    return act


def _reason(request: StaffRequest) -> str:
    return request.POST.get("reason", "").strip()


submit_run = _act(
    Permission.RUN_BILLING,
    lambda request, run_id: bill_runs.submit_bill_run(
        run_id=run_id,
        reason=_reason(request),
        actor=actor_of(request),
        at=timezone.now(),
    ),
    "The run waits for somebody else's approval.",
)
redo_run = _act(
    Permission.RUN_BILLING,
    lambda request, run_id: bill_runs.redo_bill_run(
        run_id=run_id,
        reason=_reason(request),
        actor=actor_of(request),
        at=timezone.now(),
    ),
    "Every contract is drafted anew.",
)
cancel_run = _act(
    Permission.RUN_BILLING,
    lambda request, run_id: bill_runs.cancel_bill_run(
        run_id=run_id,
        reason=_reason(request),
        actor=actor_of(request),
        at=timezone.now(),
    ),
    "The run is cancelled; its invoices are void.",
)
retry_parked = _act(
    Permission.RUN_BILLING,
    lambda request, run_id: bill_runs.retry_parked(run_id=run_id, actor=actor_of(request), at=timezone.now()),
    "The parked contracts are tried again.",
)
issue_run = _act(
    Permission.ISSUE_INVOICES,
    lambda request, run_id: issuing.start_issuing(run_id=run_id, actor=actor_of(request), at=timezone.now()),
    "Issuing has begun; you may leave this page.",
)
