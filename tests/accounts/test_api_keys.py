from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from accounts import api_keys, customers
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
    PermissionMissing,
    ReasonMissing,
)
from accounts.models import ApiKey, AuditEntry, Customer
from tests import make_accounts as make
from tests.accounts.conftest import NOON

pytestmark = pytest.mark.django_db


def issue(actor: Actor, **changes: Any) -> api_keys.IssuedKey:
    arguments: dict[str, Any] = {"name": "Fleet sender", "scopes": ["events:write"], "actor": actor, "at": NOON}
    return api_keys.issue_api_key(**(arguments | changes))


def authenticate(header: str | None, *, scope: str = "events:write", at: Any = NOON) -> ApiKey:
    return api_keys.authenticate_api_key(authorization_header=header, scope=scope, at=at)


def test_a_key_opens_the_door_of_its_scope(administrator: Actor, acme: Customer) -> None:
    issued = issue(administrator, customer_id=acme.pk)

    key = authenticate(f"Bearer {issued.secret}")

    assert key == issued.key
    assert key.customer_id == acme.pk
    assert issued.secret.startswith(f"ch_{key.prefix}_")


def test_a_key_may_be_tied_to_a_source(administrator: Actor) -> None:
    issued = issue(administrator, source="cluster/7")

    assert authenticate(f"Bearer {issued.secret}").source == "cluster/7"
    assert AuditEntry.objects.get(verb="api_key.issued").data["source"] == "cluster/7"


def test_the_secret_is_kept_nowhere(administrator: Actor) -> None:
    issued = issue(administrator)

    key = ApiKey.objects.get()
    entry = AuditEntry.objects.get(verb="api_key.issued")
    random_part = issued.secret.rpartition("_")[2]
    assert random_part not in str({**vars(key), **vars(entry)})
    assert bytes(key.secret_hash) != issued.secret.encode()


def test_every_key_is_another(administrator: Actor) -> None:
    secrets = {issue(administrator).secret for _ in range(3)}

    assert len(secrets) == 3


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": " "}),
        ("scopes", {"scopes": []}),
        ("scopes", {"scopes": ["everything"]}),
        ("source", {"source": "cluster/7", "scopes": ["usage:read"]}),
        ("source", {"source": "x" * 201}),
        ("source", {"source": " cluster/7"}),
        ("source", {"source": "a\tb"}),
        ("expires_at", {"expires_at": NOON}),
    ],
)
def test_issuing_names_what_is_not_valid(administrator: Actor, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DetailsInvalid) as refusal:
        issue(administrator, **changes)

    assert list(refusal.value.fields) == [field]


def test_issuing_needs_the_permission_and_a_customer_that_exists(administrator: Actor, controller: Actor) -> None:
    with pytest.raises(PermissionMissing):
        issue(controller)
    with pytest.raises(CustomerUnknown):
        issue(administrator, customer_id=make.UNKNOWN_ID)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic abc", "ch_0123456789ab_00"])
def test_a_request_without_a_key_is_told_so(header: str | None) -> None:
    with pytest.raises(ApiKeyMissing):
        authenticate(header)


def test_a_wrong_secret_is_as_unknown_as_a_wrong_prefix(administrator: Actor) -> None:
    secret = issue(administrator).secret
    last = "0" if secret[-1] != "0" else "1"
    wrong = [
        secret[:-1] + last,
        "ch_" + "0" * 12 + secret[15:],
        secret + "0",
        secret.upper(),
        "nonsense",
        "ch_ä_" + "0" * 64,
    ]

    for attempt in wrong:
        with pytest.raises(ApiKeyUnknown):
            authenticate(f"Bearer {attempt}")


def test_an_expired_key_is_refused_from_its_moment_on(administrator: Actor) -> None:
    issued = issue(administrator, expires_at=NOON + timedelta(days=30))
    header = f"bearer {issued.secret}"

    assert authenticate(header, at=NOON + timedelta(days=30, microseconds=-1)) == issued.key
    with pytest.raises(ApiKeyExpired):
        authenticate(header, at=NOON + timedelta(days=30))


def test_a_key_of_a_deactivated_customer_opens_nothing_until_they_are_taken_back(
    administrator: Actor, acme: Customer
) -> None:
    issued = issue(administrator, customer_id=acme.pk)
    header = f"Bearer {issued.secret}"
    settled: dict[str, Any] = {
        "customer_id": acme.pk,
        "reason": "They left.",
        "actor": Actor.system("tests"),
        "at": NOON,
    }

    customers.deactivate_customer(**settled)
    with pytest.raises(ApiKeyOfDeactivatedCustomer):
        authenticate(header)
    customers.reactivate_customer(**settled)

    assert authenticate(header) == issued.key


def test_a_revoked_key_is_refused_and_revoking_twice_keeps_the_first_moment(administrator: Actor) -> None:
    issued = issue(administrator)
    reason = "It was in a public repository."

    first = api_keys.revoke_api_key(key_id=issued.key.pk, reason=reason, actor=administrator, at=NOON)
    second = api_keys.revoke_api_key(
        key_id=issued.key.pk,
        reason=reason,
        actor=administrator,
        at=NOON + timedelta(days=1),
    )

    assert first.revoked_at == second.revoked_at == NOON
    assert AuditEntry.objects.get(verb="api_key.revoked").reason == reason
    with pytest.raises(ApiKeyRevoked):
        authenticate(f"Bearer {issued.secret}")


def test_revoking_needs_a_reason_a_key_and_the_permission(administrator: Actor, controller: Actor) -> None:
    key = issue(administrator).key

    with pytest.raises(ReasonMissing):
        api_keys.revoke_api_key(key_id=key.pk, reason="", actor=administrator, at=NOON)
    with pytest.raises(ApiKeyUnknown):
        api_keys.revoke_api_key(key_id=make.UNKNOWN_ID, reason="Lost.", actor=administrator, at=NOON)
    with pytest.raises(PermissionMissing):
        api_keys.revoke_api_key(key_id=key.pk, reason="Lost.", actor=controller, at=NOON)


def test_a_key_without_the_scope_is_refused(administrator: Actor) -> None:
    issued = issue(administrator, scopes=["usage:read"])

    with pytest.raises(ApiKeyScopeMissing, match="events:write"):
        authenticate(f"Bearer {issued.secret}")


def test_use_is_noted_at_most_once_a_minute(administrator: Actor, django_assert_num_queries: Any) -> None:
    header = f"Bearer {issue(administrator).secret}"

    with django_assert_num_queries(2):
        authenticate(header)
    with django_assert_num_queries(1):
        authenticate(header, at=NOON + timedelta(seconds=59))
    assert ApiKey.objects.get().last_used_at == NOON
    authenticate(header, at=NOON + timedelta(seconds=60))

    assert ApiKey.objects.get().last_used_at == NOON + timedelta(seconds=60)


def test_the_rights_of_a_key_are_its_scopes(administrator: Actor) -> None:
    key = issue(administrator, scopes=["events:write", "usage:read"]).key

    actor = Actor.of_key(key)

    assert actor.permissions == {Permission.LOAD_USAGE, Permission.VIEW_USAGE}
    assert (actor.api_key_id, actor.user_id) == (key.pk, None)
