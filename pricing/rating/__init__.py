"""Rating: reading prices and working out what usage costs, purely."""

from pricing.rating.charge import Charge, Step, StepKind, Usage, steps_as_json
from pricing.rating.engine import QuantityNegative, rate
from pricing.rating.price import Price, parse_price, price_from_json, price_spec, price_to_json
from pricing.rating.spec import PriceInvalid, Problem

__all__ = [
    "Charge",
    "Price",
    "PriceInvalid",
    "Problem",
    "QuantityNegative",
    "Step",
    "StepKind",
    "Usage",
    "parse_price",
    "price_from_json",
    "price_spec",
    "price_to_json",
    "rate",
    "steps_as_json",
]
