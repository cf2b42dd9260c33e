"""Rating: prices as JSON, amounts worked out by hand, and the laws that hold for every price."""

from __future__ import annotations

import decimal
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing.money import CurrencyUnknown, add, round_to_minor, total
from pricing.rating import (
    Charge,
    Price,
    PriceInvalid,
    QuantityNegative,
    StepKind,
    Usage,
    parse_price,
    price_from_json,
    price_spec,
    price_to_json,
    rate,
    steps_as_json,
)

Spec = dict[str, Any]

GRADUATED: Spec = {
    "model": "graduated",
    "tiers": [
        {"up_to": "100", "unit_price": "0.10", "flat_amount": "5"},
        {"up_to": "1000", "unit_price": "0.08", "flat_amount": "3"},
        {"up_to": None, "unit_price": "0.05"},
    ],
}
PER_UNIT: Spec = {"model": "per_unit", "unit_price": "0.0042"}
FLAT: Spec = {"model": "flat", "amount": "99.00"}


def rated(spec: Spec, quantity: str, before: str = "0", currency: str = "EUR") -> Charge:
    return rate(parse_price(spec), Usage(Decimal(quantity), Decimal(before)), currency)


def option(base: Spec, **options: object) -> Spec:
    return {**base, **options}


@pytest.mark.parametrize(
    ("spec", "quantity", "before", "exact", "amount"),
    [
        pytest.param(PER_UNIT, "1500", "0", "6.3", "6.30", id="per unit"),
        pytest.param(PER_UNIT, "1", "0", "0.0042", "0.00", id="per unit, less than a cent"),
        pytest.param(PER_UNIT, "0", "0", "0", "0.00", id="per unit, nothing used"),
        pytest.param(PER_UNIT, "1500", "1000000", "6.3", "6.30", id="per unit does not look back"),
        pytest.param(FLAT, "1", "0", "99", "99.00", id="flat"),
        pytest.param(FLAT, "7", "0", "99", "99.00", id="flat whatever the quantity"),
        pytest.param(FLAT, "7", "1", "0", "0.00", id="flat is due once"),
        pytest.param(GRADUATED, "0", "0", "0", "0.00", id="graduated, nothing used: no flat amount"),
        pytest.param(GRADUATED, "0.001", "0", "5.0001", "5.00", id="flat amount once the tier is entered"),
        pytest.param(GRADUATED, "100", "0", "15", "15.00", id="up to is inclusive"),
        pytest.param(GRADUATED, "100.5", "0", "18.04", "18.04", id="next tier entered: 5+10+3+0.04"),
        pytest.param(GRADUATED, "1000", "0", "90", "90.00", id="5+10+3+72"),
        pytest.param(GRADUATED, "1500", "0", "115", "115.00", id="5+10+3+72+25"),
        pytest.param(GRADUATED, "50", "100", "7", "7.00", id="slice from a tier's end enters the next: 3+4"),
        pytest.param(GRADUATED, "50", "50", "5", "5.00", id="slice inside the first tier: no flat amount again"),
        pytest.param(GRADUATED, "1000", "50", "82.5", "82.50", id="slice over three tiers: 5+3+72+2.50"),
        pytest.param(GRADUATED, "0", "50", "0", "0.00", id="empty slice"),
        pytest.param(GRADUATED, "-50", "150", "-7", "-7.00", id="taking back the second tier"),
        pytest.param(GRADUATED, "-150", "150", "-22", "-22.00", id="taking back everything"),
        pytest.param(option(GRADUATED, flat_at_zero=True), "0", "0", "5", "5.00", id="flat amount at zero"),
        pytest.param(option(GRADUATED, flat_at_zero=True), "10", "0", "6", "6.00", id="and not twice"),
        pytest.param(option(GRADUATED, flat_at_zero=True), "-10", "10", "-1", "-1.00", id="nor given back"),
        pytest.param(option(GRADUATED, flat_at_zero=True, included_quantity="50"), "60", "20", "3", "3.00",
                     id="flat at zero was charged while the allowance lasted: 30 x 0.10"),
        pytest.param(option(GRADUATED, included_quantity="50"), "60", "20", "8", "8.00",
                     id="flat amount due once the allowance is used up: 5 + 30 x 0.10"),
        pytest.param(option(PER_UNIT, included_quantity="1000"), "1500", "0", "2.1", "2.10", id="allowance"),
        pytest.param(option(PER_UNIT, included_quantity="1000"), "900", "0", "0", "0.00", id="within the allowance"),
        pytest.param(option(PER_UNIT, included_quantity="1000"), "500", "900", "1.68", "1.68",
                     id="the rest of the allowance"),
        pytest.param(option(PER_UNIT, minimum_amount="10"), "1500", "0", "10", "10.00", id="minimum"),
        pytest.param(option(PER_UNIT, minimum_amount="10"), "0", "0", "10", "10.00", id="minimum at zero usage"),
        pytest.param(option(PER_UNIT, minimum_amount="10"), "1500", "1500", "2.6", "2.60",
                     id="the minimum is used up first: 12.60 - 10"),
        pytest.param(option(PER_UNIT, minimum_amount="10"), "100", "100", "0", "0.00", id="still within the minimum"),
        pytest.param(option(PER_UNIT, maximum_amount="5"), "1500", "0", "5", "5.00", id="maximum"),
        pytest.param(option(PER_UNIT, maximum_amount="5"), "1500", "1000", "0.8", "0.80", id="5 - 4.20"),
        pytest.param(option(PER_UNIT, maximum_amount="5"), "1500", "1500", "0", "0.00", id="maximum reached before"),
        pytest.param(option(PER_UNIT, minimum_amount="10", maximum_amount="20"), "9000", "1000", "10", "10.00",
                     id="from below the minimum to above the maximum"),
        pytest.param({"model": "per_unit", "unit_price": "18", "divide_by": "3600"}, "1", "0", "0.005", "0.01",
                     id="a half cent is a half cent though 1/3600 has no end"),
        pytest.param({"model": "per_unit", "unit_price": "4.5", "divide_by": "3600"}, "4", "1", "0.005", "0.01",
                     id="in a slice too"),
        pytest.param({"model": "per_unit", "unit_price": "3.60", "divide_by": "3600"}, "5400", "0", "5.4", "5.40",
                     id="seconds priced by the hour"),
        pytest.param(option(GRADUATED, divide_by="1000"), "100500", "0", "18.04", "18.04",
                     id="tiers are in converted units"),
        pytest.param(option(GRADUATED, divide_by="3"), "300", "0", "15", "15.00", id="divisor without end"),
        pytest.param({"model": "per_unit", "unit_price": "2", "round_quantity": {"mode": "up"}}, "1.01", "0", "4",
                     "4.00", id="rounded up"),
        pytest.param({"model": "per_unit", "unit_price": "2", "round_quantity": {"mode": "up"}}, "0.9", "1.01", "0",
                     "0.00", id="the running quantity is rounded, not the slice"),
        pytest.param({"model": "per_unit", "unit_price": "2", "round_quantity": {"mode": "down", "places": 1}}, "1.99",
                     "0", "3.8", "3.80", id="rounded down to a place"),
        pytest.param({"model": "per_unit", "unit_price": "2", "round_quantity": {"mode": "half_up", "places": 0}},
                     "2.5", "0", "6", "6.00", id="rounded half up"),
        pytest.param({"model": "per_unit", "unit_price": "2", "divide_by": "3600",
                      "round_quantity": {"mode": "up", "places": 0}}, "3601", "0", "4", "4.00",
                     id="hours begun: converted, then rounded"),
        pytest.param({"model": "per_unit", "unit_price": "2", "divide_by": "60", "included_quantity": "10",
                      "round_quantity": {"mode": "up", "places": 0}}, "630", "0", "2", "2.00",
                     id="the allowance is in converted and rounded units: 11 - 10"),
        pytest.param(option(FLAT, maximum_amount="50"), "1", "0", "50", "50.00", id="a fee has limits too"),
    ],
)  # fmt: skip
def test_amounts_worked_out_by_hand(spec: Spec, quantity: str, before: str, exact: str, amount: str) -> None:
    charge = rated(spec, quantity, before)

    assert charge.exact == Decimal(exact)
    assert str(charge.amount) == amount
    assert total(step.amount for step in charge.steps) == charge.exact


def test_the_steps_of_a_graduated_charge_explain_it() -> None:
    charge = rated(GRADUATED, "1000", before="50")

    assert steps_as_json(charge.steps) == [
        {"kind": "tier", "tier": 1, "from": "0", "up_to": "100", "quantity": "50", "unit_price": "0.1",
         "flat_amount": "0", "amount": "5"},
        {"kind": "tier", "tier": 2, "from": "100", "up_to": "1000", "quantity": "900", "unit_price": "0.08",
         "flat_amount": "3", "amount": "75"},
        {"kind": "tier", "tier": 3, "from": "1000", "up_to": None, "quantity": "50", "unit_price": "0.05",
         "flat_amount": "0", "amount": "2.5"},
    ]  # fmt: skip


def test_options_explain_themselves_step_by_step() -> None:
    spec = {
        "model": "per_unit",
        "unit_price": "3",
        "divide_by": "60",
        "round_quantity": {"mode": "up", "places": 0},
        "included_quantity": "1",
        "minimum_amount": "10",
    }

    charge = rated(spec, "125")

    assert steps_as_json(charge.steps) == [
        {"kind": "conversion", "quantity": "125", "divide_by": "60", "mode": "up", "places": 0, "converted": "3",
         "amount": "0"},
        {"kind": "allowance", "included_quantity": "1", "quantity": "1", "amount": "0"},
        {"kind": "per_unit", "quantity": "2", "unit_price": "3", "amount": "6"},
        {"kind": "minimum", "minimum_amount": "10", "amount": "4"},
    ]  # fmt: skip


def test_steps_show_units_of_the_price_where_a_conversion_has_no_end() -> None:
    charge = rated(option(GRADUATED, divide_by="3"), "301")

    first, second = [step for step in steps_as_json(charge.steps) if step["kind"] == "tier"]
    assert (first["from"], first["up_to"], first["quantity"], first["flat_amount"]) == ("0", "100", "100", "5")
    assert second["quantity"] == "0." + "3" * 38
    assert second["amount"] == "3.0266" + "6" * 34


def test_a_step_taken_back_shows_negative_quantities() -> None:
    charge = rated(GRADUATED, "-50", before="150")

    assert steps_as_json(charge.steps) == [
        {"kind": "tier", "tier": 2, "from": "100", "up_to": "1000", "quantity": "-50", "unit_price": "0.08",
         "flat_amount": "-3", "amount": "-7"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("quantity", "before"), [("-1", "0"), ("-5", "4"), ("5", "-1")], ids=["less than none", "more than was", "before"]
)
def test_usage_below_nothing_is_refused(quantity: str, before: str) -> None:
    with pytest.raises(QuantityNegative):
        rated(PER_UNIT, quantity, before)


def test_an_unknown_currency_is_refused() -> None:
    with pytest.raises(CurrencyUnknown):
        rated(PER_UNIT, "1", currency="XXX")


def test_the_amount_is_rounded_to_the_minor_unit_of_the_currency() -> None:
    spec = {"model": "per_unit", "unit_price": "1.23455"}

    amounts = {currency: str(rated(spec, "1", currency=currency).amount) for currency in ("JPY", "USD", "KWD", "CLF")}

    assert amounts == {"JPY": "1", "USD": "1.23", "KWD": "1.235", "CLF": "1.2346"}


def test_large_numbers_stay_exact_whatever_the_context_of_the_thread() -> None:
    spec = {"model": "per_unit", "unit_price": "99999999999999999999.999999999999999999"}
    with decimal.localcontext() as context:
        context.prec = 5

        charge = rated(spec, "9" * 38)

    assert int(charge.exact.scaleb(18, decimal.Context(prec=200))) == int("9" * 38) * int("9" * 38)


@pytest.mark.parametrize(
    ("spec", "path", "reason"),
    [
        pytest.param({}, "model", "is missing", id="no model"),
        pytest.param({"model": 3}, "model", "must be text", id="model is no text"),
        pytest.param({"model": "surprise"}, "model", "not offered", id="unknown model"),
        pytest.param({"model": "volume", "tiers": []}, "model", "not offered", id="model of a later day"),
        pytest.param({"model": "per_unit"}, "unit_price", "is missing", id="no unit price"),
        pytest.param({"model": "per_unit", "unit_price": None}, "unit_price", "is missing", id="null unit price"),
        pytest.param({"model": "per_unit", "unit_price": 0.1}, "unit_price", "as text", id="float"),
        pytest.param({"model": "per_unit", "unit_price": 1}, "unit_price", "as text", id="number"),
        pytest.param({"model": "per_unit", "unit_price": "-1"}, "unit_price", "negative", id="negative price"),
        pytest.param({"model": "per_unit", "unit_price": "NaN"}, "unit_price", "plain decimal", id="not a number"),
        pytest.param({"model": "per_unit", "unit_price": "1e3"}, "unit_price", "plain decimal", id="exponent"),
        pytest.param({"model": "per_unit", "unit_price": "0." + "1" * 19}, "unit_price", "18 after", id="too fine"),
        pytest.param({"model": "per_unit", "unit_price": "1" * 21}, "unit_price", "20 digits", id="too large"),
        pytest.param(option(PER_UNIT, unit_prise="1"), "unit_prise", "not a field", id="misspelt field"),
        pytest.param(option(PER_UNIT, tiers=[]), "tiers", "not a field", id="field of another model"),
        pytest.param(option(PER_UNIT, divide_by="0"), "divide_by", "above zero", id="division by zero"),
        pytest.param(option(PER_UNIT, divide_by="-1"), "divide_by", "negative", id="negative divisor"),
        pytest.param(option(PER_UNIT, included_quantity="-1"), "included_quantity", "negative",
                     id="negative allowance"),
        pytest.param(option(PER_UNIT, minimum_amount="2", maximum_amount="1"), "minimum_amount", "above the maximum",
                     id="minimum above maximum"),
        pytest.param(option(PER_UNIT, multipliers=[{}]), "multipliers", "not offered", id="multipliers"),
        pytest.param(option(PER_UNIT, round_quantity="up"), "round_quantity", "object", id="rounding is no object"),
        pytest.param(option(PER_UNIT, round_quantity={"mode": "even"}), "round_quantity.mode", "one of",
                     id="rounding mode"),
        pytest.param(option(PER_UNIT, round_quantity={"mode": "up", "places": 19}), "round_quantity.places",
                     "whole number", id="rounding places"),
        pytest.param(option(PER_UNIT, round_quantity={"mode": "up", "places": True}), "round_quantity.places",
                     "whole number", id="places is a truth value"),
        pytest.param(option(PER_UNIT, round_quantity={"mode": "up", "place": 1}), "round_quantity.place", "not a field",
                     id="misspelt places"),
        pytest.param(option(FLAT, included_quantity="1"), "included_quantity", "no meaning", id="allowance of a fee"),
        pytest.param({"model": "flat"}, "amount", "is missing", id="fee without amount"),
        pytest.param({"model": "graduated"}, "tiers", "list of 1", id="no tiers"),
        pytest.param({"model": "graduated", "tiers": []}, "tiers", "list of 1", id="empty tiers"),
        pytest.param({"model": "graduated", "tiers": {}}, "tiers", "list of 1", id="tiers are no list"),
        pytest.param({"model": "graduated", "tiers": ["x"]}, "tiers[0]", "must be an object", id="tier is no object"),
        pytest.param(option(GRADUATED, flat_at_zero="yes"), "flat_at_zero", "true or false", id="flat at zero"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": "10", "unit_price": "1"}]}, "tiers[0].up_to",
                     "must be null", id="last tier has an end"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": None, "unit_price": "1"},
                                                      {"up_to": None, "unit_price": "1"}]},
                     "tiers[0].up_to", "is missing", id="inner tier without end"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": "0", "unit_price": "1"},
                                                      {"up_to": None, "unit_price": "1"}]},
                     "tiers[0].up_to", "above zero", id="tier of nothing"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": "10", "unit_price": "1"},
                                                      {"up_to": "10", "unit_price": "1"},
                                                      {"up_to": None, "unit_price": "1"}]},
                     "tiers[1].up_to", "must be above 10", id="tiers out of order"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": None}]}, "tiers[0].unit_price", "is missing",
                     id="tier without price"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": None, "unit_price": "1", "flat_amount": "-1"}]},
                     "tiers[0].flat_amount", "negative", id="negative flat amount"),
        pytest.param({"model": "graduated", "tiers": [{"up_to": None, "unit_price": "1", "flat": "1"}]},
                     "tiers[0].flat", "not a field", id="misspelt field of a tier"),
    ],
)  # fmt: skip
def test_an_invalid_price_is_refused_with_path_and_reason(spec: Spec, path: str, reason: str) -> None:
    with pytest.raises(PriceInvalid) as refusal:
        parse_price(spec)

    [problem] = refusal.value.problems
    assert problem.path == path
    assert reason in problem.reason
    assert path in str(refusal.value)


def test_every_problem_of_a_price_is_named_at_once() -> None:
    spec = {
        "model": "graduated",
        "tiers": [{"up_to": "x", "unit_price": "-1"}, {"up_to": None, "unit_price": "2"}],
        "divide_by": "0",
        "extra": 1,
    }

    with pytest.raises(PriceInvalid) as refusal:
        parse_price(spec)

    assert [problem.path for problem in refusal.value.problems] == [
        "tiers[0].up_to",
        "tiers[0].unit_price",
        "divide_by",
        "extra",
    ]


def test_a_long_list_of_problems_is_cut_in_the_message() -> None:
    with pytest.raises(PriceInvalid, match="and 5 more"):
        parse_price({**PER_UNIT, **{f"extra_{number}": 1 for number in range(15)}})


@pytest.mark.parametrize("spec", [None, [], "per_unit", 3])
def test_a_price_is_an_object(spec: object) -> None:
    with pytest.raises(PriceInvalid, match="must be a JSON object"):
        parse_price(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="torn"),
        pytest.param("[" * 50_000, id="nested"),
        pytest.param('{"model": "per_unit", "unit_price": "1", "unit_price": "2"}', id="field given twice"),
        pytest.param('{"model": "per_unit", "unit_price": NaN}', id="not a number"),
        pytest.param(" " * 200_001, id="too long"),
    ],
)
def test_text_that_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(PriceInvalid):
        price_from_json(text)


def test_specs_that_mean_the_same_have_one_canonical_form() -> None:
    plain_price = price_from_json('{"unit_price": "0.10", "model": "per_unit"}')
    wordy_price = parse_price(
        {"model": "per_unit", "unit_price": "00.1000", "divide_by": "1", "included_quantity": "0",
         "minimum_amount": None, "round_quantity": None}
    )  # fmt: skip

    assert plain_price == wordy_price
    assert price_to_json(plain_price) == price_to_json(wordy_price) == '{"model":"per_unit","unit_price":"0.1"}'


def test_the_canonical_form_of_every_field_is_fixed() -> None:
    price = parse_price(
        option(
            GRADUATED,
            flat_at_zero=True,
            divide_by="1000",
            round_quantity={"places": 2, "mode": "half_up"},
            included_quantity="10.0",
            minimum_amount="1.0",
            maximum_amount="1000",
        )
    )

    assert price_to_json(price) == (
        '{"divide_by":"1000","flat_at_zero":true,"included_quantity":"10","maximum_amount":"1000",'
        '"minimum_amount":"1","model":"graduated","round_quantity":{"mode":"half_up","places":2},'
        '"tiers":[{"flat_amount":"5","unit_price":"0.1","up_to":"100"},'
        '{"flat_amount":"3","unit_price":"0.08","up_to":"1000"},{"unit_price":"0.05","up_to":null}]}'
    )


# The laws


def decimals(places: int, most: int) -> st.SearchStrategy[Decimal]:
    """Decimals from zero to `most` of up to so many places."""
    return st.builds(
        lambda digits, scale: Decimal(digits).scaleb(-scale).normalize(),
        st.integers(min_value=0, max_value=most),
        st.integers(min_value=0, max_value=places),
    )


def plain_text(value: Decimal) -> str:
    return f"{value:f}"


AMOUNTS = decimals(places=9, most=10**6)
QUANTITIES = decimals(places=9, most=10**7)


@st.composite
def model_specs(draw: st.DrawFn) -> Spec:
    model = draw(st.sampled_from(["per_unit", "flat", "graduated"]))
    if model == "per_unit":
        return {"model": model, "unit_price": plain_text(draw(AMOUNTS))}
    if model == "flat":
        return {"model": model, "amount": plain_text(draw(AMOUNTS))}
    ends = sorted(draw(st.sets(QUANTITIES.filter(bool), max_size=4)))
    tiers = [
        {"up_to": end, "unit_price": plain_text(draw(AMOUNTS)), "flat_amount": plain_text(draw(AMOUNTS))}
        for end in [*map(plain_text, ends), None]
    ]
    return {"model": model, "tiers": tiers, "flat_at_zero": draw(st.booleans())}


@st.composite
def prices(draw: st.DrawFn) -> Price:
    spec = draw(model_specs())
    if spec["model"] != "flat":
        if draw(st.booleans()):
            spec["divide_by"] = plain_text(draw(QUANTITIES.filter(bool)))
        if draw(st.booleans()):
            mode = draw(st.sampled_from(["up", "down", "half_up"]))
            spec["round_quantity"] = {"mode": mode, "places": draw(st.integers(0, 6))}
        if draw(st.booleans()):
            spec["included_quantity"] = plain_text(draw(QUANTITIES))
    limits = sorted([draw(AMOUNTS), draw(AMOUNTS)])
    if draw(st.booleans()):
        spec["minimum_amount"] = plain_text(limits[0])
    if draw(st.booleans()):
        spec["maximum_amount"] = plain_text(limits[1])
    return parse_price(spec)


@given(price=prices(), quantity=QUANTITIES, before=QUANTITIES)
def test_steps_add_up_to_the_exact_amount(price: Price, quantity: Decimal, before: Decimal) -> None:
    charge = rate(price, Usage(quantity, before), "EUR")

    assert total(step.amount for step in charge.steps) == charge.exact
    assert charge.amount == round_to_minor(charge.exact, "EUR")


@given(price=prices(), quantities=st.lists(QUANTITIES.filter(bool), min_size=1, max_size=6))
def test_slices_add_up_to_the_whole(price: Price, quantities: list[Decimal]) -> None:
    before = Decimal(0)
    parts = []
    for quantity in quantities:
        parts.append(rate(price, Usage(quantity, before), "EUR").exact)
        before = add(before, quantity)

    whole = rate(price, Usage(before), "EUR")

    assert total(parts) == whole.exact


@given(price=prices(), less=QUANTITIES, more=QUANTITIES)
def test_more_usage_never_costs_less(price: Price, less: Decimal, more: Decimal) -> None:
    assume(less <= more)

    assert rate(price, Usage(less), "EUR").exact <= rate(price, Usage(more), "EUR").exact


@given(price=prices(), before=QUANTITIES.filter(bool), quantity=QUANTITIES.filter(bool))
def test_taking_usage_back_takes_its_charge_back(price: Price, before: Decimal, quantity: Decimal) -> None:
    charge = rate(price, Usage(quantity, before), "EUR")
    correction = rate(price, Usage(quantity.copy_negate(), add(before, quantity)), "EUR")

    assert correction.exact == charge.exact.copy_negate()
    assert correction.amount == charge.amount.copy_negate()
    assert total(step.amount for step in correction.steps) == correction.exact


@given(price=prices(), quantity=QUANTITIES, before=QUANTITIES)
def test_a_tier_costs_its_quantity_times_its_price_and_its_flat_amount(
    price: Price, quantity: Decimal, before: Decimal
) -> None:
    assume(price.scale == 1)

    charge = rate(price, Usage(quantity, before), "EUR")

    for step in charge.steps:
        if step.kind is StepKind.TIER:
            fact = {key: value for key, value in step.facts.items() if isinstance(value, Decimal)}
            assert step.amount == fact["quantity"] * fact["unit_price"] + fact["flat_amount"]


@given(price=prices())
def test_the_canonical_form_gives_the_price_again(price: Price) -> None:
    text = price_to_json(price)

    assert price_from_json(text) == price
    assert price_to_json(price_from_json(text)) == text
    assert json.loads(text) == price_spec(price)
