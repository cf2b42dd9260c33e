from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from pricing import price_books
from pricing.errors import (
    PriceBookCodeTaken,
    PriceBookInvalid,
    PriceBookUnknown,
    ProductTakesNoUsage,
    ProductUnknown,
    VersionInReview,
    VersionNotDraft,
    VersionUnknown,
)
from pricing.models import Price, PriceBook, PriceBookVersion
from pricing.money import CurrencyUnknown
from pricing.rating import PriceInvalid
from tests import make_accounts
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
LATER = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def manager() -> Actor:
    return make_accounts.actor(Role.PRODUCT_MANAGER)


def test_opening_a_price_book_twice_opens_one(manager: Actor) -> None:
    first = price_books.open_price_book(code="list", name="List", currency="EUR", actor=manager, at=NOON)
    second = price_books.open_price_book(code="list", name="List", currency="EUR", actor=manager, at=NOON)

    assert first == second
    assert AuditEntry.objects.get(verb="price_book.opened").actor_id == manager.user_id
    assert first.history.get().history_user_id == manager.user_id


def test_a_code_cannot_be_given_to_another_price_book(manager: Actor) -> None:
    make.price_book(code="list", currency="EUR")

    with pytest.raises(PriceBookCodeTaken):
        price_books.open_price_book(code="list", name="List prices", currency="USD", actor=manager, at=NOON)


def test_a_price_book_needs_a_currency_of_iso_4217_and_a_code(manager: Actor) -> None:
    with pytest.raises(CurrencyUnknown):
        price_books.open_price_book(code="list", name="List", currency="ZZZ", actor=manager, at=NOON)
    with pytest.raises(PriceBookInvalid, match="code"):
        price_books.open_price_book(code="two words", name="List", currency="EUR", actor=manager, at=NOON)
    with pytest.raises(PriceBookInvalid, match="name"):
        price_books.open_price_book(code="list", name="", currency="EUR", actor=manager, at=NOON)


def test_a_price_book_may_be_renamed(manager: Actor) -> None:
    book = make.price_book()

    for _ in range(2):
        price_books.rename_price_book(
            book_id=book.pk, name="New", description="d", reason="Clearer", actor=manager, at=NOON
        )

    book.refresh_from_db()
    assert book.name == "New"
    assert book.history.count() == 2


def test_opening_a_draft_twice_returns_the_same_draft(manager: Actor) -> None:
    book = make.price_book()

    first = price_books.open_draft(book_id=book.pk, actor=manager, at=NOON)
    second = price_books.open_draft(book_id=book.pk, actor=manager, at=NOON)

    assert first == second
    assert (first.number, first.status, first.prices.count()) == (1, "draft", 0)


def test_the_next_draft_begins_with_the_newest_approved_prices(manager: Actor) -> None:
    book = make.price_book()
    old, new = make.metered_product(), make.metered_product()
    make.approved_version(book=book, prices={old: make.TEN_CENTS})
    make.approved_version(book=book, prices={new: {"model": "per_unit", "unit_price": "2"}}, effective_from=LATER)

    draft = price_books.open_draft(book_id=book.pk, actor=manager, at=NOON)

    assert draft.number == 3
    assert dict(draft.prices.values_list("product__code", "spec__unit_price")) == {old.code: "0.1", new.code: "2"}


def test_the_number_of_a_discarded_draft_is_not_given_again(manager: Actor) -> None:
    version = make.approved_version()
    discarded = make.draft(book=version.book)
    price_books.discard_draft(version_id=discarded.pk, reason="Wrong season", actor=manager, at=NOON)

    draft = price_books.open_draft(book_id=version.book_id, actor=manager, at=NOON)

    assert (discarded.number, draft.number) == (2, 3)


def test_no_draft_is_opened_while_a_version_is_in_review(manager: Actor) -> None:
    version = make.submitted_version()

    with pytest.raises(VersionInReview):
        price_books.open_draft(book_id=version.book_id, actor=manager, at=NOON)


def test_a_price_is_set_in_its_canonical_form_and_changed(manager: Actor) -> None:
    version = make.draft(prices={})
    product = make.metered_product("H100")

    price_books.set_price(
        version_id=version.pk,
        product_id=product.pk,
        spec={"model": "per_unit", "unit_price": "1.50"},
        actor=manager,
        at=NOON,
    )
    price = price_books.set_price(
        version_id=version.pk,
        product_id=product.pk,
        spec={"model": "per_unit", "unit_price": "2.00"},
        actor=manager,
        at=NOON,
    )

    assert price.spec == {"model": "per_unit", "unit_price": "2"}
    last, first = AuditEntry.objects.filter(verb="price_book_version.priced", actor_id=manager.user_id)
    assert first.data["prices"]["H100"]["new"] == {"model": "per_unit", "unit_price": "1.5"}
    assert last.data["prices"]["H100"]["old"] == {"model": "per_unit", "unit_price": "1.5"}


def test_setting_the_same_price_twice_changes_nothing(manager: Actor) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: make.TEN_CENTS})

    result = price_books.set_prices(version_id=version.pk, specs={product.pk: make.TEN_CENTS}, actor=manager, at=NOON)

    assert (result.added, result.changed, result.unchanged) == (0, 0, 1)
    assert not AuditEntry.objects.filter(verb="price_book_version.priced", actor_id=manager.user_id).exists()


def test_prices_that_cannot_be_are_refused_together_with_all_others(manager: Actor) -> None:
    version = make.draft(prices={})
    metered, fee = make.metered_product(), make.product()

    with pytest.raises(PriceInvalid, match="unit_price"):
        price_books.set_prices(
            version_id=version.pk,
            specs={metered.pk: {"model": "per_unit", "unit_price": "-1"}, fee.pk: {"model": "flat", "amount": "1"}},
            actor=manager,
            at=NOON,
        )
    with pytest.raises(ProductTakesNoUsage):
        price_books.set_price(version_id=version.pk, product_id=fee.pk, spec=make.TEN_CENTS, actor=manager, at=NOON)
    with pytest.raises(ProductUnknown):
        price_books.set_price(version_id=version.pk, product_id=0, spec=make.TEN_CENTS, actor=manager, at=NOON)

    assert version.prices.count() == 0


def test_a_price_is_removed_once(manager: Actor) -> None:
    product = make.metered_product()
    version = make.draft(prices={product: make.TEN_CENTS})

    removed = [
        price_books.remove_price(version_id=version.pk, product_id=product.pk, actor=manager, at=NOON) for _ in range(2)
    ]

    assert removed == [True, False]
    assert version.prices.count() == 0
    assert AuditEntry.objects.filter(verb="price_book_version.price_removed").count() == 1


def test_nothing_is_edited_while_in_review(manager: Actor) -> None:
    product = make.metered_product()
    version = make.submitted_version(prices={product: make.TEN_CENTS})

    with pytest.raises(VersionNotDraft, match="in review"):
        price_books.set_price(version_id=version.pk, product_id=product.pk, spec=make.TEN_CENTS, actor=manager, at=NOON)
    with pytest.raises(VersionNotDraft):
        price_books.remove_price(version_id=version.pk, product_id=product.pk, actor=manager, at=NOON)
    with pytest.raises(VersionNotDraft):
        price_books.discard_draft(version_id=version.pk, reason="New terms", actor=manager, at=NOON)


def test_a_draft_is_discarded_with_its_prices(manager: Actor) -> None:
    version = make.draft()

    price_books.discard_draft(version_id=version.pk, reason="Wrong season", actor=manager, at=NOON)
    price_books.discard_draft(version_id=version.pk, reason="Wrong season", actor=manager, at=NOON)

    assert not PriceBookVersion.objects.exists()
    assert PriceBookVersion.history.latest().history_change_reason == "Wrong season"
    assert AuditEntry.objects.filter(verb="price_book_version.discarded").count() == 1


def test_what_is_not_there_is_said_by_name(manager: Actor) -> None:
    nothing = make_accounts.UNKNOWN_ID

    with pytest.raises(PriceBookUnknown):
        price_books.open_draft(book_id=nothing, actor=manager, at=NOON)
    with pytest.raises(PriceBookUnknown):
        price_books.rename_price_book(
            book_id=nothing, name="A", description="", reason="New terms", actor=manager, at=NOON
        )
    with pytest.raises(VersionUnknown):
        price_books.set_prices(version_id=nothing, specs={}, actor=manager, at=NOON)
    with pytest.raises(VersionUnknown):
        price_books.remove_price(version_id=nothing, product_id=1, actor=manager, at=NOON)
    with pytest.raises(VersionUnknown):
        price_books.submit_version(version_id=nothing, effective_from=NOON, reason="New terms", actor=manager, at=NOON)
    with pytest.raises(VersionUnknown):
        price_books.withdraw_version(version_id=nothing, reason="New terms", actor=manager, at=NOON)


def test_renaming_a_book_and_discarding_a_draft_take_a_reason(manager: Actor) -> None:
    version = make.draft()

    with pytest.raises(ReasonMissing):
        price_books.rename_price_book(
            book_id=version.book_id, name="A", description="", reason=" ", actor=manager, at=NOON
        )
    with pytest.raises(ReasonMissing):
        price_books.discard_draft(version_id=version.pk, reason=" ", actor=manager, at=NOON)


def test_price_books_need_the_permission_to_edit_prices() -> None:
    approver = make_accounts.actor(Role.PRICING_APPROVER)
    version = make.draft()

    with pytest.raises(PermissionMissing):
        price_books.open_price_book(code="a", name="A", currency="EUR", actor=approver, at=NOON)
    with pytest.raises(PermissionMissing):
        price_books.rename_price_book(
            book_id=version.book_id, name="A", description="", reason="New terms", actor=approver, at=NOON
        )
    with pytest.raises(PermissionMissing):
        price_books.open_draft(book_id=version.book_id, actor=approver, at=NOON)
    with pytest.raises(PermissionMissing):
        price_books.set_prices(version_id=version.pk, specs={}, actor=approver, at=NOON)
    with pytest.raises(PermissionMissing):
        price_books.remove_price(version_id=version.pk, product_id=1, actor=approver, at=NOON)
    with pytest.raises(PermissionMissing):
        price_books.discard_draft(version_id=version.pk, reason="New terms", actor=approver, at=NOON)


def test_fifty_prices_take_as_many_queries_as_one(manager: Actor) -> None:
    version = make.draft(prices={})
    meter = make.meter()
    products = [make.product(meter=meter, dimension_filter={"sku": str(n)}) for n in range(51)]

    with CaptureQueriesContext(connection) as for_one:
        price_books.set_prices(version_id=version.pk, specs={products[0].pk: make.TEN_CENTS}, actor=manager, at=NOON)
    with CaptureQueriesContext(connection) as for_fifty:
        price_books.set_prices(
            version_id=version.pk, specs={each.pk: make.TEN_CENTS for each in products[1:]}, actor=manager, at=NOON
        )

    assert len(for_one) == len(for_fifty)


def test_the_database_refuses_another_code_or_currency_for_a_price_book() -> None:
    book = make.price_book()

    for change in ({"code": "other"}, {"currency": "USD"}):
        with pytest.raises(IntegrityError, match="keeps its code and its currency"), transaction.atomic():
            PriceBook.objects.filter(pk=book.pk).update(**change)


def test_the_database_refuses_a_second_price_book_of_a_code() -> None:
    book = make.price_book()

    with pytest.raises(IntegrityError, match="price_book_code_is_unique"):
        PriceBook.objects.create(code=book.code, name="Other", currency="EUR")


def test_the_database_refuses_a_price_book_in_no_currency() -> None:
    with pytest.raises(IntegrityError, match="'ZZZ' is not a currency"), transaction.atomic():
        PriceBook.objects.create(code="a", name="A", currency="ZZZ")
    with pytest.raises(IntegrityError), transaction.atomic():
        PriceBook.objects.create(code="a", name="A", currency="eur")


def test_the_database_refuses_a_second_price_of_a_product_and_a_price_without_a_model() -> None:
    product = make.metered_product()
    version = make.draft(prices={product: make.TEN_CENTS})

    with pytest.raises(IntegrityError, match="price_is_unique_per_version_and_product"), transaction.atomic():
        Price.objects.create(version=version, product=product, spec=make.TEN_CENTS)
    with pytest.raises(IntegrityError, match="price_names_its_model"), transaction.atomic():
        Price.objects.create(version=version, product=make.product(), spec={"amount": "1"})
