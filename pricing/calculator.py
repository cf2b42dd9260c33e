"""The price calculator: one JSON object with a price and a quantity in, one with the amount and its steps out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from accounts.errors import CountinghouseError
from pricing.money import ZERO, minor_unit_exponent, parse_decimal, plain, plain_amount, total
from pricing.rating import Usage, parse_price, rate, steps_as_json
from pricing.rating.price import unique_fields

MAX_LINE_BYTES: Final = 10_000_000
_FIELDS: Final = frozenset({"price", "quantity", "events", "quantity_before", "currency"})


class QuestionInvalid(CountinghouseError):
    """The line does not ask for the charge of a quantity at a price."""

    code = "question_invalid"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field[:60]}: {reason}")


def answers(lines: Iterable[bytes]) -> Iterator[str]:
    """Answer each line of input with one line of JSON, in order; a bad line is answered with its error."""
    for line in lines:
        try:
            answer = answer_question(_read(line))
        except CountinghouseError as error:
            answer = {"error": str(error)}
        yield json.dumps(answer)


def answer_question(question: Mapping[str, object]) -> dict[str, object]:
    """Rate `quantity` or the sum of `events`, on top of `quantity_before`, at `price` in `currency`.

    The answer holds `amount` with the currency's places, `exact`, and `steps`, whose amounts add up to `exact`.

    Raises: QuestionInvalid, PriceInvalid, CurrencyUnknown, QuantityNegative.
    """
    unknown = [key for key in question if key not in _FIELDS]
    if unknown:
        raise QuestionInvalid(unknown[0], f"is not a field; there are {', '.join(sorted(_FIELDS))}")
    price_spec = question.get("price")
    if not isinstance(price_spec, Mapping):
        raise QuestionInvalid("price", "must be an object")
    currency = question.get("currency")
    if not isinstance(currency, str):
        raise QuestionInvalid("currency", "must be a code such as EUR")
    minor_unit_exponent(currency)
    before = question.get("quantity_before")
    usage = Usage(_quantity(question), ZERO if before is None else _decimal("quantity_before", before))
    charge = rate(parse_price(price_spec), usage, currency)
    return {
        "amount": plain_amount(charge.amount, currency),
        "exact": plain(charge.exact),
        "steps": steps_as_json(charge.steps),
    }


def _quantity(question: Mapping[str, object]) -> Decimal:
    quantity, events = question.get("quantity"), question.get("events")
    if (quantity is None) == (events is None):
        raise QuestionInvalid("quantity", "give either a quantity or events")
    if quantity is not None:
        return _decimal("quantity", quantity)
    if not isinstance(events, list):
        raise QuestionInvalid("events", "must be a list of decimal strings")
    return total(_decimal(f"events[{index}]", event) for index, event in enumerate(events))


def _decimal(field: str, value: object) -> Decimal:
    try:
        return parse_decimal(value)
    except CountinghouseError as error:
        raise QuestionInvalid(field, str(error)) from None


def _read(line: bytes) -> Mapping[str, object]:
    if len(line) > MAX_LINE_BYTES:
        raise QuestionInvalid("line", f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        question = json.loads(line.decode("utf-8-sig"), object_pairs_hook=unique_fields)
    except (ValueError, RecursionError) as error:
        raise QuestionInvalid("line", f"is not JSON: {error}"[:200]) from None
    if not isinstance(question, dict):
        raise QuestionInvalid("line", "must be a JSON object")
    return question
