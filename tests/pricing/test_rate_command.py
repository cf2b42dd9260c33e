"""`manage.py rate`, the price calculator."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import call_command

PER_UNIT = {"model": "per_unit", "unit_price": "0.0042"}


def ask(*lines: object) -> list[dict[str, Any]]:
    """Give the command lines (objects as JSON, bytes as they are) and read its answers."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    out = io.StringIO()
    call_command("rate", stdin=io.BytesIO(b"\n".join(raw) + b"\n"), stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_quantity_is_rated_and_explained() -> None:
    answers = ask({"price": PER_UNIT, "quantity": "1500", "currency": "EUR"})

    assert answers == [
        {
            "amount": "6.30",
            "exact": "6.3",
            "steps": [{"kind": "per_unit", "quantity": "1500", "unit_price": "0.0042", "amount": "6.3"}],
        }
    ]


def test_events_are_added_up() -> None:
    [answer] = ask({"price": PER_UNIT, "events": ["1000.5", "499.5"], "currency": "EUR"})

    assert answer["exact"] == "6.3"


def test_no_events_are_no_usage() -> None:
    [answer] = ask({"price": PER_UNIT, "events": [], "currency": "EUR"})

    assert answer["amount"] == "0.00"


def test_a_slice_is_rated_on_top_of_the_quantity_before() -> None:
    tiers = [{"up_to": "100", "unit_price": "1"}, {"up_to": None, "unit_price": "0.5"}]
    price = {"model": "graduated", "tiers": tiers}

    [answer] = ask({"price": price, "quantity": "50", "quantity_before": "80", "currency": "JPY"})

    assert (answer["amount"], answer["exact"]) == ("35", "35")
    assert [step["tier"] for step in answer["steps"]] == [1, 2]


def test_numbers_are_written_without_exponents() -> None:
    price = {"model": "per_unit", "unit_price": "0.000000000000000001"}

    [small, large] = ask(
        {"price": price, "quantity": "0.000000000000000001", "currency": "EUR"},
        {"price": {"model": "flat", "amount": "10000000000000000000"}, "quantity": "1", "currency": "EUR"},
    )

    assert small["exact"] == "0." + "0" * 35 + "1"
    assert large["amount"] == "10000000000000000000.00"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="torn"),
        pytest.param(b"\xff\xfe", "not JSON", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested too deep"),
        pytest.param(b'{"price": {}, "price": {}}', "given twice", id="field given twice"),
        pytest.param([], "must be a JSON object", id="a list"),
        pytest.param({}, "price: must be an object", id="nothing asked"),
        pytest.param({"price": PER_UNIT, "quantity": "1"}, "currency", id="no currency"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "currency": "XXX"}, "ISO 4217", id="unknown currency"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "currency": 5}, "currency", id="currency is no text"),
        pytest.param({"price": PER_UNIT, "currency": "EUR"}, "either a quantity or events", id="no quantity"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "events": [], "currency": "EUR"}, "either a quantity",
                     id="both quantity and events"),
        pytest.param({"price": PER_UNIT, "quantity": 1.5, "currency": "EUR"}, "as text", id="float"),
        pytest.param({"price": PER_UNIT, "quantity": "-1", "currency": "EUR"}, "can not be -1", id="negative"),
        pytest.param({"price": PER_UNIT, "quantity": "NaN", "currency": "EUR"}, "quantity: 'NaN'", id="no number"),
        pytest.param({"price": PER_UNIT, "quantity": "9" * 39, "currency": "EUR"}, "38 digits", id="too long"),
        pytest.param({"price": PER_UNIT, "events": ["1", "x"], "currency": "EUR"}, "events[1]", id="bad event"),
        pytest.param({"price": PER_UNIT, "events": "1", "currency": "EUR"}, "events: must be a list", id="no list"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "quantity_before": "x", "currency": "EUR"},
                     "quantity_before", id="bad quantity before"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "currency": "EUR", "date": "x"}, "date: is not a field",
                     id="unknown field"),
        pytest.param({"price": {"model": "per_unit", "unit_price": "-1"}, "quantity": "1", "currency": "EUR"},
                     "unit_price: must not be negative", id="invalid price"),
        pytest.param({"price": PER_UNIT, "quantity": "1", "\ud800": 1, "currency": "EUR"}, "is not a field",
                     id="half a character"),
    ],
)  # fmt: skip
def test_a_bad_line_gives_an_error_and_the_rest_goes_on(line: object, error: str) -> None:
    good = {"price": PER_UNIT, "quantity": "1500", "currency": "EUR"}

    [before, bad, after] = ask(good, line, good)

    assert error in bad["error"]
    assert list(bad) == ["error"]
    assert before == after
    assert before["amount"] == "6.30"


def test_no_input_gives_no_output() -> None:
    out = io.StringIO()

    call_command("rate", stdin=io.BytesIO(b""), stdout=out)

    assert out.getvalue() == ""
