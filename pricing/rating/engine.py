"""Rating: what a slice of usage costs at a price. No database, no clock; exact, and rounded once at the end."""

from __future__ import annotations

from decimal import Decimal

from accounts.errors import CountinghouseError
from pricing.money import ONE, ZERO, add, plain, quotient, round_to_minor, subtract
from pricing.rating.charge import Charge, Fact, Step, StepKind, Usage
from pricing.rating.price import Price


class QuantityNegative(CountinghouseError):
    """Usage up to some moment can not be less than nothing."""

    code = "quantity_negative"


def rate(price: Price, usage: Usage, currency: str) -> Charge:
    """Rate a slice of usage that lies on top of what was rated before it.

    The charge is that of all usage so far less that of the usage before, so slices add up to the whole, tiers and
    allowances go on where the slice before left off, and a negative quantity (a correction) takes back what it had
    cost. Where nothing comes before, the whole charge is due, with what a price asks at zero usage.

    Raises: QuantityNegative, CurrencyUnknown.
    """
    quantity, before = usage
    after = add(before, quantity)
    if before < 0 or after < 0:
        message = f"The quantity can not be {plain(after if after < 0 else before)}."
        raise QuantityNegative(message)
    steps: list[Step] = []
    if quantity < 0:
        exact = _rate_slice(price, after, before, steps, fresh=False)
        exact, steps = subtract(ZERO, exact), [step.taken_back() for step in steps]
    elif price.has_options:
        exact = _rate_slice(price, before, after, steps, fresh=not before)
    else:
        exact = price.model.charge(before, after, steps, fresh=not before)
    return Charge(round_to_minor(exact, currency), exact, tuple(steps), currency)


def _rate_slice(price: Price, before: Decimal, after: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:
    """Apply the options around the model, in the order that `Options` gives."""
    units_before, units_after = price.working_quantity(before), price.working_quantity(after)
    _note_conversion(price, subtract(after, before), subtract(units_after, units_before), steps)
    allowance = price.working_allowance
    left_before, left_after = min(units_before, allowance), min(units_after, allowance)
    if allowance:
        taken = quotient(subtract(left_after, left_before), price.scale)
        facts = {"included_quantity": price.options.included_quantity, "quantity": taken}
        steps.append(Step(StepKind.ALLOWANCE, ZERO, facts))
    priced_before, priced_after = subtract(units_before, left_before), subtract(units_after, left_after)

    model = price.working_model
    charged = ZERO if fresh else model.charge(ZERO, priced_before, [], fresh=True)
    start = quotient(charged, price.scale)
    slice_steps: list[Step] = []
    model.charge(priced_before, priced_after, slice_steps, fresh=fresh)
    end = _append_divided(slice_steps, charged, price.scale, steps)
    amount = subtract(end, start)
    return add(amount, _append_limits(price, start, end, steps, fresh=fresh))


def _note_conversion(price: Price, quantity: Decimal, units: Decimal, steps: list[Step]) -> None:
    options = price.options
    if options.round_quantity is None and options.divide_by == ONE:
        return
    facts: dict[str, Fact] = {"quantity": quantity, "divide_by": options.divide_by}
    if options.round_quantity is not None:
        facts["mode"] = options.round_quantity.mode.value
        facts["places"] = options.round_quantity.places
    facts["converted"] = quotient(units, price.scale)
    steps.append(Step(StepKind.CONVERSION, ZERO, facts))


def _append_divided(slice_steps: list[Step], charged: Decimal, scale: Decimal, steps: list[Step]) -> Decimal:
    """Divide the running charge after each step, so that the steps still add up however long the quotients are."""
    end = quotient(charged, scale)
    for step in slice_steps:
        start, charged = end, add(charged, step.amount)
        end = quotient(charged, scale)
        steps.append(step if scale == ONE else step.divided(subtract(end, start), scale))
    return end


def _append_limits(price: Price, start: Decimal, end: Decimal, steps: list[Step], *, fresh: bool) -> Decimal:
    """Lift the running charge to the minimum, cap it at the maximum; only what this slice changes is charged."""
    change = ZERO
    minimum, maximum = price.options.minimum_amount, price.options.maximum_amount
    if minimum is not None:
        lifted = subtract(_missing(minimum, end), ZERO if fresh else _missing(minimum, start))
        if lifted:
            steps.append(Step(StepKind.MINIMUM, lifted, {"minimum_amount": minimum}))
            change = add(change, lifted)
    if maximum is not None:
        capped = subtract(_missing(end, maximum), ZERO if fresh else _missing(start, maximum))
        if capped:
            steps.append(Step(StepKind.MAXIMUM, subtract(ZERO, capped), {"maximum_amount": maximum}))
            change = subtract(change, capped)
    return change


def _missing(target: Decimal, value: Decimal) -> Decimal:
    return subtract(target, value) if value < target else ZERO
