"""Amounts, prices and quantities in templates, formatted by pricing.money alone; the currency is always shown."""

from __future__ import annotations

from decimal import Decimal

from django import template

from pricing.money import format_percent, format_quantity, round_to_minor
from pricing.price_texts import amount_text, exact_amount_text, quantity_text

register = template.Library()

# Staff read amounts beside their code, in one notation whatever the customer's locale: "USD 1,204.50".
STAFF_LOCALE = "en_US"


@register.filter
def money(amount: Decimal | None, currency: str) -> str:
    """Write an amount with its currency, at the currency's minor unit: "USD 1,204.50"."""
    return "–" if amount is None else amount_text(amount, currency)


@register.filter
def amount_only(amount: Decimal | None, currency: str) -> str:
    """Write an amount without its currency, for columns whose head names it."""
    return "–" if amount is None else f"{round_to_minor(amount, currency):,f}"


@register.filter
def exact_money(amount: Decimal | None, currency: str) -> str:
    """Write an amount with every digit that it has and its currency: "USD 0.00417"."""
    return "–" if amount is None else exact_amount_text(amount, currency)


@register.filter
def quantity(value: Decimal | str | None) -> str:
    """Write a quantity with separators, shortened to six decimal places."""
    return "–" if value is None else quantity_text(Decimal(value))


@register.filter
def exact_quantity(value: Decimal | str | None) -> str:
    """Write a quantity with separators and every digit that it has."""
    return "–" if value is None else format_quantity(Decimal(value), STAFF_LOCALE)


@register.filter
def percent(rate: Decimal | None) -> str:
    """Write a rate that is in percent: "19%"."""
    return "–" if rate is None else format_percent(rate, STAFF_LOCALE)


@register.filter
def change(rate: Decimal | None) -> str:
    """Write a change in percent with its sign and one decimal: "+12.5%"."""
    return "–" if rate is None else f"{rate:+.1f}%"
