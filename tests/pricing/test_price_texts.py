"""Prices and amounts in words."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from pricing.price_texts import amount_text, exact_amount_text, price_text, quantity_text

TIERS: list[dict[str, Any]] = [{"up_to": "100", "unit_price": "0.10"}, {"up_to": None, "unit_price": "0.08"}]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param({"model": "per_unit", "unit_price": "0.0042"}, "USD 0.0042 per GB", id="every digit"),
        pytest.param({"model": "per_unit", "unit_price": "0"}, "free", id="free"),
        pytest.param(
            {"model": "per_unit", "unit_price": "0.1", "divide_by": "1000"}, "USD 0.10 per 1,000 GB", id="converted"
        ),
        pytest.param({"model": "flat", "amount": "99"}, "USD 99.00 per billing period", id="fee"),
        pytest.param(
            {"model": "graduated", "tiers": TIERS}, "USD 0.10 per GB up to 100, then USD 0.08 per GB", id="graduated"
        ),
        pytest.param(
            {"model": "graduated", "tiers": [{**TIERS[0], "flat_amount": "5"}, TIERS[1]]},
            "USD 0.10 per GB up to 100 plus USD 5.00 once, then USD 0.08 per GB",
            id="tier with a fee",
        ),
        pytest.param(
            {"model": "per_unit", "unit_price": "1", "included_quantity": "10", "minimum_amount": "5"},
            "USD 1.00 per GB; the first 10 GB included; at least USD 5.00",
            id="allowance and minimum",
        ),
        pytest.param(
            {"model": "per_unit", "unit_price": "1", "maximum_amount": "50", "round_quantity": {"mode": "up"}},
            "USD 1.00 per GB; quantity rounded up to no places; at most USD 50.00",
            id="rounded and capped",
        ),
        pytest.param({"model": "matrix"}, "Matrix", id="a model without words is named, never guessed at"),
    ],
)
def test_a_price_is_said_in_words(spec: Mapping[str, Any], said: str) -> None:
    assert price_text(spec, currency="USD", unit="GB") == said


def test_amounts_name_their_currency_and_keep_its_places() -> None:
    assert amount_text(Decimal("1204.5"), "USD") == "USD 1,204.50"
    assert amount_text(Decimal("-0.005"), "EUR") == "EUR -0.01"
    assert amount_text(Decimal(1204), "JPY") == "JPY 1,204"


def test_an_exact_amount_keeps_every_digit() -> None:
    assert exact_amount_text(Decimal("0.004170"), "EUR") == "EUR 0.00417"
    assert exact_amount_text(Decimal("12.5"), "EUR") == "EUR 12.50"


def test_a_quantity_is_shortened_to_six_places() -> None:
    assert quantity_text(Decimal("1234.56789012")) == "1,234.56789"
