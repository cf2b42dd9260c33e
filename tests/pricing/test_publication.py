from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import (
    ApprovalOfAnother,
    ApprovalOfOwnRequest,
    ApprovalSubjectChanged,
    PermissionMissing,
    ReasonMissing,
)
from accounts.models import ApprovalRequest, AuditEntry
from pricing import content, price_books, publication, tasks
from pricing.errors import (
    EffectiveFromInvalid,
    VersionAmbiguous,
    VersionEmpty,
    VersionInReview,
    VersionNotDraft,
    VersionNotInReview,
)
from pricing.models import PriceBookVersion
from tests import make_accounts
from tests import make_pricing as make
from tests.make_pricing import tamper

pytestmark = pytest.mark.django_db
JAN_5 = datetime(2026, 1, 5, 12, tzinfo=UTC)
FEB_1 = datetime(2026, 2, 1, tzinfo=UTC)
MAR_1 = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def manager() -> Actor:
    return make_accounts.actor(Role.PRODUCT_MANAGER)


@pytest.fixture
def approver() -> Actor:
    return make_accounts.actor(Role.PRICING_APPROVER)


def test_submitting_asks_for_an_approval_of_exactly_this_content(manager: Actor) -> None:
    product = make.metered_product("H100")
    draft = make.draft(prices={product: make.TEN_CENTS})

    version = price_books.submit_version(
        version_id=draft.pk, effective_from=FEB_1, reason="Spring", actor=manager, at=JAN_5
    )
    again = price_books.submit_version(
        version_id=draft.pk, effective_from=FEB_1, reason="Spring", actor=manager, at=JAN_5
    )

    request = make.approval_of(version)
    assert again == version
    assert (version.status, version.effective_from, version.notes) == ("in_review", FEB_1, "Spring")
    assert request.requested_by_id == manager.user_id
    assert request.summary["added"] == 1
    assert content.version_content(version.pk) == {
        "price_book": version.book.code,
        "currency": "EUR",
        "number": 1,
        "effective_from": FEB_1,
        "prices": {
            "H100": {
                "unit": "GPU-hour",
                "meter": product.meter.code if product.meter else None,
                "dimension_filter": {"sku": "H100"},
                "price": {"model": "per_unit", "unit_price": "0.1"},
            }
        },
    }


def test_an_empty_version_is_not_submitted(manager: Actor) -> None:
    draft = make.draft(prices={})

    with pytest.raises(VersionEmpty):
        price_books.submit_version(version_id=draft.pk, effective_from=FEB_1, reason="Spring", actor=manager, at=JAN_5)


def test_two_products_for_the_same_usage_are_not_submitted(manager: Actor) -> None:
    meter = make.meter()
    one = make.product(code="ONE", meter=meter, dimension_filter={"sku": "x"})
    other = make.product(code="OTHER", meter=meter, dimension_filter={"sku": "x"})
    draft = make.draft(prices={one: make.TEN_CENTS, other: make.TEN_CENTS})

    with pytest.raises(VersionAmbiguous, match="ONE and OTHER"):
        price_books.submit_version(version_id=draft.pk, effective_from=FEB_1, reason="Spring", actor=manager, at=JAN_5)


@pytest.mark.parametrize("moment", [FEB_1, JAN_5, datetime(2026, 4, 1)], ids=["same", "earlier", "no zone"])  # noqa: DTZ001 -- the point
def test_a_version_takes_effect_later_than_every_approved_one(manager: Actor, moment: datetime) -> None:
    book = make.price_book()
    make.approved_version(book=book, effective_from=FEB_1)
    draft = make.draft(book=book)

    with pytest.raises(EffectiveFromInvalid):
        price_books.submit_version(version_id=draft.pk, effective_from=moment, reason="Spring", actor=manager, at=JAN_5)


@pytest.mark.parametrize(
    "moment",
    [datetime(2026, 2, 1, 8, 30, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=ZoneInfo("Asia/Kolkata"))],
    ids=["half past", "half past in UTC"],
)
def test_a_version_takes_effect_on_the_full_hour_as_usage_is_added_up(manager: Actor, moment: datetime) -> None:
    draft = make.draft()

    with pytest.raises(EffectiveFromInvalid, match="lies within one"):
        price_books.submit_version(version_id=draft.pk, effective_from=moment, reason="Spring", actor=manager, at=JAN_5)


def test_a_version_that_is_in_review_is_not_submitted_by_somebody_else_or_for_another_moment(manager: Actor) -> None:
    version = make.submitted_version(by=manager, effective_from=FEB_1, at=JAN_5)
    other = make_accounts.actor(Role.PRODUCT_MANAGER)

    for actor, moment in ((other, FEB_1), (manager, MAR_1)):
        with pytest.raises(VersionInReview, match=r"has submitted it to take effect at 2026-02-01T00:00:00\+00:00"):
            price_books.submit_version(
                version_id=version.pk, effective_from=moment, reason="Spring", actor=actor, at=JAN_5
            )


def test_submitting_takes_a_reason(manager: Actor) -> None:
    draft = make.draft()

    with pytest.raises(ReasonMissing):
        price_books.submit_version(version_id=draft.pk, effective_from=FEB_1, reason=" ", actor=manager, at=JAN_5)


def test_an_approved_version_is_not_submitted_again(manager: Actor) -> None:
    version = make.approved_version()

    with pytest.raises(VersionNotDraft):
        price_books.submit_version(version_id=version.pk, effective_from=FEB_1, reason="More", actor=manager, at=JAN_5)


def test_submitting_and_withdrawing_need_the_permission_to_edit_prices(approver: Actor) -> None:
    draft = make.draft()

    with pytest.raises(PermissionMissing):
        price_books.submit_version(version_id=draft.pk, effective_from=FEB_1, reason="Spring", actor=approver, at=JAN_5)
    with pytest.raises(PermissionMissing):
        price_books.withdraw_version(version_id=draft.pk, reason="", actor=approver, at=JAN_5)


def test_a_withdrawn_version_is_a_draft_again_and_can_be_submitted_anew(manager: Actor) -> None:
    version = make.submitted_version(by=manager)

    withdrawn = price_books.withdraw_version(version_id=version.pk, reason="Typo", actor=manager, at=JAN_5)
    price_books.withdraw_version(version_id=version.pk, reason="Typo", actor=manager, at=JAN_5)
    price_books.submit_version(version_id=version.pk, effective_from=MAR_1, reason="Spring", actor=manager, at=JAN_5)

    assert withdrawn.status == "draft"
    assert make.approval_of(version).status == "pending"
    assert AuditEntry.objects.filter(verb="price_book_version.returned").count() == 1


def test_only_the_one_who_submitted_withdraws_and_only_from_review(manager: Actor) -> None:
    submitted, approved = make.submitted_version(), make.approved_version()

    with pytest.raises(ApprovalOfAnother):
        price_books.withdraw_version(version_id=submitted.pk, reason="", actor=manager, at=JAN_5)
    with pytest.raises(VersionNotInReview):
        price_books.withdraw_version(version_id=approved.pk, reason="", actor=manager, at=JAN_5)


def test_a_rejected_version_is_a_draft_again(approver: Actor) -> None:
    version = make.submitted_version()

    approvals.decide(
        request_id=make.approval_of(version).pk, outcome="reject", comment="Too dear", actor=approver, at=JAN_5
    )

    version.refresh_from_db()
    assert (version.status, version.approval, version.valid_during) == ("draft", None, None)


def test_nobody_approves_what_they_submitted() -> None:
    both = make_accounts.actor(Role.PRODUCT_MANAGER, Role.PRICING_APPROVER)
    version = make.submitted_version(by=both)

    with pytest.raises(ApprovalOfOwnRequest):
        approvals.decide(request_id=make.approval_of(version).pk, outcome="approve", actor=both, at=JAN_5)


def test_approving_what_is_due_takes_it_live_at_once(approver: Actor) -> None:
    version = make.submitted_version(effective_from=JAN_5, at=JAN_5)
    request = make.approval_of(version)

    for _ in range(2):
        approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=JAN_5)

    version.refresh_from_db()
    assert version.status == "live"
    assert version.valid_during is not None
    assert (version.valid_during.lower, version.valid_during.upper) == (JAN_5, None)
    assert bytes(version.content_hash or b"") == bytes(request.content_hash)
    assert version.approval == request
    assert AuditEntry.objects.filter(verb="price_book_version.approved").count() == 1


def test_a_later_version_ends_the_one_before_where_it_begins() -> None:
    book = make.price_book()
    first = make.approved_version(book=book)

    second = make.approved_version(book=book, effective_from=FEB_1, at=JAN_5)

    first.refresh_from_db()
    assert first.valid_during is not None
    assert first.valid_during.upper == FEB_1
    assert (first.status, second.status) == ("live", "approved")


def test_a_version_goes_live_when_its_moment_comes_and_once() -> None:
    book = make.price_book()
    first = make.approved_version(book=book)
    second = make.approved_version(book=book, effective_from=FEB_1, at=JAN_5)
    third = make.approved_version(book=book, effective_from=MAR_1, at=JAN_5)

    too_early = price_books.activate_due_versions(at=JAN_5)
    due = price_books.activate_due_versions(at=MAR_1)
    again = price_books.activate_due_versions(at=MAR_1)

    assert too_early.activated == ()
    assert due.activated == (second.pk, third.pk)
    assert again.activated == ()
    numbers = dict(PriceBookVersion.objects.values_list("pk", "status"))
    assert numbers == {first.pk: "superseded", second.pk: "superseded", third.pk: "live"}
    assert AuditEntry.objects.filter(verb="price_book_version.activated").count() == 3


def test_the_job_takes_live_what_is_due() -> None:
    version = make.approved_version(
        effective_from=datetime(2024, 6, 1, tzinfo=UTC), at=datetime(2024, 5, 1, tzinfo=UTC)
    )

    tasks.activate_versions()

    version.refresh_from_db()
    assert version.status == "live"


def test_what_changed_since_its_submission_is_not_approved(approver: Actor) -> None:
    version = make.submitted_version()
    tamper("UPDATE pricing_price SET spec = jsonb_set(spec, '{unit_price}', '\"9\"') WHERE version_id = %s", version.pk)

    with pytest.raises(ApprovalSubjectChanged):
        approvals.decide(request_id=make.approval_of(version).pk, outcome="approve", actor=approver, at=JAN_5)

    version.refresh_from_db()
    assert version.status == "draft"
    assert ApprovalRequest.objects.get(subject_id=version.pk).status == "voided"


def test_what_changed_since_its_approval_does_not_go_live_and_is_told_once() -> None:
    sound = make.approved_version(effective_from=FEB_1, at=JAN_5)
    changed = make.approved_version(effective_from=FEB_1, at=JAN_5)
    tamper("UPDATE pricing_price SET spec = jsonb_set(spec, '{unit_price}', '\"9\"') WHERE version_id = %s", changed.pk)

    activation = price_books.activate_due_versions(at=FEB_1)
    price_books.activate_due_versions(at=FEB_1)

    assert activation == publication.Activation(activated=(sound.pk,), refused=(changed.pk,))
    assert (content.holds_what_was_approved(sound), content.holds_what_was_approved(changed)) == (True, False)
    assert AuditEntry.objects.get(verb="price_book_version.activation_refused").subject_id == str(changed.pk)
