from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from accounts import policies
from accounts.access import Actor, Permission
from accounts.errors import ApprovalKindUnknown, DetailsInvalid, PermissionMissing, ReasonMissing
from accounts.models import ApprovalPolicy, AuditEntry
from tests.accounts.conftest import NOON, Effects

pytestmark = pytest.mark.django_db


def set_policy(actor: Actor, **changes: Any) -> ApprovalPolicy:
    arguments: dict[str, Any] = {
        "kind": "customer_terms",
        "from_amount": Decimal(1000),
        "permission": Permission.APPROVE_PRICES,
        "approvals_required": 2,
        "reason": "Large ones.",
        "actor": actor,
        "at": NOON,
    }
    return policies.set_approval_policy(**(arguments | changes))


def test_a_policy_is_set_and_set_anew_for_its_amount(administrator: Actor, effects: Effects) -> None:
    first = set_policy(administrator)
    same = set_policy(administrator)
    changed = set_policy(administrator, approvals_required=3)

    assert first == same == changed
    assert changed.approvals_required == 3
    assert changed.history.count() == 2
    entries = AuditEntry.objects.filter(verb="approval_policy.set").order_by("id")
    assert [entry.data["changes"]["approvals_required"] for entry in entries] == [
        {"before": 0, "after": 2},
        {"before": 2, "after": 3},
    ]


def test_setting_a_policy_is_refused(administrator: Actor, controller: Actor, effects: Effects) -> None:
    with pytest.raises(PermissionMissing):
        set_policy(controller)
    with pytest.raises(ReasonMissing):
        set_policy(administrator, reason="")
    with pytest.raises(ApprovalKindUnknown):
        set_policy(administrator, kind="no_such_kind")
    with pytest.raises(DetailsInvalid, match="threshold"):
        set_policy(administrator, from_amount=Decimal(-1))
    with pytest.raises(DetailsInvalid, match="not for decisions"):
        set_policy(administrator, permission=Permission.VIEW_PRICES)
    for number in (0, 6):
        with pytest.raises(DetailsInvalid, match="one and five"):
            set_policy(administrator, approvals_required=number)
