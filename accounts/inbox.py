"""What a person finds in the approval inbox: what waits for them, what they asked for, what was decided."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q, QuerySet

from accounts import approvals
from accounts.access import Actor, Permission
from accounts.models import ApprovalRequest

Status = ApprovalRequest.Status


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one person stands towards one request, and why they may or may not act on it."""

    request: ApprovalRequest
    may_decide: bool
    may_withdraw: bool
    why_not: str
    url: str
    kind_label: str


def waiting_for(actor: Actor) -> QuerySet[ApprovalRequest]:
    """Return pending requests that this person may decide and has not decided yet, the oldest first."""
    return (
        ApprovalRequest.objects.filter(status=Status.PENDING, permission__in=actor.permissions)
        .exclude(requested_by_id=actor.user_id)
        .exclude(decisions__decided_by_id=actor.user_id)
        .select_related("requested_by")
        .order_by("requested_at")
    )


def asked_by(actor: Actor) -> QuerySet[ApprovalRequest]:
    """Return what this person asked for, the newest first."""
    return ApprovalRequest.objects.filter(requested_by_id=actor.user_id).select_related("requested_by")


def closed_for(actor: Actor) -> QuerySet[ApprovalRequest]:
    """Return closed requests that this person may know of, the newest first."""
    closed = ApprovalRequest.objects.exclude(status=Status.PENDING).select_related("requested_by")
    if actor.may(Permission.VIEW_AUDIT):
        return closed
    mine = Q(requested_by_id=actor.user_id) | Q(permission__in=actor.permissions)
    return closed.filter(mine)


def may_see(request: ApprovalRequest, actor: Actor) -> bool:
    """Tell whether a person may open a request: its requester, who may decide it, and who may see the audit log."""
    return (
        request.requested_by_id == actor.user_id
        or request.permission in actor.permissions
        or actor.may(Permission.VIEW_AUDIT)
    )


def standing(request: ApprovalRequest, actor: Actor) -> Standing:
    """Work out what this person may do about the request; for buttons, the verbs ask again.

    Raises: ApprovalKindUnknown.
    """
    kind = approvals.kind_of(request.kind)
    why_not = _why_not(request, actor)
    return Standing(
        request=request,
        may_decide=not why_not,
        may_withdraw=request.status == Status.PENDING and request.requested_by_id == actor.user_id,
        why_not=why_not,
        url=kind.url(request.subject_id),
        kind_label=kind.label,
    )


def latest_about(*, kind: str, subject_id: int) -> ApprovalRequest | None:
    """Return the newest request about a subject, with its decisions."""
    return (
        ApprovalRequest.objects.filter(kind=kind, subject_id=subject_id)
        .select_related("requested_by")
        .prefetch_related("decisions__decided_by")
        .first()
    )


def _why_not(request: ApprovalRequest, actor: Actor) -> str:
    if request.status != Status.PENDING:
        return f"This request is closed: {request.get_status_display().lower()}."
    if request.requested_by_id == actor.user_id:
        return "You asked for this, so somebody else decides it."
    if request.permission not in actor.permissions:
        return f"Deciding this needs the permission “{Permission(request.permission).label}”."
    if any(decision.decided_by_id == actor.user_id for decision in request.decisions.all()):
        return "You have decided already; it waits for another person."
    return ""
