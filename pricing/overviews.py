"""What the price book pages show: books with what is live in them, versions with who approved them, prices in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from django.db.models import Case, Count, F, Max, Min, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.lookups import Exact

from pricing.models import Contract, Price, PriceBook, PriceBookVersion
from pricing.price_lists import PriceChange, version_before, version_diff
from pricing.price_texts import price_text

Status = PriceBookVersion.Status


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price of a version in words, beside what the version before asked."""

    product_id: int
    code: str
    name: str
    group: str
    unit: str
    text: str
    change: ChangeRow | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One difference from the version before, in words."""

    kind: str
    product_id: int
    code: str
    name: str
    group: str
    old_text: str
    new_text: str
    percent: Decimal | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Every difference of a version from the approved one before it (None: it is the first)."""

    before: PriceBookVersion | None
    rows: tuple[ChangeRow, ...]
    added: int
    changed: int
    removed: int


def books(*, on: date) -> QuerySet[PriceBook]:
    """Return the price books with their live version, their open draft and how many customers have them on that day."""
    versions = PriceBookVersion.objects.filter(book=OuterRef("pk")).order_by()
    live = versions.filter(status=Status.LIVE)
    open_draft = versions.filter(status__in=[Status.DRAFT, Status.IN_REVIEW])
    running = Q(contracts__starts_on__lte=on) & (Q(contracts__ends_on__isnull=True) | Q(contracts__ends_on__gt=on))
    return PriceBook.objects.annotate(
        live_id=Subquery(live.values("pk")[:1]),
        live_number=Subquery(live.values("number")[:1]),
        live_since=Subquery(live.values("effective_from")[:1]),
        live_prices=Subquery(live.annotate(n=Count("prices")).values("n")[:1]),
        open_id=Subquery(open_draft.values("pk")[:1]),
        open_number=Subquery(open_draft.values("number")[:1]),
        open_status=Subquery(open_draft.values("status")[:1]),
        customers=Count("contracts__customer", filter=running, distinct=True),
        zone=_zone("contracts"),
    ).order_by("name")


def versions_of(book: PriceBook) -> QuerySet[PriceBookVersion]:
    """Return a book's versions, the newest first, with how many prices each holds and who approved it."""
    return (
        book.versions.annotate(price_count=Count("prices"))
        .select_related("approval__requested_by", "created_by")
        .prefetch_related("approval__decisions__decided_by")
        .order_by("-number")
    )


def zone_of(book: PriceBook) -> str:
    """Return the time zone in which a book's days begin: that of everybody who is billed by it, UTC if they differ."""
    zone: str = PriceBook.objects.annotate(zone=_zone("contracts")).values_list("zone", flat=True).get(pk=book.pk)
    return zone


def _zone(contracts: str) -> Case:
    zone = f"{contracts}__customer__legal_entity__time_zone"
    return Case(When(Exact(Min(zone), Max(zone)), then=Min(zone)), default=Value("UTC"))


def coming_versions() -> list[PriceBookVersion]:
    """Return the versions that are not in force yet: drafts, in review, and approved for a day to come."""
    coming = PriceBookVersion.objects.filter(status__in=[Status.DRAFT, Status.IN_REVIEW, Status.APPROVED])
    found = coming.select_related("book", "created_by", "approval__requested_by").annotate(
        price_count=Count("prices", distinct=True),
        zone=_zone("book__contracts"),
    )
    return list(found.order_by("book__name", "number"))


def contracts_of(book: PriceBook) -> QuerySet[Contract]:
    """Return a book's contracts, by customer."""
    return book.contracts.select_related("customer").order_by("customer__name", "-starts_on")


def changes_of(version: PriceBookVersion) -> Changes:
    """Compare a version with the approved one before it."""
    found = version_diff(version.pk)
    kinds = [change.kind.value for change in found]
    return Changes(
        before=version_before(version),
        rows=tuple(change_row(change, version.book.currency) for change in found),
        added=kinds.count("added"),
        changed=kinds.count("changed"),
        removed=kinds.count("removed"),
    )


def change_row(change: PriceChange, currency: str) -> ChangeRow:
    """Put one difference in words."""
    return ChangeRow(
        kind=change.kind.value,
        product_id=change.product_id,
        code=change.code,
        name=change.name,
        group=change.group,
        old_text=price_text(change.old, currency=currency, unit=change.unit) if change.old else "",
        new_text=price_text(change.new, currency=currency, unit=change.unit) if change.new else "",
        percent=change.percent,
    )


def prices_of(version: PriceBookVersion, *, search: str = "", group: str = "") -> QuerySet[Price]:
    """Return a version's prices in the order of the catalogue, narrowed to a group or to what the search names."""
    prices = version.prices.select_related("product").order_by("product__group", "product__name", "product__code")
    if search:
        prices = prices.filter(Q(product__code__icontains=search) | Q(product__name__icontains=search))
    return prices.filter(product__group=group) if group else prices


def groups_of(version: PriceBookVersion) -> list[str]:
    """Return the product groups that a version has prices for."""
    names = version.prices.order_by(F("product__group").asc()).values_list("product__group", flat=True)
    return list(names.distinct())


def price_rows(version: PriceBookVersion, prices: list[Price], changes: Changes) -> list[PriceRow]:
    """Put prices in words, each beside its change, if it has one and the version is not the first."""
    by_product = {row.product_id: row for row in changes.rows} if changes.before else {}
    currency = version.book.currency
    return [
        PriceRow(
            product_id=price.product_id,
            code=price.product.code,
            name=price.product.name,
            group=price.product.group,
            unit=price.product.unit,
            text=price_text(price.spec, currency=currency, unit=price.product.unit),
            change=by_product.get(price.product_id),
        )
        for price in prices
    ]
