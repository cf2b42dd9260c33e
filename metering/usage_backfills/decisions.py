"""What people decide about a backfill: open, preview, close, abandon, revert; above a limit a second person decides.

All that changes is done by `work`, as new facts; what was there stays readable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, transaction
from django.urls import reverse

from accounts import approvals, audit
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.errors import CountinghouseError
from accounts.models import ApprovalRequest, Customer
from accounts.nudges import nudge
from accounts.validation import require_reason
from metering.ingestion import earliest_acceptable
from metering.models import UsageBackfill, UsageFile
from metering.retention import retention
from metering.usage_backfills import plan, preview
from metering.usage_backfills.errors import (
    UsageBackfillBeingFilled,
    UsageBackfillBeingPreviewed,
    UsageBackfillChanged,
    UsageBackfillEmpty,
    UsageBackfillInvalid,
    UsageBackfillNotClosed,
    UsageBackfillNotOpen,
    UsageBackfillNotPreviewed,
    UsageBackfillOverlaps,
)
from metering.usage_backfills.records import Mode, Status, found, locked

logger = logging.getLogger(__name__)

APPROVAL_KIND: Final = "usage_backfill"
PREVIEW_BACKFILLS: Final = "metering.tasks.preview_usage_backfills"
WORK_ON_BACKFILLS: Final = "metering.tasks.work_on_usage_backfills"
_ONE_AT_A_TIME: Final = "source_and_period_have_one_open_backfill"
_LONGEST_NAME: Final = 200
_HOUR: Final = timedelta(hours=1)
EVENTS_PREVIEWED_AT_ONCE: Final = 10_000
# What of a preview changes a total.
_CHANGES: Final = ("counted", "replaced", "brought_back", "voided")


@transaction.atomic
def open_backfill(
    *,
    source: str,
    start: datetime,
    end: datetime,
    customer_ids: Sequence[int] = (),
    event_types: Sequence[str] = (),
    mode: str,
    lifts_age: bool = False,
    reason: str,
    actor: Actor,
    at: datetime,
) -> UsageBackfill:
    """Open a backfill of a source's events of `[start, end)`, full hours that have begun; nothing counts by it yet.

    `customer_ids` and `event_types` narrow it down; none are all. `lifts_age` takes events older than the acceptance
    age, and always needs a second person.

    Raises: PermissionMissing, ReasonMissing, UsageBackfillInvalid, UsageBackfillOverlaps.
    """
    actor.require(Permission.CORRECT_USAGE)
    require_reason(reason)
    backfill = UsageBackfill(
        source=source.strip(),
        starts_at=start,
        ends_at=end,
        customer_ids=sorted(set(customer_ids)),
        event_types=sorted({each.strip() for each in event_types}),
        mode=mode,
        lifts_age=lifts_age,
        reason=reason.strip(),
        opened_by_id=actor.user_id,
        opened_by_label=actor.label,
        opened_at=at,
    )
    if fault := _fault_of_scope(backfill) or _fault_of_period(backfill, at=at):
        raise UsageBackfillInvalid(fault)
    with named(_ONE_AT_A_TIME, UsageBackfillOverlaps):
        backfill.save(force_insert=True)
    audit.record(
        actor=actor,
        verb="usage_backfill.opened",
        subject=backfill,
        at=at,
        reason=backfill.reason,
        data=_scope_of(backfill),
    )
    return backfill


def _fault_of_scope(backfill: UsageBackfill) -> str:
    """Return what is wrong with what the backfill is of, in a sentence."""
    names = [backfill.source, *backfill.event_types]
    if any(not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() for name in names):
        return "Name one source, and event types if any, each in one to 200 printable characters."
    if backfill.mode not in Mode.values:
        return "Say whether to add what is missing or to replace what is there."
    known = Customer.objects.filter(pk__in=backfill.customer_ids).count()
    return "" if known == len(backfill.customer_ids) else "There is no such customer."


def _fault_of_period(backfill: UsageBackfill, *, at: datetime) -> str:
    """Return what is wrong with the period, in a sentence."""
    start, end = backfill.starts_at, backfill.ends_at
    if start.utcoffset() is None or end.utcoffset() is None or not start < end:
        return "The period has to end after it starts, both at moments in UTC."
    if any(each.minute or each.second or each.microsecond for each in (start.astimezone(UTC), end.astimezone(UTC))):
        return "The period starts and ends on full hours of UTC."
    if end >= at + _HOUR:
        return "The period has to have begun in full: it cannot end later than this hour does."
    if not backfill.lifts_age and start < (earliest := earliest_acceptable(at)):
        return f"Events before {earliest:%Y-%m-%d} are older than the acceptance age; say that they are to be taken."
    if away := retention.archived_months(start, end):
        months = ", ".join(f"{each.month:%B %Y}" for each in away)
        return f"The events of {months} lie in the archive: bring them back first."
    return ""


def _scope_of(backfill: UsageBackfill) -> dict[str, Any]:
    return {
        "source": backfill.source,
        "starts_at": backfill.starts_at,
        "ends_at": backfill.ends_at,
        "customer_ids": backfill.customer_ids,
        "event_types": backfill.event_types,
        "mode": backfill.mode,
        "lifts_age": backfill.lifts_age,
    }


def ask_preview(*, backfill_id: int, actor: Actor, at: datetime) -> UsageBackfill:
    """Preview the closing of an open backfill, or the revert of a closed one: at once, or by a worker if it is large.

    Raises: PermissionMissing, UsageBackfillUnknown, UsageBackfillNotOpen, UsageBackfillTooLarge,
    UsageBackfillBeingPreviewed, UsageBackfillChanged.
    """
    actor.require(Permission.CORRECT_USAGE)
    backfill = _asked_of_a_worker(backfill_id, actor=actor, at=at)
    if backfill is not None:
        return backfill
    return _preview(backfill_id, actor=actor, at=at)


@transaction.atomic
def _asked_of_a_worker(backfill_id: int, *, actor: Actor, at: datetime) -> UsageBackfill | None:
    backfill = locked(backfill_id)
    if backfill.status not in {Status.OPEN, Status.CLOSED}:
        raise UsageBackfillNotOpen
    if backfill.status == Status.OPEN:
        is_large = plan.is_large(backfill, limit=EVENTS_PREVIEWED_AT_ONCE)
    else:
        is_large = backfill.items > EVENTS_PREVIEWED_AT_ONCE
    if not is_large:
        return None
    if backfill.preview_asked_at is None:
        backfill.preview_asked_at = at
        backfill.save(update_fields=["preview_asked_at"])
        audit.record(actor=actor, verb="usage_backfill.preview_asked", subject=backfill, at=at)
    nudge(PREVIEW_BACKFILLS)
    return backfill


def _preview(backfill_id: int, *, actor: Actor, at: datetime) -> UsageBackfill:
    is_closed = UsageBackfill.objects.filter(pk=backfill_id, status=Status.CLOSED).exists()
    verb = preview_revert if is_closed else preview_backfill
    return verb(backfill_id=backfill_id, actor=actor, at=at)


def previews_are_asked_for() -> bool:
    """Tell whether somebody waits for a preview."""
    return UsageBackfill.objects.exclude(preview_asked_at=None).exists()


def work_out_previews(*, is_time_up: Callable[[], bool], clock: Callable[[], datetime]) -> int:
    """Work out previews that people wait for until the time is up, and return how many that was.

    What is refused is noted. One that somebody else is at is left to them.
    """
    actor = Actor.system("usage backfills")
    worked_out = 0
    for backfill_id in UsageBackfill.objects.exclude(preview_asked_at=None).order_by("pk").values_list("pk", flat=True):
        error = ""
        try:
            _preview(backfill_id, actor=actor, at=clock())
        except UsageBackfillBeingPreviewed:
            continue
        except CountinghouseError as refusal:
            error = str(refusal)
        except DatabaseError as failure:
            # Asked for again and again, it would keep all others from being worked on.
            logger.warning("backfill %s cannot be previewed", backfill_id, exc_info=True)
            error = str(failure).partition("\n")[0]
        UsageBackfill.objects.filter(pk=backfill_id).exclude(status__in=[Status.ABANDONED, Status.REVERTED]).update(
            preview_asked_at=None, last_error=error
        )
        worked_out += 1
        if is_time_up():
            break
    return worked_out


def preview_backfill(*, backfill_id: int, actor: Actor, at: datetime) -> UsageBackfill:
    """Work out what the closing would change as things stand at one moment, and keep it; nobody waits for it.

    Raises: PermissionMissing, UsageBackfillUnknown, UsageBackfillNotOpen, UsageBackfillTooLarge,
    UsageBackfillBeingPreviewed; UsageBackfillChanged where events were filled in meanwhile.
    """
    actor.require(Permission.CORRECT_USAGE)
    with preview.one_moment(backfill_id):
        seen = found(backfill_id)
        if seen.status != Status.OPEN:
            raise UsageBackfillNotOpen
        fingerprint = plan.fingerprint_of_closing(seen)
        result, left_out = preview.preview_closing(seen, at=at)
    with transaction.atomic():
        backfill = locked(backfill_id)
        if backfill.status != Status.OPEN:
            raise UsageBackfillNotOpen
        if backfill.staged != seen.staged:
            raise UsageBackfillChanged
        preview.note_left_out(backfill, left_out)
        backfill.preview, backfill.previewed_at, backfill.fingerprint = result, at, fingerprint
        backfill.problems = sum(result["reasons"].values())
        backfill.save(update_fields=["fingerprint", "preview", "previewed_at", "problems"])
    return backfill


@transaction.atomic
def close_backfill(*, backfill_id: int, actor: Actor, at: datetime) -> UsageBackfill:
    """Have a previewed backfill counted: at once below the limit, above it once a second person approved.

    What is done is what was previewed: where anything has changed since that it would come to, it is refused. Asking
    again for one that is being closed, or is closed, returns it as it is.

    Raises: PermissionMissing, UsageBackfillUnknown, UsageBackfillNotOpen, UsageBackfillNotPreviewed,
    UsageBackfillEmpty, UsageBackfillBeingFilled, UsageBackfillChanged, ApprovalNeedsAPerson.
    """
    actor.require(Permission.CORRECT_USAGE)
    backfill = locked(backfill_id)
    if backfill.status == Status.ABANDONED:
        raise UsageBackfillNotOpen
    if backfill.status != Status.OPEN:
        return backfill
    if backfill.preview is None:
        raise UsageBackfillNotPreviewed
    if not _changes(backfill.preview):
        raise UsageBackfillEmpty
    if backfill.files.filter(state=UsageFile.State.LOADING).exists():
        raise UsageBackfillBeingFilled
    if plan.fingerprint_of_closing(backfill) != backfill.fingerprint:
        raise UsageBackfillChanged
    if not needs_approval(backfill):
        return _begin_closing(backfill, verb="usage_backfill.closing", actor=actor, at=at)
    _ask(backfill, title="Close", found=backfill.preview, reason=backfill.reason, actor=actor, at=at)
    backfill.status = Status.IN_REVIEW
    backfill.save(update_fields=["status"])
    audit.record(actor=actor, verb="usage_backfill.submitted", subject=backfill, at=at, reason=backfill.reason)
    return backfill


def needs_approval(backfill: UsageBackfill) -> bool:
    """Say whether what was previewed, closing or revert, is about so much that a second person decides."""
    found = (backfill.revert_preview if backfill.status == Status.CLOSED else backfill.preview) or {}
    return (
        backfill.lifts_age
        or takes_all_out(backfill)
        or _changes(found) > settings.USAGE_CORRECTION_FREE_EVENTS
        or Decimal(found.get("greatest_share", "0")) > settings.USAGE_CORRECTION_FREE_SHARE
    )


def takes_all_out(backfill: UsageBackfill) -> bool:
    """Say whether it replaces what is there by nothing: a filling that never came looks the same."""
    return backfill.mode == Mode.REPLACE and not backfill.staged


def _changes(found: Mapping[str, Any]) -> int:
    """Return of how many events a preview says that they would count otherwise."""
    return int(found["undone"]) if "undone" in found else sum(int(found.get(name, 0)) for name in _CHANGES)


def _begin_closing(
    backfill: UsageBackfill, *, verb: str, actor: Actor, at: datetime, data: Mapping[str, Any] | None = None
) -> UsageBackfill:
    backfill.items = plan.find_what_is_there(backfill)
    # What a sender has brought between the two questions has not been seen by anybody.
    if plan.noted(backfill) != (backfill.preview or {}).get("noted"):
        raise UsageBackfillChanged
    backfill.status, backfill.closing_at = Status.CLOSING, at
    backfill.save(update_fields=["status", "closing_at", "items"])
    audit.record(actor=actor, verb=verb, subject=backfill, at=at, reason=backfill.reason, data=data)
    nudge(WORK_ON_BACKFILLS)
    return backfill


@transaction.atomic
def abandon_backfill(*, backfill_id: int, reason: str, actor: Actor, at: datetime) -> UsageBackfill:
    """Give an open backfill up: the events that were filled in go, the record stays. Done before, it stays as it is.

    Raises: PermissionMissing, ReasonMissing, UsageBackfillUnknown, UsageBackfillNotOpen.
    """
    actor.require(Permission.CORRECT_USAGE)
    backfill = locked(backfill_id)
    if backfill.status == Status.ABANDONED:
        return backfill
    require_reason(reason)
    if backfill.status not in {Status.OPEN, Status.IN_REVIEW}:
        raise UsageBackfillNotOpen
    approvals.void_pending(kind=APPROVAL_KIND, subject_id=backfill.pk, reason=reason, actor=actor, at=at)
    backfill = locked(backfill_id)
    backfill.status, backfill.preview_asked_at = Status.ABANDONED, None
    backfill.save(update_fields=["status", "preview_asked_at"])
    gone, _ = backfill.events.all().delete()
    audit.record(
        actor=actor,
        verb="usage_backfill.abandoned",
        subject=backfill,
        at=at,
        reason=reason.strip(),
        data={"events": gone},
    )
    return backfill


def preview_revert(*, backfill_id: int, actor: Actor, at: datetime) -> UsageBackfill:
    """Work out what the revert of a closed backfill would change as things stand at one moment, and keep it.

    Raises: PermissionMissing, UsageBackfillUnknown, UsageBackfillNotClosed, UsageBackfillTooLarge,
    UsageBackfillBeingPreviewed.
    """
    actor.require(Permission.CORRECT_USAGE)
    with preview.one_moment(backfill_id):
        seen = found(backfill_id)
        if seen.status != Status.CLOSED:
            raise UsageBackfillNotClosed
        fingerprint = plan.fingerprint_of_revert(seen)
        result = preview.preview_revert(seen, at=at)
    with transaction.atomic():
        backfill = locked(backfill_id)
        if backfill.status != Status.CLOSED:
            raise UsageBackfillNotClosed
        backfill.revert_preview, backfill.revert_previewed_at, backfill.revert_fingerprint = result, at, fingerprint
        backfill.save(update_fields=["revert_fingerprint", "revert_preview", "revert_previewed_at"])
    return backfill


@transaction.atomic
def revert_backfill(*, backfill_id: int, reason: str, actor: Actor, at: datetime) -> UsageBackfill:
    """Undo a closed backfill by new facts: what it counted does not count, what it voided does.

    Previewed and approved like the closing. Asking again for one that is being reverted returns it as it is.

    Raises: PermissionMissing, ReasonMissing, UsageBackfillUnknown, UsageBackfillNotClosed, UsageBackfillNotPreviewed,
    UsageBackfillEmpty, UsageBackfillChanged, UsageBackfillOverlaps, ApprovalNeedsAPerson.
    """
    actor.require(Permission.CORRECT_USAGE)
    backfill = locked(backfill_id)
    if backfill.status in {Status.REVERT_REVIEW, Status.REVERTING, Status.REVERTED}:
        return backfill
    if backfill.status != Status.CLOSED:
        raise UsageBackfillNotClosed
    require_reason(reason)
    if backfill.revert_preview is None:
        raise UsageBackfillNotPreviewed
    if not _changes(backfill.revert_preview):
        raise UsageBackfillEmpty
    if plan.fingerprint_of_revert(backfill) != backfill.revert_fingerprint:
        raise UsageBackfillChanged
    asks = needs_approval(backfill)
    backfill.revert_reason = reason.strip()
    if not asks:
        return _begin_reverting(backfill, verb="usage_backfill.reverting", actor=actor, at=at)
    backfill.status = Status.REVERT_REVIEW
    with named(_ONE_AT_A_TIME, UsageBackfillOverlaps):
        backfill.save(update_fields=["status", "revert_reason"])
    _ask(backfill, title="Revert", found=backfill.revert_preview, reason=backfill.revert_reason, actor=actor, at=at)
    audit.record(
        actor=actor, verb="usage_backfill.revert_submitted", subject=backfill, at=at, reason=backfill.revert_reason
    )
    return backfill


def _begin_reverting(
    backfill: UsageBackfill, *, verb: str, actor: Actor, at: datetime, data: Mapping[str, Any] | None = None
) -> UsageBackfill:
    backfill.status, backfill.reverting_at = Status.REVERTING, at
    with named(_ONE_AT_A_TIME, UsageBackfillOverlaps):
        backfill.save(update_fields=["status", "reverting_at", "revert_reason"])
    audit.record(actor=actor, verb=verb, subject=backfill, at=at, reason=backfill.revert_reason, data=data)
    nudge(WORK_ON_BACKFILLS)
    return backfill


def _ask(
    backfill: UsageBackfill, *, title: str, found: Mapping[str, Any], reason: str, actor: Actor, at: datetime
) -> None:
    moments = (backfill.starts_at.astimezone(UTC), backfill.ends_at.astimezone(UTC))
    approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=backfill.pk,
        title=f"{title} the backfill of {backfill.source}"[:254],
        summary={
            "source": backfill.source,
            "events of": " to ".join(f"{each:%Y-%m-%d %H:%M}" for each in moments) + " UTC",
            "mode": backfill.get_mode_display(),
            "takes events older than the acceptance age": "yes" if backfill.lifts_age else "no",
            "events filled in": backfill.staged,
            "events that will count otherwise": _changes(found),
            "events that will count no more": found.get("voided", 0),
            "events left out": found.get("left_out", 0),
            "customers": found.get("customers", 0),
            "quantities of months that are billed already": found.get("billed_rows", 0),
            "greatest change of a quantity": f"{Decimal(found.get('greatest_share', '0')):.1%}",
        },
        size=Decimal(_changes(found)),
        reason=reason,
        actor=actor,
        at=at,
    )


def _content(backfill_id: int) -> Mapping[str, Any]:
    backfill = UsageBackfill.objects.get(pk=backfill_id)
    if backfill.status in {Status.OPEN, Status.IN_REVIEW}:
        act, fingerprint = "close", plan.fingerprint_of_closing(backfill)
    else:
        act, fingerprint = "revert", plan.fingerprint_of_revert(backfill)
    return {
        "act": act,
        **_scope_of(backfill),
        "reason": backfill.reason,
        "revert_reason": backfill.revert_reason,
        "fingerprint": fingerprint,
    }


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    backfill = locked(subject_id)
    data = {"approval": request.pk}
    if backfill.status == Status.IN_REVIEW:
        _begin_closing(backfill, verb="usage_backfill.approved", actor=actor, at=at, data=data)
    else:
        _begin_reverting(backfill, verb="usage_backfill.revert_approved", actor=actor, at=at, data=data)


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    backfill = locked(subject_id)
    before = {Status.IN_REVIEW: Status.OPEN, Status.REVERT_REVIEW: Status.CLOSED}.get(Status(backfill.status))
    if before is not None:
        backfill.status = before
        backfill.save(update_fields=["status"])
        data = {"approval": request.pk}
        audit.record(actor=actor, verb="usage_backfill.refused", subject=backfill, at=at, data=data)


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Backfill of usage",
        permission=Permission.APPROVE_CORRECTIONS,
        content=_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda backfill_id: reverse("metering:usage-backfill", args=[backfill_id]),
        lock=locked,
    ),
)
