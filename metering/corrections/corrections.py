"""Corrections of accepted events: asked for, previewed, approved above a limit, applied as new facts, reverted.

The original stays as it came. A correction says of events that they no longer count, or that another event counts in
their place; a revert of it says that they count again. Totals follow in the same transaction, and bills with the next
run, which sees a correction as usage that came late.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.urls import reverse

from accounts import approvals, audit
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.errors import CountinghouseError
from accounts.models import ApprovalRequest
from accounts.nudges import nudge
from metering.corrections import correction_preview, correction_selection, correction_words, fingerprints, foreseeing
from metering.corrections.correction_selection import EventFilter, NamedEvent
from metering.corrections.errors import CorrectionBeingPreviewed, CorrectionChanged
from metering.errors import (
    CorrectionAlreadyReverted,
    CorrectionNeedsReason,
    CorrectionNotApplied,
    CorrectionNotDraft,
    CorrectionNotPreviewed,
    CorrectionSelectsNothing,
    CorrectionUnknown,
)
from metering.models import UsageCorrection

logger = logging.getLogger(__name__)

APPROVAL_KIND = "usage_correction"
APPLY_CORRECTIONS = "metering.tasks.apply_corrections"
PREVIEW_CORRECTIONS = "metering.tasks.preview_corrections"
EVENTS_PREVIEWED_AT_ONCE = 1_000
Kind, Status = UsageCorrection.Kind, UsageCorrection.Status


@transaction.atomic
def request_correction(
    *,
    events: EventFilter | Sequence[NamedEvent],
    changes: Mapping[str, str] | None = None,
    reason: str,
    actor: Actor,
    at: datetime,
) -> UsageCorrection:
    """Draft a correction of the events that fit a filter or are named; nothing counts otherwise yet.

    Without `changes` (here or with the named events) they are voided; with them each is replaced by an event that has
    these values instead: of `subject`, `time` or `type`, or under a name in the data. Next it is previewed.

    Raises: PermissionMissing, CorrectionNeedsReason, CorrectionSelectsNothing, CorrectionTooLarge,
    CorrectionSelectionInvalid.
    """
    actor.require(Permission.CORRECT_USAGE)
    if not reason.strip():
        raise CorrectionNeedsReason
    if isinstance(events, EventFilter):
        selection, own = events.described(), False
    else:
        selection, own = _named(events), any(each.changes for each in events)
    if not selection:
        raise CorrectionSelectsNothing
    correction = _draft(
        kind=Kind.REPLACE if changes or own else Kind.VOID,
        selection=selection,
        changes=dict(changes or {}),
        reason=reason,
        actor=actor,
        at=at,
    )
    if isinstance(events, EventFilter):
        count = correction_selection.take_by_filter(correction.pk, events)
    else:
        count = correction_selection.take_by_name(correction.pk, events)
    return _drafted(correction, count, actor=actor, at=at)


@transaction.atomic
def request_revert(*, correction_id: int, reason: str, actor: Actor, at: datetime) -> UsageCorrection:
    """Draft the revert of an applied correction: its events count again, and those that took their place do not.

    Raises: PermissionMissing, CorrectionNeedsReason, CorrectionUnknown, CorrectionNotApplied,
    CorrectionAlreadyReverted.
    """
    actor.require(Permission.CORRECT_USAGE)
    if not reason.strip():
        raise CorrectionNeedsReason
    reverted = _locked(correction_id)
    if reverted.status != Status.APPLIED or not reverted.applied or reverted.kind == Kind.REVERT:
        raise CorrectionNotApplied
    with named("correction_is_reverted_once", CorrectionAlreadyReverted):
        correction = _draft(
            kind=Kind.REVERT,
            selection={"correction": correction_id},
            changes={},
            reason=reason,
            actor=actor,
            at=at,
            reverts=reverted,
        )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO metering_usagecorrectionitem (correction_id, customer_id, time, key, state, detail)
            SELECT %s, customer_id, time, key, 'waiting', '' FROM metering_usagecorrectionitem
            WHERE correction_id = %s AND state = 'applied'
            """,
            [correction.pk, correction_id],
        )
        count = int(cursor.rowcount)
    return _drafted(correction, count, actor=actor, at=at)


def _named(events: Sequence[NamedEvent]) -> dict[str, Any]:
    if not events:
        return {}
    first = [f"{each.source} {each.event_id}" for each in events[:5]]
    return {"events": len(events), "first": first}


def _draft(
    *,
    kind: UsageCorrection.Kind,
    selection: Mapping[str, Any],
    changes: Mapping[str, str],
    reason: str,
    actor: Actor,
    at: datetime,
    reverts: UsageCorrection | None = None,
) -> UsageCorrection:
    # The number of events is known once they are noted, which takes the correction to be there.
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('metering_usagecorrection', 'id'))")
        (number,) = cursor.fetchone()
    return UsageCorrection(
        pk=number,
        kind=kind,
        reason=reason.strip(),
        selection=dict(selection),
        changes=dict(changes),
        reverts=reverts,
        requested_by_id=actor.user_id,
        requested_by_label=actor.label,
        requested_at=at,
        events=0,
    )


def _drafted(correction: UsageCorrection, count: int, *, actor: Actor, at: datetime) -> UsageCorrection:
    if not count:
        raise CorrectionSelectsNothing
    correction.events = count
    with named("correction_is_reverted_once", CorrectionAlreadyReverted):
        correction.save(force_insert=True)
    data = {"kind": correction.kind, "events": count, "selection": correction.selection}
    audit.record(
        actor=actor, verb="usage_correction.requested", subject=correction, at=at, reason=correction.reason, data=data
    )
    return correction


def ask_preview(*, correction_id: int, actor: Actor, at: datetime) -> UsageCorrection:
    """Preview a draft: at once, or by a worker where it is about more than 1,000 events.

    Asking again for one that is being previewed changes nothing.

    Raises: PermissionMissing, CorrectionUnknown, CorrectionNotDraft, CorrectionNotCountable.
    """
    actor.require(Permission.CORRECT_USAGE)
    correction = _asked_of_a_worker(correction_id, actor=actor, at=at)
    return correction or preview_correction(correction_id=correction_id, actor=actor, at=at)


@transaction.atomic
def _asked_of_a_worker(correction_id: int, *, actor: Actor, at: datetime) -> UsageCorrection | None:
    correction = _locked_draft(correction_id)
    if correction.events <= EVENTS_PREVIEWED_AT_ONCE:
        return None
    if correction.preview_asked_at is None:
        correction.preview_asked_at, correction.last_error = at, ""
        correction.save(update_fields=["preview_asked_at", "last_error"])
        audit.record(actor=actor, verb="usage_correction.preview_asked", subject=correction, at=at)
    nudge(PREVIEW_CORRECTIONS)
    return correction


def work_out_previews(*, is_time_up: Callable[[], bool], clock: Callable[[], datetime]) -> None:
    """Work out the previews that people wait for, and begin none once time is up; what is refused is noted.

    One that another worker is at is left to it.
    """
    actor = Actor.system("corrections")
    asked = UsageCorrection.objects.exclude(preview_asked_at=None).order_by("preview_asked_at")
    for correction_id in list(asked.values_list("pk", flat=True)):
        if is_time_up():
            return
        _work_out_preview(correction_id, actor=actor, clock=clock)


def _work_out_preview(correction_id: int, *, actor: Actor, clock: Callable[[], datetime]) -> None:
    error = ""
    try:
        preview_correction(correction_id=correction_id, actor=actor, at=clock())
    except CorrectionBeingPreviewed:
        return
    except CountinghouseError as refusal:
        error = str(refusal)
    except DatabaseError as failure:
        # Asked for again and again, it would keep all others from being worked on.
        logger.warning("correction %s cannot be previewed", correction_id, exc_info=True)
        error = str(failure).partition("\n")[0]
    if error:
        UsageCorrection.objects.filter(pk=correction_id, status=Status.DRAFT).update(
            preview_asked_at=None, last_error=error
        )


def preview_correction(*, correction_id: int, actor: Actor, at: datetime) -> UsageCorrection:
    """Work out what a draft changes for whom, and keep it, as of `at`; nothing is held meanwhile.

    The draft may be dropped before it is worked out, and then nothing is kept.

    Raises: PermissionMissing, CorrectionUnknown, CorrectionNotDraft, CorrectionNotCountable, CorrectionTooLarge,
    CorrectionBeingPreviewed.
    """
    actor.require(Permission.CORRECT_USAGE)
    with foreseeing.one_moment(correction_id, what="correction", being_previewed=CorrectionBeingPreviewed):
        draft = UsageCorrection.objects.filter(pk=correction_id).first()
        if draft is None:
            raise CorrectionUnknown
        if draft.status != Status.DRAFT:
            raise CorrectionNotDraft
        fingerprint = fingerprints.of_correction(draft)
        found = correction_preview.preview(draft, at=at)
    with transaction.atomic():
        correction = _locked_draft(correction_id)
        correction.preview, correction.previewed_at, correction.fingerprint = found, at, fingerprint
        correction.preview_asked_at, correction.last_error = None, ""
        correction.save(update_fields=["preview", "previewed_at", "fingerprint", "preview_asked_at", "last_error"])
    return correction


def submit_correction(*, correction_id: int, actor: Actor, at: datetime) -> UsageCorrection:
    """Let a previewed draft be applied: at once below the limit, above it once a second person approved.

    What is applied is what was previewed: where anything has changed since that it would come to, it is refused.
    Asking again for one that is submitted already returns it as it is.

    Raises: PermissionMissing, CorrectionUnknown, CorrectionNotDraft, CorrectionNotPreviewed, CorrectionChanged,
    ApprovalNeedsAPerson.
    """
    actor.require(Permission.CORRECT_USAGE)
    return _submit(correction_id, actor=actor, at=at)


@transaction.atomic
def _submit(correction_id: int, *, actor: Actor, at: datetime) -> UsageCorrection:
    correction = _locked(correction_id)
    if correction.status == Status.DROPPED:
        raise CorrectionNotDraft
    if correction.status != Status.DRAFT:
        return correction
    if correction.preview is None or correction.preview_asked_at is not None:
        raise CorrectionNotPreviewed
    if fingerprints.of_correction(correction) != correction.fingerprint:
        raise CorrectionChanged
    if not needs_approval(correction):
        return _approve(correction, verb="usage_correction.submitted", actor=actor, at=at)
    approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=correction.pk,
        title=f"{correction.get_kind_display()} {correction.events:,} events",
        summary=_summary(correction),
        size=Decimal(correction.events),
        reason=correction.reason,
        actor=actor,
        at=at,
    )
    correction.status = Status.IN_REVIEW
    correction.save(update_fields=["status"])
    audit.record(actor=actor, verb="usage_correction.submitted", subject=correction, at=at, reason=correction.reason)
    return correction


def needs_approval(correction: UsageCorrection) -> bool:
    """Say whether a previewed correction is about so much that a second person decides."""
    preview = correction.preview or {}
    return (
        correction.events > settings.USAGE_CORRECTION_FREE_EVENTS
        or Decimal(preview.get("greatest_share", "0")) > settings.USAGE_CORRECTION_FREE_SHARE
    )


@transaction.atomic
def drop_correction(*, correction_id: int, actor: Actor, at: datetime) -> UsageCorrection:
    """Drop a draft; it is kept and does nothing. One that was dropped before stays as it is.

    Raises: PermissionMissing, CorrectionUnknown, CorrectionNotDraft.
    """
    actor.require(Permission.CORRECT_USAGE)
    correction = _locked(correction_id)
    if correction.status == Status.DROPPED:
        return correction
    if correction.status != Status.DRAFT:
        raise CorrectionNotDraft
    correction.status, correction.preview_asked_at = Status.DROPPED, None
    correction.save(update_fields=["status", "preview_asked_at"])
    audit.record(actor=actor, verb="usage_correction.dropped", subject=correction, at=at)
    return correction


def due() -> list[int]:
    """Return the corrections that wait to be applied further."""
    return list(UsageCorrection.objects.filter(status=Status.APPROVED).order_by("id").values_list("pk", flat=True))


def _locked(correction_id: int) -> UsageCorrection:
    correction = UsageCorrection.objects.select_for_update(no_key=True).filter(pk=correction_id).first()
    if correction is None:
        raise CorrectionUnknown
    return correction


def _locked_draft(correction_id: int) -> UsageCorrection:
    correction = _locked(correction_id)
    if correction.status != Status.DRAFT:
        raise CorrectionNotDraft
    return correction


def _approve(
    correction: UsageCorrection, *, verb: str, actor: Actor, at: datetime, data: Mapping[str, Any] | None = None
) -> UsageCorrection:
    correction.status = Status.APPROVED
    correction.approved_at = at
    correction.save(update_fields=["status", "approved_at"])
    audit.record(actor=actor, verb=verb, subject=correction, at=at, reason=correction.reason, data=data)
    nudge(APPLY_CORRECTIONS)
    return correction


def _summary(correction: UsageCorrection) -> dict[str, Any]:
    preview = correction.preview or {}
    return {
        "what": correction.get_kind_display(),
        "events": correction.events,
        "which": "; ".join(f"{name}: {words}" for name, words in correction_words.events_asked_for(correction)),
        "new values": ", ".join(f"{name}: {value}" for name, value in correction.changes.items()) or "none",
        "customers": preview.get("customers", 0),
        "quantities of months that are billed already": preview.get("billed_rows", 0),
        "greatest change of a quantity": f"{Decimal(preview.get('greatest_share', '0')):.1%}",
    }


def _content(correction_id: int) -> Mapping[str, Any]:
    correction = UsageCorrection.objects.get(pk=correction_id)
    return {
        "kind": correction.kind,
        "reason": correction.reason,
        "events": correction.events,
        "changes": correction.changes,
        "reverts": correction.reverts_id,
        "fingerprint": fingerprints.of_correction(correction),
    }


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    correction = _locked(subject_id)
    data = {"approval": request.pk}
    _approve(correction, verb="usage_correction.approved", actor=actor, at=at, data=data)


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    correction = _locked(subject_id)
    if correction.status == Status.IN_REVIEW:
        correction.status = Status.DRAFT
        correction.save(update_fields=["status"])
        data = {"approval": request.pk}
        audit.record(actor=actor, verb="usage_correction.refused", subject=correction, at=at, data=data)


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Correction of usage",
        permission=Permission.APPROVE_CORRECTIONS,
        content=_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda correction_id: reverse("metering:correction", args=[correction_id]),
        lock=_locked,
    ),
)
