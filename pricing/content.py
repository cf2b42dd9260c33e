"""What an approval of a price book version covers, and whether the version still holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from accounts.canonical import canonical_hash
from accounts.models import ApprovalRequest
from pricing.models import PriceBookVersion


class PriceContent(NamedTuple):
    """A price of a version with the usage that it is for."""

    code: str
    unit: str
    meter: str | None
    dimension_filter: Mapping[str, str]
    spec: Mapping[str, Any]


# The columns of a price that make a PriceContent, in its order.
PRICE_CONTENT: Final = (
    "product__code",
    "product__unit",
    "product__meter__code",
    "product__dimension_filter",
    "spec",
)


def version_content(version_id: int) -> dict[str, object]:
    """Everything that an approval of a version covers: what it is, when it takes effect, each price and its usage."""
    version = PriceBookVersion.objects.select_related("book").get(pk=version_id)
    return content_of(version, (PriceContent(*row) for row in version.prices.values_list(*PRICE_CONTENT)))


def content_of(version: PriceBookVersion, prices: Iterable[PriceContent]) -> dict[str, object]:
    """Return the same of a version whose price book and prices are read already."""
    return {
        "price_book": version.book.code,
        "currency": version.book.currency,
        "number": version.number,
        "effective_from": version.effective_from,
        "prices": {
            each.code: {
                "unit": each.unit,
                "meter": each.meter,
                "dimension_filter": each.dimension_filter,
                "price": each.spec,
            }
            for each in prices
        },
    }


def holds_what_was_approved(version: PriceBookVersion, content: Mapping[str, object] | None = None) -> bool:
    """Whether an approved version's content (read anew if not given) still has the hash that its approval covers."""
    return (
        version.content_hash is not None
        and version.approval is not None
        and version.approval.status == ApprovalRequest.Status.APPROVED
        and canonical_hash(version_content(version.pk) if content is None else content)
        == bytes(version.content_hash)
        == bytes(version.approval.content_hash)
    )
