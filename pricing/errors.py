"""The states of products, price books and contracts that forbid an act; `pricing.rating` and the other pure modules
name their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accounts.errors import CountinghouseError


class ProductInvalid(CountinghouseError):
    """A product needs a code, a name, a group and a unit, and a filter only where it has a meter."""

    code = "product_invalid"


class ProductCodeTaken(CountinghouseError):
    """There is a product of this code already, and it is not the same."""

    code = "product_code_taken"


class ProductUnknown(CountinghouseError):
    """There is no such product."""

    code = "product_unknown"


class ProductTakesNoUsage(CountinghouseError):
    """A product without a meter takes no usage, so its price can only be flat."""

    code = "product_takes_no_usage"


class ProductUsageFrozen(CountinghouseError):
    """A product with a submitted price keeps its code, unit, meter and filter; add another product instead."""

    code = "product_usage_frozen"


class PriceBookUnknown(CountinghouseError):
    """There is no such price book."""

    code = "price_book_unknown"


class PriceBookInvalid(CountinghouseError):
    """A price book needs a code of letters, digits, hyphens and underscores, a name and a currency."""

    code = "price_book_invalid"


class PriceBookCodeTaken(CountinghouseError):
    """There is a price book of this code already, and it is not the same."""

    code = "price_book_code_taken"


class VersionUnknown(CountinghouseError):
    """There is no such version of a price book; a draft may have been discarded."""

    code = "version_unknown"


class VersionInReview(CountinghouseError):
    """The next version of this price book is in review; decide on it or withdraw it first."""

    code = "version_in_review"


class VersionNotDraft(CountinghouseError):
    """Prices change only in a draft; this version is no longer one."""

    code = "version_not_draft"


class VersionNotInReview(CountinghouseError):
    """The version is not waiting for a decision."""

    code = "version_not_in_review"


class VersionEmpty(CountinghouseError):
    """A version without any price can not be submitted."""

    code = "version_empty"


class VersionAmbiguous(CountinghouseError):
    """Two products of the version take the same usage, so neither could be billed."""

    code = "version_ambiguous"


class EffectiveFromInvalid(CountinghouseError):
    """A version takes effect on a full hour, with a time zone, later than every approved version of its price book."""

    code = "effective_from_invalid"


class VersionContentChanged(CountinghouseError):
    """What the version holds is not what was approved."""

    code = "version_content_changed"


class FileProblem(NamedTuple):
    """What is wrong with a file, in which line (the header is line 1) and column; no column: the whole line."""

    line: int
    column: str
    reason: str

    def __str__(self) -> str:
        place = f"line {self.line}, {self.column}" if self.column else f"line {self.line}"
        return f"{place}: {self.reason}"


_MOST_SHOWN = 20


class PriceFileInvalid(CountinghouseError):
    """The file was refused as a whole: nothing of it was taken. `problems` lists every one."""

    code = "price_file_invalid"

    def __init__(self, problems: Sequence[FileProblem]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(map(str, self.problems[:_MOST_SHOWN]))
        more = len(self.problems) - _MOST_SHOWN
        super().__init__(f"{shown}; and {more} more" if more > 0 else shown)


class ContractUnknown(CountinghouseError):
    """There is no such contract."""

    code = "contract_unknown"


class ContractCurrencyDiffers(CountinghouseError):
    """A contract can only use a price book in the customer's own currency."""

    code = "contract_currency_differs"


class ContractDatesInvalid(CountinghouseError):
    """A contract ends after it starts."""

    code = "contract_dates_invalid"


class ContractOverlaps(CountinghouseError):
    """A customer has one contract at a time, and another one covers some of these days."""

    code = "contract_overlaps"


class ContractPartyUnknown(CountinghouseError):
    """There is no such customer or price book."""

    code = "contract_party_unknown"


class CustomerDeactivated(CountinghouseError):
    """A deactivated customer takes no new contracts."""

    code = "customer_deactivated"
