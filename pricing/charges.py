"""What one contract owes for one service period, before tax and credits.

Pure, so that bill runs, previews and simulations can not disagree. Three rules decide everything here:

- Tiers and allowances count from the start of the service period. Where a new price version takes over in the middle,
  its slice of usage is rated by its own price, on top of the quantity of the slices before.
- A later run for the same period bills what all usage so far costs less what was billed, rounding included: after
  any number of runs the customer has paid the whole, rounded once.
- A fee is due once a service period, at the price in force at its start. Where the contract covers only a part of the
  billing period, the fee is charged for its share of the local days.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby, pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

from accounts.errors import CountinghouseError
from accounts.periods import Period, clip, days_in
from pricing.money import ONE, ZERO, add, multiply, quotient, round_to_minor, subtract
from pricing.rating import Charge, Price, Step, StepKind, Usage, rate


class PricesOverlap(CountinghouseError):
    """Two prices of one product are in force at the same instant."""

    code = "prices_overlap"


class UsageUnpriced(CountinghouseError):
    """There is usage, or something billed, for a price that is not in force in the service period."""

    code = "usage_unpriced"


class ContractTerms(NamedTuple):
    """What of a contract decides its charges.

    It runs from `starts_on` up to, and not including, `ends_on` (None: on and on), local dates in `time_zone`, the
    IANA zone of the legal entity. `anchor_day` (1 to 31) is the day of the month on which billing periods begin.
    """

    currency: str
    starts_on: date
    ends_on: date | None
    anchor_day: int
    time_zone: str


class PriceInForce(NamedTuple):
    """A product's price of one price book version, in force from `valid_from` until before `valid_until`.

    `price_key` is the primary key of the price; no two rows share one.
    """

    product_key: str
    price_key: int
    price: Price
    valid_from: datetime
    valid_until: datetime | None = None


class MeteredUsage(NamedTuple):
    """All usage so far of one product in the slice of the service period in which one price is in force."""

    quantity: Decimal
    event_count: int


class Billed(NamedTuple):
    """The sum of what earlier lines billed for one price and service period; `amount` as rounded on the lines."""

    quantity: Decimal
    amount: Decimal
    event_count: int


class Slice(NamedTuple):
    """The part of a service period in which one price of a product is in force."""

    product_key: str
    price_key: int
    price: Price
    period: Period


class ChargeLine(NamedTuple):
    """One line of what a contract owes.

    `amount` is `exact` rounded once, half up, to the minor unit of `currency`; the amounts of `steps` add up to
    `exact`. `quantity` is in the meter's unit, and 1 for a fee; on a later run, what came on top.
    """

    product_key: str
    price_key: int
    period: Period
    quantity: Decimal
    exact: Decimal
    amount: Decimal
    currency: str
    steps: tuple[Step, ...]
    event_count: int


NO_USAGE: Final = MeteredUsage(ZERO, 0)
_NOTHING_BILLED: Final[Mapping[int, Billed]] = MappingProxyType({})


def service_period(terms: ContractTerms, period: Period) -> Period | None:
    """The part of a billing period that the contract covers, or None.

    Raises: TimeZoneUnknown.
    """
    return clip(period, terms.starts_on, terms.ends_on, terms.time_zone)


def slices(prices: Iterable[PriceInForce], service: Period) -> list[Slice]:
    """Where in a service period each price applies: by product, in order of time. Usage is to be added up per slice.

    Raises: PricesOverlap.
    """
    found = [
        Slice(price.product_key, price.price_key, price.price, part)
        for price in prices
        if (part := service.overlap(price.valid_from, price.valid_until)) is not None
    ]
    found.sort(key=lambda each: (each.product_key, each.period.start))
    for earlier, later in pairwise(found):
        if earlier.product_key == later.product_key and later.period.start < earlier.period.end:
            message = f"Two prices of {later.product_key} are in force at {later.period.start.isoformat()}."
            raise PricesOverlap(message)
    return found


class _Account(NamedTuple):
    """What all products of one contract are charged with, for one billing period."""

    terms: ContractTerms
    usage: Mapping[int, MeteredUsage]
    billed: Mapping[int, Billed]
    whole: Period
    service: Period


def charges(
    *,
    terms: ContractTerms,
    prices: Sequence[PriceInForce],
    usage: Mapping[int, MeteredUsage],
    period: Period,
    billed: Mapping[int, Billed] = _NOTHING_BILLED,
) -> list[ChargeLine]:
    """Work out the lines of one contract for one billing period, sorted by product and time.

    `period` is the whole billing period (`periods.billing_period` of the anchor), which this clips to the contract.
    `usage` and `billed` go by price key. Usage that costs nothing still makes a line; no usage makes none.

    Raises: PricesOverlap, QuantityNegative, UsageUnpriced, CurrencyUnknown, TimeZoneUnknown.
    """
    service = service_period(terms, period)
    found = [] if service is None else slices(prices, service)
    _require_prices(found, usage, billed)
    if service is None:
        return []
    account = _Account(terms, usage, billed, period, service)
    lines: list[ChargeLine] = []
    for _, of_product in groupby(found, attrgetter("product_key")):
        lines.extend(_product_lines(account, of_product))
    return lines


def _require_prices(found: Iterable[Slice], usage: Mapping[int, MeteredUsage], billed: Mapping[int, Billed]) -> None:
    """Nothing may be left out in silence because its price was not handed over."""
    known = {each.price_key for each in found}
    if not (known >= usage.keys() and known >= billed.keys()):
        strangers = sorted((usage.keys() | billed.keys()) - known)
        message = f"Prices {', '.join(map(str, strangers[:10]))} are not in force in the service period."
        raise UsageUnpriced(message)


def _product_lines(account: _Account, of_product: Iterable[Slice]) -> Iterator[ChargeLine]:
    quantity_before = ZERO
    for each in of_product:
        so_far = account.usage.get(each.price_key, NO_USAGE)
        if each.price.is_fee:
            line = _fee_line(account, each, so_far)
        else:
            line = _metered_line(account, each, so_far, quantity_before)
        if line is not None:
            yield line
        quantity_before = add(quantity_before, so_far.quantity)


def _metered_line(account: _Account, each: Slice, so_far: MeteredUsage, quantity_before: Decimal) -> ChargeLine | None:
    before = account.billed.get(each.price_key)
    if before is None and so_far == NO_USAGE:
        return None
    charge = rate(each.price, Usage(so_far.quantity, quantity_before), account.terms.currency)
    return _line_on_top(each, charge, so_far, before)


def _fee_line(account: _Account, each: Slice, so_far: MeteredUsage) -> ChargeLine | None:
    """The fee of the whole service period, by the price in force at its start; later prices have no say in it."""
    terms, whole, service = account.terms, account.whole, account.service
    before = account.billed.get(each.price_key)
    if each.period.start != service.start:
        if before is None and not so_far.event_count:
            return None
        nothing = Charge(round_to_minor(ZERO, terms.currency), ZERO, (), terms.currency)
        return _line_on_top(each, nothing, MeteredUsage(ZERO, so_far.event_count), before)
    charge = rate(each.price, Usage(ONE), terms.currency)
    if service != whole:
        charge = _prorated(charge, days_in(service, terms.time_zone), days_in(whole, terms.time_zone))
    return _line_on_top(each._replace(period=service), charge, MeteredUsage(ONE, so_far.event_count), before)


def _prorated(charge: Charge, days: int, of_days: int) -> Charge:
    exact = quotient(multiply(charge.exact, Decimal(days)), Decimal(of_days))
    step = Step(StepKind.PRORATION, subtract(exact, charge.exact), {"days": days, "of_days": of_days})
    return Charge(round_to_minor(exact, charge.currency), exact, (*charge.steps, step), charge.currency)


def _line_on_top(each: Slice, charge: Charge, so_far: MeteredUsage, before: Billed | None) -> ChargeLine | None:
    """The line for what is not billed yet, or None where that is nothing."""
    quantity, event_count = so_far
    exact, amount, steps = charge.exact, charge.amount, charge.steps
    if before is not None:
        quantity, event_count = subtract(quantity, before.quantity), event_count - before.event_count
        exact = subtract(exact, before.amount)
        amount = round_to_minor(exact, charge.currency)
        facts = {"quantity": before.quantity, "billed_amount": before.amount}
        steps = (*steps, Step(StepKind.BILLED_BEFORE, subtract(ZERO, before.amount), facts))
        if not quantity and not event_count and not amount:
            return None
    return ChargeLine(
        each.product_key, each.price_key, each.period, quantity, exact, amount, charge.currency, steps, event_count
    )
