"""Reading a price from JSON, strictly: what is missing, unknown or out of range is named with its path, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from accounts.errors import CountinghouseError
from pricing.money import ONE, ZERO, DecimalInvalid, parse_decimal, plain

# Amounts in a price are stored as numeric(38,18).
_AMOUNT_WHOLE_DIGITS: Final = 20
_AMOUNT_PLACES: Final = 18
_SHOWN_PROBLEMS: Final = 10


class Problem(NamedTuple):
    """One thing wrong with a price: where (`tiers[1].up_to`; empty for the price itself) and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class PriceInvalid(CountinghouseError):
    """The price is not written as a price model asks; `problems` names each place and reason."""

    code = "price_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(map(str, self.problems[:_SHOWN_PROBLEMS]))
        more = len(self.problems) - _SHOWN_PROBLEMS
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)


class SpecReader:
    """Takes the fields of one JSON object one by one and notes what is wrong with them.

    After a problem a field answers with a harmless value, so that the rest can be looked at too; whoever reads asks for
    `problems` at the end. A field that is null counts as left out.
    """

    def __init__(self, spec: Mapping[str, object], path: str = "", problems: list[Problem] | None = None) -> None:
        self._spec = spec
        self._path = path
        self._known: set[str] = set()
        self.problems: list[Problem] = [] if problems is None else problems

    def refuse(self, key: str, reason: str) -> None:
        """Note a problem at a field, or at this object itself where `key` is empty."""
        self.problems.append(Problem(".".join(filter(None, (self._path, key))), reason))

    def has(self, key: str) -> bool:
        """Tell whether the field is there and not null."""
        self._known.add(key)
        return self._spec.get(key) is not None

    def text(self, key: str) -> str:
        """Take a word."""
        if not self.has(key):
            self.refuse(key, "is missing")
            return ""
        value = self._spec[key]
        if not isinstance(value, str):
            self.refuse(key, "must be text")
            return ""
        return value

    def flag(self, key: str) -> bool:
        """Take true or false; false where left out."""
        value = self._spec[key] if self.has(key) else False
        if not isinstance(value, bool):
            self.refuse(key, "must be true or false")
            return False
        return value

    def count(self, key: str, *, most: int, default: int) -> int:
        """Take a whole JSON number from 0 to `most`."""
        value = self._spec[key] if self.has(key) else default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.refuse(key, f"must be a whole number from 0 to {most}")
            return default
        return value

    def quantity(self, key: str, *, default: Decimal | None = None) -> Decimal:
        """Take a decimal string that is not negative, of at most 38 digits."""
        if not self.has(key):
            if default is None:
                self.refuse(key, "is missing")
            return ZERO if default is None else default
        try:
            value = parse_decimal(self._spec[key])
        except DecimalInvalid as error:
            self.refuse(key, str(error))
            return ZERO
        if value < 0:
            self.refuse(key, f"must not be negative, and is {plain(value)}")
            return ZERO
        return value

    def positive_quantity(self, key: str, *, default: Decimal | None = None) -> Decimal:
        """Take a decimal string above zero."""
        before = len(self.problems)
        value = self.quantity(key, default=default)
        if len(self.problems) == before and not value:
            self.refuse(key, "must be above zero")
        return value or ONE

    def amount(self, key: str, *, default: Decimal | None = None) -> Decimal:
        """Take a decimal string of at most 20 digits before and 18 after the point, not negative."""
        value = self.quantity(key, default=default)
        whole, _, fraction = plain(value).partition(".")
        if len(whole) > _AMOUNT_WHOLE_DIGITS or len(fraction) > _AMOUNT_PLACES:
            reason = f"may have {_AMOUNT_WHOLE_DIGITS} digits before and {_AMOUNT_PLACES} after the point"
            self.refuse(key, reason)
            return ZERO
        return value

    def optional_amount(self, key: str) -> Decimal | None:
        """Take an amount, or None where it is left out."""
        return self.amount(key) if self.has(key) else None

    def child(self, key: str) -> SpecReader | None:
        """Take a JSON object, or None where it is left out; its problems are noted here."""
        if not self.has(key):
            return None
        value = self._spec[key]
        if not isinstance(value, Mapping):
            self.refuse(key, "must be an object")
            return None
        return self._reader(value, key)

    def rows(self, key: str, *, most: int) -> list[SpecReader]:
        """Take a list of 1 to `most` JSON objects."""
        value = self._spec[key] if self.has(key) else None
        if not isinstance(value, list | tuple) or not value or len(value) > most:
            self.refuse(key, f"must be a list of 1 to {most} objects")
            return []
        rows = []
        for index, row in enumerate(value):
            place = f"{key}[{index}]"
            if isinstance(row, Mapping):
                rows.append(self._reader(row, place))
            else:
                self.refuse(place, "must be an object")
        return rows

    def _reader(self, spec: Mapping[str, object], key: str) -> SpecReader:
        return SpecReader(spec, ".".join(filter(None, (self._path, key))), self.problems)

    def refuse_unknown(self) -> None:
        """Note every field that nobody took: a misspelt option must not be ignored."""
        for key in self._spec:
            if key not in self._known:
                self.refuse(str(key)[:60], "is not a field of this price")
