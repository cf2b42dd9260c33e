"""The database refuses what the verbs never do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from accounts.models import ApprovalDecision, ApprovalRequest, Customer
from pricing.models import Contract, Price, PriceBookVersion
from pricing.money import MINOR_UNIT_EXPONENTS
from tests import make_accounts
from tests import make_pricing as make
from tests.behind_the_back import execute, refused

pytestmark = pytest.mark.django_db
JAN_5 = datetime(2026, 1, 5, 12, tzinfo=UTC)
FEB_1 = datetime(2026, 2, 1, tzinfo=UTC)
MAR_1 = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_database_knows_the_same_currencies_as_python() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT code, currency_exponent(code) FROM unnest(%s::text[]) code", [list(MINOR_UNIT_EXPONENTS)]
        )
        known = dict(cursor.fetchall())

    assert known == dict(MINOR_UNIT_EXPONENTS)


@pytest.mark.parametrize("code", ["ZZZ", "eur", "", "EURO", "EUR,USD", "DEM"])
def test_the_database_refuses_the_exponent_of_an_unknown_currency(code: str) -> None:
    with pytest.raises(IntegrityError, match="not a currency code"), connection.cursor() as cursor:
        cursor.execute("SELECT currency_exponent(%s)", [code])


@pytest.mark.parametrize("status", ["in_review", "approved", "live", "superseded", "other"])
def test_the_database_refuses_a_version_that_does_not_begin_as_a_draft(status: str) -> None:
    book = make.price_book()

    with pytest.raises(IntegrityError):
        PriceBookVersion.objects.create(book=book, number=1, status=status, effective_from=JAN_5, created_at=JAN_5)


def _draft() -> PriceBookVersion:
    return make.draft()


def _in_review() -> PriceBookVersion:
    return make.submitted_version(effective_from=FEB_1, at=JAN_5)


def _approved() -> PriceBookVersion:
    return make.approved_version(effective_from=FEB_1, at=JAN_5)


def _live() -> PriceBookVersion:
    return make.approved_version(effective_from=JAN_5, at=JAN_5)


def _superseded() -> PriceBookVersion:
    version = _live()
    make.approved_version(book=version.book, effective_from=FEB_1, at=MAR_1)
    version.refresh_from_db()
    return version


_MAKERS = {
    "draft": _draft,
    "in_review": _in_review,
    "approved": _approved,
    "live": _live,
    "superseded": _superseded,
}
_ALLOWED = {
    ("draft", "in_review"),
    ("in_review", "draft"),
    ("in_review", "approved"),
    ("approved", "live"),
    ("live", "superseded"),
}
_FORBIDDEN = [(old, new) for old in _MAKERS for new in (*_MAKERS, "other") if old != new and (old, new) not in _ALLOWED]


@pytest.mark.parametrize(("old", "new"), _FORBIDDEN)
def test_the_database_refuses_a_status_out_of_order(old: str, new: str) -> None:
    version = _MAKERS[old]()
    assert version.status == old

    with pytest.raises(IntegrityError, match="does not go from this status"):
        PriceBookVersion.objects.filter(pk=version.pk).update(status=new)


@pytest.mark.parametrize("maker", [_in_review, _approved, _live, _superseded], ids=lambda maker: maker.__name__)
@pytest.mark.parametrize(
    "change",
    [{"effective_from": MAR_1}, {"notes": "x"}, {"number": 9}, {"created_at": MAR_1}],
    ids=lambda change: next(iter(change)),
)
def test_the_database_refuses_to_change_a_submitted_version(maker: Any, change: Mapping[str, Any]) -> None:
    version = maker()

    with pytest.raises(IntegrityError):
        PriceBookVersion.objects.filter(pk=version.pk).update(**change)


@pytest.mark.parametrize("maker", [_approved, _live, _superseded], ids=lambda maker: maker.__name__)
@pytest.mark.parametrize(
    "change",
    [
        {"content_hash": bytes(32)},
        {"approval": None},
        {"valid_during": None},
        {"valid_during": DateTimeTZRange(MAR_1, None)},
        {"valid_during": DateTimeTZRange(empty=True)},
    ],
    ids=["hash", "approval", "no period", "other start", "empty period"],
)
def test_the_database_refuses_to_change_what_was_approved(maker: Any, change: Mapping[str, Any]) -> None:
    version = maker()

    with pytest.raises(IntegrityError):
        PriceBookVersion.objects.filter(pk=version.pk).update(**change)


def _ended_too_early() -> PriceBookVersion:
    version = _live()
    make.approved_version(book=version.book, effective_from=MAR_1, at=JAN_5)
    return version


@pytest.mark.parametrize("maker", [_live, _ended_too_early], ids=["no successor", "a successor that waits"])
def test_the_database_refuses_to_supersede_a_version_that_no_other_follows(
    maker: Callable[[], PriceBookVersion],
) -> None:
    version = maker()

    with refused("version_is_superseded_by_its_successor"):
        execute("UPDATE pricing_pricebookversion SET status = 'superseded' WHERE id = %s", version.pk)


def test_the_database_refuses_to_move_the_end_of_a_version_twice() -> None:
    version = _superseded()

    for end in (MAR_1, None):
        with pytest.raises(IntegrityError, match="does not change"), transaction.atomic():
            PriceBookVersion.objects.filter(pk=version.pk).update(valid_during=DateTimeTZRange(JAN_5, end))


def _approval_of(version: PriceBookVersion) -> dict[str, object]:
    """Approve a version's request in the tables alone, and return what the version would keep of it."""
    request = make.approval_of(version)
    ApprovalDecision.objects.create(
        request=request,
        requested_by=request.requested_by,
        decided_by=make_accounts.staff(),
        outcome="approve",
        decided_at=JAN_5,
    )
    ApprovalRequest.objects.filter(pk=request.pk).update(status="approved", closed_at=JAN_5)
    return {"approval": request, "content_hash": bytes(request.content_hash)}


def _name_a_pending_request(version: PriceBookVersion) -> dict[str, object]:
    request = make.approval_of(version)
    return {"approval": request, "content_hash": bytes(request.content_hash)}


def _name_another_versions_approval(version: PriceBookVersion) -> dict[str, object]:
    del version
    return _approval_of(_in_review())


def _name_another_content(version: PriceBookVersion) -> dict[str, object]:
    return {**_approval_of(version), "content_hash": bytes(32)}


@pytest.mark.parametrize(
    "claim",
    [_name_a_pending_request, _name_another_versions_approval, _name_another_content],
    ids=lambda claim: claim.__name__,
)
def test_the_database_refuses_a_version_approved_by_anything_but_its_own_approval(claim: Any) -> None:
    version = _in_review()

    with pytest.raises(IntegrityError, match="approved by a request of its own"):
        PriceBookVersion.objects.filter(pk=version.pk).update(
            status="approved", valid_during=DateTimeTZRange(FEB_1, None), **claim(version)
        )


def test_the_database_refuses_approved_versions_that_overlap() -> None:
    first = _live()
    second = make.submitted_version(book=first.book, effective_from=FEB_1, at=JAN_5)

    with pytest.raises(IntegrityError, match="approved_versions_never_overlap"):
        PriceBookVersion.objects.filter(pk=second.pk).update(
            status="approved",
            valid_during=DateTimeTZRange(FEB_1, None),
            **_approval_of(second),
        )


def test_the_database_refuses_an_approved_version_without_period_hash_and_approval() -> None:
    version = _in_review()

    with pytest.raises(IntegrityError):
        PriceBookVersion.objects.filter(pk=version.pk).update(status="approved")


def test_the_database_refuses_a_draft_with_a_period() -> None:
    version = _draft()

    with pytest.raises(IntegrityError, match="unapproved_version_has_no_period_hash_or_approval"):
        PriceBookVersion.objects.filter(pk=version.pk).update(
            valid_during=DateTimeTZRange(FEB_1, None), effective_from=FEB_1
        )


def test_the_database_refuses_a_submitted_version_without_its_moment() -> None:
    version = _draft()

    with pytest.raises(IntegrityError, match="submitted_version_says_when_it_takes_effect"):
        PriceBookVersion.objects.filter(pk=version.pk).update(status="in_review")


def test_the_database_refuses_a_period_that_begins_at_another_moment() -> None:
    version = _in_review()

    with pytest.raises(IntegrityError, match="version_is_valid_from_when_it_takes_effect"):
        PriceBookVersion.objects.filter(pk=version.pk).update(
            status="approved",
            valid_during=DateTimeTZRange(MAR_1, None),
            **_approval_of(version),
        )


def test_the_database_refuses_a_version_that_takes_effect_within_an_hour() -> None:
    version = _draft()

    with pytest.raises(IntegrityError, match="version_takes_effect_on_the_hour"):
        PriceBookVersion.objects.filter(pk=version.pk).update(effective_from=datetime(2026, 2, 1, 8, 30, tzinfo=UTC))


def test_the_database_refuses_a_second_open_version_and_a_second_live_one() -> None:
    draft, live = _draft(), _live()
    later = make.approved_version(book=live.book, effective_from=FEB_1, at=JAN_5)

    with pytest.raises(IntegrityError, match="price_book_has_one_open_draft"), transaction.atomic():
        PriceBookVersion.objects.create(book=draft.book, number=2, created_at=JAN_5)
    with pytest.raises(IntegrityError, match="price_book_has_one_live_version"), transaction.atomic():
        PriceBookVersion.objects.filter(pk=later.pk).update(status="live")
    with pytest.raises(IntegrityError, match="price_book_version_number_is_unique"), transaction.atomic():
        PriceBookVersion.objects.create(book=live.book, number=1, created_at=JAN_5)


@pytest.mark.parametrize("maker", [_in_review, _approved, _live, _superseded], ids=lambda maker: maker.__name__)
def test_the_database_refuses_to_delete_a_submitted_version(maker: Any) -> None:
    version = maker()

    with pytest.raises(IntegrityError, match="Only a draft is deleted"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM pricing_pricebookversion WHERE id = %s", [version.pk])


@pytest.mark.parametrize("maker", [_in_review, _approved, _live, _superseded], ids=lambda maker: maker.__name__)
def test_the_database_refuses_to_touch_the_prices_of_a_submitted_version(maker: Any) -> None:
    version = maker()
    prices = Price.objects.filter(version=version)
    draft = make.draft()

    with pytest.raises(IntegrityError, match="only while their version is a draft"), transaction.atomic():
        Price.objects.create(version=version, product=make.metered_product(), spec=make.TEN_CENTS)
    with pytest.raises(IntegrityError, match="only while their version is a draft"), transaction.atomic():
        prices.update(spec={"model": "per_unit", "unit_price": "9"})
    with pytest.raises(IntegrityError, match="only while their version is a draft"), transaction.atomic():
        prices.update(version=draft)
    with pytest.raises(IntegrityError, match="only while their version is a draft"), transaction.atomic():
        Price.objects.filter(version=draft).update(version=version)
    with pytest.raises(IntegrityError, match="only while their version is a draft"), transaction.atomic():
        prices.delete()


@pytest.mark.parametrize("table", ["pricing_price", "pricing_pricebookversion"])
def test_the_database_refuses_to_empty_the_tables_of_prices_and_versions(table: str) -> None:
    with pytest.raises(IntegrityError, match="never emptied"), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table} CASCADE")


def test_the_database_refuses_a_contract_in_another_currency_than_the_customers_or_the_books() -> None:
    customer = make_accounts.customer()
    euros, dollars = make.price_book(currency="EUR"), make.price_book(currency="USD")
    assert customer.currency == "EUR"

    for book, currency, rule in (
        (euros, "USD", "contract_currency_is_the_customers"),
        (dollars, "EUR", "contract_currency_is_the_price_books"),
    ):
        with pytest.raises(IntegrityError, match=rule), transaction.atomic():
            Contract.objects.create(
                customer=customer, price_book=book, currency=currency, starts_on=date(2026, 1, 1), created_at=JAN_5
            )


def test_the_database_refuses_another_currency_for_a_customer_with_a_contract() -> None:
    contract = make.contract()

    with pytest.raises(DatabaseError):
        Customer.objects.filter(pk=contract.customer_id).update(currency="USD")


def test_the_database_refuses_contracts_that_overlap_or_end_before_they_start_or_have_no_anchor() -> None:
    contract = make.contract(ends_on=date(2026, 1, 1))
    terms: dict[str, Any] = {
        "customer": contract.customer,
        "price_book": contract.price_book,
        "currency": contract.currency,
        "created_at": JAN_5,
    }

    with pytest.raises(IntegrityError, match="customer_has_one_contract_at_a_time"), transaction.atomic():
        Contract.objects.create(**terms, starts_on=date(2025, 12, 31))
    with pytest.raises(IntegrityError, match="contract_ends_after_it_starts"), transaction.atomic():
        Contract.objects.create(**terms, starts_on=date(2026, 5, 1), ends_on=date(2026, 5, 1))
    with pytest.raises(IntegrityError, match="contract_anchor_is_a_day_of_the_month"), transaction.atomic():
        Contract.objects.create(**terms, starts_on=date(2026, 5, 1), anchor_day=32)


@pytest.mark.parametrize(
    "change",
    [{"anchor_day": 2}, {"starts_on": date(2020, 1, 1)}],
    ids=["anchor", "start"],
)
def test_the_database_refuses_other_terms_for_a_signed_contract(change: Mapping[str, Any]) -> None:
    contract = make.contract()

    with pytest.raises(IntegrityError, match="ended, not rewritten"):
        Contract.objects.filter(pk=contract.pk).update(**change)
