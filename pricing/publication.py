"""From draft to live: submitting a version, what its approval covers, and its taking effect.

Locks are taken in the order price book, version, approval request.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Max
from django.urls import reverse

from accounts import approvals, audit, history
from accounts.access import Actor, Permission
from accounts.canonical import canonical_hash
from accounts.models import ApprovalRequest, AuditEntry
from accounts.validation import require_reason
from pricing.content import holds_what_was_approved, version_content
from pricing.errors import (
    EffectiveFromInvalid,
    VersionAmbiguous,
    VersionContentChanged,
    VersionEmpty,
    VersionInReview,
    VersionNotDraft,
    VersionNotInReview,
    VersionUnknown,
)
from pricing.models import PriceBook, PriceBookVersion
from pricing.price_lists import same_usage, version_diff

_SECONDS_AN_HOUR: Final = 3600
APPROVAL_KIND: Final = "price_book_version"
Status = PriceBookVersion.Status
APPROVED_STATUSES: Final = (Status.APPROVED, Status.LIVE, Status.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class Activation:
    """Which versions went live, and which were kept back because they no longer hold what was approved (by id)."""

    activated: tuple[int, ...]
    refused: tuple[int, ...]


@transaction.atomic
def submit_version(
    *, version_id: int, effective_from: datetime, reason: str, actor: Actor, at: datetime
) -> PriceBookVersion:
    """Ask for the approval of a draft, to take effect at that moment; from here on its prices stand still.

    A moment in the past is allowed: what is billed stays as it is, later bills use the new prices. Submitting twice
    changes nothing; what somebody else has submitted is theirs.

    Raises: PermissionMissing, ReasonMissing, VersionUnknown, VersionInReview, VersionNotDraft, VersionEmpty,
    VersionAmbiguous, EffectiveFromInvalid, ApprovalNeedsAPerson.
    """
    actor.require(Permission.EDIT_PRICES)
    require_reason(reason)
    version = lock_version(version_id)
    if version.status == Status.IN_REVIEW:
        _require_submitted_so(version, effective_from, actor)
        return version
    if version.status != Status.DRAFT:
        message = f"{version} is {version.get_status_display().lower()}; only a draft is submitted."
        raise VersionNotDraft(message)
    _require_billable(version)
    _require_later(version, effective_from)

    version.status = Status.IN_REVIEW
    version.effective_from = effective_from
    version.notes = reason
    history.save(version, reason=reason, actor=actor, at=at)
    approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=version.pk,
        title=f"{version}"[:254],
        summary=_summary(version),
        reason=reason,
        actor=actor,
        at=at,
    )
    audit.record(actor=actor, verb="price_book_version.submitted", subject=version, at=at, reason=reason)
    return version


def _require_submitted_so(version: PriceBookVersion, effective_from: datetime, actor: Actor) -> None:
    """Raise VersionInReview unless this actor has submitted the version for this very moment."""
    pending = _pending_request(version.pk)
    if pending.requested_by_id == actor.user_id and version.effective_from == effective_from:
        return
    moment = version.effective_from.astimezone(UTC).isoformat() if version.effective_from else ""
    message = f"{version} is in review already: {pending.requested_by} has submitted it to take effect at {moment}."
    raise VersionInReview(message)


def _pending_request(version_id: int) -> ApprovalRequest:
    return ApprovalRequest.objects.select_related("requested_by").get(
        kind=APPROVAL_KIND, subject_id=version_id, status=ApprovalRequest.Status.PENDING
    )


def _require_billable(version: PriceBookVersion) -> None:
    if not version.prices.exists():
        raise VersionEmpty
    rivals = same_usage(version.pk)
    if rivals:
        pairs = "; ".join(" and ".join(codes) for codes in rivals[:10])
        message = f"These products take the same usage, so neither could be billed: {pairs}."
        raise VersionAmbiguous(message)


def _require_later(version: PriceBookVersion, effective_from: datetime) -> None:
    if effective_from.utcoffset() is None:
        raise EffectiveFromInvalid
    if effective_from.timestamp() % _SECONDS_AN_HOUR:
        # Usage is added up by the hour: no bill could say which part of one came before the change.
        message = f"A version takes effect on the full hour of UTC; {effective_from.isoformat()} lies within one."
        raise EffectiveFromInvalid(message)
    approved = version.book.versions.filter(status__in=APPROVED_STATUSES)
    latest = approved.aggregate(latest=Max("effective_from"))["latest"]
    if latest is not None and effective_from <= latest:
        message = f"It has to take effect later than {latest.isoformat()}, when the newest approved version does."
        raise EffectiveFromInvalid(message)


def _summary(version: PriceBookVersion) -> dict[str, Any]:
    changes = [change.kind.value for change in version_diff(version.pk)]
    return {
        "price_book": version.book.code,
        "currency": version.book.currency,
        "version": version.number,
        "effective_from": version.effective_from and version.effective_from.astimezone(UTC).isoformat(),
        "prices": version.prices.count(),
        **{kind: changes.count(kind) for kind in ("added", "changed", "removed")},
    }


@transaction.atomic
def withdraw_version(*, version_id: int, reason: str, actor: Actor, at: datetime) -> PriceBookVersion:
    """Take one's own submitted version back to being a draft; a draft stays one.

    Raises: PermissionMissing, VersionUnknown, VersionNotInReview, ApprovalOfAnother.
    """
    actor.require(Permission.EDIT_PRICES)
    version = lock_version(version_id)
    if version.status == Status.DRAFT:
        return version
    if version.status != Status.IN_REVIEW:
        raise VersionNotInReview
    approvals.withdraw(request_id=_pending_request(version_id).pk, reason=reason, actor=actor, at=at)
    version.refresh_from_db()
    return version


def lock_version(version_id: int) -> PriceBookVersion:
    """Lock a version's price book and the version, in this order, and return the version as it is now.

    Raises: VersionUnknown.
    """
    book = PriceBook.objects.select_for_update(no_key=True).filter(versions=version_id).first()
    locked = PriceBookVersion.objects.select_for_update(no_key=True, of=("self",)).select_related("book")
    # Somebody may have discarded the draft while this waited for the price book.
    version = locked.filter(pk=version_id).first() if book else None
    if version is None:
        raise VersionUnknown
    return version


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    """Freeze the version, end the one before it where this one begins, and take it live if that moment has come."""
    version = lock_version(subject_id)
    if version.status != Status.IN_REVIEW:
        raise VersionNotInReview
    if canonical_hash(version_content(version.pk)) != bytes(request.content_hash):
        raise VersionContentChanged
    # Ended first, so that the two periods never overlap, not even within this transaction.
    _end_newest(version, actor=actor, at=at)
    version.status = Status.APPROVED
    version.valid_during = DateTimeTZRange(version.effective_from, None)
    version.content_hash = bytes(request.content_hash)
    version.approval = request
    history.save(version, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="price_book_version.approved",
        subject=version,
        at=at,
        data={"approval": request.pk, "content_sha256": version.content_hash.hex()},
    )
    _activate_due(version.book_id, at=at)


def _end_newest(successor: PriceBookVersion, *, actor: Actor, at: datetime) -> None:
    approved = successor.book.versions.select_for_update(no_key=True).filter(status__in=APPROVED_STATUSES)
    newest = approved.order_by("-effective_from").first()
    if newest is None:
        return
    newest.valid_during = DateTimeTZRange(newest.effective_from, successor.effective_from)
    history.save(newest, reason=f"Version {successor.number} takes over.", actor=actor, at=at)


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    """Make the version a draft again: it was rejected, withdrawn, or had changed."""
    version = lock_version(subject_id)
    if version.status != Status.IN_REVIEW:
        return
    version.status = Status.DRAFT
    history.save(version, reason=request.get_status_display(), actor=actor, at=at)
    audit.record(actor=actor, verb="price_book_version.returned", subject=version, at=at, data={"approval": request.pk})


def activate_due_versions(*, at: datetime) -> Activation:
    """Take live every approved version whose moment has come, and supersede those before; safe to run at any time.

    Each price book is a transaction of its own. A version that no longer holds what was approved is kept back, which
    the audit log tells once.
    """
    due = PriceBookVersion.objects.filter(status=Status.APPROVED, effective_from__lte=at)
    activations = [_activate_book(book_id, at=at) for book_id in sorted(set(due.values_list("book_id", flat=True)))]
    return Activation(
        activated=tuple(version_id for each in activations for version_id in each.activated),
        refused=tuple(version_id for each in activations for version_id in each.refused),
    )


@transaction.atomic
def _activate_book(book_id: int, *, at: datetime) -> Activation:
    PriceBook.objects.select_for_update(no_key=True).get(pk=book_id)
    return _activate_due(book_id, at=at)


def _activate_due(book_id: int, *, at: datetime) -> Activation:
    """Take a locked price book's due versions live, the earliest first."""
    actor = Actor.system("activate_versions")
    versions = PriceBookVersion.objects.select_for_update(no_key=True, of=("self",)).select_related("book")
    due = versions.filter(book_id=book_id, status=Status.APPROVED, effective_from__lte=at).order_by("effective_from")
    activated, refused = [], []
    for version in due:
        try:
            _activate(version, actor=actor, at=at)
        except VersionContentChanged as error:
            _audit_refusal(version, str(error), actor=actor, at=at)
            refused.append(version.pk)
        else:
            activated.append(version.pk)
    return Activation(tuple(activated), tuple(refused))


def _activate(version: PriceBookVersion, *, actor: Actor, at: datetime) -> None:
    if not holds_what_was_approved(version):
        message = f"{version} does not hold what was approved, so it does not go live."
        raise VersionContentChanged(message)
    live = PriceBookVersion.objects.filter(book_id=version.book_id, status=Status.LIVE).first()
    if live is not None:
        live.status = Status.SUPERSEDED
        history.save(live, reason=f"Version {version.number} took over.", actor=actor, at=at)
    version.status = Status.LIVE
    history.save(version, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="price_book_version.activated",
        subject=version,
        at=at,
        data={"superseded": live and live.number},
    )


def _audit_refusal(version: PriceBookVersion, reason: str, *, actor: Actor, at: datetime) -> None:
    verb = "price_book_version.activation_refused"
    if not AuditEntry.objects.filter(verb=verb, subject_id=str(version.pk)).exists():
        audit.record(actor=actor, verb=verb, subject=version, at=at, reason=reason)


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Price book version",
        permission=Permission.APPROVE_PRICES,
        content=version_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda version_id: reverse("pricing:version", args=[version_id]),
        lock=lock_version,
    ),
)
