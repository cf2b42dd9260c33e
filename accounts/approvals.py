"""The one approval engine of the house: nothing that moves money happens on one person's word.

An app that owns a verb which needs approval registers an `ApprovalKind` from its AppConfig. The engine knows only what
the kind tells it: how to hash the exact content of a subject, and what to do once the decision has fallen. It always
locks in the order subject, request; a verb that locked its subject may therefore call in here without a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from django.db import transaction

from accounts import audit
from accounts.access import Actor, Permission
from accounts.canonical import canonical_hash
from accounts.constraints import named
from accounts.errors import (
    ApprovalAlreadyDecided,
    ApprovalAlreadyPending,
    ApprovalKindUnknown,
    ApprovalNeedsAPerson,
    ApprovalNotPending,
    ApprovalOfAnother,
    ApprovalOfOwnRequest,
    ApprovalSubjectChanged,
    ApprovalUnknown,
    DetailsInvalid,
    ReasonMissing,
)
from accounts.models import ApprovalDecision, ApprovalPolicy, ApprovalRequest, User

Outcome = ApprovalDecision.Outcome
Status = ApprovalRequest.Status


class DecisionEffect(Protocol):
    """What the owner of a kind does with its subject once a request is closed, in the same transaction."""

    def __call__(self, *, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> object:
        """Carry the outcome over to the subject."""


def _lock_nothing(subject_id: int) -> None:
    """Stand in for kinds whose content cannot change while a request is pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalKind:
    """One kind of act that needs approval, as the app that owns the act describes it.

    `content` returns everything the approval covers, as values that have one canonical form (no floats); `lock` locks
    the subject's row; `on_refused` runs when a request is rejected, withdrawn or voided, and takes the subject back to
    where it may be edited. `permission` is needed to decide unless a policy says otherwise.
    """

    key: str
    label: str
    permission: Permission
    content: Callable[[int], Mapping[str, Any]]
    on_approved: DecisionEffect
    on_refused: DecisionEffect
    url: Callable[[int], str]
    lock: Callable[[int], object] = _lock_nothing


_kinds: dict[str, ApprovalKind] = {}


def register(kind: ApprovalKind) -> None:
    """Make a kind known; called once at start by the app that owns the act. The same key again replaces the kind."""
    _kinds[kind.key] = kind


def kind_of(key: str) -> ApprovalKind:
    """Return the registered kind. Raises: ApprovalKindUnknown."""
    try:
        return _kinds[key]
    except KeyError:
        msg = f"There is no kind of approval called “{key}”."
        raise ApprovalKindUnknown(msg) from None


def kinds() -> list[ApprovalKind]:
    """Return every registered kind, by label."""
    return sorted(_kinds.values(), key=lambda kind: kind.label)


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """What a request needs: the permission to decide, and how many different people must approve."""

    permission: str
    approvals_required: int


def policy_for(*, kind: str, amount: Decimal | None) -> AppliedPolicy:
    """Return the policy of the kind with the highest threshold that the amount reaches (its sign is ignored).

    Without a policy: one approval by somebody with the kind's own permission. Thresholds are plain numbers in the
    currency of the request.
    """
    policy = (
        ApprovalPolicy.objects.filter(kind=kind, from_amount__lte=abs(amount or Decimal(0)))
        .order_by("-from_amount")
        .first()
    )
    if policy is None:
        return AppliedPolicy(permission=kind_of(kind).permission.value, approvals_required=1)
    return AppliedPolicy(permission=policy.permission, approvals_required=policy.approvals_required)


@transaction.atomic
def request_approval(
    *,
    kind: str,
    subject_id: int,
    title: str,
    summary: Mapping[str, Any],
    amount: Decimal | None = None,
    currency: str = "",
    size: Decimal | None = None,
    reason: str = "",
    actor: Actor,
    at: datetime,
) -> ApprovalRequest:
    """Ask for the approval of exactly what the subject holds now.

    To be called by the verb that submits the subject, after it has checked the actor's permission and locked the
    subject. Asking again for the same content by the same person returns the pending request. `amount` (in `currency`)
    chooses the policy, which is copied into the request: a later policy does not change what was agreed. What is not
    measured in money has a `size` instead, such as a number of events.

    Raises: ApprovalNeedsAPerson, ApprovalAlreadyPending, ApprovalKindUnknown.
    """
    registered = kind_of(kind)
    if actor.user_id is None:
        raise ApprovalNeedsAPerson
    content_hash = canonical_hash(registered.content(subject_id))
    pending = _pending(kind=kind, subject_id=subject_id)
    if pending is not None:
        if pending.requested_by_id == actor.user_id and bytes(pending.content_hash) == content_hash:
            return pending
        raise ApprovalAlreadyPending

    policy = policy_for(kind=kind, amount=amount if size is None else size)
    request = ApprovalRequest(
        kind=kind,
        subject_id=subject_id,
        title=title,
        summary=dict(summary),
        content_hash=content_hash,
        amount=amount,
        currency=currency,
        permission=policy.permission,
        approvals_required=policy.approvals_required,
        reason=reason,
        requested_by_id=actor.user_id,
        requested_at=at,
    )
    with named("approval_request_is_pending_once_per_subject", ApprovalAlreadyPending):
        request.save(force_insert=True)
    audit.record(actor=actor, verb="approval.requested", subject=request, at=at, reason=reason, data=_facts(request))
    return request


def decide(
    *,
    request_id: int,
    outcome: str,
    comment: str = "",
    actor: Actor,
    at: datetime,
) -> ApprovalRequest:
    """Put one person's word on a request; the last word that is needed carries the act out in the same transaction.

    One rejection closes the request, and needs a comment. Deciding twice the same way returns the request as it is. If
    the subject no longer holds what was submitted, the request is voided for good (committed) and
    ApprovalSubjectChanged raised; therefore this must not be called inside another transaction.

    Raises: ApprovalUnknown, PermissionMissing, ApprovalNeedsAPerson, ApprovalOfOwnRequest, ApprovalNotPending,
    ApprovalAlreadyDecided, DetailsInvalid (a word that is neither), ReasonMissing, ApprovalSubjectChanged, and whatever
    the act itself raises.
    """
    if outcome not in Outcome.values:
        raise DetailsInvalid({"outcome": ["Say whether you approve or reject."]})
    word = Outcome(outcome)
    with transaction.atomic(durable=True):
        request = _lock_subject_and_request(request_id)
        decider = _decider(request, actor)
        if _has_decided_so(request, decider, word):
            return request
        _require_pending(request)
        if _subject_changed(request):
            _close(request, Status.VOIDED, actor=actor, at=at, reason="The subject changed after it was submitted.")
        else:
            _decide(request, decider=decider, outcome=word, comment=comment.strip(), actor=actor, at=at)
    if request.status == Status.VOIDED:
        raise ApprovalSubjectChanged
    return request


@transaction.atomic
def withdraw(*, request_id: int, reason: str, actor: Actor, at: datetime) -> ApprovalRequest:
    """Take one's own request back; the subject may be edited again. Withdrawing twice changes nothing.

    Raises: ApprovalUnknown, ApprovalOfAnother, ApprovalNotPending.
    """
    request = _lock_subject_and_request(request_id)
    if actor.user_id is None or request.requested_by_id != actor.user_id:
        raise ApprovalOfAnother
    if request.status == Status.WITHDRAWN:
        return request
    _require_pending(request)
    _close(request, Status.WITHDRAWN, actor=actor, at=at, reason=reason)
    return request


@transaction.atomic
def void_pending(*, kind: str, subject_id: int, reason: str, actor: Actor, at: datetime) -> ApprovalRequest | None:
    """Void the pending request on a subject, if there is one; for the verb that changes or cancels the subject.

    The caller holds the lock on the subject and has checked the permission. `on_refused` runs.
    """
    request = _pending(kind=kind, subject_id=subject_id)
    if request is None:
        return None
    _close(request, Status.VOIDED, actor=actor, at=at, reason=reason)
    return request


def _pending(*, kind: str, subject_id: int) -> ApprovalRequest | None:
    return (
        ApprovalRequest.objects.select_for_update(no_key=True)
        .filter(kind=kind, subject_id=subject_id, status=Status.PENDING)
        .first()
    )


def _lock_subject_and_request(request_id: int) -> ApprovalRequest:
    found = ApprovalRequest.objects.filter(pk=request_id).first()
    if found is None:
        raise ApprovalUnknown
    kind_of(found.kind).lock(found.subject_id)
    return ApprovalRequest.objects.select_for_update(no_key=True).get(pk=request_id)


def _decider(request: ApprovalRequest, actor: Actor) -> User:
    """Return the person who decides, with the rights that they have at this moment, not when they signed in."""
    if actor.user_id is None or actor.is_system:
        raise ApprovalNeedsAPerson
    user = User.objects.get(pk=actor.user_id)
    Actor.of(user, request_id=actor.request_id).require(Permission(request.permission))
    if user.pk == request.requested_by_id:
        raise ApprovalOfOwnRequest
    return user


def _has_decided_so(request: ApprovalRequest, decider: User, outcome: ApprovalDecision.Outcome) -> bool:
    earlier = ApprovalDecision.objects.filter(request=request, decided_by=decider).first()
    if earlier is not None and earlier.outcome != outcome:
        raise ApprovalAlreadyDecided
    return earlier is not None


def _require_pending(request: ApprovalRequest) -> None:
    if request.status != Status.PENDING:
        msg = f"This request is closed ({request.get_status_display().lower()}); it takes no more decisions."
        raise ApprovalNotPending(msg)


def _subject_changed(request: ApprovalRequest) -> bool:
    now = canonical_hash(kind_of(request.kind).content(request.subject_id))
    return now != bytes(request.content_hash)


def _decide(
    request: ApprovalRequest,
    *,
    decider: User,
    outcome: ApprovalDecision.Outcome,
    comment: str,
    actor: Actor,
    at: datetime,
) -> None:
    if outcome == Outcome.REJECT and not comment:
        msg = "Say why this is rejected, so that it can be mended."
        raise ReasonMissing(msg)
    ApprovalDecision.objects.create(
        request=request,
        requested_by_id=request.requested_by_id,
        decided_by=decider,
        outcome=outcome,
        comment=comment,
        decided_at=at,
    )
    if outcome == Outcome.REJECT:
        _close(request, Status.REJECTED, actor=actor, at=at, reason=comment)
        return
    approvals = request.decisions.filter(outcome=Outcome.APPROVE).count()
    audit.record(
        actor=actor,
        verb="approval.given",
        subject=request,
        at=at,
        reason=comment,
        data={**_facts(request), "approvals": approvals},
    )
    if approvals >= request.approvals_required:
        _close(request, Status.APPROVED, actor=actor, at=at, reason=comment)


def _close(
    request: ApprovalRequest,
    status: ApprovalRequest.Status,
    *,
    actor: Actor,
    at: datetime,
    reason: str,
) -> None:
    kind = kind_of(request.kind)
    request.status = status
    request.closed_at = at
    request.save(update_fields=["status", "closed_at"])
    audit.record(
        actor=actor,
        verb=f"approval.{status.value}",
        subject=request,
        at=at,
        reason=reason,
        data=_facts(request),
    )
    effect = kind.on_approved if status == Status.APPROVED else kind.on_refused
    effect(subject_id=request.subject_id, request=request, actor=actor, at=at)


def _facts(request: ApprovalRequest) -> dict[str, Any]:
    return {
        "kind": request.kind,
        "subject_id": request.subject_id,
        "content_sha256": bytes(request.content_hash).hex(),
        "amount": request.amount,
        "currency": request.currency,
        "approvals_required": request.approvals_required,
    }
