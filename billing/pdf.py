"""Renders an invoice as PDF/A-3b: what is printed comes in decided, what goes out is bytes.

Nothing here reads the database, the clock or the network, so the same data gives the same bytes on the same machine.
"""

from __future__ import annotations

import gc
import hashlib
import io
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from babel.core import Locale
from babel.dates import format_date, format_interval
from django.template.loader import render_to_string
from weasyprint import CSS, HTML, Attachment
from weasyprint.css import ColorProfile
from weasyprint.text.ffi import harfbuzz_subset
from weasyprint.text.fonts import FontConfiguration
from weasyprint.urls import URLFetcher, URLFetcherResponse

from accounts.errors import CountinghouseError
from billing.pdf_texts import InvoiceTexts, texts_for
from pricing.money import format_amount, format_percent, format_quantity, format_unit_price

logger = logging.getLogger(__name__)

_STATIC = Path(__file__).resolve().parent.parent / "static" / "billing" / "pdf"

DEFAULT_LOGO = (_STATIC / "nimbus-cloud.svg").read_bytes()
"""The logo of a document whose seller has none of its own."""

# The same profile that WeasyPrint would open, and leave open, for every document.
_OUTPUT_INTENT = "srgb-kept"
_SRGB = files("weasyprint.pdf").joinpath("sRGB2014.icc").read_bytes()

# Territories whose paper is US Letter (CLDR supplemental data, paperSize); all others use A4.
_LETTER_TERRITORIES = frozenset("BZ CA CL CO CR GT MX NI PA PH PR SV US VE".split())

# Where the postal code follows city and region on one line; elsewhere it stands before the city.
_POSTAL_CODE_LAST = frozenset("AU CA GB IE IN NZ SG US".split())

# A figure longer than this doesn't fit its column at the normal size.
_LONG_FIGURE_CHARACTERS = 15

# What XML, and so the metadata of PDF/A, cannot hold and no font prints.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_BIC = re.compile(r"[A-Z]{6}[A-Z0-9]{2}([A-Z0-9]{3})?")


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


def render_invoice_pdf(data: InvoiceDocumentData, *, attachments: Sequence[EmbeddedFile] = ()) -> bytes:
    """Return the invoice as a PDF/A-3b file with its fonts embedded; same data, same bytes.

    Text of the data is printed as text, whatever it contains. Nothing is fetched: the logo comes with the data. A file
    that shows boxes in place of letters is never made, for a document is made only once.

    Raises: CharactersUnprintable, CurrencyUnknown, LocaleUnknown.
    """
    renderer = _renderer()
    html = render_to_string("billing/pdf/invoice.html", _context(data, logo_url=renderer.logos.keep(data.logo)))
    issued_at = datetime.combine(data.issued_on, time(), tzinfo=UTC)
    files = [
        Attachment(
            file_obj=io.BytesIO(file.content),
            name=file.name,
            description=file.description,
            relationship=file.relationship,
            created=issued_at,
            modified=issued_at,
            url_fetcher=renderer.logos,
        )
        for file in attachments
    ]
    return renderer.write(_UNPRINTABLE.sub(" ", html), letter=_uses_letter(data.locale), attachments=files)


class CharactersUnprintable(CountinghouseError):
    """No installed font has some of the characters of a document."""

    code = "characters_unprintable"

    def __init__(self, code_points: Iterable[int]) -> None:
        shown = " ".join(f"{chr(point)} (U+{point:04X})" for point in sorted(code_points)[:10])
        super().__init__(f"no installed font has {shown}; install one that does (Debian: fonts-noto-core, fonts-noto-cjk)")


class _Logos(URLFetcher):
    """Answers for the logos it was given and refuses every other address, local files included."""

    def __init__(self) -> None:
        super().__init__(allowed_protocols=())
        self._logos: dict[str, bytes] = {}

    def keep(self, logo: bytes) -> str:
        url = f"logo:{hashlib.sha256(logo).hexdigest()}"
        self._logos[url] = logo
        return url

    def fetch(self, url: str, headers: object = None) -> URLFetcherResponse:
        if url not in self._logos:
            message = f"a document fetches nothing, so not {url!r}"
            raise ValueError(message)
        logo = self._logos[url]
        kind = "image/png" if logo.startswith(b"\x89PNG") else "image/svg+xml"
        return URLFetcherResponse(url, body=logo, headers={"Content-Type": kind})


class _Renderer:
    """What is worth keeping between documents: parsed styles, the fonts and the images.

    Kept once for the process, a document takes 15 % less time and memory stays flat. WeasyPrint's caches are not made
    for threads and rendering holds the GIL anyway, so documents are written one at a time.
    """

    def __init__(self) -> None:
        self.logos = _Logos()
        self._lock = threading.Lock()
        self._fonts = FontConfiguration()
        self._images: dict[str, object] = {}
        self._colours = ColorProfile(io.BytesIO(_SRGB), "sRGB2014.icc", "relative-colorimetric", (["r"], ["g"], ["b"]))
        style = self._parse((_STATIC / "invoice.css").read_text(encoding="utf-8"))
        self._styles = {False: [style], True: [style, self._parse("@page { size: Letter }")]}

    def _parse(self, css: str) -> CSS:
        return CSS(string=css, font_config=self._fonts, url_fetcher=self.logos)

    def write(self, html: str, *, letter: bool, attachments: Sequence[Attachment]) -> bytes:
        with self._lock, _no_garbage_collection():
            document = HTML(string=html, url_fetcher=self.logos).render(
                stylesheets=self._styles[letter],
                font_config=self._fonts,
                color_profiles={_OUTPUT_INTENT: self._colours},
                cache=self._images,
            )
            pdf: bytes = document.write_pdf(
                pdf_variant="pdf/a-3b", output_intent=_OUTPUT_INTENT, attachments=list(attachments)
            )
        missing = {character for font in document.fonts.values() for character in font.missing}
        if missing:
            raise CharactersUnprintable(missing)
        return pdf


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Put collecting garbage off until the document is written.

    A document is a hundred thousand objects that live until it is done; looking through them again and again finds
    nothing and takes 10 % of the time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@cache
def _renderer() -> _Renderer:
    if harfbuzz_subset is None:
        logger.warning("libharfbuzz-subset is missing: each PDF takes four times as long (Debian: libharfbuzz-subset0)")
    return _Renderer()


def _uses_letter(locale: str) -> bool:
    return _locale(locale).territory in _LETTER_TERRITORIES


@cache
def _locale(name: str) -> Locale:
    return Locale.parse(name.replace("-", "_"))


def _context(data: InvoiceDocumentData, *, logo_url: str) -> dict[str, Any]:
    """Return what the template prints: strings only, in the customer's language and figures."""
    texts = texts_for(data.locale)
    figures = _Figures(currency=data.currency, locale=data.locale)
    total = figures.amount(data.total)  # comes first: it names an unknown locale or currency
    return {
        "t": texts,
        "language": data.locale.replace("_", "-"),
        "logo_url": logo_url,
        "number": data.number,
        "issued_at": f"{data.issued_on.isoformat()}T00:00:00Z",
        "currency": data.currency,
        "synthetic": data.synthetic,
        "seller": data.seller,
        "sender_line": " · ".join([data.seller.name, *_address(data.seller, figures, home=data.seller.country)]),
        "footer": _footer(data.seller, texts),
        "buyer": data.buyer,
        "buyer_address": _address(data.buyer, figures, home=data.seller.country),
        "facts": _facts(data, texts, figures),
        "total": total,
        "due_on": figures.date(data.due_on),
        "groups": [_group(group, texts, figures) for group in data.groups],
        "net": figures.amount(data.net),
        "taxes": [
            {
                "label": f"{tax.name} {figures.percent(tax.rate)} {texts.tax_base} {figures.amount(tax.base)}",
                "amount": figures.amount(tax.amount),
                "note": tax.note,
            }
            for tax in data.taxes
        ],
        "payment_terms": data.payment_terms,
        "bank": _bank(data, texts),
        "notes": data.notes,
    }


def _facts(data: InvoiceDocumentData, texts: InvoiceTexts, figures: _Figures) -> list[tuple[str, str, str]]:
    """Return label, value and small print of the facts that are known; days mean nothing without their time zone."""
    facts = [
        (texts.invoice_number, data.number, ""),
        (texts.invoice_date, figures.date(data.issued_on), ""),
        (texts.due_date, figures.date(data.due_on), ""),
        (texts.service_period, figures.period(data.period), data.time_zone),
        (texts.customer_number, data.customer_number, ""),
        (texts.purchase_order, data.purchase_order, ""),
        (texts.your_tax_id, data.buyer.tax_id, ""),
    ]
    return [fact for fact in facts if fact[1]]


def _group(group: DocumentGroup, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    return {
        "name": group.name,
        "lines": [_line(line, texts, figures) for line in group.lines],
        "subtotal": figures.amount(group.subtotal) if len(group.lines) != 1 else "",
    }


def _line(line: DocumentLine, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    if line.unit_price is not None:
        price = figures.unit_price(line.unit_price)
    else:
        price = texts.tiered if line.tiers else ""
    period = figures.period(line.period)
    return {
        "description": line.description,
        "detail": f"{period} · {line.detail}" if line.detail else period,
        "quantity": _Figure(figures.quantity(line.quantity)),
        "unit": line.unit,
        "unit_price": _Figure(price),
        "amount": figures.amount(line.amount),
        "tiers": [_tier(tier, line.unit, texts, figures) for tier in line.tiers],
    }


def _tier(tier: DocumentTier, unit: str, texts: InvoiceTexts, figures: _Figures) -> dict[str, Any]:
    above = figures.quantity(tier.above)
    span = f"{texts.above} {above}" if tier.up_to is None else f"{above} – {figures.quantity(tier.up_to)}"
    flat = f" · {texts.flat_fee} {figures.unit_price(tier.flat_amount)}" if tier.flat_amount else ""
    return {
        "span": f"{span} {unit}{flat}",
        "quantity": _Figure(figures.quantity(tier.quantity)),
        "unit_price": _Figure("" if tier.unit_price is None else figures.unit_price(tier.unit_price)),
        "amount": _Figure(figures.unit_price(tier.amount)),
    }


def _address(party: DocumentParty, figures: _Figures, *, home: str) -> list[str]:
    """Return the postal lines; the country is named only on mail that leaves the seller's country."""
    place = " ".join(part for part in (party.region, party.postal_code) if part)
    if party.country in _POSTAL_CODE_LAST:
        town = ", ".join(part for part in (party.city, place) if part)
    else:
        town = " ".join(part for part in (party.postal_code, party.city) if part)
        town = ", ".join(part for part in (town, party.region) if part)
    country = "" if party.country == home else figures.country(party.country)
    return [line for line in (party.address_line1, party.address_line2, town, country) if line]


def _footer(seller: DocumentParty, texts: InvoiceTexts) -> str:
    tax_id = f"{texts.tax_id} {seller.tax_id}" if seller.tax_id else ""
    return " · ".join(part for part in (seller.name, seller.registration, tax_id, seller.email) if part)


def _bank(data: InvoiceDocumentData, texts: InvoiceTexts) -> list[tuple[str, str]]:
    """Return the labelled lines of the bank block; none when the seller names no account."""
    if data.bank is None or not data.bank.account:
        return []
    account = data.bank.account.replace(" ", "")
    is_iban = _IBAN.fullmatch(account) is not None
    grouped = " ".join(account[start : start + 4] for start in range(0, len(account), 4))
    code_label = texts.bic if _BIC.fullmatch(data.bank.code) else texts.routing_number
    rows = [
        (texts.bank, data.bank.name),
        (texts.iban if is_iban else texts.account, grouped if is_iban else data.bank.account),
        (code_label, data.bank.code),
        (texts.payment_reference, data.number),
    ]
    return [(label, value) for label, value in rows if value]


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure of a table cell, which knows when it is too long for the normal size."""

    text: str

    @property
    def is_long(self) -> bool:
        return len(self.text) > _LONG_FIGURE_CHARACTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Writes figures, dates and countries as the customer's locale does."""

    currency: str
    locale: str

    def amount(self, value: Decimal) -> str:
        return format_amount(value, self.currency, self.locale)

    def unit_price(self, value: Decimal) -> str:
        return format_unit_price(value, self.currency, self.locale)

    def quantity(self, value: Decimal) -> str:
        return format_quantity(value, self.locale)

    def percent(self, value: Decimal) -> str:
        return format_percent(value, self.locale)

    def date(self, on: date) -> str:
        return format_date(on, "medium", locale=_locale(self.locale))

    def period(self, period: DocumentPeriod) -> str:
        return _format_period(period, self.locale)

    def country(self, code: str) -> str:
        return _locale(self.locale).territories.get(code, code)


@lru_cache(maxsize=256)
def _format_period(period: DocumentPeriod, locale: str) -> str:
    """Return the days as one text; lines of an invoice mostly share one period and CLDR's intervals are slow."""
    return format_interval(period.first_on, period.last_on, "yMMMd", locale=_locale(locale))
