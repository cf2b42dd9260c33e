"""Turns the values of an invoice into the words and figures that its customer reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from babel.core import Locale
from babel.dates import format_date, format_interval

from billing.pdf_data import (
    DocumentGroup,
    DocumentLine,
    DocumentParty,
    DocumentPeriod,
    DocumentTier,
    InvoiceDocumentData,
)
from billing.pdf_texts import InvoiceTexts, texts_for
from pricing.money import format_amount, format_percent, format_quantity, format_unit_price

# Territories whose paper is US Letter (CLDR supplemental data, paperSize); all others use A4.
_LETTER_TERRITORIES = {"BZ", "CA", "CL", "CO", "CR", "GT", "MX", "NI", "PA", "PH", "PR", "SV", "US", "VE"}

# Where the postal code follows city and region on one line; elsewhere it stands before the city.
_POSTAL_CODE_LAST = {"AU", "CA", "GB", "IE", "IN", "NZ", "SG", "US"}

# A figure, or a word of a unit, longer than this doesn't fit its column at the normal size.
_LONG_FIGURE_CHARACTERS = 15
_LONG_UNIT_CHARACTERS = 15

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_BIC = re.compile(r"[A-Z]{6}[A-Z0-9]{2}([A-Z0-9]{3})?")


def invoice_content(data: InvoiceDocumentData, *, logo_url: str) -> dict[str, Any]:
    """Return what the template prints: strings only, in the customer's language and figures.

    Raises: CurrencyUnknown, LocaleUnknown.
    """
    texts = texts_for(data.locale)
    figures = _Figures(currency=data.currency, locale=data.locale)
    total = figures.amount(data.total)  # comes first: it names an unknown locale or currency
    return {
        "t": texts,
        "language": data.locale.replace("_", "-"),
        "logo_url": logo_url,
        "number": data.number,
        "issued_at": f"{data.issued_on.isoformat()}T00:00:00Z",
        "currency": data.currency,
        "synthetic": data.synthetic,
        "seller": data.seller,
        "sender_line": " · ".join([data.seller.name, *_address(data.seller, figures, seen_from=data.buyer.country)]),
        "footer": _footer(data.seller, texts),
        "buyer": data.buyer,
        "buyer_address": _address(data.buyer, figures, seen_from=data.seller.country),
        "facts": _facts(data, texts, figures),
        "total": total,
        "due_on": figures.date(data.due_on),
        "groups": [_group(group, texts, figures) for group in data.groups],
        "net": figures.amount(data.net),
        "taxes": [
            {
                "label": f"{tax.name} {figures.percent(tax.rate)} {texts.tax_base} {figures.amount(tax.base)}",
                "amount": figures.amount(tax.amount),
                "note": tax.note,
            }
            for tax in data.taxes
        ],
        "payment_terms": data.payment_terms,
        "bank": _bank(data, texts),
        "notes": data.notes,
    }


def _facts(data: InvoiceDocumentData, texts: InvoiceTexts, figures: _Figures) -> list[tuple[str, str, str]]:
    """Return label, value and small print of the facts that are known; days mean nothing without their time zone."""
    facts = [
        (texts.invoice_number, data.number, ""),
        (texts.invoice_date, figures.date(data.issued_on), ""),
        (texts.due_date, figures.date(data.due_on), ""),
        (texts.service_period, figures.period(data.period), data.time_zone),
        (texts.customer_number, data.customer_number, ""),
        (texts.purchase_order, data.purchase_order, ""),
        (texts.your_tax_id, data.buyer.tax_id, ""),
    ]
    return [fact for fact in facts if fact[1]]


def _group(group: DocumentGroup, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    return {
        "name": group.name,
        "lines": [_line(line, texts, figures) for line in group.lines],
        "subtotal": figures.amount(group.subtotal) if len(group.lines) != 1 else "",
    }


def _line(line: DocumentLine, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    price = texts.tiered if line.tiers else ""
    if line.unit_price is not None:
        price = figures.unit_price(line.unit_price)
    period = figures.period(line.period)
    return {
        "description": line.description,
        "detail": f"{period} · {line.detail}" if line.detail else period,
        "quantity": _Figure(figures.quantity(line.quantity)),
        "unit": _Unit(line.unit),
        "unit_price": _Figure(price),
        "amount": figures.amount(line.amount),
        "tiers": [_tier(tier, line.unit, texts, figures) for tier in line.tiers],
    }


def _tier(tier: DocumentTier, unit: str, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    above = figures.quantity(tier.above)
    span = f"{texts.above} {above}" if tier.up_to is None else f"{above} – {figures.quantity(tier.up_to)}"
    flat = f" · {texts.flat_fee} {figures.unit_price(tier.flat_amount)}" if tier.flat_amount else ""
    return {
        "span": f"{span} {unit}{flat}",
        "quantity": _Figure(figures.quantity(tier.quantity)),
        "unit_price": _Figure("" if tier.unit_price is None else figures.unit_price(tier.unit_price)),
        "amount": _Figure(figures.unit_price(tier.amount)),
    }


def _address(party: DocumentParty, figures: _Figures, *, seen_from: str) -> list[str]:
    """Return the postal lines; the country is named only where the other party is in another."""
    place = " ".join(part for part in (party.region, party.postal_code) if part)
    if party.country in _POSTAL_CODE_LAST:
        town = ", ".join(part for part in (party.city, place) if part)
    else:
        town = " ".join(part for part in (party.postal_code, party.city) if part)
        town = ", ".join(part for part in (town, party.region) if part)
    country = "" if party.country == seen_from else figures.country(party.country)
    return [line for line in (party.address_line1, party.address_line2, town, country) if line]


def _footer(seller: DocumentParty, texts: InvoiceTexts) -> str:
    tax_id = f"{texts.tax_id} {seller.tax_id}" if seller.tax_id else ""
    return " · ".join(part for part in (seller.name, seller.registration, tax_id, seller.email) if part)


def _bank(data: InvoiceDocumentData, texts: InvoiceTexts) -> list[tuple[str, str]]:
    """Return the labelled lines of the bank block; none when the seller names no account."""
    if data.bank is None or not data.bank.account:
        return []
    account = data.bank.account.replace(" ", "")
    is_iban = _IBAN.fullmatch(account) is not None
    grouped = " ".join(account[start : start + 4] for start in range(0, len(account), 4))
    code_label = texts.bic if _BIC.fullmatch(data.bank.code) else texts.routing_number
    rows = [
        (texts.bank, data.bank.name),
        (texts.iban if is_iban else texts.account, grouped if is_iban else data.bank.account),
        (code_label, data.bank.code),
        (texts.payment_reference, data.number),
    ]
    return [(label, value) for label, value in rows if value]


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure of a table cell, which knows when it is too long for the normal size."""

    text: str

    @property
    def is_long(self) -> bool:
        return len(self.text) > _LONG_FIGURE_CHARACTERS


@dataclass(frozen=True, slots=True)
class _Unit:
    """The unit of a line, which breaks between words alone and knows when one of them is too long for that."""

    text: str

    @property
    def is_long(self) -> bool:
        return any(len(word) > _LONG_UNIT_CHARACTERS for word in self.text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Writes figures, dates and countries as the customer's locale does."""

    currency: str
    locale: str

    def amount(self, value: Decimal) -> str:
        return format_amount(value, self.currency, self.locale)

    def unit_price(self, value: Decimal) -> str:
        return format_unit_price(value, self.currency, self.locale)

    def quantity(self, value: Decimal) -> str:
        return format_quantity(value, self.locale)

    def percent(self, value: Decimal) -> str:
        return format_percent(value, self.locale)

    def date(self, on: date) -> str:
        return str(format_date(on, "medium", locale=_locale(self.locale)))

    def period(self, period: DocumentPeriod) -> str:
        return _format_period(period, self.locale)

    def country(self, code: str) -> str:
        return str(_locale(self.locale).territories.get(code, code))


@lru_cache(maxsize=256)
def _format_period(period: DocumentPeriod, locale: str) -> str:
    """Return the days as one text; lines of an invoice mostly share one period and CLDR's intervals are slow."""
    return str(format_interval(period.first_on, period.last_on, "yMMMd", locale=_locale(locale)))


def uses_letter(locale: str) -> bool:
    """Tell whether a customer of this locale prints on US Letter paper."""
    return _locale(locale).territory in _LETTER_TERRITORIES


@cache
def _locale(name: str) -> Locale:
    return Locale.parse(name.replace("-", "_"))
