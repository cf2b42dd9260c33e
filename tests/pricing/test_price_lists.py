from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.canonical import canonical_hash
from pricing import price_books
from pricing.charges import PriceInForce
from pricing.content import version_content
from pricing.errors import VersionContentChanged
from pricing.models import PriceBook
from pricing.price_lists import ChangeKind, PricedVersion, Resolution, Unpriced, UsageIndex
from pricing.rating import parse_price
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
JAN_1 = datetime(2026, 1, 1, tzinfo=UTC)
FEB_1 = datetime(2026, 2, 1, tzinfo=UTC)
MAR_1 = datetime(2026, 3, 1, tzinfo=UTC)


def _only_version(book: PriceBook) -> PricedVersion:
    (version,) = price_books.prices_for(book_ids=[book.pk], start=JAN_1, end=FEB_1)
    return version


def test_the_prices_of_a_month_are_those_of_every_version_valid_in_it() -> None:
    book, other = make.price_book(), make.price_book()
    product = make.metered_product("H100")
    first = make.approved_version(book=book, prices={product: make.TEN_CENTS})
    second = make.approved_version(
        book=book, prices={product: {"model": "per_unit", "unit_price": "2"}}, effective_from=FEB_1, at=JAN_1
    )
    make.draft(book=book)
    make.approved_version(book=other)

    january = price_books.prices_for(book_ids=[book.pk], start=JAN_1, end=FEB_1)
    both = price_books.prices_for(book_ids=[book.pk], start=JAN_1, end=MAR_1)
    before = price_books.prices_for(book_ids=[book.pk], start=JAN_1 - timedelta(days=999), end=make.LONG_AGO)

    assert [each.version_id for each in january] == [first.pk]
    assert [each.version_id for each in both] == [first.pk, second.pk]
    assert before == []
    (priced,) = both[1].products
    assert both[1].in_force(priced) == PriceInForce(
        "H100", priced.price_id, parse_price({"model": "per_unit", "unit_price": "2"}), FEB_1, None
    )
    assert both[0].valid_until == FEB_1
    assert (both[0].currency, both[0].book_id, both[0].number) == ("EUR", book.pk, 1)


def test_versions_that_nobody_approved_are_no_prices() -> None:
    version = make.submitted_version()

    found = price_books.prices_for(book_ids=[version.book_id], start=JAN_1, end=FEB_1)

    assert found == []


def test_fees_are_the_products_that_are_due_without_usage() -> None:
    book = make.price_book()
    fee = make.product(code="SUPPORT")
    make.approved_version(
        book=book, prices={fee: {"model": "flat", "amount": "99"}, make.metered_product(): make.TEN_CENTS}
    )

    version = _only_version(book)

    assert [each.code for each in version.fees] == ["SUPPORT"]


def test_the_product_with_the_most_filter_entries_takes_the_usage() -> None:
    book = make.price_book()
    meter = make.meter(dimensions=["gpu", "region"])
    any_gpu = make.product(code="ANY", meter=meter)
    h100 = make.product(code="H100", meter=meter, dimension_filter={"gpu": "h100"})
    h100_eu = make.product(code="H100-EU", meter=meter, dimension_filter={"gpu": "h100", "region": "eu"})
    in_us = make.product(code="US", meter=meter, dimension_filter={"region": "us"})
    unsold = make.product(code="B200", meter=make.meter(dimensions=["gpu"]), dimension_filter={"gpu": "b200"})
    make.approved_version(book=book, prices=dict.fromkeys((any_gpu, h100, h100_eu, in_us), make.TEN_CENTS))
    version = _only_version(book)

    def taken(meter_id: int, **dimensions: str | None) -> Resolution:
        return price_books.product_for_series(version=version, meter_id=meter_id, dimensions=dimensions)

    def code(resolution: Resolution) -> str | None:
        return resolution.product.code if resolution.product else resolution.unpriced

    assert code(taken(meter.pk, gpu="h100", region="eu")) == "H100-EU"
    assert code(taken(meter.pk, gpu="h100", region="asia")) == "H100"
    assert code(taken(meter.pk, gpu="a100", region=None)) == "ANY"
    assert code(taken(meter.pk)) == "ANY"
    assert code(taken(meter.pk, gpu="h100", region="us")) == Unpriced.AMBIGUOUS
    assert unsold.meter_id is not None
    assert code(taken(unsold.meter_id, gpu="b200")) == Unpriced.NO_PRICE
    assert code(taken(unsold.meter_id, gpu="c300")) == Unpriced.NO_PRODUCT
    assert code(taken(0)) == Unpriced.NO_PRODUCT


def test_a_search_looks_up_values_and_does_not_try_each_filter() -> None:
    index = UsageIndex((1, {"sku": str(number)}, number) for number in range(10_000))

    ((names, by_values),) = index._tables[1]

    assert names == ("sku",)
    assert len(by_values) == 10_000
    assert index.most_specific(1, {"sku": "9999", "region": "eu"}) == [9999]


def test_prices_are_read_set_based_and_kept() -> None:
    books = [make.price_book() for _ in range(50)]
    for book in books:
        make.approved_version(book=book)

    with CaptureQueriesContext(connection) as for_one:
        price_books.prices_for(book_ids=[books[0].pk], start=JAN_1, end=FEB_1)
    with CaptureQueriesContext(connection) as for_fifty:
        versions = price_books.prices_for(book_ids=[book.pk for book in books], start=JAN_1, end=FEB_1)
    with CaptureQueriesContext(connection) as again:
        same = price_books.prices_for(book_ids=[book.pk for book in books], start=JAN_1, end=FEB_1)

    assert len(versions) == 50
    assert (len(for_one), len(for_fifty), len(again)) == (3, 3, 2)
    assert same == versions


@pytest.mark.parametrize("spec", ['{"model": "per_unit", "unit_price": "9"}', '{"model": "nonsense"}'])
def test_a_version_that_was_changed_behind_the_triggers_back_has_a_fault_and_no_prices(spec: str) -> None:
    book = make.price_book()
    version = make.approved_version(book=book)
    make.tamper(f"UPDATE pricing_price SET spec = '{spec}' WHERE version_id = %s", version.pk)  # noqa: S608 -- a constant

    priced = _only_version(book)

    assert isinstance(priced.fault, VersionContentChanged)
    assert priced.products == ()


def test_a_version_whose_hash_was_changed_with_its_prices_has_a_fault_too() -> None:
    book = make.price_book()
    version = make.approved_version(book=book)
    make.tamper(
        "UPDATE pricing_price SET spec = jsonb_set(spec, '{unit_price}', '\"9\"') WHERE version_id = %s", version.pk
    )
    forged = canonical_hash(version_content(version.pk)).hex()
    make.tamper(f"UPDATE pricing_pricebookversion SET content_hash = '\\x{forged}' WHERE id = %s", version.pk)  # noqa: S608 -- hex

    assert isinstance(_only_version(book).fault, VersionContentChanged)


def test_prices_of_an_approval_that_was_rolled_back_are_not_kept() -> None:
    product = make.metered_product()
    draft = make.draft(prices={product: make.TEN_CENTS})
    before = transaction.savepoint()
    make.approved_version(book=draft.book, prices={product: {"model": "per_unit", "unit_price": "5"}})
    price_books.prices_for(book_ids=[draft.book_id], start=JAN_1, end=FEB_1)
    transaction.savepoint_rollback(before)
    make.approved_version(book=draft.book, prices={product: {"model": "per_unit", "unit_price": "7"}})

    (version,) = price_books.prices_for(book_ids=[draft.book_id], start=JAN_1, end=FEB_1)

    assert version.products[0].price == parse_price({"model": "per_unit", "unit_price": "7"})


def test_a_diff_names_what_was_added_changed_and_removed() -> None:
    book = make.price_book()
    kept, changed, removed, added, tiered = (make.metered_product(code) for code in ("K", "C", "R", "A", "T"))
    make.approved_version(
        book=book,
        prices={
            kept: make.TEN_CENTS,
            changed: {"model": "per_unit", "unit_price": "3"},
            removed: make.TEN_CENTS,
            tiered: make.TEN_CENTS,
        },
    )
    draft = make.draft(
        book=book,
        prices={
            changed: {"model": "per_unit", "unit_price": "2"},
            added: make.TEN_CENTS,
            tiered: {"model": "graduated", "tiers": [{"up_to": None, "unit_price": "1"}]},
        },
    )
    price_books.remove_price(version_id=draft.pk, product_id=removed.pk, actor=make.SYSTEM, at=make.LONG_AGO)

    changes = {change.code: change for change in price_books.version_diff(draft.pk)}

    assert {code: change.kind for code, change in changes.items()} == {
        "A": ChangeKind.ADDED,
        "C": ChangeKind.CHANGED,
        "R": ChangeKind.REMOVED,
        "T": ChangeKind.CHANGED,
    }
    assert changes["C"].old == {"model": "per_unit", "unit_price": "3"}
    assert changes["C"].new == {"model": "per_unit", "unit_price": "2"}
    assert changes["C"].percent == Decimal("-33.33")
    assert (changes["A"].percent, changes["R"].percent, changes["T"].percent) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "percent"),
    [("1", "1.1", "10"), ("0.10", "0.05", "-50"), ("3", "4", "33.33"), ("0", "1", None), ("8", "8.004", "0.05")],
)
def test_a_unit_price_changes_by_percent_rounded_half_up(old: str, new: str, percent: str | None) -> None:
    product = make.metered_product()
    book = make.price_book()
    make.approved_version(book=book, prices={product: {"model": "per_unit", "unit_price": old}})
    draft = make.draft(book=book, prices={product: {"model": "per_unit", "unit_price": new}})

    (change,) = price_books.version_diff(draft.pk)

    assert change.percent == (None if percent is None else Decimal(percent))


def test_in_the_first_version_everything_is_added() -> None:
    draft = make.draft()

    (change,) = price_books.version_diff(draft.pk)

    assert change.kind == ChangeKind.ADDED


def test_a_diff_of_fifty_prices_takes_as_many_queries_as_of_one() -> None:
    meter = make.meter()
    products = [make.product(meter=meter, dimension_filter={"sku": str(n)}) for n in range(50)]
    one = make.draft(prices={products[0]: make.TEN_CENTS})
    fifty = make.draft(prices=dict.fromkeys(products, make.TEN_CENTS))

    with CaptureQueriesContext(connection) as for_one:
        price_books.version_diff(one.pk)
    with CaptureQueriesContext(connection) as for_fifty:
        price_books.version_diff(fifty.pk)

    assert len(for_one) == len(for_fifty)
