"""Keeps the policies of the approval engine: who may approve what, and how many must."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.approvals import kind_of, kinds
from accounts.constraints import named
from accounts.errors import DetailsInvalid
from accounts.models import ApprovalPolicy
from accounts.validation import change_fields, require_reason

_SET_AT_ONCE = DetailsInvalid({"from_amount": ["Somebody set a policy for this amount just now; look at it first."]})


@transaction.atomic
def set_approval_policy(
    *,
    kind: str,
    from_amount: Decimal,
    permission: Permission,
    approvals_required: int,
    reason: str,
    actor: Actor,
    at: datetime,
) -> ApprovalPolicy:
    """Say who approves requests of a kind from an amount on, in place of what was said before for that amount.

    `permission` is one that some kind of approval asks for: a policy moves a decision between those who decide, and
    never down to everybody who may look. Requests that are already pending keep the policy under which they were made.

    Raises: PermissionMissing, ReasonMissing, ApprovalKindUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    kind_of(kind)
    _require_valid(from_amount=from_amount, permission=permission, approvals_required=approvals_required)
    policy = ApprovalPolicy.objects.select_for_update().filter(kind=kind, from_amount=from_amount).first()
    if policy is None:
        policy = ApprovalPolicy(kind=kind, from_amount=from_amount, approvals_required=0)
    changes = change_fields(policy, {"permission": permission.value, "approvals_required": approvals_required})
    if not changes:
        return policy

    with named("approval_policy_is_unique_per_amount", _SET_AT_ONCE):
        history.save(policy, reason=reason, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="approval_policy.set",
        subject=policy,
        at=at,
        reason=reason,
        data={"changes": changes},
    )
    return policy


def deciding_permissions() -> list[Permission]:
    """Return the permissions that policies may ask for, by what they are called."""
    return sorted({kind.permission for kind in kinds()}, key=lambda permission: permission.label)


def _require_valid(*, from_amount: Decimal, permission: Permission, approvals_required: int) -> None:
    if permission not in deciding_permissions():
        raise DetailsInvalid({"permission": [f"“{permission.label}” is not for decisions."]})
    if from_amount < 0:
        raise DetailsInvalid({"from_amount": ["A threshold is not negative."]})
    if not 1 <= approvals_required <= ApprovalPolicy.MOST_APPROVALS:
        raise DetailsInvalid({"approvals_required": ["Between one and five people approve."]})
