from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import RequestFactory

from accounts import staff
from accounts.access import ROLE_PERMISSIONS, Actor, Permission, Role, sync_roles
from accounts.errors import (
    DetailsInvalid,
    OwnAccessUnchangeable,
    PermissionMissing,
    ReasonMissing,
    StaffEmailTaken,
    StaffUnknown,
)
from accounts.models import AuditEntry, User
from tests import make_accounts as make
from tests.accounts.conftest import NOON

pytestmark = pytest.mark.django_db
A_REQUEST = RequestFactory().post("/admin/login/")

WHY = "New tasks."


def invite(actor: Actor, **changes: Any) -> User:
    arguments: dict[str, Any] = {
        "email": "Ada@Countinghouse.example",
        "name": "Ada",
        "roles": [Role.FINANCE_ANALYST],
        "password": make.PASSWORD,
        "actor": actor,
        "at": NOON,
    }
    return staff.invite_staff(**(arguments | changes))


def test_an_invited_person_signs_in_whatever_the_capitals(administrator: Actor) -> None:
    ada = invite(administrator)

    signed_in = authenticate(A_REQUEST, username="ADA@countinghouse.example", password=make.PASSWORD)

    assert signed_in == ada
    assert staff.roles_of(ada) == {Role.FINANCE_ANALYST}
    assert ada.history.latest().history_user_id == administrator.user_id
    assert AuditEntry.objects.get(verb="staff.invited", subject_id=str(ada.pk)).data == {"roles": ["Finance analyst"]}


def test_inviting_twice_makes_one_member_and_keeps_the_password(administrator: Actor) -> None:
    first = invite(administrator)

    second = invite(administrator, password="another long password")

    assert first == second
    assert authenticate(A_REQUEST, username=first.email, password=make.PASSWORD) == first


def test_inviting_is_refused_for_a_taken_address_a_weak_password_and_without_permission(
    administrator: Actor,
    controller: Actor,
) -> None:
    invite(administrator)

    with pytest.raises(StaffEmailTaken):
        invite(administrator, name="Eve")
    with pytest.raises(DetailsInvalid, match="password"):
        invite(administrator, email="b@countinghouse.example", password="12345")
    with pytest.raises(DetailsInvalid, match="email"):
        invite(administrator, email="nobody")
    with pytest.raises(PermissionMissing):
        invite(controller)


def test_roles_are_replaced_and_kept_in_the_audit_log(administrator: Actor) -> None:
    ada = invite(administrator)

    for _ in range(2):
        staff.change_roles(user_id=ada.pk, roles=[Role.SUPPORT], reason=WHY, actor=administrator, at=NOON)

    assert staff.roles_of(ada) == {Role.SUPPORT}
    entry = AuditEntry.objects.get(verb="staff.roles_changed")
    assert entry.data == {"before": ["Finance analyst"], "after": ["Support"]}


def test_nobody_changes_their_own_access(administrator: Actor) -> None:
    me = administrator.user_id
    assert me is not None

    with pytest.raises(OwnAccessUnchangeable):
        staff.change_roles(user_id=me, roles=list(Role), reason=WHY, actor=administrator, at=NOON)
    with pytest.raises(OwnAccessUnchangeable):
        staff.deactivate_staff(user_id=me, reason=WHY, actor=administrator, at=NOON)
    with pytest.raises(OwnAccessUnchangeable):
        staff.reactivate_staff(user_id=me, reason=WHY, actor=administrator, at=NOON)


def test_a_deactivated_member_may_do_nothing_until_taken_back(administrator: Actor) -> None:
    ada = invite(administrator)

    staff.deactivate_staff(user_id=ada.pk, reason="Left.", actor=administrator, at=NOON)
    staff.deactivate_staff(user_id=ada.pk, reason="Left.", actor=administrator, at=NOON)
    assert authenticate(A_REQUEST, username=ada.email, password=make.PASSWORD) is None
    assert Actor.of(User.objects.get(pk=ada.pk)).permissions == frozenset()
    back = staff.reactivate_staff(user_id=ada.pk, reason="Came back.", actor=administrator, at=NOON)

    assert Actor.of(back).may(Permission.RUN_BILLING)
    assert AuditEntry.objects.filter(verb="staff.deactivated").count() == 1


def test_a_password_is_reset_without_leaving_a_trace_of_itself(administrator: Actor) -> None:
    ada = invite(administrator)

    staff.reset_password(
        user_id=ada.pk,
        password="quite another phrase",
        reason="Forgotten.",
        actor=administrator,
        at=NOON,
    )

    assert authenticate(A_REQUEST, username=ada.email, password="quite another phrase") == ada
    entry = AuditEntry.objects.get(verb="staff.password_reset")
    assert "phrase" not in str(entry.data)
    assert not hasattr(ada.history.latest(), "password")


def test_only_a_person_has_a_password_of_their_own(administrator: Actor) -> None:
    with pytest.raises(StaffUnknown):
        staff.change_own_password(password="quite another phrase", actor=Actor.system("tests"), at=NOON)
    with pytest.raises(DetailsInvalid):
        staff.change_own_password(password="12345", actor=administrator, at=NOON)


def test_a_member_is_renamed(administrator: Actor) -> None:
    ada = invite(administrator)

    renamed = staff.rename_staff(user_id=ada.pk, name="Ada Byron", reason=WHY, actor=administrator, at=NOON)

    assert str(renamed) == "Ada Byron"
    assert ada.history.latest().history_change_reason == WHY


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        (staff.change_roles, {"roles": [Role.SUPPORT]}),
        (staff.rename_staff, {"name": "X"}),
        (staff.deactivate_staff, {}),
        (staff.reactivate_staff, {}),
        (staff.reset_password, {"password": "quite another phrase"}),
    ],
    ids=["roles", "name", "deactivate", "reactivate", "password"],
)
def test_every_change_needs_a_reason_a_member_and_the_permission(
    administrator: Actor,
    controller: Actor,
    verb: Any,
    arguments: dict[str, Any],
) -> None:
    ada = invite(administrator)

    with pytest.raises(ReasonMissing):
        verb(user_id=ada.pk, reason=" ", actor=administrator, at=NOON, **arguments)
    with pytest.raises(StaffUnknown):
        verb(user_id=make.UNKNOWN_ID, reason=WHY, actor=administrator, at=NOON, **arguments)
    with pytest.raises(PermissionMissing):
        verb(user_id=ada.pk, reason=WHY, actor=controller, at=NOON, **arguments)


def test_syncing_roles_repairs_what_was_changed_by_hand() -> None:
    sync_roles()
    Group.objects.get(name=Role.AUDITOR).permissions.clear()

    repaired = sync_roles()
    again = sync_roles()

    assert (repaired, again) == ([Role.AUDITOR], [])
    auditor = make.actor(Role.AUDITOR)
    assert auditor.permissions == {permission.value for permission in ROLE_PERMISSIONS[Role.AUDITOR]}


def test_the_command_says_what_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    Group.objects.all().delete()

    call_command("sync_roles")
    call_command("sync_roles")

    first, second = capsys.readouterr().out.splitlines()
    assert "Auditor" in first
    assert second == "Roles: nothing to change."


def test_no_role_can_both_ask_for_and_give_an_approval_of_prices() -> None:
    both = {Permission.EDIT_PRICES, Permission.APPROVE_PRICES}

    assert not [role for role, granted in ROLE_PERMISSIONS.items() if both <= granted]


def test_signing_in_writes_no_history(administrator: Actor, client: Any) -> None:
    ada = invite(administrator)
    before = ada.history.count()

    client.force_login(ada)

    assert ada.history.count() == before


def test_a_superuser_holds_every_permission() -> None:
    root = User.objects.create_superuser("Root@House.example", "correct horse battery", name="Root")

    assert root.email == "root@house.example"
    assert all(Actor.of(root).may(permission) for permission in Permission)
