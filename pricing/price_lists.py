"""What is read of price book versions: the prices in force for a bill, the product that takes a usage, a version's
differences from the one before.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeVar

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from pricing.charges import PriceInForce
from pricing.content import PRICE_CONTENT, PriceContent, content_of, holds_what_was_approved
from pricing.errors import VersionContentChanged
from pricing.models import Price, PriceBookVersion, Product
from pricing.money import RoundingMode, multiply, rounded_quotient, subtract
from pricing.rating import Price as ParsedPrice
from pricing.rating import parse_price
from pricing.rating.models import PerUnit

Status = PriceBookVersion.Status
_APPROVED: Final = (Status.APPROVED, Status.LIVE, Status.SUPERSEDED)
_MOST_VERSIONS_KEPT: Final = 256
_HUNDRED: Final = Decimal(100)

T = TypeVar("T")


class UsageIndex(Generic[T]):
    """Finds what takes a usage by its meter and dimensions, however many there are.

    Filters of one meter that name the same dimensions share a table keyed by the values, so a search costs one look-up
    for each set of names that occurs, and not one for each filter.
    """

    def __init__(self, takers: Iterable[tuple[int, Mapping[str, str], T]]) -> None:
        tables: dict[int, dict[tuple[str, ...], dict[tuple[str | None, ...], list[T]]]] = {}
        for meter_id, dimension_filter, taker in takers:
            names = tuple(sorted(dimension_filter))
            values = tuple(dimension_filter[name] for name in names)
            tables.setdefault(meter_id, {}).setdefault(names, {}).setdefault(values, []).append(taker)
        self._tables = {
            meter_id: sorted(by_names.items(), key=lambda table: -len(table[0]))
            for meter_id, by_names in tables.items()
        }

    def most_specific(self, meter_id: int, dimensions: Mapping[str, str | None]) -> list[T]:
        """Those whose filter holds for the dimensions and has the most entries; several where they tie."""
        found: list[T] = []
        entries = 0
        for names, by_values in self._tables.get(meter_id, ()):
            if found and len(names) < entries:
                break
            entries = len(names)
            found += by_values.get(tuple([dimensions.get(name) for name in names]), ())
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedProduct:
    """A product with its price in one version."""

    product_id: int
    code: str
    name: str
    group: str
    unit: str
    meter_id: int | None
    dimension_filter: Mapping[str, str]
    price_id: int
    price: ParsedPrice


@dataclass(frozen=True, kw_only=True)
class PricedVersion:
    """An approved version with all its prices, valid from `valid_from` until before `valid_until` (None: open).

    One that does not hold what was approved has a fault and no prices: nothing may be billed by it.
    """

    version_id: int
    book_id: int
    number: int
    currency: str
    valid_from: datetime
    valid_until: datetime | None
    products: tuple[PricedProduct, ...]
    catalogue: Catalogue = field(repr=False, compare=False)
    fault: VersionContentChanged | None = None

    @cached_property
    def by_usage(self) -> UsageIndex[PricedProduct]:
        """The version's metered products, by the usage that they take."""
        return UsageIndex(
            (each.meter_id, each.dimension_filter, each) for each in self.products if each.meter_id is not None
        )

    @cached_property
    def fees(self) -> tuple[PricedProduct, ...]:
        """The products that are due without any usage."""
        return tuple(each for each in self.products if each.price.is_fee)

    def in_force(self, product: PricedProduct) -> PriceInForce:
        """The product's price as `pricing.charges` wants it; the product's code is its key."""
        return PriceInForce(product.code, product.price_id, product.price, self.valid_from, self.valid_until)


class Unpriced(StrEnum):
    """Why no price was found for a usage."""

    NO_PRODUCT = "no_product"
    NO_PRICE = "no_price"
    AMBIGUOUS = "ambiguous"


class Resolution(NamedTuple):
    """The product that takes a usage, or why there is none; exactly one of the two."""

    product: PricedProduct | None
    unpriced: Unpriced | None


def product_for_series(*, version: PricedVersion, meter_id: int, dimensions: Mapping[str, str | None]) -> Resolution:
    """Find the product of a version that takes the usage of a series: the one with the most filter entries that hold.

    Two that tie are ambiguous. Where none of the version's products takes it: no_price if another product would, so
    that only its price is missing, and no_product if none does.
    """
    found = version.by_usage.most_specific(meter_id, dimensions)
    if len(found) == 1:
        return Resolution(found[0], None)
    if found:
        return Resolution(None, Unpriced.AMBIGUOUS)
    exists = version.catalogue.by_usage.most_specific(meter_id, dimensions)
    return Resolution(None, Unpriced.NO_PRICE if exists else Unpriced.NO_PRODUCT)


class _Listed(NamedTuple):
    product_id: int
    code: str
    name: str
    group: str
    unit: str
    meter_id: int | None
    dimension_filter: Mapping[str, str]


class Catalogue:
    """Every product, as it is called now."""

    def __init__(self, products: Iterable[_Listed]) -> None:
        self.products = {each.product_id: each for each in products}

    @cached_property
    def by_usage(self) -> UsageIndex[int]:
        """The ids of the metered products, by the usage that they take."""
        return UsageIndex(
            (each.meter_id, each.dimension_filter, each.product_id)
            for each in self.products.values()
            if each.meter_id is not None
        )


def prices_for(*, book_ids: Collection[int], start: datetime, end: datetime) -> list[PricedVersion]:
    """The approved versions of the price books that are valid at some instant of `[start, end)`, with their prices.

    In order of price book and time. Three queries for any number of books; two once the prices are known to this
    process, for an approved version never changes. Before they are kept, a version's content is held against the hash
    that was approved; one that was changed behind the triggers' back comes with its fault and without prices.
    """
    overlapping = PriceBookVersion.objects.filter(
        book_id__in=book_ids, status__in=_APPROVED, valid_during__overlap=DateTimeTZRange(start, end)
    )
    versions = list(overlapping.select_related("book", "approval").order_by("book_id", "valid_during"))
    if not versions:
        return []
    parsed = _parsed_prices(versions)
    catalogue = Catalogue(
        _Listed(*row)
        for row in Product.objects.order_by("pk").values_list(
            "pk", "code", "name", "group", "unit", "meter_id", "dimension_filter"
        )
    )
    return [_priced_version(version, parsed.get(version.pk), catalogue) for version in versions]


class _ParsedPrice(NamedTuple):
    product_id: int
    price_id: int
    price: ParsedPrice


def _priced_version(
    version: PriceBookVersion, prices: Sequence[_ParsedPrice] | None, catalogue: Catalogue
) -> PricedVersion:
    period = version.valid_during
    assert period is not None
    assert period.lower is not None
    return PricedVersion(
        version_id=version.pk,
        book_id=version.book_id,
        number=version.number,
        currency=version.book.currency,
        valid_from=period.lower,
        valid_until=period.upper,
        products=tuple(
            PricedProduct(**catalogue.products[each.product_id]._asdict(), price_id=each.price_id, price=each.price)
            for each in prices or ()
        ),
        catalogue=catalogue,
        fault=_fault(version) if prices is None else None,
    )


def _fault(version: PriceBookVersion) -> VersionContentChanged:
    return VersionContentChanged(f"{version} does not hold what was approved, so nothing is billed by it.")


# Parsing 10,000 prices takes longer than billing a customer, and approved ones never change. The content's hash is a
# part of the key, for an approval that was rolled back must not leave prices behind.
_VersionKey = tuple[int, bytes]
_kept: OrderedDict[_VersionKey, tuple[_ParsedPrice, ...]] = OrderedDict()
_keeping = Lock()


def _parsed_prices(versions: Sequence[PriceBookVersion]) -> dict[int, tuple[_ParsedPrice, ...]]:
    """The prices of each version that holds what was approved."""
    keys = {version.pk: (version.pk, bytes(version.content_hash or b"")) for version in versions}
    with _keeping:
        found = {version_id: _kept[key] for version_id, key in keys.items() if key in _kept}
    missing = keys.keys() - found.keys()
    if missing:
        read = _read_prices([version for version in versions if version.pk in missing])
        found |= read
        with _keeping:
            _kept.update({keys[version_id]: prices for version_id, prices in read.items()})
            while len(_kept) > _MOST_VERSIONS_KEPT:
                _kept.popitem(last=False)
    return found


def _read_prices(versions: Sequence[PriceBookVersion]) -> dict[int, tuple[_ParsedPrice, ...]]:
    read: dict[int, list[tuple[int, int, PriceContent]]] = {version.pk: [] for version in versions}
    rows = Price.objects.filter(version__in=versions).order_by("version_id", "product_id")
    for version_id, product_id, price_id, *content in rows.values_list(
        "version_id", "product_id", "pk", *PRICE_CONTENT
    ):
        read[version_id].append((product_id, price_id, PriceContent(*content)))
    # In this order: what nobody approved may be no price at all.
    return {
        version.pk: tuple(
            _ParsedPrice(product_id, price_id, parse_price(content.spec))
            for product_id, price_id, content in read[version.pk]
        )
        for version in versions
        if holds_what_was_approved(version, content_of(version, (content for _, _, content in read[version.pk])))
    }


def same_usage(version_id: int) -> list[tuple[str, ...]]:
    """The codes of the version's products that take exactly the same usage, group by group."""
    takers: defaultdict[tuple[int, frozenset[tuple[str, str]]], list[str]] = defaultdict(list)
    products = Product.objects.filter(prices__version_id=version_id, meter__isnull=False).order_by("code")
    for code, meter_id, dimension_filter in products.values_list("code", "meter_id", "dimension_filter"):
        takers[meter_id, frozenset(dimension_filter.items())].append(code)
    return [tuple(codes) for codes in takers.values() if len(codes) > 1]


class ChangeKind(StrEnum):
    """What happened to a product's price from one version to the next."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """One difference between a version and the one before; specs are canonical price JSON.

    `percent` is by how much a unit price rose (negative: fell), rounded half up to two places; None where the prices
    are not two plain unit prices or the old one is zero.
    """

    kind: ChangeKind
    product_id: int
    code: str
    name: str
    group: str
    unit: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    percent: Decimal | None


def version_before(version: PriceBookVersion) -> PriceBookVersion | None:
    """The newest approved version of the same price book that is older than this one, or None."""
    earlier = PriceBookVersion.objects.filter(book_id=version.book_id, status__in=_APPROVED, number__lt=version.number)
    return earlier.order_by("-number").first()


def version_diff(version_id: int) -> list[PriceChange]:
    """What the version changes against the approved one before it, in the order of the catalogue."""
    version = PriceBookVersion.objects.get(pk=version_id)
    before = version_before(version)
    old = specs_of(before.pk) if before else {}
    new = specs_of(version.pk)
    differing = {product_id for product_id in old.keys() | new.keys() if old.get(product_id) != new.get(product_id)}
    products = Product.objects.filter(pk__in=differing).order_by("group", "name", "code")
    return [price_change(product, old.get(product.pk), new.get(product.pk)) for product in products]


def specs_of(version_id: int) -> dict[int, dict[str, Any]]:
    """The prices of a version as JSON, by product."""
    return dict(Price.objects.filter(version_id=version_id).order_by().values_list("product_id", "spec"))


def price_change(product: Product, old: dict[str, Any] | None, new: dict[str, Any] | None) -> PriceChange:
    """Say how a product's price differs between two sets of prices; at least one of them has it."""
    kind = ChangeKind.CHANGED
    if old is None or new is None:
        kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED
    return PriceChange(
        kind=kind,
        product_id=product.pk,
        code=product.code,
        name=product.name,
        group=product.group,
        unit=product.unit,
        old=old,
        new=new,
        percent=_percent(old, new) if old and new else None,
    )


def _percent(old_spec: Mapping[str, Any], new_spec: Mapping[str, Any]) -> Decimal | None:
    old, new = parse_price(old_spec), parse_price(new_spec)
    if not isinstance(old.model, PerUnit) or not isinstance(new.model, PerUnit) or old.options != new.options:
        return None
    if not old.model.unit_price:
        return None
    difference = subtract(new.model.unit_price, old.model.unit_price)
    size = rounded_quotient(
        multiply(difference.copy_abs(), _HUNDRED), old.model.unit_price, places=2, mode=RoundingMode.HALF_UP
    )
    return size.copy_negate() if difference < 0 and size else size
