"""Writes prices and amounts as staff read them: "USD 0.10 per GB up to 100, then USD 0.08" and "USD 1,204.50"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from pricing.money import format_quantity, plain, round_to_minor

_LOCALE = "en_US"
_SHORT_PLACES = 6
_ROUNDED = {"up": "rounded up", "down": "rounded down", "half_up": "rounded"}


def amount_text(amount: Decimal, currency: str) -> str:
    """Write an amount with its currency at its minor unit, in one notation whatever the customer's locale is."""
    return f"{currency} {round_to_minor(amount, currency):,f}"


def exact_amount_text(amount: Decimal, currency: str) -> str:
    """Write an amount with its currency and every digit that it has."""
    rounded = round_to_minor(amount, currency)
    return f"{currency} {rounded if rounded == amount else Decimal(plain(amount)):,f}"


def quantity_text(quantity: Decimal) -> str:
    """Write a quantity with separators, shortened to six decimal places."""
    return format_quantity(quantity, _LOCALE, max_places=_SHORT_PLACES)


def price_text(spec: Mapping[str, Any], *, currency: str, unit: str) -> str:
    """Return the price in words; a model that this page does not know is named, never guessed at.

    `spec` is a price as JSON (see pricing.rating); amounts are in `currency`, quantities in `unit`.
    """
    writer = _MODELS.get(spec["model"])
    if writer is None:
        return str(spec["model"]).replace("_", " ").capitalize()
    said = writer(spec, currency, _per_unit(spec, unit))
    return "; ".join([said, *_options(spec, currency, unit)])


def _per_unit(spec: Mapping[str, Any], unit: str) -> str:
    divisor = Decimal(spec.get("divide_by", "1"))
    return unit if divisor == 1 else f"{_quantity(divisor)} {unit}"


def _per_unit_text(spec: Mapping[str, Any], currency: str, unit: str) -> str:
    return _price(spec["unit_price"], currency, unit)


def _flat_text(spec: Mapping[str, Any], currency: str, _unit: str) -> str:
    return f"{_money(spec['amount'], currency)} per billing period"


def _graduated_text(spec: Mapping[str, Any], currency: str, unit: str) -> str:
    tiers: Sequence[Mapping[str, Any]] = spec["tiers"]
    said = []
    for position, tier in enumerate(tiers):
        price = _price(tier["unit_price"], currency, unit)
        until = "" if tier["up_to"] is None else f" up to {_quantity(Decimal(tier['up_to']))}"
        fee = Decimal(tier.get("flat_amount") or 0)
        once = f" plus {_money(tier['flat_amount'], currency)} once" if fee else ""
        said.append(f"{'then ' if position else ''}{price}{until}{once}")
    return ", ".join(said)


_MODELS: Mapping[str, Callable[[Mapping[str, Any], str, str], str]] = {
    "per_unit": _per_unit_text,
    "flat": _flat_text,
    "graduated": _graduated_text,
}


def _options(spec: Mapping[str, Any], currency: str, unit: str) -> list[str]:
    said = []
    if Decimal(spec.get("included_quantity", "0")):
        said.append(f"the first {_quantity(Decimal(spec['included_quantity']))} {unit} included")
    if "round_quantity" in spec:
        rule = spec["round_quantity"]
        places = int(rule.get("places", 0))
        said.append(f"quantity {_ROUNDED[rule['mode']]} to {places or 'no'} places")
    if spec.get("minimum_amount") is not None:
        said.append(f"at least {_money(spec['minimum_amount'], currency)}")
    if spec.get("maximum_amount") is not None:
        said.append(f"at most {_money(spec['maximum_amount'], currency)}")
    return said


def _price(amount: str, currency: str, unit: str) -> str:
    value = Decimal(amount)
    return f"{exact_amount_text(value, currency)} per {unit}" if value else "free"


def _money(amount: str, currency: str) -> str:
    return exact_amount_text(Decimal(amount), currency)


def _quantity(value: Decimal) -> str:
    return format_quantity(value, _LOCALE)
