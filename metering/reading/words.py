"""The words of an address: what a query string asks, name by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from accounts.errors import DetailsInvalid


class Words:
    """Values by name, in the order in which they came. `name[inner]` is one of several that belong together.

    Raises: DetailsInvalid, where a name or a value holds a NUL, which no text of the database can.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        if any("\0" in text for name, texts in values.items() for text in (name, *texts)):
            raise DetailsInvalid({"": ["No name and no value holds a NUL."]})
        self._values = values

    def as_sent(self, name: str) -> str:
        """Return the value of the name, the last of several; empty where there is none."""
        values = self._values.get(name, ())
        return values[-1] if values else ""

    def one(self, name: str) -> str:
        """Return that value without blanks around it."""
        return self.as_sent(name).strip()

    def several(self, name: str) -> Sequence[str]:
        """Return all values of the name."""
        return self._values.get(name, ())

    def within(self, name: str) -> dict[str, Sequence[str]]:
        """Return the values of each `name[inner]`, by inner name."""
        return {
            found[len(name) + 1 : -1]: values
            for found, values in self._values.items()
            if found.startswith(f"{name}[") and found.endswith("]")
        }

    def require_only(
        self, once: Collection[str], *, more_than_once: Collection[str] = (), in_brackets: Mapping[str, bool]
    ) -> None:
        """Refuse names that nobody knows: a misspelt filter would be answered with a figure of something else.

        `in_brackets` has the names that come as `name[inner]`, and whether each may come more than once.

        Raises: DetailsInvalid.
        """
        known = f"Known are: {', '.join([*once, *more_than_once, *(f'{name}[...]' for name in in_brackets)])}."
        wrong: dict[str, list[str]] = {}
        for name, values in self._values.items():
            outer = name.partition("[")[0] if name.endswith("]") else ""
            if name not in {*once, *more_than_once} and outer not in in_brackets:
                wrong[name] = [f"There is no such parameter. {known}"]
            elif len(values) > 1 and name not in more_than_once and not in_brackets.get(outer):
                wrong[name] = ["Give it once."]
        if wrong:
            raise DetailsInvalid(wrong)
