"""Price books and the prices in their drafts.

A submitted version goes on in `pricing.publication`; what is read of versions stands in `pricing.price_lists`. Both
are offered here too, so that a caller needs one name for all that can be done with a price book.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Max

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.validation import require_reason
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
from pricing.models import Price, PriceBook, PriceBookVersion, Product
from pricing.money import minor_unit_exponent
from pricing.price_lists import (
    PriceChange,
    PricedProduct,
    PricedVersion,
    Resolution,
    Unpriced,
    prices_for,
    product_for_series,
    version_diff,
)
from pricing.products import add_product, add_products
from pricing.publication import activate_due_versions, submit_version, withdraw_version
from pricing.rating import Price as ParsedPrice
from pricing.rating import parse_price, price_spec

__all__ = [
    "PriceChange",
    "PricedProduct",
    "PricedVersion",
    "PricesSet",
    "Resolution",
    "Unpriced",
    "activate_due_versions",
    "add_product",
    "add_products",
    "discard_draft",
    "open_draft",
    "open_price_book",
    "prices_for",
    "product_for_series",
    "remove_price",
    "set_price",
    "set_prices",
    "submit_version",
    "version_diff",
    "withdraw_version",
]

Status = PriceBookVersion.Status

# The audit log names each price up to this many; of a larger import it keeps the counts, and the approval the content.
_MOST_AUDITED = 100

NEEDS_A_METER = "a product without a meter takes no usage, so its price can only be flat"


@dataclass(frozen=True, slots=True)
class PricesSet:
    """How many prices of a draft a call added, changed, and found to be as asked already."""

    added: int
    changed: int
    unchanged: int


@transaction.atomic
def open_price_book(
    *, code: str, name: str, currency: str, description: str = "", actor: Actor, at: datetime
) -> PriceBook:
    """Open a price book without any version, or return the one of that code if it is the same.

    Raises: PermissionMissing, CurrencyUnknown, PriceBookInvalid, PriceBookCodeTaken.
    """
    actor.require(Permission.EDIT_PRICES)
    minor_unit_exponent(currency)
    book = PriceBook(code=code, name=name, currency=currency, description=description)
    _require_valid(book)
    same = PriceBook.objects.filter(code=code).first()
    if same is not None:
        if (same.name, same.currency, same.description) == (name, currency, description):
            return same
        raise PriceBookCodeTaken

    with named("price_book_code_is_unique", PriceBookCodeTaken):
        history.save(book, actor=actor, at=at)
    audit.record(actor=actor, verb="price_book.opened", subject=book, at=at)
    return book


@transaction.atomic
def rename_price_book(
    *, book_id: int, name: str, description: str, reason: str, actor: Actor, at: datetime
) -> PriceBook:
    """Change what a price book is called; its code and currency stay for ever.

    Raises: PermissionMissing, ReasonMissing, PriceBookUnknown, PriceBookInvalid.
    """
    actor.require(Permission.EDIT_PRICES)
    require_reason(reason)
    book = _lock_book(book_id)
    if (book.name, book.description) == (name, description):
        return book
    book.name, book.description = name, description
    _require_valid(book)
    history.save(book, reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="price_book.renamed", subject=book, at=at, reason=reason)
    return book


def _require_valid(book: PriceBook) -> None:
    try:
        book.clean_fields()
    except ValidationError as error:
        problems = (f"{field}: {' '.join(reasons)}" for field, reasons in error.message_dict.items())
        raise PriceBookInvalid("; ".join(problems)) from None


@transaction.atomic
def open_draft(*, book_id: int, actor: Actor, at: datetime) -> PriceBookVersion:
    """Open the next version of a price book with the prices of the newest approved one; or the draft that is open.

    The number of a draft that was discarded is not given again, so that it means one version wherever it was noted.

    Raises: PermissionMissing, PriceBookUnknown, VersionInReview.
    """
    actor.require(Permission.EDIT_PRICES)
    book = _lock_book(book_id)
    open_version = book.versions.filter(status__in=[Status.DRAFT, Status.IN_REVIEW]).first()
    if open_version is not None:
        if open_version.status == Status.IN_REVIEW:
            raise VersionInReview
        return open_version

    newest = book.versions.order_by("-effective_from").first()
    # The history keeps the discarded ones too.
    last_number = PriceBookVersion.history.filter(book_id=book.pk).aggregate(last=Max("number"))["last"] or 0
    draft = PriceBookVersion(book=book, number=last_number + 1, created_by_id=actor.user_id, created_at=at)
    history.save(draft, actor=actor, at=at)
    if newest is not None:
        _copy_prices(from_version_id=newest.pk, to_version_id=draft.pk)
    audit.record(
        actor=actor,
        verb="price_book_version.drafted",
        subject=draft,
        at=at,
        data={"copied_from": newest and newest.number},
    )
    return draft


def _copy_prices(*, from_version_id: int, to_version_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pricing_price (version_id, product_id, spec)"
            " SELECT %s, product_id, spec FROM pricing_price WHERE version_id = %s",
            [to_version_id, from_version_id],
        )


@transaction.atomic
def discard_draft(*, version_id: int, reason: str, actor: Actor, at: datetime) -> None:
    """Throw a draft away with its prices; a draft that is gone already stays gone.

    Raises: PermissionMissing, ReasonMissing, VersionNotDraft.
    """
    actor.require(Permission.EDIT_PRICES)
    require_reason(reason)
    try:
        draft = _lock_draft(version_id)
    except VersionUnknown:
        return
    audit.record(actor=actor, verb="price_book_version.discarded", subject=draft, at=at, reason=reason)
    draft.prices.all().delete()
    history.delete(draft, reason=reason, actor=actor, at=at)


def set_price(*, version_id: int, product_id: int, spec: Mapping[str, object], actor: Actor, at: datetime) -> Price:
    """Set what a product costs in a draft; `spec` is the price as JSON, amounts in the currency of the price book.

    Raises: PermissionMissing, VersionUnknown, VersionNotDraft, PriceInvalid, ProductUnknown, ProductTakesNoUsage.
    """
    set_prices(version_id=version_id, specs={product_id: spec}, actor=actor, at=at)
    return Price.objects.get(version_id=version_id, product_id=product_id)


@transaction.atomic
def set_prices(*, version_id: int, specs: Mapping[int, Mapping[str, object]], actor: Actor, at: datetime) -> PricesSet:
    """Set the prices of many products (by id) in a draft, all or none; other products keep theirs.

    Raises: PermissionMissing, VersionUnknown, VersionNotDraft, PriceInvalid, ProductUnknown, ProductTakesNoUsage.
    """
    actor.require(Permission.EDIT_PRICES)
    draft = _lock_draft(version_id)
    parsed = {product_id: parse_price(spec) for product_id, spec in specs.items()}
    codes = _require_priceable(parsed)
    canonical = {product_id: price_spec(price) for product_id, price in parsed.items()}
    before = dict(draft.prices.filter(product_id__in=canonical).values_list("product_id", "spec"))
    new = {product_id: spec for product_id, spec in canonical.items() if before.get(product_id) != spec}

    Price.objects.bulk_create(
        [Price(version=draft, product_id=product_id, spec=spec) for product_id, spec in new.items()],
        update_conflicts=True,
        unique_fields=["version", "product"],
        update_fields=["spec"],
        batch_size=1000,
    )
    result = PricesSet(
        added=len(new.keys() - before.keys()),
        changed=len(new.keys() & before.keys()),
        unchanged=len(canonical) - len(new),
    )
    if new:
        changes = {codes[product_id]: {"old": before.get(product_id), "new": spec} for product_id, spec in new.items()}
        _audit_prices(draft, result, changes, actor=actor, at=at)
    return result


def _require_priceable(prices: Mapping[int, ParsedPrice]) -> dict[int, str]:
    """The codes of the products, by id; each has to exist, and to take usage unless its price is a fee."""
    products = Product.objects.in_bulk(list(prices))
    unknown = prices.keys() - products.keys()
    if unknown:
        message = f"There is no product of the id {min(unknown)}."
        raise ProductUnknown(message)
    for product_id, price in prices.items():
        if products[product_id].meter_id is None and not price.is_fee:
            raise ProductTakesNoUsage(f"{products[product_id].code}: {NEEDS_A_METER}.")
    return {product_id: product.code for product_id, product in products.items()}


def _audit_prices(
    draft: PriceBookVersion, result: PricesSet, changes: Mapping[str, Any], *, actor: Actor, at: datetime
) -> None:
    data: dict[str, Any] = {"added": result.added, "changed": result.changed}
    if len(changes) <= _MOST_AUDITED:
        data["prices"] = changes
    audit.record(actor=actor, verb="price_book_version.priced", subject=draft, at=at, data=data)


@transaction.atomic
def remove_price(*, version_id: int, product_id: int, actor: Actor, at: datetime) -> bool:
    """Take a product's price out of a draft; tells whether there was one.

    Raises: PermissionMissing, VersionUnknown, VersionNotDraft.
    """
    actor.require(Permission.EDIT_PRICES)
    draft = _lock_draft(version_id)
    price = draft.prices.select_related("product").filter(product_id=product_id).first()
    if price is None:
        return False
    changes = {price.product.code: {"old": price.spec, "new": None}}
    price.delete()
    audit.record(actor=actor, verb="price_book_version.price_removed", subject=draft, at=at, data={"prices": changes})
    return True


def _lock_book(book_id: int) -> PriceBook:
    book = PriceBook.objects.select_for_update(no_key=True).filter(pk=book_id).first()
    if book is None:
        raise PriceBookUnknown
    return book


def _lock_draft(version_id: int) -> PriceBookVersion:
    locked = PriceBookVersion.objects.select_for_update(no_key=True, of=("self",)).select_related("book")
    draft = locked.filter(pk=version_id).first()
    if draft is None:
        raise VersionUnknown
    if draft.status != Status.DRAFT:
        message = f"{draft} is {draft.get_status_display().lower()}; prices change only in a draft."
        raise VersionNotDraft(message)
    return draft
