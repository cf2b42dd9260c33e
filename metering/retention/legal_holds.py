"""Legal holds: what has to stay as it is, whoever wants it archived away, dropped or erased."""

from __future__ import annotations

from datetime import date, datetime

from django.db import connection, transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.access import Actor, Permission
from accounts.models import Customer
from accounts.validation import require_reason
from metering.errors import LegalHoldInvalid, LegalHoldUnknown
from metering.models import LegalHold, LegalHoldLift


@transaction.atomic
def set_hold(
    *,
    customer_id: int | None = None,
    first_month: date | None = None,
    last_month: date | None = None,
    reason: str,
    actor: Actor,
    at: datetime,
) -> LegalHold:
    """Keep usage as it is from now on: of a customer, of a span of months (first days, both inclusive), or of both.

    A step under way elsewhere is waited for; from then on detaching, dropping and erasing are refused.

    Raises: PermissionMissing, ReasonMissing, LegalHoldInvalid.
    """
    actor.require(Permission.MANAGE_RETENTION)
    require_reason(reason)
    if customer_id is None and first_month is None and last_month is None:
        msg = "Name a customer, or the months to keep."
        raise LegalHoldInvalid(msg)
    if any(month is not None and month.day != 1 for month in (first_month, last_month)):
        msg = "A hold covers whole months, named by their first day."
        raise LegalHoldInvalid(msg)
    if first_month is not None and last_month is not None and last_month < first_month:
        msg = "The last month of the hold lies before the first."
        raise LegalHoldInvalid(msg)
    if customer_id is not None and not Customer.objects.filter(pk=customer_id).exists():
        msg = "There is no such customer."
        raise LegalHoldInvalid(msg)
    with connection.cursor() as cursor:
        # Whoever detaches, drops or erases has found no hold under the same lock, and is done before this one begins.
        cursor.execute("SELECT wait_for_legal_holds()")
    hold = LegalHold.objects.create(
        customer_id=customer_id,
        first_month=first_month,
        last_month=last_month,
        reason=reason.strip(),
        set_by=actor.label,
        set_at=at,
    )
    audit.record(
        actor=actor,
        verb="legal_hold.set",
        subject=hold,
        at=at,
        reason=hold.reason,
        data={"customer_id": customer_id, "first_month": first_month, "last_month": last_month},
    )
    return hold


@transaction.atomic
def lift_hold(*, hold_id: int, reason: str, actor: Actor, at: datetime) -> LegalHold:
    """End a hold, for a reason; lifting it twice changes nothing.

    Raises: PermissionMissing, ReasonMissing, LegalHoldUnknown.
    """
    actor.require(Permission.MANAGE_RETENTION)
    require_reason(reason)
    hold = LegalHold.objects.select_for_update(no_key=True).filter(pk=hold_id).first()
    if hold is None:
        raise LegalHoldUnknown
    _, is_new = LegalHoldLift.objects.get_or_create(
        hold=hold, defaults={"reason": reason.strip(), "lifted_by": actor.label, "lifted_at": at}
    )
    if is_new:
        audit.record(actor=actor, verb="legal_hold.lifted", subject=hold, at=at, reason=reason.strip())
    return hold


def active() -> QuerySet[LegalHold]:
    """Return the holds that are not lifted, the newest first."""
    return LegalHold.objects.filter(lift__isnull=True).select_related("customer")


def of_month(month: date) -> list[LegalHold]:
    """Return the active holds that keep a month where it is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM legal_holds_of_month(%s)", [month])
        ids = [hold_id for (hold_id,) in cursor.fetchall()]
    return list(LegalHold.objects.filter(pk__in=ids).select_related("customer"))


def is_held(*, customer_id: int, before: datetime) -> bool:
    """Tell whether an active hold covers usage of the customer before a moment."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT usage_is_held(%s, '-infinity', %s)", [customer_id, before])
        (held,) = cursor.fetchone()
    return bool(held)
