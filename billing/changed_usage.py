"""Whose usage came, or was corrected, after the drafts of a run were made, and whether anything prices it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from billing.models import BillRun
from metering.reading.unseen_series import UnseenSeries, unseen_series
from metering.reading.usage import UnseenWindow
from pricing.price_books import PricedVersion, prices_for, product_for_series


class ChangedUsage(NamedTuple):
    """Names of customers: those whose drafts would be others by now, and those of whose change nothing is priced."""

    priced: list[str]
    not_priced: list[str]


class _Drafted(NamedTuple):
    name: str
    book_id: int
    window: UnseenWindow


def changed_since_drafting(run: BillRun) -> ChangedUsage:
    """Return the customers whose usage came, or was corrected, after their draft was made.

    Usage is priced where a version of the customer's price book that is valid in the period has one product for it.
    Two queries, and up to three more where anything came; however many customers there are.
    """
    drafted = _drafted(run)
    found = unseen_series([each.window for each in drafted])
    if not found:
        return ChangedUsage([], [])
    versions = _versions({drafted[each.position] for each in found})
    priced: dict[str, None] = {}
    others: dict[str, None] = {}
    for each in found:
        item = drafted[each.position]
        (priced if _is_priced(each, item.window, versions[item.book_id]) else others)[item.name] = None
    return ChangedUsage(list(priced), [name for name in others if name not in priced])


def _drafted(run: BillRun) -> list[_Drafted]:
    seen = run.items.exclude(usage_watermark="").order_by("contract__customer__name", "id")
    names = (
        "contract__customer__name",
        "contract__price_book_id",
        "contract__customer_id",
        "period",
        "usage_watermark",
    )
    return [
        _Drafted(
            name,
            book_id,
            UnseenWindow(customer_id=customer_id, start=period.lower, end=period.upper, snapshot=watermark),
        )
        for name, book_id, customer_id, period, watermark in seen.values_list(*names)
    ]


def _versions(changed: set[_Drafted]) -> dict[int, list[PricedVersion]]:
    versions: defaultdict[int, list[PricedVersion]] = defaultdict(list)
    for version in prices_for(
        book_ids={each.book_id for each in changed},
        start=min(each.window.start for each in changed),
        end=max(each.window.end for each in changed),
    ):
        versions[version.book_id].append(version)
    return versions


def _is_priced(series: UnseenSeries, window: UnseenWindow, versions: list[PricedVersion]) -> bool:
    return any(
        product_for_series(version=version, meter_id=series.meter_id, dimensions=series.dimensions).product is not None
        for version in versions
        if version.valid_from < window.end and (version.valid_until is None or version.valid_until > window.start)
    )
