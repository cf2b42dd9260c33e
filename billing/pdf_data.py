"""What an invoice prints, decided before it is rendered: plain values without a database, a clock or a layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from accounts.errors import CountinghouseError

STATIC_FOLDER = Path(__file__).resolve().parent.parent / "static" / "billing" / "pdf"

DEFAULT_LOGO = (STATIC_FOLDER / "nimbus-cloud.svg").read_bytes()
"""The logo of a document whose seller has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPeriod:
    """Days of service, first and last included, as local dates of the seller's time zone."""

    first_on: date
    last_on: date


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentParty:
    """Seller or buyer as printed; empty fields are left out. `country` is the ISO 3166 code."""

    name: str
    address_line1: str = ""
    address_line2: str = ""
    postal_code: str = ""
    city: str = ""
    region: str = ""
    country: str = ""
    attention: str = ""
    tax_id: str = ""
    registration: str = ""
    email: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBank:
    """Where to pay: an IBAN or account number, and a BIC or routing number."""

    name: str = ""
    account: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTier:
    """One step of a tiered price: the part of the quantity `above` one bound and `up_to` the next.

    `unit_price` is None where the step has only a flat amount. `amount` is exact, before the line is rounded.
    """

    above: Decimal
    up_to: Decimal | None
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal
    flat_amount: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """One charge. `unit_price` is None when the price is not a single one; then `tiers` show how it came about."""

    description: str
    period: DocumentPeriod
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    amount: Decimal
    detail: str = ""
    tiers: tuple[DocumentTier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentGroup:
    """The lines of one product group and their net sum."""

    name: str
    lines: tuple[DocumentLine, ...]
    subtotal: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTax:
    """One tax of the document: `rate` in percent (19 is 19 %), on the net `base`."""

    name: str
    rate: Decimal
    base: Decimal
    amount: Decimal
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDocumentData:
    """Everything an invoice prints. All amounts are in `currency` and rounded already, except unit prices and tiers.

    Dates are local dates of the seller in `time_zone`; `locale` (such as de_DE) is the customer's and decides language,
    figures, dates and paper. `logo` is an SVG or PNG file.
    """

    number: str
    issued_on: date
    due_on: date
    period: DocumentPeriod
    time_zone: str
    currency: str
    locale: str
    seller: DocumentParty
    buyer: DocumentParty
    groups: tuple[DocumentGroup, ...]
    net: Decimal
    taxes: tuple[DocumentTax, ...]
    total: Decimal
    customer_number: str = ""
    purchase_order: str = ""
    payment_terms: str = ""
    bank: DocumentBank | None = None
    notes: str = ""
    synthetic: bool = False
    logo: bytes = DEFAULT_LOGO


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedFile:
    """A file carried inside the PDF; `relationship` is the AFRelationship of PDF/A-3, such as Alternative."""

    name: str
    content: bytes
    description: str
    relationship: str


class CharactersUnprintable(CountinghouseError):
    """No installed font has some of the characters of a document."""

    code = "characters_unprintable"

    def __init__(self, code_points: Iterable[int]) -> None:
        shown = " ".join(f"{chr(point)} (U+{point:04X})" for point in sorted(code_points)[:10])
        super().__init__(
            f"no installed font has {shown}; install one that does (Debian: fonts-noto-core, fonts-noto-cjk)"
        )
