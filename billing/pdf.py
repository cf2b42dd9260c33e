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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, time
from functools import cache
from importlib.resources import files

from django.template.loader import render_to_string
from weasyprint import CSS, HTML, Attachment
from weasyprint.css import ColorProfile
from weasyprint.text.ffi import harfbuzz_subset
from weasyprint.text.fonts import FontConfiguration
from weasyprint.urls import URLFetcher, URLFetcherResponse

from billing.pdf_content import invoice_content, uses_letter
from billing.pdf_data import (
    DEFAULT_LOGO,
    STATIC_FOLDER,
    CharactersUnprintable,
    DocumentBank,
    DocumentGroup,
    DocumentLine,
    DocumentParty,
    DocumentPeriod,
    DocumentTax,
    DocumentTier,
    EmbeddedFile,
    InvoiceDocumentData,
)

__all__ = [
    "DEFAULT_LOGO",
    "CharactersUnprintable",
    "DocumentBank",
    "DocumentGroup",
    "DocumentLine",
    "DocumentParty",
    "DocumentPeriod",
    "DocumentTax",
    "DocumentTier",
    "EmbeddedFile",
    "InvoiceDocumentData",
    "render_invoice_pdf",
]

logger = logging.getLogger(__name__)

# The same profile that WeasyPrint would open, and leave open, for every document.
_OUTPUT_INTENT = "srgb-kept"
_SRGB = files("weasyprint.pdf").joinpath("sRGB2014.icc").read_bytes()

# What XML, and so the metadata of PDF/A, cannot hold and no font prints.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render_invoice_pdf(data: InvoiceDocumentData, *, attachments: Sequence[EmbeddedFile] = ()) -> bytes:
    """Return the invoice as a PDF/A-3b file with its fonts embedded; same data, same bytes.

    Text of the data is printed as text, whatever it contains. Nothing is fetched: the logo comes with the data. A file
    that shows boxes in place of letters is never made, for a document is made only once.

    Raises: CharactersUnprintable, CurrencyUnknown, LocaleUnknown.
    """
    renderer = _renderer()
    html = render_to_string("billing/pdf/invoice.html", invoice_content(data, logo_url=renderer.logos.keep(data.logo)))
    issued_at = datetime.combine(data.issued_on, time(), tzinfo=UTC)
    embedded = [
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
    return renderer.write(_UNPRINTABLE.sub(" ", html), letter=uses_letter(data.locale), attachments=embedded)


class _Logos(URLFetcher):  # type: ignore[misc] # WeasyPrint has no types
    """Answers for the logos it was given and refuses every other address, local files included."""

    def __init__(self) -> None:
        super().__init__(allowed_protocols=())
        self._logos: dict[str, bytes] = {}

    def keep(self, logo: bytes) -> str:
        url = f"logo:{hashlib.sha256(logo).hexdigest()}"
        self._logos[url] = logo
        return url

    def fetch(self, url: str, headers: object = None) -> URLFetcherResponse:  # noqa: ARG002 - the signature of the parent
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
        style = self._parse((STATIC_FOLDER / "invoice.css").read_text(encoding="utf-8"))
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
