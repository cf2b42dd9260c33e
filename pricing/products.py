"""Products: what is sold, and which usage each of them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.validation import require_reason
from metering.meters.meters import dimensions_of
from metering.models import Meter
from pricing.errors import ProductCodeTaken, ProductInvalid, ProductUnknown, ProductUsageFrozen
from pricing.models import Product


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTerms:
    """What a product is: see `pricing.models.Product`. Without a meter it is a recurring fee and takes no usage."""

    code: str
    name: str
    group: str
    unit: str
    meter_id: int | None = None
    dimension_filter: Mapping[str, str] = field(default_factory=dict)

    def as_product(self) -> Product:
        """The product as it would be stored.

        Raises: ProductInvalid.
        """
        product = Product(
            code=self.code,
            name=self.name,
            group=self.group,
            unit=self.unit,
            meter_id=self.meter_id,
            dimension_filter=dict(self.dimension_filter),
        )
        require_valid(product)
        return product

    def describes(self, product: Product) -> bool:
        """Whether the product is already what these terms ask for."""
        return (self.code, self.name, self.group, self.unit, self.meter_id, dict(self.dimension_filter)) == (
            product.code,
            product.name,
            product.group,
            product.unit,
            product.meter_id,
            product.dimension_filter,
        )


def require_valid(product: Product) -> None:
    """Refuse a product with a missing or overlong text, or with a filter that no usage could match.

    Raises: ProductInvalid.
    """
    try:
        product.clean_fields(exclude={"meter"})
    except ValidationError as error:
        problems = (f"{field}: {' '.join(reasons)}" for field, reasons in error.message_dict.items())
        raise ProductInvalid("; ".join(problems)) from None
    if any(not text.strip() or text != text.strip() for text in (product.code, product.name)):
        message = f"The code and the name of {product.code!r} may not be blank, begin with a blank or end with one."
        raise ProductInvalid(message)
    if not all(isinstance(value, str) and key for key, value in product.dimension_filter.items()):
        message = f"The filter of {product.code!r} has to give each dimension a value as text."
        raise ProductInvalid(message)
    if product.dimension_filter and product.meter_id is None:
        message = f"{product.code!r} has a filter and no meter; a fee takes no usage."
        raise ProductInvalid(message)


def add_product(
    *,
    code: str,
    name: str,
    group: str,
    unit: str,
    meter_id: int | None = None,
    dimension_filter: Mapping[str, str] | None = None,
    actor: Actor,
    at: datetime,
) -> Product:
    """Add a product, or return the one that is there if it is the same in everything.

    Raises: PermissionMissing, ProductInvalid, ProductCodeTaken.
    """
    terms = ProductTerms(
        code=code, name=name, group=group, unit=unit, meter_id=meter_id, dimension_filter=dimension_filter or {}
    )
    return add_products(products=[terms], actor=actor, at=at)[0]


@transaction.atomic
def add_products(*, products: Sequence[ProductTerms], actor: Actor, at: datetime) -> list[Product]:
    """Add many products, all or none, and return them in the order asked; those that are there are returned as such.

    Raises: PermissionMissing, ProductInvalid, ProductCodeTaken.
    """
    actor.require(Permission.EDIT_PRICES)
    known = {product.code: product for product in Product.objects.filter(code__in=[terms.code for terms in products])}
    _require_dimensions(products)
    new: dict[str, Product] = {}
    for terms in products:
        same = known.get(terms.code) or new.get(terms.code)
        if same is None:
            new[terms.code] = terms.as_product()
        elif not terms.describes(same):
            message = f"There is a product {terms.code!r} already, and it is not the same."
            raise ProductCodeTaken(message)

    with named("product_code_is_unique", ProductCodeTaken):
        added = history.bulk_create(list(new.values()), model=Product, actor=actor, at=at)
    audit.record_many(actor=actor, verb="product.added", subjects=added, at=at)
    known.update({product.code: product for product in added})
    return [known[terms.code] for terms in products]


def _require_dimensions(products: Sequence[ProductTerms]) -> None:
    """A filter on something that the meter does not keep would never find any usage."""
    meters = Meter.objects.in_bulk({terms.meter_id for terms in products if terms.meter_id is not None})
    dimensions = dimensions_of(list(meters))
    for terms in products:
        if terms.meter_id is None:
            continue
        meter = meters.get(terms.meter_id)
        if meter is None:
            raise ProductInvalid(f"{terms.code}: there is no such meter.")
        unknown = sorted(terms.dimension_filter.keys() - dimensions[meter.pk])
        if unknown:
            raise ProductInvalid(f"{terms.code}: the meter {meter.code!r} has no dimension {unknown[0]!r}.")


@transaction.atomic
def change_product(
    *, product_id: int, terms: ProductTerms, is_active: bool, reason: str, actor: Actor, at: datetime
) -> Product:
    """Change what a product is called; its code, unit, meter and filter only until a price of it was submitted.

    An inactive product is not offered for new prices; what is priced goes on being billed.

    Raises: PermissionMissing, ReasonMissing, ProductUnknown, ProductInvalid, ProductUsageFrozen, ProductCodeTaken.
    """
    actor.require(Permission.EDIT_PRICES)
    require_reason(reason)
    product = Product.objects.select_for_update(no_key=True).filter(pk=product_id).first()
    if product is None:
        raise ProductUnknown
    if terms.describes(product) and product.is_active == is_active:
        return product
    product.code, product.name, product.group, product.unit = terms.code, terms.name, terms.group, terms.unit
    product.meter_id, product.dimension_filter = terms.meter_id, dict(terms.dimension_filter)
    product.is_active = is_active
    require_valid(product)
    _require_dimensions([terms])

    frozen = named("priced_product_keeps_its_usage", ProductUsageFrozen)
    with frozen, named("product_code_is_unique", ProductCodeTaken):
        history.save(product, reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="product.changed", subject=product, at=at, reason=reason)
    return product
