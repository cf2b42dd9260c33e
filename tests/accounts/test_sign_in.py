"""Signing in and out: what the audit log tells of it, and what holds off those who guess."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from accounts import sign_in
from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing, StaffUnknown
from accounts.models import AuditEntry, User
from tests import make_accounts as make
from tests.accounts.conftest import NOON
from tests.make_pages import signed_in, words

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

pytestmark = pytest.mark.django_db
ADDRESS = "203.0.113.7"
WRONG = "a wrong guess"


@pytest.fixture
def ada() -> User:
    return make.staff(Role.AUDITOR, password=make.PASSWORD)


def attempt(email: str, password: str = WRONG, *, address: str = ADDRESS) -> Answer:
    return Client(REMOTE_ADDR=address).post("/admin/login/", {"username": email, "password": password})


def lock_out(email: str) -> Answer:
    return [attempt(email) for _ in range(settings.AXES_FAILURE_LIMIT)][-1]


def test_who_signs_in_and_out_is_in_the_audit_log(ada: User) -> None:
    browser = Client(REMOTE_ADDR=ADDRESS)

    answer = browser.post("/admin/login/", {"username": ada.email.upper(), "password": make.PASSWORD})
    browser.post("/admin/logout/")

    assert answer.status_code == 302
    entries = AuditEntry.objects.filter(verb__startswith="sign_in.").order_by("id")
    assert [(entry.verb, entry.actor_id, entry.subject_id, entry.data["address"]) for entry in entries] == [
        ("sign_in.succeeded", ada.pk, str(ada.pk), ADDRESS),
        ("sign_in.ended", ada.pk, str(ada.pk), ADDRESS),
    ]


def test_a_failed_sign_in_is_in_the_audit_log_without_what_was_typed(ada: User) -> None:
    known = attempt(ada.email)
    attempt("my secret in the wrong field")

    first, second = AuditEntry.objects.filter(verb="sign_in.failed").order_by("id")
    assert known.status_code == 200
    assert (first.subject_id, first.data) == (str(ada.pk), {"address": ADDRESS, "locked_out": False})
    assert (second.subject_id, second.subject_label) == ("", "nobody of the staff")


def test_five_failures_lock_the_address_out_even_with_the_right_password(ada: User) -> None:
    fifth = lock_out(ada.email)

    refused = attempt(ada.email.upper(), make.PASSWORD)

    for answer in (fifth, refused):
        assert (answer.status_code, answer["Retry-After"]) == (429, "900")
        assert "Try again in a quarter of an hour, or ask an administrator to let you in." in words(answer)
        assert "Please enter the correct" not in words(answer)
    assert AuditEntry.objects.filter(verb="sign_in.failed", data__locked_out=True).count() == 2


def test_a_lock_holds_for_one_person_from_one_place(ada: User) -> None:
    lock_out(ada.email)
    other = make.staff(Role.AUDITOR, password=make.PASSWORD)

    assert attempt(other.email, make.PASSWORD).status_code == 302
    assert attempt(ada.email, make.PASSWORD, address="198.51.100.1").status_code == 302


def test_a_lock_ends_by_itself_and_trying_on_does_not_prolong_it(ada: User) -> None:
    lock_out(ada.email)
    long_ago = timezone.now() - timedelta(minutes=14)
    AccessAttempt.objects.update(attempt_time=long_ago)
    attempt(ada.email, make.PASSWORD)
    assert AccessAttempt.objects.get().attempt_time == long_ago

    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))

    assert attempt(ada.email, make.PASSWORD).status_code == 302


def test_a_success_forgets_the_failures_before_it(ada: User) -> None:
    for _ in range(2):
        for _ in range(settings.AXES_FAILURE_LIMIT - 1):
            attempt(ada.email)

        assert attempt(ada.email, make.PASSWORD).status_code == 302


def test_an_administrator_lets_a_person_in_again(ada: User, administrator: Actor) -> None:
    lock_out(ada.email)
    browser = signed_in(actor=administrator)
    dialog = reverse("admin:accounts_user_release_sign_in", args=[ada.pk])

    browser.post(dialog, {"_form_submitted": "True", "reason": "She rang me up."})

    assert attempt(ada.email, make.PASSWORD).status_code == 302
    entry = AuditEntry.objects.get(verb="sign_in.released")
    assert (entry.actor_id, entry.subject_id, entry.reason) == (administrator.user_id, str(ada.pk), "She rang me up.")


def test_releasing_takes_a_permission_a_reason_and_a_person(ada: User, administrator: Actor, controller: Actor) -> None:
    with pytest.raises(PermissionMissing):
        sign_in.release(user_id=ada.pk, reason="She rang me up.", actor=controller, at=NOON)
    with pytest.raises(ReasonMissing):
        sign_in.release(user_id=ada.pk, reason=" ", actor=administrator, at=NOON)
    with pytest.raises(StaffUnknown):
        sign_in.release(user_id=make.UNKNOWN_ID, reason="She rang me up.", actor=administrator, at=NOON)
    assert sign_in.release(user_id=ada.pk, reason="She rang me up.", actor=administrator, at=NOON) == 0
    assert not AuditEntry.objects.filter(verb="sign_in.released").exists()


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "198.51.100.1", ADDRESS),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "10.0.0.1, 198.51.100.1", "198.51.100.1"),
        (2, "10.0.0.1, 198.51.100.1, 192.0.2.2", "198.51.100.1"),
        (1, "", ADDRESS),
    ],
)
def test_only_our_own_proxies_are_believed(settings: Any, proxies: int, forwarded: str, address: str) -> None:
    settings.TRUSTED_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR=ADDRESS, headers={"X-Forwarded-For": forwarded})

    assert sign_in.client_address(request) == address


def test_a_password_has_twelve_characters() -> None:
    validate_password("twelve chars")
    with pytest.raises(ValidationError, match="at least 12 characters"):
        validate_password("eleven char")


def test_pages_say_who_may_frame_them_and_where_forms_go() -> None:
    page = Client().get("/admin/login/")
    data = Client().get("/healthz")

    assert "frame-ancestors 'self'" in page["Content-Security-Policy"]
    assert "Content-Security-Policy" not in data
