"""Signing in and out: what the audit log tells of it, and letting somebody in again who was locked out.

django-axes counts the failures by the hooks that Django's own sign-in has for that. What is ours stands here and is
called by the views of `accounts.views`, so that it needs no signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from axes.utils import reset
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from accounts import audit
from accounts.access import Actor, Permission
from accounts.errors import StaffUnknown
from accounts.models import AuditEntry, User
from accounts.validation import require_reason

_EMAIL_LENGTH = 254


def email_tried(request: HttpRequest, credentials: Mapping[str, Any] | None = None) -> str:
    """Return the address that somebody tries to sign in with, as it is kept of staff: capitals make no difference."""
    tried = credentials.get("username") if credentials else request.POST.get("username")
    return str(tried or "").replace("\0", "").strip().lower()[:_EMAIL_LENGTH]


def client_address(request: HttpRequest) -> str | None:
    """Return the network address that a request comes from, by the word of our own proxies where there are any.

    Each proxy adds to the end of X-Forwarded-For whom it heard; what stands before that anybody can write.
    """
    peer = request.META.get("REMOTE_ADDR") or None
    if not settings.TRUSTED_PROXIES:
        return peer
    heard = [each.strip() for each in request.headers.get("X-Forwarded-For", "").split(",") if each.strip()]
    return heard[-settings.TRUSTED_PROXIES] if len(heard) >= settings.TRUSTED_PROXIES else peer


def locked_out_answer(
    request: HttpRequest, response: HttpResponse, credentials: Mapping[str, Any] | None = None
) -> HttpResponse:
    """Return the answer to one who is locked out: the sign-in page, which has said so already."""
    del request, credentials
    return response


def is_locked_out(request: HttpRequest) -> bool:
    """Whether the sign-in that this request tried was refused for its many failures, or was the last one of them."""
    return bool(getattr(request, "axes_locked_out", False))


@transaction.atomic
def note_success(*, user: User, address: str | None, at: datetime) -> AuditEntry:
    """Tell the audit log who has signed in, and from which network address."""
    return audit.record(
        actor=Actor.of(user), verb="sign_in.succeeded", subject=user, at=at, data={"address": address or ""}
    )


@transaction.atomic
def note_failure(*, email: str, address: str | None, is_locked_out: bool, at: datetime) -> AuditEntry:
    """Tell the audit log of a sign-in that failed, and whether it met a lock.

    What was typed is kept only where it is an address of our staff: it may have been a password in the wrong field.
    """
    user = User.objects.filter(email=email).first()
    return audit.record(
        actor=Actor.system("sign_in"),
        verb="sign_in.failed",
        subject=user or User(email="nobody of the staff"),
        at=at,
        data={"address": address or "", "locked_out": is_locked_out},
    )


@transaction.atomic
def note_end(*, user: User, address: str | None, at: datetime) -> AuditEntry:
    """Tell the audit log who has signed out."""
    return audit.record(
        actor=Actor.of(user), verb="sign_in.ended", subject=user, at=at, data={"address": address or ""}
    )


@transaction.atomic
def release(*, user_id: int, reason: str, actor: Actor, at: datetime) -> int:
    """Let a member of staff try again at once, from wherever they failed; returns how many locks and counts fell.

    Raises: PermissionMissing, ReasonMissing, StaffUnknown.
    """
    actor.require(Permission.EDIT_STAFF)
    require_reason(reason)
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise StaffUnknown
    forgotten: int = reset(username=user.email)
    if forgotten:
        audit.record(actor=actor, verb="sign_in.released", subject=user, at=at, reason=reason)
    return forgotten
