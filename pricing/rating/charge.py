"""What rating takes and what it gives: usage, and a charge with the steps that led to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from pricing.money import ZERO, plain, quotient

Fact = Decimal | int | str | None


class StepKind(StrEnum):
    """What one step of a calculation does; `facts` holds what a label for it needs."""

    PER_UNIT = "per_unit"  # quantity, unit_price
    TIER = "tier"  # tier, from (excluded), up_to (included; None: without end), quantity, unit_price, flat_amount
    FLAT = "flat"  # flat_amount
    CONVERSION = "conversion"  # quantity, divide_by, mode and places if rounded, converted
    ALLOWANCE = "allowance"  # included_quantity, quantity (what this slice took of it)
    MINIMUM = "minimum"  # minimum_amount
    MAXIMUM = "maximum"  # maximum_amount
    PRORATION = "proration"  # days, of_days
    BILLED_BEFORE = "billed_before"  # quantity, billed_amount


class Usage(NamedTuple):
    """A slice of usage: `quantity` on top of `quantity_before`, both in the unit that the meter counts.

    Where `quantity_before` is zero, nothing has been billed before this slice.
    """

    quantity: Decimal
    quantity_before: Decimal = ZERO


class Step(NamedTuple):
    """One step of a calculation: what it adds to the exact amount, and the facts to say why."""

    kind: StepKind
    amount: Decimal
    facts: Mapping[str, Fact]

    def as_json(self) -> dict[str, str | int | None]:
        """The step as a flat JSON object; every decimal is a string in plain notation."""
        facts = {key: plain(fact) if isinstance(fact, Decimal) else fact for key, fact in self.facts.items()}
        return {"kind": self.kind.value, **facts, "amount": plain(self.amount)}

    def divided(self, amount: Decimal, divisor: Decimal) -> Step:
        """Turn a step worked out in units of the meter into units of the price, with its true amount."""
        facts = {
            key: quotient(fact, divisor) if key in _IN_METER_UNITS and isinstance(fact, Decimal) else fact
            for key, fact in self.facts.items()
        }
        return Step(self.kind, amount, facts)

    def taken_back(self) -> Step:
        """Give the step the other sign."""
        facts = {
            key: fact.copy_negate() if key in _TURN_WITH_SIGN and isinstance(fact, Decimal) and fact else fact
            for key, fact in self.facts.items()
        }
        return Step(self.kind, self.amount.copy_negate() if self.amount else self.amount, facts)


_IN_METER_UNITS: Final = frozenset({"quantity", "from", "up_to", "flat_amount"})
_TURN_WITH_SIGN: Final = frozenset({"quantity", "converted", "flat_amount"})


class Charge(NamedTuple):
    """What usage costs: `exact`, the sum of the steps' amounts, and `amount`, rounded once to the minor unit."""

    amount: Decimal
    exact: Decimal
    steps: tuple[Step, ...]
    currency: str


def steps_as_json(steps: Iterable[Step]) -> list[dict[str, str | int | None]]:
    """Steps as JSON: on an invoice line, in an API answer, in the calculator."""
    return [step.as_json() for step in steps]
