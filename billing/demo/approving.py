"""The second person of the demonstration: approves what another of its people asked for."""

from __future__ import annotations

from datetime import datetime

from accounts import approvals
from accounts.access import Actor
from accounts.models import ApprovalDecision, ApprovalRequest


def approve_pending(*, kind: str, subject_id: int, comment: str, actor: Actor, at: datetime) -> None:
    """Approve the request that waits for this subject, if one does."""
    pending = ApprovalRequest.objects.filter(
        kind=kind,
        subject_id=subject_id,
        status=ApprovalRequest.Status.PENDING,
    ).first()
    if pending is not None:
        approvals.decide(
            request_id=pending.pk,
            outcome=ApprovalDecision.Outcome.APPROVE,
            comment=comment,
            actor=actor,
            at=at,
        )
