"""Issues, checks and revokes the secrets by which programs speak for the operator or for one customer.

A secret reads `ch_<prefix>_<random>`: the prefix finds the row and may be shown; the random part is 256 bits from the
operating system, so one SHA-256 is enough to keep it (there is nothing to guess that a slow hash would protect).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from accounts import audit
from accounts.access import Actor, Permission
from accounts.errors import (
    ApiKeyExpired,
    ApiKeyMissing,
    ApiKeyOfDeactivatedCustomer,
    ApiKeyRevoked,
    ApiKeyScopeMissing,
    ApiKeyUnknown,
    CustomerUnknown,
    DetailsInvalid,
)
from accounts.models import ApiKey, Customer
from accounts.validation import require_reason

_SECRET = re.compile(r"ch_(?P<prefix>[0-9a-f]{12})_[0-9a-f]{64}")
_PREFIX_BYTES = 6
_RANDOM_BYTES = 32
_LONGEST_SOURCE = 200
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# How exactly `last_used_at` is kept: one write a minute, however many requests come in.
_USE_IS_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its secret, which exists here and nowhere else; show it once."""

    key: ApiKey
    secret: str


@transaction.atomic
def issue_api_key(
    *,
    name: str,
    scopes: Collection[str],
    customer_id: int | None = None,
    source: str = "",
    expires_at: datetime | None = None,
    actor: Actor,
    at: datetime,
) -> IssuedKey:
    """Issue a key for one customer, or for the operator when there is no customer. Asking twice makes two keys.

    With a `source`, the key sends events of this source alone.

    Raises: PermissionMissing, DetailsInvalid, CustomerUnknown.
    """
    actor.require(Permission.EDIT_API_KEYS)
    _require_valid(name=name, scopes=scopes, source=source, expires_at=expires_at, at=at)
    if customer_id is not None and not Customer.objects.filter(pk=customer_id).exists():
        raise CustomerUnknown
    prefix = secrets.token_hex(_PREFIX_BYTES)
    secret = f"ch_{prefix}_{secrets.token_hex(_RANDOM_BYTES)}"
    key = ApiKey.objects.create(
        name=name.strip(),
        prefix=prefix,
        secret_hash=_hash(secret),
        scopes=sorted(set(scopes)),
        customer_id=customer_id,
        source=source,
        created_by_id=actor.user_id,
        created_at=at,
        expires_at=expires_at,
    )
    audit.record(
        actor=actor,
        verb="api_key.issued",
        subject=key,
        at=at,
        data={"scopes": key.scopes, "customer_id": customer_id, "source": source, "expires_at": expires_at},
    )
    return IssuedKey(key=key, secret=secret)


@transaction.atomic
def revoke_api_key(*, key_id: int, reason: str, actor: Actor, at: datetime) -> ApiKey:
    """Close a key for good, from this moment on. Revoking twice keeps the first moment.

    Raises: PermissionMissing, ReasonMissing, ApiKeyUnknown.
    """
    actor.require(Permission.EDIT_API_KEYS)
    require_reason(reason)
    key = ApiKey.objects.select_for_update(no_key=True).filter(pk=key_id).first()
    if key is None:
        raise ApiKeyUnknown
    if key.revoked_at is not None:
        return key
    key.revoked_at = at
    key.save(update_fields=["revoked_at"])
    audit.record(actor=actor, verb="api_key.revoked", subject=key, at=at, reason=reason)
    return key


def authenticate_api_key(*, authorization_header: str | None, scope: str, at: datetime) -> ApiKey:
    """Return the key that a request carries as `Authorization: Bearer ch_…`, if it holds the scope at this moment.

    One query, and at most once a minute a write of `last_used_at`. The comparison takes the same time for every
    secret. A key of a customer speaks for `key.customer_id` alone; the caller must hold its reads and writes to that,
    and what it sends to `key.source` where there is one.
    It opens nothing while the customer is deactivated, and works again once they are taken back.

    Raises: ApiKeyMissing, ApiKeyUnknown, ApiKeyRevoked, ApiKeyExpired, ApiKeyOfDeactivatedCustomer, ApiKeyScopeMissing.
    """
    key = _find(_secret_in(authorization_header))
    state = state_of(key, at=at)
    if state == "revoked":
        raise ApiKeyRevoked
    if state == "expired":
        raise ApiKeyExpired
    if state == "dormant":
        raise ApiKeyOfDeactivatedCustomer
    if scope not in key.scopes:
        msg = f"This API key lacks the scope {scope}."
        raise ApiKeyScopeMissing(msg)
    _note_use(key, at=at)
    return key


def state_of(key: ApiKey, *, at: datetime) -> str:
    """Tell people whether a key opens anything at this moment: `valid`, `dormant`, `expired` or `revoked`.

    A dormant key belongs to a customer who is deactivated for now.
    """
    if key.revoked_at is not None and key.revoked_at <= at:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= at:
        return "expired"
    if key.customer is not None and not key.customer.is_active:
        return "dormant"
    return "valid"


def _require_valid(
    *, name: str, scopes: Collection[str], source: str, expires_at: datetime | None, at: datetime
) -> None:
    wrong: dict[str, list[str]] = {}
    if not name.strip():
        wrong["name"] = ["Say what the key is for."]
    if not scopes or not set(scopes) <= set(ApiKey.Scope.values):
        wrong["scopes"] = [f"Choose among {', '.join(ApiKey.Scope.values)}."]
    if fault := _fault_of_source(source, scopes=scopes):
        wrong["source"] = [fault]
    if expires_at is not None and expires_at <= at:
        wrong["expires_at"] = ["A key expires in the future."]
    if wrong:
        raise DetailsInvalid(wrong)


def _fault_of_source(source: str, *, scopes: Collection[str]) -> str:
    if not source:
        return ""
    if ApiKey.Scope.EVENTS_WRITE not in scopes:
        return "Only a key that sends events is tied to a source."
    if len(source) > _LONGEST_SOURCE or source != source.strip() or _CONTROL_CHARACTER.search(source):
        return f"A source is at most {_LONGEST_SOURCE} characters, with no space around it and no control characters."
    return ""


def _secret_in(authorization_header: str | None) -> str:
    scheme, _, secret = (authorization_header or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise ApiKeyMissing
    return secret.strip()


def _find(secret: str) -> ApiKey:
    form = _SECRET.fullmatch(secret)
    if form is None:
        raise ApiKeyUnknown
    key = ApiKey.objects.select_related("customer").filter(prefix=form["prefix"]).first()
    kept = bytes(key.secret_hash) if key is not None else bytes(_RANDOM_BYTES)
    if not hmac.compare_digest(_hash(secret), kept) or key is None:
        raise ApiKeyUnknown
    return key


def _note_use(key: ApiKey, *, at: datetime) -> None:
    due = at - _USE_IS_NOTED_EVERY
    if key.last_used_at is not None and key.last_used_at > due:
        return
    ApiKey.objects.filter(pk=key.pk).filter(Q(last_used_at__isnull=True) | Q(last_used_at__lte=due)).update(
        last_used_at=at,
    )
    key.last_used_at = at


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
