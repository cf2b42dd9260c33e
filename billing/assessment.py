"""What one contract owes for one billing period, line by line, and which of its usage nothing takes.

No database and no clock: what was read comes in, what is to be stored goes out. The arithmetic is `pricing.charges`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from accounts.errors import CountinghouseError
from accounts.periods import Period
from billing.errors import NoApprovedPrices
from billing.models import InvoiceLine, UnbilledUsage
from metering.aggregations import combine
from metering.reading.usage import SeriesTotal
from pricing.charges import Billed, ChargeLine, ContractTerms, MeteredUsage, PriceInForce, charges
from pricing.money import ZERO, add, subtract
from pricing.price_books import PricedProduct, PricedVersion, product_for_series

Reason = UnbilledUsage.Reason


class PricedWindow(NamedTuple):
    """A part of a service period in which one version of the price book holds (None: no approved one does)."""

    period: Period
    version: PricedVersion | None


class WindowTotal(NamedTuple):
    """The usage of one series in one window."""

    window: PricedWindow
    total: SeriesTotal


class Listed(NamedTuple):
    """What earlier runs hold of a series on the list of unbilled usage."""

    quantity: Decimal
    event_count: int


NOTHING_LISTED = Listed(ZERO, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodFacts:
    """All that decides what one contract owes for one billing period.

    `period` is the whole billing period and `service` the part of it that the contract covers. `billed` (by price) and
    `listed` (by series) are what live lines and lists of other runs hold for it already; of an earlier period
    (`is_late`) only the difference is due.
    """

    terms: ContractTerms
    period: Period
    service: Period
    is_late: bool
    windows: Sequence[PricedWindow]
    totals: Sequence[WindowTotal]
    billed: Mapping[int, Billed]
    listed: Mapping[int, Listed]
    fault: CountinghouseError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessedLine:
    """One line of an invoice to be."""

    kind: InvoiceLine.Kind
    product: PricedProduct
    charge: ChargeLine
    quantity_before: Decimal
    series_ids: list[int]
    digest: bytes | None


class UnbilledSeries(NamedTuple):
    """Usage of one series that no line takes, and why."""

    series_id: int
    period: Period
    quantity: Decimal
    event_count: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What a contract owes for a period, and what it does not."""

    lines: list[AssessedLine]
    unbilled: list[UnbilledSeries]


@dataclass(slots=True)
class _Taken:
    """The usage that one price takes, series by series."""

    totals: list[WindowTotal] = field(default_factory=list)

    @property
    def usage(self) -> MeteredUsage:
        """All of it: what the series of each window add up to together, by the aggregation of their meter."""
        by_window: defaultdict[Period, list[SeriesTotal]] = defaultdict(list)
        for window, found in self.totals:
            by_window[window.period].append(found)
        quantity = ZERO
        for totals in by_window.values():
            quantity = add(quantity, combine(totals[0].aggregation, totals))
        return MeteredUsage(quantity, sum(found.count for _, found in self.totals))

    @property
    def parts(self) -> list[tuple[int, bytes]]:
        """Each series' id and the digest of what it is made of."""
        return [(found.series_id, found.digest) for _, found in self.totals]


def usage_digest(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """The SHA-256 over the usage behind a line: each series' id and the digest of its hours, in order of the id."""
    digest = hashlib.sha256()
    for series_id, of_series in sorted(parts):
        digest.update(series_id.to_bytes(8, "big"))
        digest.update(of_series)
    return digest.digest()


def assess(facts: PeriodFacts) -> Assessment:
    """Work out the lines and the unbilled usage of one contract and period.

    An earlier period that has no prices at all is listed as such and holds nothing up.

    Raises: NoApprovedPrices, the fault of the facts, and what `pricing.charges` raises.
    """
    if facts.fault is not None:
        raise facts.fault
    versions = [window.version for window in facts.windows if window.version is not None]
    if not versions and not facts.is_late:
        raise NoApprovedPrices
    taken, products, unbilled = _take(facts)
    in_force = _prices_in_force(versions, products, facts.billed)
    lines = charges(
        terms=facts.terms,
        prices=list(in_force.values()),
        usage={price_id: each.usage for price_id, each in taken.items()},
        period=facts.period,
        billed=facts.billed,
    )
    by_price = {product.price_id: product for version in versions for product in version.products}
    assessed = [_line(facts, line, by_price[line.price_key], taken.get(line.price_key)) for line in lines]
    assessed.sort(key=_print_order)
    return Assessment(lines=assessed, unbilled=_not_listed_yet(facts, unbilled))


def park(facts: PeriodFacts) -> list[UnbilledSeries]:
    """All usage of the period as unbilled, because the contract was parked."""
    return [_unbilled(each, Reason.PARKED) for each in facts.totals]


def _take(
    facts: PeriodFacts,
) -> tuple[dict[int, _Taken], dict[int, tuple[PricedVersion, PricedProduct]], list[UnbilledSeries]]:
    """Give each series' usage to the price that takes it, or to the list of what nothing takes."""
    taken: dict[int, _Taken] = {}
    products: dict[int, tuple[PricedVersion, PricedProduct]] = {}
    unbilled: list[UnbilledSeries] = []
    for each in facts.totals:
        version, total = each.window.version, each.total
        if version is None:
            unbilled.append(_unbilled(each, Reason.NO_PRICE))
            continue
        product, unpriced = product_for_series(version=version, meter_id=total.meter_id, dimensions=total.dimensions)
        if product is None:
            assert unpriced is not None
            unbilled.append(_unbilled(each, Reason(unpriced.value)))
            continue
        products[product.price_id] = (version, product)
        taken.setdefault(product.price_id, _Taken()).totals.append(each)
    return taken, products, unbilled


def _prices_in_force(
    versions: Sequence[PricedVersion],
    products: Mapping[int, tuple[PricedVersion, PricedProduct]],
    billed: Mapping[int, Billed],
) -> dict[int, PriceInForce]:
    """The prices that can make a line: those that take usage, every fee, and those that were billed before."""
    found = {price_id: version.in_force(product) for price_id, (version, product) in products.items()}
    for version in versions:
        found.update((fee.price_id, version.in_force(fee)) for fee in version.fees)
        if billed:
            found.update(
                (each.price_id, version.in_force(each)) for each in version.products if each.price_id in billed
            )
    return found


def _line(facts: PeriodFacts, charge: ChargeLine, product: PricedProduct, taken: _Taken | None) -> AssessedLine:
    kind = InvoiceLine.Kind.LATE_USAGE if facts.is_late else InvoiceLine.Kind.USAGE
    if product.price.is_fee and taken is None:
        kind = InvoiceLine.Kind.FEE
    parts = [] if taken is None else taken.parts
    return AssessedLine(
        kind=kind,
        product=product,
        charge=charge,
        quantity_before=facts.billed[charge.price_key].quantity if charge.price_key in facts.billed else ZERO,
        series_ids=sorted({series_id for series_id, _ in parts}),
        digest=None if kind == InvoiceLine.Kind.FEE else usage_digest(parts),
    )


def _print_order(line: AssessedLine) -> tuple[object, ...]:
    return (line.product.group, line.product.name, line.product.code, line.charge.period.start)


def _unbilled(each: WindowTotal, reason: Reason) -> UnbilledSeries:
    quantity = each.total.quantity
    return UnbilledSeries(each.total.series_id, each.window.period, quantity, each.total.count, reason)


def _not_listed_yet(facts: PeriodFacts, unbilled: Sequence[UnbilledSeries]) -> list[UnbilledSeries]:
    """The rows that, on top of those of earlier runs, make up what nothing takes.

    A series that was listed and is billed now comes off the list with what was listed, taken back.
    """
    if not facts.listed:
        return list(unbilled)
    rows: list[UnbilledSeries] = [each for each in unbilled if each.series_id not in facts.listed]
    for series_id, listed in facts.listed.items():
        still = [each for each in unbilled if each.series_id == series_id]
        quantity, event_count = ZERO, 0
        for each in still:
            quantity, event_count = add(quantity, each.quantity), event_count + each.event_count
        quantity, event_count = subtract(quantity, listed.quantity), event_count - listed.event_count
        if quantity or event_count:
            reason = still[0].reason if event_count >= 0 and still else Reason.BILLED_NOW
            rows.append(UnbilledSeries(series_id, facts.service, quantity, event_count, reason))
    return rows
