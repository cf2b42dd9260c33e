"""A price: a model and the options that every model takes, read from JSON and written in one canonical form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from pricing.money import ONE, ZERO, RoundingMode, multiply, plain, rounded_quotient
from pricing.rating.models import MODELS, Model
from pricing.rating.spec import PriceInvalid, Problem, SpecReader

MAX_PLACES: Final = 18
MAX_JSON_CHARACTERS: Final = 200_000


class QuantityRounding(NamedTuple):
    """How a quantity is rounded before it is priced."""

    mode: RoundingMode
    places: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every model takes, in the order in which it applies.

    The running quantity is divided by `divide_by` and then rounded; the first `included_quantity` of what results
    costs nothing; the model rates the rest; the running charge is at least `minimum_amount` (from the first slice on,
    at zero usage too) and at most `maximum_amount`.
    """

    divide_by: Decimal = ONE
    round_quantity: QuantityRounding | None = None
    included_quantity: Decimal = ZERO
    minimum_amount: Decimal | None = None
    maximum_amount: Decimal | None = None


NO_OPTIONS: Final = Options()


@dataclass(frozen=True, slots=True)
class Price:
    """What usage of a product costs; made by `parse_price`.

    `scale` is what quantities and amounts are multiplied by while rating, so that a unit conversion divides last and
    once; `working_model` and `working_allowance` are the model and the allowance on that scale.
    """

    model: Model
    options: Options = NO_OPTIONS
    has_options: bool = field(init=False, repr=False, compare=False)
    scale: Decimal = field(init=False, repr=False, compare=False)
    working_model: Model = field(init=False, repr=False, compare=False)
    working_allowance: Decimal = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = self.options
        # A rounded quantity has an end; only an unrounded one is worth keeping undivided.
        scale = ONE if options.round_quantity else options.divide_by
        object.__setattr__(self, "has_options", options != NO_OPTIONS)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "working_model", self.model if scale == 1 else self.model.scaled(scale))
        object.__setattr__(self, "working_allowance", multiply(options.included_quantity, scale))

    @property
    def is_fee(self) -> bool:
        """Whether the charge is due without any usage, once a service period."""
        return not self.model.counts_quantity

    def working_quantity(self, quantity: Decimal) -> Decimal:
        """A running quantity of the meter, converted and rounded, on the scale of the working model."""
        rounding = self.options.round_quantity
        if rounding is None:
            return quantity
        return rounded_quotient(quantity, self.options.divide_by, places=rounding.places, mode=rounding.mode)


def parse_price(spec: Mapping[str, object]) -> Price:
    """Read a price from its JSON object; amounts and quantities in it are decimal strings.

    Raises: PriceInvalid, with every problem found and where.
    """
    if not isinstance(spec, Mapping):
        raise PriceInvalid([Problem("", "a price must be a JSON object")])
    reader = SpecReader(spec)
    name = reader.text("model")
    read_model = MODELS.get(name)
    if read_model is None:
        if not reader.problems:
            reader.refuse("model", f"{name[:40]!r} is not offered; there are {', '.join(sorted(MODELS))}")
        raise PriceInvalid(reader.problems)
    model = read_model(reader)
    options = _read_options(reader)
    if not model.counts_quantity:
        _refuse_quantity_options(reader)
    reader.refuse_unknown()
    if reader.problems:
        raise PriceInvalid(reader.problems)
    return Price(model, options)


def _read_options(reader: SpecReader) -> Options:
    rounding = reader.child("round_quantity")
    minimum = reader.optional_amount("minimum_amount")
    maximum = reader.optional_amount("maximum_amount")
    if minimum is not None and maximum is not None and minimum > maximum:
        reader.refuse("minimum_amount", f"must not be above the maximum of {plain(maximum)}")
    if reader.has("multipliers"):
        reader.refuse("multipliers", "are not offered")
    return Options(
        divide_by=reader.positive_quantity("divide_by", default=ONE),
        round_quantity=None if rounding is None else _read_rounding(rounding),
        included_quantity=reader.quantity("included_quantity", default=ZERO),
        minimum_amount=minimum,
        maximum_amount=maximum,
    )


def _read_rounding(reader: SpecReader) -> QuantityRounding:
    mode = RoundingMode.UP
    name = reader.text("mode")
    if name in tuple(RoundingMode):
        mode = RoundingMode(name)
    elif name:
        reader.refuse("mode", f"must be one of {', '.join(RoundingMode)}")
    places = reader.count("places", most=MAX_PLACES, default=0)
    reader.refuse_unknown()
    return QuantityRounding(mode, places)


def _refuse_quantity_options(reader: SpecReader) -> None:
    for key in ("divide_by", "round_quantity", "included_quantity"):
        if reader.has(key):
            reader.refuse(key, "has no meaning for a fee, which does not depend on a quantity")


def price_spec(price: Price) -> dict[str, object]:
    """The price as its canonical JSON object: fixed order, numbers without needless zeros, options only if set.

    Two specs that mean the same price give the same object, and `parse_price` of it gives the price again.
    """
    options = price.options
    spec = price.model.spec()
    if options.divide_by != ONE:
        spec["divide_by"] = plain(options.divide_by)
    if options.round_quantity is not None:
        spec["round_quantity"] = {"mode": options.round_quantity.mode.value, "places": options.round_quantity.places}
    if options.included_quantity:
        spec["included_quantity"] = plain(options.included_quantity)
    if options.minimum_amount is not None:
        spec["minimum_amount"] = plain(options.minimum_amount)
    if options.maximum_amount is not None:
        spec["maximum_amount"] = plain(options.maximum_amount)
    return spec


def price_to_json(price: Price) -> str:
    """The price as canonical JSON text: what approvals hash, so its form must never change."""
    return json.dumps(price_spec(price), separators=(",", ":"), sort_keys=True, ensure_ascii=True)


def price_from_json(text: str) -> Price:
    """Read a price from JSON text; a field given twice is refused, as nobody can tell which one was meant.

    Raises: PriceInvalid.
    """
    if len(text) > MAX_JSON_CHARACTERS:
        raise PriceInvalid([Problem("", f"a price may have {MAX_JSON_CHARACTERS} characters")])
    try:
        spec = json.loads(text, object_pairs_hook=unique_fields)
    except (ValueError, RecursionError) as error:
        raise PriceInvalid([Problem("", f"is not JSON: {error}"[:200])]) from None
    return parse_price(spec)


def unique_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object; for `json.loads`, which would let the last of two equal fields win.

    Raises: ValueError.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        message = "a field is given twice"
        raise ValueError(message)
    return fields
