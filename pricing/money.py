"""The arithmetic of money: exact, in `Decimal`, and rounded only where a function here says so.

Every other module adds, multiplies, divides, rounds and prints amounts through these functions. They do not look at
the thread's decimal context (28 digits, which would round in silence): they compute in `EXACT`, which raises instead
of rounding.

The one rounding rule is half up, away from zero: 0.125 becomes 0.13 and -0.125 becomes -0.13, so that a credit
always mirrors the charge it takes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import (
    ROUND_HALF_UP,
    Clamped,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    Subnormal,
    Underflow,
    localcontext,
)
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from babel.core import Locale, UnknownLocaleError
from babel.numbers import NumberPattern

from accounts.errors import CountinghouseError

ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)

# Two operands of 38 digits, a divisor of 38 and the sum of more events than a database holds stay below 200 digits.
_PRECISION: Final = 300
EXACT: Final = Context(
    prec=_PRECISION,
    rounding=ROUND_HALF_UP,
    traps=[Clamped, DivisionByZero, Inexact, InvalidOperation, Overflow, Subnormal, Underflow],
)
_WIDE: Final = Context(prec=_PRECISION, rounding=ROUND_HALF_UP, traps=[DivisionByZero, InvalidOperation, Overflow])

# Methods of one context: as fast as the operators, and the same whatever context the calling thread has.
add: Final = EXACT.add
subtract: Final = EXACT.subtract
multiply: Final = EXACT.multiply

MAX_DIGITS: Final = 38
# Where a quotient has no end, it is cut after this many places.
QUOTIENT_PLACES: Final = 38

_NO_MINOR_UNIT: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_HUNDREDTHS: Final = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
    CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS
    INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN
    NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC
    SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_THOUSANDTHS: Final = "BHD IQD JOD KWD LYD OMR TND"
_TEN_THOUSANDTHS: Final = "CLF UYW"

MINOR_UNIT_EXPONENTS: Final = MappingProxyType(
    {
        code: exponent
        for exponent, codes in ((0, _NO_MINOR_UNIT), (2, _HUNDREDTHS), (3, _THOUSANDTHS), (4, _TEN_THOUSANDTHS))
        for code in codes.split()
    }
)
"""Decimal places of every currency in use by ISO 4217 (list one); CLDR, hence babel, disagrees on some of them."""

_QUANTA: Final = {code: Decimal(1).scaleb(-exponent) for code, exponent in MINOR_UNIT_EXPONENTS.items()}

# ASCII digits only: `Decimal` itself would also take "1_000", " 1 ", Arabic digits and "Infinity".
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
# CLDR puts a space between a symbol of letters and the number ("KWD 5.000"); babel leaves it out.
_CODE_BESIDE_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")


class RoundingMode(StrEnum):
    """How a quantity is rounded to a number of places."""

    UP = "up"
    DOWN = "down"
    HALF_UP = "half_up"


class CurrencyUnknown(CountinghouseError):
    """The currency code is not one of ISO 4217's."""

    code = "currency_unknown"


class DecimalInvalid(CountinghouseError):
    """The text is not a plain decimal number of at most 38 digits."""

    code = "decimal_invalid"


class AmountTooFine(CountinghouseError):
    """The amount has more decimal places than its currency has minor units."""

    code = "amount_too_fine"


class WeightsInvalid(CountinghouseError):
    """An amount can only be split by weights of which none is negative and one is above zero."""

    code = "weights_invalid"


class LocaleUnknown(CountinghouseError):
    """The locale is not one that numbers can be written in."""

    code = "locale_unknown"


def minor_unit_exponent(currency: str) -> int:
    """Decimal places of the currency's minor unit: 2 for EUR, 0 for JPY, 3 for KWD.

    Raises: CurrencyUnknown.
    """
    try:
        return MINOR_UNIT_EXPONENTS[currency]
    except (KeyError, TypeError):
        message = f"{str(currency)[:40]!r} is not a currency code of ISO 4217."
        raise CurrencyUnknown(message) from None


def round_to_minor(amount: Decimal, currency: str) -> Decimal:
    """Round to the currency's minor unit, half up away from zero; the result has exactly its number of places.

    Raises: CurrencyUnknown.
    """
    quantum = _QUANTA.get(currency)
    if quantum is None:
        quantum = Decimal(1).scaleb(-minor_unit_exponent(currency))
    rounded = amount.quantize(quantum, ROUND_HALF_UP, _WIDE)
    return rounded or rounded.copy_abs()  # there is no minus zero in a ledger


def is_exact_to_minor(amount: Decimal, currency: str) -> bool:
    """Tell whether the amount can be paid: whether rounding to the minor unit would leave it as it is.

    Raises: CurrencyUnknown.
    """
    return amount == round_to_minor(amount, currency)


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts up exactly; no amounts make zero."""
    result = ZERO
    for amount in amounts:
        result = add(result, amount)
    return result


def quotient(dividend: Decimal, divisor: Decimal) -> Decimal:
    """Divide; a quotient that has no end is cut (towards zero) after 38 places.

    Cutting cannot turn an amount below a half of a minor unit into one at or above it, as rounding could; and where
    two quotients differ by an amount with at most 38 places, their cut values differ by exactly that amount. So
    neither the later rounding to a minor unit nor differences of running totals suffer.
    """
    whole = EXACT.divide_int(EXACT.scaleb(dividend, QUOTIENT_PLACES), divisor)
    return EXACT.scaleb(whole, -QUOTIENT_PLACES)


def rounded_quotient(dividend: Decimal, divisor: Decimal, *, places: int, mode: RoundingMode) -> Decimal:
    """Divide two numbers that are not negative and round once; the rounding sees the true quotient, however long."""
    scaled = EXACT.scaleb(dividend, places)
    whole = EXACT.divide_int(scaled, divisor)
    rest = subtract(scaled, multiply(whole, divisor))
    if rest and (mode is RoundingMode.UP or (mode is RoundingMode.HALF_UP and add(rest, rest) >= divisor)):
        whole = add(whole, ONE)
    return EXACT.scaleb(whole, -places)


def split(amount: Decimal, weights: Sequence[Decimal], currency: str) -> list[Decimal]:
    """Split an amount by weights into parts that add up to it, by the method of the largest remainder.

    Each part is the exact share rounded towards zero to the minor unit; the units left over go one each to the parts
    that lost most, the earlier part first where two lost the same.

    Raises: AmountTooFine, CurrencyUnknown, WeightsInvalid.
    """
    if not is_exact_to_minor(amount, currency):
        message = f"{plain(amount)} {currency} can not be split: it has more places than the currency."
        raise AmountTooFine(message)
    if any(weight < 0 for weight in weights) or not any(weights):
        raise WeightsInvalid
    exponent = minor_unit_exponent(currency)
    units = int(EXACT.scaleb(amount.copy_abs(), exponent))
    whole = sum(map(Fraction, weights), Fraction(0))
    shares = [units * Fraction(weight) / whole for weight in weights]
    parts = [int(share) for share in shares]
    by_loss = sorted(range(len(parts)), key=lambda index: (parts[index] - shares[index], index))
    for index in by_loss[: units - sum(parts)]:
        parts[index] += 1
    sign = -1 if amount < 0 else 1
    return [EXACT.scaleb(Decimal(sign * part), -exponent) for part in parts]


def tax_amount(net: Decimal, rate_percent: Decimal, currency: str) -> Decimal:
    """Tax on a net amount at a rate in percent ("19" is 19 %), rounded once to the minor unit.

    Raises: CurrencyUnknown.
    """
    return round_to_minor(EXACT.scaleb(multiply(net, rate_percent), -2), currency)


def parse_decimal(text: object, max_digits: int = MAX_DIGITS) -> Decimal:
    """Read a decimal number from text such as "12", "-0.50" or "0.000001".

    Plain notation only: no exponent, no plus sign, no blanks, no separators, no NaN or infinity; and text only, for a
    float has lost digits already. At most `max_digits` digits count before and after the point together, without
    leading zeros of the whole part.

    Raises: DecimalInvalid.
    """
    if not isinstance(text, str):
        message = f"must be a decimal number as text, not {_kind_of(text)}"
        raise DecimalInvalid(message)
    # The length comes first, so that an endless line of digits costs nothing; zeros in front are few in earnest.
    if len(text) > max_digits * 2 + 2 or _DECIMAL.fullmatch(text) is None:
        message = f"{text[:50]!r} is not a plain decimal number such as 12 or -0.50"
        raise DecimalInvalid(message)
    whole, _, fraction = text.lstrip("-").partition(".")
    if len(whole.lstrip("0")) + len(fraction) > max_digits:
        message = f"{text[:50]!r} has more than {max_digits} digits"
        raise DecimalInvalid(message)
    value = Decimal(text)
    return value or value.copy_abs()


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float | Decimal):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"


def plain(value: Decimal) -> str:
    """Write a number in its one canonical form: plain notation, no zeros at the end, never "-0" or an exponent."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain_amount(amount: Decimal, currency: str) -> str:
    """Write an amount with exactly the currency's places: "12.50" EUR, "13" JPY; half up if it is finer.

    Raises: CurrencyUnknown.
    """
    return f"{round_to_minor(amount, currency):f}"


def format_amount(amount: Decimal, currency: str, locale: str) -> str:
    """Write an amount for people, with the currency's symbol and ISO places: "1.234,50 €" for de-DE.

    An amount finer than the minor unit is shown rounded half up; use `format_unit_price` where each digit counts.

    Raises: CurrencyUnknown, LocaleUnknown.
    """
    places = minor_unit_exponent(currency)
    rounded = round_to_minor(amount, currency)
    return _write(rounded, _pattern(locale, "currency", places, places), locale, currency)


def format_unit_price(price: Decimal, currency: str, locale: str) -> str:
    """Write a unit price for people: at least the currency's places, and every further digit it has.

    Raises: CurrencyUnknown, LocaleUnknown.
    """
    least = minor_unit_exponent(currency)
    return _write(price, _pattern(locale, "currency", least, max(least, _places(price))), locale, currency)


def format_quantity(quantity: Decimal, locale: str, *, max_places: int | None = None) -> str:
    """Write a quantity for people, without zeros at the end; `max_places` shortens it half up.

    Raises: LocaleUnknown.
    """
    places = _places(quantity)
    most = places if max_places is None else min(places, max_places)
    return _write(quantity, _pattern(locale, "decimal", 0, most), locale)


def format_percent(rate_percent: Decimal, locale: str) -> str:
    """Write a rate that is already in percent ("19" becomes "19 %"), with every digit it has.

    Raises: LocaleUnknown.
    """
    fraction = EXACT.scaleb(rate_percent, -2)
    return _write(fraction, _pattern(locale, "percent", 0, _places(rate_percent)), locale)


def _places(value: Decimal) -> int:
    return len(plain(value).partition(".")[2])


def _write(value: Decimal, pattern: NumberPattern, locale: str, currency: str | None = None) -> str:
    # babel rounds by the thread's context, of 28 digits and half to even.
    with localcontext(_WIDE):
        text = pattern.apply(value, _locale(locale), currency=currency, currency_digits=False)
    return text if currency is None else _CODE_BESIDE_DIGIT.sub("\N{NO-BREAK SPACE}", text)


@lru_cache(maxsize=256)
def _locale(identifier: str) -> Locale:
    try:
        return Locale.parse(identifier.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError, AttributeError):
        message = f"{identifier[:40]!r} is not a locale such as en-GB or de-DE."
        raise LocaleUnknown(message) from None


@lru_cache(maxsize=1024)
def _pattern(locale: str, kind: str, least_places: int, most_places: int) -> NumberPattern:
    known = _locale(locale)
    if kind == "currency":
        source = known.currency_formats["standard"]
    else:
        source = (known.percent_formats if kind == "percent" else known.decimal_formats)[None]
    return NumberPattern(
        source.pattern,
        source.prefix,
        source.suffix,
        source.grouping,
        source.int_prec,
        (least_places, most_places),
        source.exp_prec,
        source.exp_plus,
        source.number_pattern,
    )
