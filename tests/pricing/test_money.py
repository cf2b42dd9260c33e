"""The arithmetic of money."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.money import (
    MINOR_UNIT_EXPONENTS,
    AmountTooFine,
    CurrencyUnknown,
    DecimalInvalid,
    LocaleUnknown,
    RoundingMode,
    WeightsInvalid,
    add,
    format_amount,
    format_percent,
    format_quantity,
    format_unit_price,
    is_exact_to_minor,
    minor_unit_exponent,
    multiply,
    parse_decimal,
    plain,
    plain_amount,
    quotient,
    round_to_minor,
    rounded_quotient,
    split,
    tax_amount,
    total,
)

CENTS = st.integers(min_value=-(10**12), max_value=10**12).map(lambda cents: Decimal(cents).scaleb(-2))
DECIMALS = st.decimals(min_value=0, max_value=10**12, allow_nan=False, allow_infinity=False, places=9)
WEIGHTS = st.lists(DECIMALS, min_size=1, max_size=20).filter(any)


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        pytest.param("0.125", "EUR", "0.13", id="a half goes up"),
        pytest.param("-0.125", "EUR", "-0.13", id="a negative half goes away from zero"),
        pytest.param("0.135", "EUR", "0.14", id="not to even"),
        pytest.param("0.12499999999999999999999999999999999999", "EUR", "0.12", id="just below a half goes down"),
        pytest.param("0.5", "JPY", "1", id="no minor unit"),
        pytest.param("1234.5", "KRW", "1235", id="won"),
        pytest.param("1.2345", "KWD", "1.235", id="thousandths"),
        pytest.param("1.23455", "CLF", "1.2346", id="ten thousandths"),
        pytest.param("-0.001", "USD", "0.00", id="no minus zero"),
        pytest.param("7", "USD", "7.00", id="the places are always there"),
        pytest.param("99999999999999999999999999999999999999.995", "USD", "100000000000000000000000000000000000000.00",
                     id="more digits than the usual context has"),
    ],
)  # fmt: skip
def test_amounts_are_rounded_half_up_to_the_minor_unit(amount: str, currency: str, expected: str) -> None:
    rounded = round_to_minor(Decimal(amount), currency)

    assert str(rounded) == expected


@pytest.mark.parametrize(
    ("currency", "exponent"),
    [("EUR", 2), ("JPY", 0), ("KRW", 0), ("ISK", 0), ("KWD", 3), ("BHD", 3), ("TND", 3), ("UYW", 4), ("IRR", 2)],
)
def test_minor_units_follow_iso_4217(currency: str, exponent: int) -> None:
    assert minor_unit_exponent(currency) == exponent


@pytest.mark.parametrize("code", ["", "eur", "XXX", "EURO", "ZZZ", "EUR ", "DEM"])
def test_an_unknown_currency_is_refused(code: str) -> None:
    with pytest.raises(CurrencyUnknown):
        round_to_minor(Decimal(1), code)


def test_every_currency_code_is_listed_once() -> None:
    assert len(MINOR_UNIT_EXPONENTS) == 166
    assert all(len(code) == 3 and code.isupper() for code in MINOR_UNIT_EXPONENTS)


def test_an_amount_knows_whether_it_can_be_paid() -> None:
    assert is_exact_to_minor(Decimal("1.10"), "EUR")
    assert is_exact_to_minor(Decimal("1.1000"), "EUR")
    assert not is_exact_to_minor(Decimal("1.101"), "EUR")


@pytest.mark.parametrize(
    ("amount", "weights", "expected"),
    [
        pytest.param("100.00", ["1", "1", "1"], ["33.34", "33.33", "33.33"], id="the first of equals takes the rest"),
        pytest.param("-100.00", ["1", "1", "1"], ["-33.34", "-33.33", "-33.33"], id="a credit mirrors the charge"),
        pytest.param("0.01", ["1", "2"], ["0.00", "0.01"], id="the largest remainder wins"),
        pytest.param("10.00", ["0", "1"], ["0.00", "10.00"], id="nothing for a weight of nothing"),
        pytest.param("0.00", ["1", "2"], ["0.00", "0.00"], id="nothing to split"),
        pytest.param("0.05", ["0.5", "0.25", "0.25"], ["0.03", "0.01", "0.01"], id="weights may be fractions"),
    ],
)
def test_a_split_follows_the_largest_remainder(amount: str, weights: list[str], expected: list[str]) -> None:
    parts = split(Decimal(amount), [Decimal(weight) for weight in weights], "EUR")

    assert [str(part) for part in parts] == expected


@given(amount=CENTS, weights=WEIGHTS)
def test_the_parts_of_a_split_add_up_to_the_whole(amount: Decimal, weights: list[Decimal]) -> None:
    parts = split(amount, weights, "EUR")

    assert total(parts) == amount
    assert all(is_exact_to_minor(part, "EUR") for part in parts)
    assert all(part * amount >= 0 for part in parts)


@pytest.mark.parametrize("weights", [[], ["0", "0"], ["1", "-1"]], ids=["none", "all zero", "negative"])
def test_weights_that_can_not_split_are_refused(weights: list[str]) -> None:
    with pytest.raises(WeightsInvalid):
        split(Decimal("1.00"), [Decimal(weight) for weight in weights], "EUR")


def test_an_amount_finer_than_the_currency_is_not_split() -> None:
    with pytest.raises(AmountTooFine):
        split(Decimal("1.001"), [Decimal(1)], "EUR")


@pytest.mark.parametrize(
    ("net", "rate", "currency", "expected"),
    [
        pytest.param("100.00", "19", "EUR", "19.00", id="nineteen percent"),
        pytest.param("0.50", "19", "EUR", "0.10", id="a half cent goes up"),
        pytest.param("-0.50", "19", "EUR", "-0.10", id="a credit mirrors it"),
        pytest.param("33.33", "8.875", "USD", "2.96", id="a rate with fractions"),
        pytest.param("1005", "10", "JPY", "101", id="yen"),
        pytest.param("100.00", "0", "EUR", "0.00", id="reverse charge"),
    ],
)
def test_tax_is_rounded_once(net: str, rate: str, currency: str, expected: str) -> None:
    assert str(tax_amount(Decimal(net), Decimal(rate), currency)) == expected


@pytest.mark.parametrize(
    "text",
    ["0", "12", "-0.50", "0.000001", "0" * 30 + "1", "9" * 38, "0." + "1" * 38, "1" * 20 + "." + "1" * 18],
)
def test_plain_decimals_are_read_exactly(text: str) -> None:
    assert parse_decimal(text) == Decimal(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "+1", " 1", "1 ", "1\n", "1e3", "1E-7", "1_000", "1,5", ".5", "5.", "--1", "-", "NaN", "Infinity", "-inf",
     "0x10", "\u0661\u0662", "\uff19", "9" * 39, "0." + "1" * 39, "1" * 20 + "." + "1" * 19, "1" * 100_000],
)  # fmt: skip
def test_anything_but_plain_notation_of_38_digits_is_refused(text: str) -> None:
    with pytest.raises(DecimalInvalid):
        parse_decimal(text)


@pytest.mark.parametrize("value", [None, 1, 1.5, True, Decimal(1), [], {}])
def test_a_decimal_comes_as_text_only(value: object) -> None:
    with pytest.raises(DecimalInvalid, match="as text"):
        parse_decimal(value)


def test_minus_zero_is_zero() -> None:
    assert str(parse_decimal("-0.00")) == "0.00"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1E+3", "1000"), ("1.500", "1.5"), ("1E-20", "0.00000000000000000001"), ("-0.00", "0"), ("-2.50", "-2.5"),
     ("100", "100"), ("0E-30", "0"), ("0E+5", "0")],
)  # fmt: skip
def test_plain_notation_is_canonical(value: str, expected: str) -> None:
    assert plain(Decimal(value)) == expected


def test_a_plain_amount_has_the_places_of_its_currency() -> None:
    assert plain_amount(Decimal("12.5"), "EUR") == "12.50"
    assert plain_amount(Decimal("12.5"), "JPY") == "13"


@pytest.mark.parametrize(
    ("dividend", "divisor", "expected"),
    [("1", "4", "0.25"), ("1", "3", "0." + "3" * 38), ("-1", "3", "-0." + "3" * 38), ("2", "3", "0." + "6" * 38),
     ("18", "3600", "0.005")],
)  # fmt: skip
def test_a_quotient_without_end_is_cut_after_38_places(dividend: str, divisor: str, expected: str) -> None:
    assert quotient(Decimal(dividend), Decimal(divisor)) == Decimal(expected)


@pytest.mark.parametrize(
    ("mode", "places", "expected"),
    [(RoundingMode.UP, 0, "1"), (RoundingMode.DOWN, 0, "0"), (RoundingMode.HALF_UP, 0, "1"),
     (RoundingMode.UP, 2, "0.67"), (RoundingMode.DOWN, 2, "0.66"), (RoundingMode.HALF_UP, 2, "0.67")],
)  # fmt: skip
def test_a_rounded_quotient_sees_the_true_quotient(mode: RoundingMode, places: int, expected: str) -> None:
    assert rounded_quotient(Decimal(2), Decimal(3), places=places, mode=mode) == Decimal(expected)


def test_arithmetic_does_not_depend_on_the_context_of_the_thread() -> None:
    long = Decimal("1" * 38)
    with decimal.localcontext() as context:
        context.prec = 3

        product = multiply(long, long)
        sum_of_both = add(product, Decimal("1E-38"))

    assert int(product) == int("1" * 38) ** 2
    assert str(sum_of_both).endswith("0" * 37 + "1")


def test_a_total_of_many_amounts_is_exact() -> None:
    assert total([Decimal("1E+37"), Decimal("1E-38"), Decimal("-1E+37")]) == Decimal("1E-38")
    assert total([]) == 0


@pytest.mark.parametrize(
    ("amount", "currency", "locale", "expected"),
    [
        pytest.param("1234567.5", "EUR", "de-DE", "1.234.567,50\xa0€", id="german"),
        pytest.param("1234567.5", "USD", "en-US", "$1,234,567.50", id="american"),
        pytest.param("-1234.5", "USD", "en_US", "-$1,234.50", id="negative"),
        pytest.param("1234567.5", "INR", "en-IN", "₹12,34,567.50", id="indian groups"),
        pytest.param("1234.5", "JPY", "ja-JP", "￥1,235", id="no minor unit"),
        pytest.param("5", "KWD", "en-US", "KWD\xa05.000", id="three places"),
        pytest.param("5", "IQD", "en-US", "IQD\xa05.000", id="places of ISO, not of CLDR"),
        pytest.param("0.125", "EUR", "en-IE", "€0.13", id="half up"),
    ],
)
def test_amounts_are_written_for_the_locale(amount: str, currency: str, locale: str, expected: str) -> None:
    assert format_amount(Decimal(amount), currency, locale) == expected


def test_a_unit_price_shows_every_digit_it_has() -> None:
    assert format_unit_price(Decimal("0.0000004"), "USD", "en-US") == "$0.0000004"
    assert format_unit_price(Decimal("0.100000"), "USD", "en-US") == "$0.10"
    assert format_unit_price(Decimal("0.100000"), "EUR", "de-DE") == "0,10\xa0€"


def test_a_quantity_has_no_needless_zeros() -> None:
    assert format_quantity(Decimal("1500.2500"), "de-DE") == "1.500,25"
    assert format_quantity(Decimal("1E+3"), "en-US") == "1,000"
    assert format_quantity(Decimal("0.123456"), "en-US", max_places=2) == "0.12"
    assert format_quantity(Decimal("1" * 30 + ".5"), "en-US").replace(",", "") == "1" * 30 + ".5"


def test_a_percentage_is_written_as_given() -> None:
    assert format_percent(Decimal(19), "de-DE") == "19\xa0%"
    assert format_percent(Decimal("8.8750"), "en-US") == "8.875%"


@pytest.mark.parametrize("locale", ["", "xx-YY", "../en", "english"])
def test_an_unknown_locale_is_refused(locale: str) -> None:
    with pytest.raises(LocaleUnknown):
        format_amount(Decimal(1), "EUR", locale)
