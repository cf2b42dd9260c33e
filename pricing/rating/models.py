"""The price models. Each knows how to rate a slice of a running quantity, and how it is written as JSON.

A new model is a class with the four members of `Model` and one line in `MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from pricing.money import ONE, ZERO, add, multiply, plain, subtract
from pricing.rating.charge import Fact, Step, StepKind
from pricing.rating.spec import SpecReader

MAX_TIERS: Final = 1000


class Model(Protocol):
    """How a price model rates."""

    @property
    def counts_quantity(self) -> bool:
        """Whether the charge depends on a quantity, so that options about quantities have a meaning."""

    def charge(self, before: Decimal, after: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:
        """Rate the slice from `before` to `after` (not less), add its steps, and return the sum of their amounts.

        `fresh` says that nothing was charged yet, which differs from a `before` of zero only where an allowance took
        up all usage so far.
        """

    def scaled(self, factor: Decimal) -> Model:
        """The model for quantities that are `factor` times as large, whose charges are `factor` times as large too."""

    def spec(self) -> dict[str, object]:
        """The model's own fields as canonical JSON, "model" first."""


@dataclass(frozen=True, slots=True)
class PerUnit:
    """Every unit costs the same."""

    unit_price: Decimal
    counts_quantity = True

    def charge(self, before: Decimal, after: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:  # noqa: ARG002
        quantity = subtract(after, before)
        amount = multiply(quantity, self.unit_price)
        steps.append(Step(StepKind.PER_UNIT, amount, {"quantity": quantity, "unit_price": self.unit_price}))
        return amount

    def scaled(self, factor: Decimal) -> PerUnit:  # noqa: ARG002 - the price of one unit does not scale
        return self

    def spec(self) -> dict[str, object]:
        return {"model": "per_unit", "unit_price": plain(self.unit_price)}


@dataclass(frozen=True, slots=True)
class Flat:
    """A fee that is due once, whatever the quantity: recurring (once a service period) or one-off."""

    amount: Decimal
    counts_quantity = False

    def charge(self, before: Decimal, after: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:  # noqa: ARG002
        due = self.amount if fresh else ZERO
        steps.append(Step(StepKind.FLAT, due, {"flat_amount": due}))
        return due

    def scaled(self, factor: Decimal) -> Flat:
        return Flat(multiply(self.amount, factor))

    def spec(self) -> dict[str, object]:
        return {"model": "flat", "amount": plain(self.amount)}


class Tier(NamedTuple):
    """Units up to and including `up_to` (None: without end) cost `unit_price` each.

    `flat_amount` is due once the quantity enters the tier.
    """

    up_to: Decimal | None
    unit_price: Decimal
    flat_amount: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit costs what the tier says that it falls into; a tier's price never reaches back to earlier units.

    The first tier's flat amount is due at zero usage only if `flat_at_zero`.
    """

    tiers: tuple[Tier, ...]
    flat_at_zero: bool = False
    counts_quantity = True
    _rows: tuple[tuple[int, Decimal, Decimal | None, Decimal, Decimal], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        lowers = [ZERO, *(tier.up_to for tier in self.tiers if tier.up_to is not None)]
        rows = tuple(
            (number, lower, tier.up_to, tier.unit_price, tier.flat_amount)
            for number, (lower, tier) in enumerate(zip(lowers, self.tiers, strict=True), 1)
        )
        object.__setattr__(self, "_rows", rows)

    def charge(self, before: Decimal, after: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:
        total = ZERO
        for number, lower, upper, unit_price, flat_amount in self._rows:
            if upper is not None and before >= upper:
                continue
            if after <= lower and not (fresh and self.flat_at_zero and number == 1):
                break
            end = after if upper is None or after <= upper else upper
            if before > lower:
                quantity, flat = subtract(end, before), ZERO
            else:
                quantity, flat = subtract(end, lower), flat_amount
                # An allowance can leave the running quantity at zero after the flat amount was charged.
                if number == 1 and self.flat_at_zero and not fresh:
                    flat = ZERO
            amount = multiply(quantity, unit_price)
            if flat:
                amount = add(amount, flat)
            total = add(total, amount)
            facts: dict[str, Fact] = {
                "tier": number,
                "from": lower,
                "up_to": upper,
                "quantity": quantity,
                "unit_price": unit_price,
                "flat_amount": flat,
            }
            steps.append(Step(StepKind.TIER, amount, facts))
        return total

    def scaled(self, factor: Decimal) -> Graduated:
        tiers = tuple(
            Tier(
                None if tier.up_to is None else multiply(tier.up_to, factor),
                tier.unit_price,
                multiply(tier.flat_amount, factor),
            )
            for tier in self.tiers
        )
        return Graduated(tiers, self.flat_at_zero)

    def spec(self) -> dict[str, object]:
        tiers: list[dict[str, str | None]] = []
        for tier in self.tiers:
            row = {"up_to": None if tier.up_to is None else plain(tier.up_to), "unit_price": plain(tier.unit_price)}
            if tier.flat_amount:
                row["flat_amount"] = plain(tier.flat_amount)
            tiers.append(row)
        spec: dict[str, object] = {"model": "graduated", "tiers": tiers}
        if self.flat_at_zero:
            spec["flat_at_zero"] = True
        return spec


def _read_per_unit(reader: SpecReader) -> Model:
    return PerUnit(reader.amount("unit_price"))


def _read_flat(reader: SpecReader) -> Model:
    return Flat(reader.amount("amount"))


def _read_graduated(reader: SpecReader) -> Model:
    flat_at_zero = reader.flag("flat_at_zero")
    rows = reader.rows("tiers", most=MAX_TIERS)
    tiers: list[Tier] = []
    lower = ZERO
    for row in rows:
        up_to = _read_up_to(row, lower, is_last=row is rows[-1])
        tiers.append(Tier(up_to, row.amount("unit_price"), row.amount("flat_amount", default=ZERO)))
        row.refuse_unknown()
        lower = up_to or lower
    if reader.problems:
        return PerUnit(ZERO)  # never used: whoever reads raises the problems
    return Graduated(tuple(tiers), flat_at_zero)


def _read_up_to(row: SpecReader, lower: Decimal, *, is_last: bool) -> Decimal | None:
    """Where a tier ends: above the end of the one before it, and only the last one without end."""
    if is_last:
        if row.has("up_to"):
            row.refuse("up_to", "must be null in the last tier, which has no end")
        return None
    before = len(row.problems)
    up_to = row.positive_quantity("up_to")
    if len(row.problems) == before and up_to <= lower:
        row.refuse("up_to", f"must be above {plain(lower)}, where the tier before it ends")
    return up_to if len(row.problems) == before else add(lower, ONE)


MODELS: Final[Mapping[str, Callable[[SpecReader], Model]]] = MappingProxyType(
    {"per_unit": _read_per_unit, "flat": _read_flat, "graduated": _read_graduated}
)
"""How each model is read from JSON."""
