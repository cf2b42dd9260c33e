"""The pages of this app: the approval inbox, the audit log, and one's own password."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm, SetPasswordForm
from django.contrib.auth.views import PasswordChangeView
from django.core.paginator import Page
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST
from unfold.forms import AdminOwnPasswordChangeForm

from accounts import approvals, audit_search, inbox, sign_in, staff
from accounts.access import Permission
from accounts.errors import PermissionMissing
from accounts.models import ApprovalRequest, AuditEntry, User
from accounts.pages import (
    Crumb,
    StaffRequest,
    actor_of,
    attempt,
    back_to,
    csv_answer,
    page,
    page_of,
    refused,
    staff_page,
)

CSV_ROWS = 10_000
_LOCKED_OUT = (
    "There were too many failed attempts with this e-mail address. Try again in a quarter of an hour,"
    " or ask an administrator to let you in."
)


class OwnPassword(PasswordChangeView):
    """The admin's own page for one's password; it saves by the verb, so that the audit log tells of it."""

    form_class = AdminOwnPasswordChangeForm
    template_name = "registration/password_change_form.html"
    success_url = reverse_lazy("admin:password_change_done")

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        return {**admin.site.each_context(self.request), **super().get_context_data(**context)}

    def form_valid(self, form: SetPasswordForm[User]) -> HttpResponse:
        user = staff.change_own_password(
            password=form.cleaned_data["new_password1"], actor=actor_of(self.request), at=timezone.now()
        )
        update_session_auth_hash(self.request, user)
        return redirect(self.get_success_url())


def sign_in_page(request: HttpRequest) -> HttpResponseBase:
    """Show the admin's own sign-in, note what came of it, and tell one who is locked out for how long."""
    response = admin.site.login(request)
    if request.method != "POST":
        return response
    address = sign_in.client_address(request)
    if isinstance(request.user, User) and response.status_code == HTTPStatus.FOUND:
        sign_in.note_success(user=request.user, address=address, at=timezone.now())
        return response
    locked_out = sign_in.is_locked_out(request)
    email = sign_in.email_tried(request)
    sign_in.note_failure(email=email, address=address, is_locked_out=locked_out, at=timezone.now())
    if locked_out:
        # The form is not drawn yet: its own words would say that the password is wrong, which nobody has looked at.
        form: AuthenticationForm = response.context_data["form"]  # type: ignore[attr-defined]
        form.errors.clear()
        form.add_error(None, _LOCKED_OUT)
        response.status_code = HTTPStatus.TOO_MANY_REQUESTS
        response.headers["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return response


def sign_out(request: HttpRequest) -> HttpResponseBase:
    """End the session as the admin does, and note it."""
    user = request.user
    response = admin.site.logout(request)
    if request.method == "POST" and isinstance(user, User):
        sign_in.note_end(user=user, address=sign_in.client_address(request), at=timezone.now())
    return response


@require_GET
@staff_page()
def approval_inbox(request: StaffRequest) -> HttpResponseBase:
    """Show what waits for the reader, what they asked for, or what was decided."""
    actor = actor_of(request)
    tabs = {"waiting": inbox.waiting_for, "mine": inbox.asked_by, "closed": inbox.closed_for}
    tab = request.GET.get("tab", "")
    tab = tab if tab in tabs else "waiting"
    rows: Page[ApprovalRequest] = page_of(request, tabs[tab](actor).prefetch_related("decisions__decided_by"))
    return page(
        request,
        "accounts/inbox.html",
        title="Approvals",
        tab=tab,
        rows=rows,
        standings=[inbox.standing(row, actor) for row in rows],
        waiting=inbox.waiting_for(actor).count(),
    )


@require_GET
@staff_page()
def approval_page(request: StaffRequest, request_id: int) -> HttpResponseBase:
    """Show one request: what it covers, who said what, and what the reader may do."""
    actor = actor_of(request)
    found = get_object_or_404(
        ApprovalRequest.objects.select_related("requested_by").prefetch_related("decisions__decided_by"),
        pk=request_id,
    )
    if not inbox.may_see(found, actor):
        return refused(request, PermissionMissing("This request is for others to decide."))
    return page(
        request,
        "accounts/approval.html",
        title=found.title,
        crumbs=[Crumb("Approvals", reverse("accounts:inbox"))],
        standing=inbox.standing(found, actor),
        entries=audit_search.about(found)[:20],
    )


@require_POST
@staff_page()
def decide_approval(request: StaffRequest, request_id: int) -> HttpResponseBase:
    """Put the reader's word on a request."""
    outcome = request.POST.get("outcome", "")
    comment = request.POST.get("comment", "")
    attempt(
        request,
        lambda: approvals.decide(
            request_id=request_id,
            outcome=outcome,
            comment=comment,
            actor=actor_of(request),
            at=timezone.now(),
        ),
        _decided_words,
    )
    return redirect(back_to(request, reverse("accounts:approval", args=[request_id])))


def _decided_words(request: ApprovalRequest) -> str:
    if request.status == ApprovalRequest.Status.PENDING:
        return f"Your approval of “{request.title}” is noted; it needs another person's."
    return f"“{request.title}” is {request.get_status_display().lower()}."


@require_POST
@staff_page()
def withdraw_approval(request: StaffRequest, request_id: int) -> HttpResponseBase:
    """Take the reader's own request back."""
    reason = request.POST.get("reason", "")
    attempt(
        request,
        lambda: approvals.withdraw(
            request_id=request_id,
            reason=reason,
            actor=actor_of(request),
            at=timezone.now(),
        ),
        lambda found: f"“{found.title}” is withdrawn.",
    )
    return redirect(back_to(request, reverse("accounts:approval", args=[request_id])))


@require_GET
@staff_page(Permission.VIEW_AUDIT)
def audit_log(request: StaffRequest) -> HttpResponseBase:
    """Show who did what to what, filtered; as CSV too."""
    question = audit_search.AuditQuestion(
        actor=request.GET.get("actor", "").strip(),
        verb=request.GET.get("verb", ""),
        subject=request.GET.get("subject", "").strip(),
        request_id=request.GET.get("request", "").strip(),
        since=_date(request.GET.get("since", "")),
        until=_date(request.GET.get("until", "")),
    )
    found = audit_search.entries(question)
    if request.GET.get("format") == "csv":
        return csv_answer(
            "audit-log.csv",
            ["at", "actor", "verb", "subject type", "subject id", "subject", "reason", "request id"],
            (_csv_row(entry) for entry in found[:CSV_ROWS].iterator()),
        )
    return page(
        request,
        "accounts/audit.html",
        title="Audit log",
        question=question,
        rows=page_of(request, found),
        verbs=audit_search.verbs(),
    )


def _csv_row(entry: AuditEntry) -> list[object]:
    return [
        entry.at.isoformat(),
        entry.actor_label,
        entry.verb,
        entry.subject_type,
        entry.subject_id,
        entry.subject_label,
        entry.reason,
        entry.request_id,
    ]


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
