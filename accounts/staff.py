"""Keeps the members of staff: who they are, which roles they hold, whether they may sign in."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission, Role
from accounts.constraints import named
from accounts.errors import DetailsInvalid, OwnAccessUnchangeable, StaffEmailTaken, StaffUnknown
from accounts.models import User
from accounts.validation import change_fields, require_reason, require_valid


@transaction.atomic
def invite_staff(
    *,
    email: str,
    name: str,
    roles: Collection[Role],
    password: str | None = None,
    actor: Actor,
    at: datetime,
) -> User:
    """Make a member of staff who signs in by this address; without a password nobody can sign in with one yet.

    The same address with the same name and roles again returns the member made the first time, password untouched.

    Raises: PermissionMissing, DetailsInvalid, StaffEmailTaken.
    """
    actor.require(Permission.EDIT_STAFF)
    user = User(email=email.strip().lower(), name=name.strip(), date_joined=at)
    _set_password(user, password)
    require_valid(user)
    existing = User.objects.filter(email=user.email).first()
    if existing is not None:
        if existing.name == user.name and roles_of(existing) == set(roles):
            return existing
        raise StaffEmailTaken

    with named("user_email_is_unique", StaffEmailTaken):
        history.save(user, actor=actor, at=at)
    user.groups.set(_groups(roles))
    audit.record(actor=actor, verb="staff.invited", subject=user, at=at, data={"roles": sorted(roles)})
    return user


@transaction.atomic
def change_roles(*, user_id: int, roles: Collection[Role], reason: str, actor: Actor, at: datetime) -> User:
    """Give a member of staff exactly these roles. Nobody changes their own.

    Raises: PermissionMissing, ReasonMissing, OwnAccessUnchangeable, StaffUnknown.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    _require_another(user_id, actor)
    user = _lock(user_id)
    before = roles_of(user)
    if before == set(roles):
        return user

    user.groups.set(_groups(roles))
    history.save(user, reason=reason, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="staff.roles_changed",
        subject=user,
        at=at,
        reason=reason,
        data={"before": sorted(before), "after": sorted(roles)},
    )
    return user


@transaction.atomic
def rename_staff(*, user_id: int, name: str, reason: str, actor: Actor, at: datetime) -> User:
    """Correct the name that documents of the house and the audit log show from now on.

    Raises: PermissionMissing, ReasonMissing, StaffUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    user = _lock(user_id)
    _change(user, {"name": name.strip()}, verb="staff.renamed", reason=reason, actor=actor, at=at)
    return user


@transaction.atomic
def deactivate_staff(*, user_id: int, reason: str, actor: Actor, at: datetime) -> User:
    """Take every right from a member of staff at once; what they did stays. Nobody deactivates themselves.

    Raises: PermissionMissing, ReasonMissing, OwnAccessUnchangeable, StaffUnknown.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    _require_another(user_id, actor)
    user = _lock(user_id)
    _change(user, {"is_active": False}, verb="staff.deactivated", reason=reason, actor=actor, at=at)
    return user


@transaction.atomic
def reactivate_staff(*, user_id: int, reason: str, actor: Actor, at: datetime) -> User:
    """Let a deactivated member of staff back in, with the roles they had.

    Raises: PermissionMissing, ReasonMissing, OwnAccessUnchangeable, StaffUnknown.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    _require_another(user_id, actor)
    user = _lock(user_id)
    _change(user, {"is_active": True}, verb="staff.reactivated", reason=reason, actor=actor, at=at)
    return user


@transaction.atomic
def reset_password(*, user_id: int, password: str, reason: str, actor: Actor, at: datetime) -> User:
    """Set a member of staff's password; their sessions end. The audit log says that it happened, never what it is.

    Raises: PermissionMissing, ReasonMissing, StaffUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    user = _lock(user_id)
    _set_password(user, password)
    history.save(user, update_fields=["password"], reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="staff.password_reset", subject=user, at=at, reason=reason)
    return user


@transaction.atomic
def change_own_password(*, password: str, actor: Actor, at: datetime) -> User:
    """Set the actor's own password; every other session of theirs ends. Whoever asks has checked the old one.

    Needs no permission and no reason: it is one's own.

    Raises: StaffUnknown (a job or an API key has no password), DetailsInvalid.
    """
    if actor.user_id is None:
        raise StaffUnknown
    user = _lock(actor.user_id)
    _set_password(user, password)
    history.save(user, update_fields=["password"], actor=actor, at=at)
    audit.record(actor=actor, verb="staff.password_changed", subject=user, at=at)
    return user


@transaction.atomic
def change_staff(
    *,
    user_id: int,
    name: str,
    roles: Collection[Role],
    is_active: bool,
    reason: str,
    actor: Actor,
    at: datetime,
) -> User:
    """Change whatever differs of a member of staff, each by its own verb, all or nothing.

    Raises: what `rename_staff`, `change_roles`, `deactivate_staff` and `reactivate_staff` raise.
    """
    user = rename_staff(user_id=user_id, name=name, reason=reason, actor=actor, at=at)
    if roles_of(user) != set(roles):
        user = change_roles(user_id=user_id, roles=roles, reason=reason, actor=actor, at=at)
    if user.is_active != is_active:
        turn = reactivate_staff if is_active else deactivate_staff
        user = turn(user_id=user_id, reason=reason, actor=actor, at=at)
    return user


def roles_of(user: User) -> set[Role]:
    """Return the roles that a member of staff holds; groups that are no roles are left out."""
    known = {role.value for role in Role}
    return {Role(name) for name in user.groups.values_list("name", flat=True) if name in known}


def _groups(roles: Collection[Role]) -> list[Group]:
    return [Group.objects.get(name=role.value) for role in sorted(set(roles))]


def _set_password(user: User, password: str | None) -> None:
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise DetailsInvalid({"password": error.messages}) from error
    user.set_password(password)


def _require_another(user_id: int, actor: Actor) -> None:
    if user_id == actor.user_id:
        raise OwnAccessUnchangeable


def _lock(user_id: int) -> User:
    user = User.objects.select_for_update(no_key=True).filter(pk=user_id).first()
    if user is None:
        raise StaffUnknown
    return user


def _change(user: User, values: dict[str, object], *, verb: str, reason: str, actor: Actor, at: datetime) -> None:
    changes = change_fields(user, values)
    if not changes:
        return
    history.save(user, update_fields=list(changes), reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb=verb, subject=user, at=at, reason=reason, data={"changes": changes})
