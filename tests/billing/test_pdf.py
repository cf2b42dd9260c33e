"""What a customer reads on an invoice, taken from the finished PDF."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pikepdf
import pytest
from PIL import Image

from billing import pdf as pdf_module
from billing.pdf import (
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
    render_invoice_pdf,
)
from billing.pdf_texts import texts_for
from pricing.money import CurrencyUnknown, LocaleUnknown

SEPTEMBER = DocumentPeriod(first_on=date(2024, 9, 1), last_on=date(2024, 9, 30))
LINE = DocumentLine(
    description="H100 GPU, on demand",
    detail="us-east-1",
    period=SEPTEMBER,
    quantity=Decimal("316.5"),
    unit="GPU-hours",
    unit_price=Decimal("3.90"),
    amount=Decimal("1234.35"),
)


def invoice(*lines: DocumentLine, **changes: object) -> InvoiceDocumentData:
    """An invoice of 1,234.35 net and 19 % tax, unless told otherwise."""
    printed = lines or (LINE,)
    data = InvoiceDocumentData(
        number="INV-2024-000042",
        issued_on=date(2024, 10, 1),
        due_on=date(2024, 10, 31),
        period=SEPTEMBER,
        time_zone="Europe/Berlin",
        currency="EUR",
        locale="en_US",
        seller=DocumentParty(
            name="Nimbus Cloud GmbH",
            address_line1="Speicherstraße 12",
            postal_code="20457",
            city="Hamburg",
            country="DE",
            tax_id="DE301234567",
            registration="HRB 123456",
        ),
        buyer=DocumentParty(
            name="Acme Robotics",
            address_line1="1 Main Street",
            city="Springfield",
            region="IL",
            postal_code="62701",
            country="US",
        ),
        groups=(DocumentGroup(name="Compute", lines=printed, subtotal=Decimal("1234.35")),),
        net=Decimal("1234.35"),
        taxes=(DocumentTax(name="VAT", rate=Decimal(19), base=Decimal("1234.35"), amount=Decimal("234.53")),),
        total=Decimal("1468.88"),
        customer_number="C-10042",
        payment_terms="Payable within 30 days.",
        bank=DocumentBank(name="Example Bank", account="DE89370400440532013000", code="COBADEFFXXX"),
    )
    return replace(data, **changes)  # type: ignore[arg-type]


def many_lines(count: int) -> tuple[DocumentLine, ...]:
    return tuple(replace(LINE, description=f"Position {number:03}") for number in range(1, count + 1))


def text_of(pdf: bytes) -> str:
    """Return the text of all pages in reading order, a form feed after each page, every blank a plain space."""
    program = shutil.which("pdftotext")
    if program is None:
        pytest.fail("pdftotext is missing (Debian: poppler-utils)")
    done = subprocess.run([program, "-layout", "-", "-"], input=pdf, capture_output=True, check=True)
    pages = done.stdout.decode().split("\f")[:-1]
    return "\f".join(" ".join(page.split()) for page in pages)


def pages_of(pdf: bytes) -> list[str]:
    return text_of(pdf).split("\f")


def opened(pdf: bytes) -> pikepdf.Pdf:
    return pikepdf.open(io.BytesIO(pdf))


def test_the_file_says_that_it_is_pdf_a_3b_and_carries_its_colour_profile() -> None:
    with opened(render_invoice_pdf(invoice())) as pdf:
        metadata = pdf.open_metadata()

        assert metadata.pdfa_status == "3B"
        assert pdf.Root.OutputIntents[0].S == "/GTS_PDFA1"
        assert pdf.Root.OutputIntents[0].DestOutputProfile.read_bytes()[36:40] == b"acsp"


def test_every_font_is_embedded() -> None:
    with opened(render_invoice_pdf(invoice())) as pdf:
        fonts = [font for page in pdf.pages for font in page.resources.Font.values()]
        descriptors = [font.DescendantFonts[0].FontDescriptor for font in fonts]

        assert descriptors
        assert all("/FontFile2" in descriptor or "/FontFile3" in descriptor for descriptor in descriptors)


def test_the_metadata_takes_its_dates_from_the_invoice() -> None:
    with opened(render_invoice_pdf(invoice())) as pdf:
        metadata = pdf.open_metadata()

        assert pdf.docinfo["/CreationDate"] == "D:20241001000000Z"
        assert metadata["xmp:CreateDate"] == "2024-10-01T00:00:00Z"
        assert metadata["dc:title"] == "Invoice INV-2024-000042"
        assert metadata["dc:creator"] == ["Nimbus Cloud GmbH"]


def test_the_same_data_gives_the_same_bytes() -> None:
    first = render_invoice_pdf(invoice(*many_lines(40)))
    render_invoice_pdf(invoice(locale="de_DE"))

    assert render_invoice_pdf(invoice(*many_lines(40))) == first


def test_an_american_customer_reads_american_figures() -> None:
    text = text_of(render_invoice_pdf(invoice(currency="USD")))

    assert "Total due (USD) Payable by $1,468.88 Oct 31, 2024" in text
    assert "H100 GPU, on demand 316.5 GPU-hours $3.90 $1,234.35" in text
    assert "VAT 19% on $1,234.35 $234.53" in text
    assert "Springfield, IL 62701 " in text
    assert "Page 1 of 1" in text


def test_a_german_customer_reads_german() -> None:
    text = text_of(render_invoice_pdf(invoice(locale="de_DE")))

    assert "Rechnung" in text
    assert "1.468,88 € 31.10.2024" in text
    assert "316,5 GPU-hours 3,90 € 1.234,35 €" in text
    assert "VAT 19 % auf 1.234,35 € 234,53 €" in text
    assert "Vereinigte Staaten" in text
    assert "IBAN DE89 3704 0044 0532 0130 00" in text
    assert "Seite 1 von 1" in text


def test_a_french_customer_reads_french() -> None:
    text = text_of(render_invoice_pdf(invoice(locale="fr_FR")))

    assert "Facture" in text
    assert "1 468,88 € 31 oct. 2024" in text
    assert "Page 1 sur 1" in text


def test_yen_have_no_decimal_places() -> None:
    line = replace(LINE, unit_price=Decimal("590"), amount=Decimal("438960"))

    text = text_of(render_invoice_pdf(invoice(line, currency="JPY", total=Decimal("482856"))))

    assert "¥482,856" in text
    assert "316.5 GPU-hours ¥590 ¥438,960" in text


def test_a_customer_whose_language_has_no_texts_reads_english() -> None:
    assert texts_for("nl_NL").invoice == "Invoice"
    assert texts_for("de-AT").invoice == "Rechnung"


def test_north_american_customers_get_letter_paper_and_all_others_a4() -> None:
    with (
        opened(render_invoice_pdf(invoice(locale="en_US"))) as letter,
        opened(render_invoice_pdf(invoice(locale="en_GB"))) as a4,
    ):
        assert [round(float(side)) for side in letter.pages[0].mediabox] == [0, 0, 612, 792]
        assert [round(float(side)) for side in a4.pages[0].mediabox] == [0, 0, 595, 842]


def test_a_tiny_unit_price_keeps_every_digit() -> None:
    line = replace(LINE, quantity=Decimal("48200000"), unit_price=Decimal("0.000000400000000000"))

    text = text_of(render_invoice_pdf(invoice(line, currency="USD")))

    assert "48,200,000 GPU-hours $0.0000004 " in text


def test_figures_of_any_length_stay_in_their_columns() -> None:
    line = replace(
        LINE, quantity=Decimal("1234567890123.123456789"), unit_price=Decimal("0.000000000000000001"), unit="tokens"
    )

    joined = text_of(render_invoice_pdf(invoice(line, currency="USD"))).replace(" ", "")

    assert "tokens" in joined
    assert all(part in joined for part in ("1,234,567,890,123", "$0.0000000000"))


@pytest.mark.parametrize("unit", ["GPU-hours", "StateTransitions", "WriteRequestUnits", "ProvisionedConcurrency"])
def test_the_word_of_a_unit_is_never_broken(unit: str) -> None:
    text = text_of(render_invoice_pdf(invoice(replace(LINE, unit=unit), locale="de_DE")))

    assert unit in text


def test_a_tiered_price_shows_its_steps() -> None:
    tiers = (
        DocumentTier(
            above=Decimal(0), up_to=Decimal(100), quantity=Decimal(100), unit_price=Decimal(0), amount=Decimal(0)
        ),
        DocumentTier(
            above=Decimal(100),
            up_to=None,
            quantity=Decimal("216.5"),
            unit_price=Decimal("0.125"),
            amount=Decimal("32.0625"),
            flat_amount=Decimal(5),
        ),
    )
    line = replace(LINE, unit="GB", unit_price=None, tiers=tiers)

    text = text_of(render_invoice_pdf(invoice(line, currency="USD")))

    assert "316.5 GB tiered $1,234.35" in text
    assert "0 – 100 GB 100 $0.00 $0.00" in text
    assert "above 100 GB · flat fee $5.00 216.5 $0.125 $32.0625" in text


def test_negative_amounts_carry_a_minus() -> None:
    credit = replace(LINE, description="Outage credit", quantity=Decimal(1), unit="", amount=Decimal("-120.50"))

    text = text_of(render_invoice_pdf(invoice(credit, currency="USD", total=Decimal("-120.50"))))

    assert text.count("-$120.50") == 3


def test_the_service_period_stands_on_every_line() -> None:
    late = replace(
        LINE, description="Late", period=DocumentPeriod(first_on=date(2024, 8, 17), last_on=date(2024, 8, 31))
    )

    text = text_of(render_invoice_pdf(invoice(LINE, late)))

    assert "Sep 1 – 30, 2024 · us-east-1" in text
    assert "Aug 17 – 31, 2024 · us-east-1" in text
    assert "Europe/Berlin" in text


def test_a_tax_note_is_printed_with_the_tax() -> None:
    reverse_charge = DocumentTax(
        name="VAT",
        rate=Decimal(0),
        base=Decimal("1234.35"),
        amount=Decimal(0),
        note="Reverse charge, art. 196 VAT directive",
    )

    text = text_of(render_invoice_pdf(invoice(taxes=(reverse_charge,), total=Decimal("1234.35"))))

    assert "Reverse charge, art. 196 VAT directive" in text
    assert "VAT 0% on €1,234.35" in text


def test_an_invoice_without_taxes_has_no_net_total() -> None:
    assert "Net total" not in text_of(render_invoice_pdf(invoice(taxes=())))


def test_a_group_of_one_line_needs_no_subtotal() -> None:
    assert "Subtotal" not in text_of(render_invoice_pdf(invoice()))
    assert "Subtotal Compute" in text_of(render_invoice_pdf(invoice(LINE, LINE)))


def test_an_invoice_without_lines_says_so() -> None:
    text = text_of(render_invoice_pdf(invoice(groups=(), net=Decimal(0), taxes=(), total=Decimal(0))))

    assert "There was nothing to charge in this period." in text
    assert "Total (EUR) €0.00" in text


def test_every_page_repeats_the_column_heads_and_counts_the_pages() -> None:
    pages = pages_of(render_invoice_pdf(invoice(*many_lines(300))))

    assert len(pages) > 5
    for number, page in enumerate(pages, start=1):
        assert "Description Quantity Unit Unit price Amount" in page
        assert f"Page {number} of {len(pages)}" in page
        assert "HRB 123456" in page
    assert all(page.startswith("Invoice INV-2024-000042") for page in pages[1:])
    assert all(sum(f"Position {number:03}" in page for page in pages) == 1 for number in range(1, 301))


@pytest.mark.parametrize("count", range(8, 18))
def test_totals_are_never_alone_on_a_page(count: int) -> None:
    last_page = pages_of(render_invoice_pdf(invoice(*many_lines(count))))[-1]

    assert f"Position {count:03}" in last_page
    assert "Total (EUR)" in last_page


def test_a_group_head_stays_with_its_first_line() -> None:
    groups = tuple(
        DocumentGroup(name=f"Group {number:02}", lines=many_lines(2), subtotal=Decimal("2468.70"))
        for number in range(30)
    )

    pages = pages_of(render_invoice_pdf(invoice(groups=groups)))

    for number in range(30):
        assert any(f"Group {number:02} Position 001" in page for page in pages)


def test_very_long_names_and_descriptions_are_printed_whole() -> None:
    name = "Société d’Exemples et de Démonstrations Internationales " * 3
    words = " ".join(f"word{number}" for number in range(200))

    text = text_of(
        render_invoice_pdf(invoice(replace(LINE, description=words), buyer=DocumentParty(name=name, country="FR")))
    )

    assert all(f"word{number}" in text for number in range(200))
    assert text.count("Démonstrations") == 3


def test_synthetic_data_is_marked_on_every_page() -> None:
    marked = pages_of(render_invoice_pdf(invoice(*many_lines(60), synthetic=True)))

    assert all("Synthetic demonstration data" in page for page in marked)
    assert "Synthetic" not in text_of(render_invoice_pdf(invoice()))


def test_what_is_not_known_is_left_out() -> None:
    text = text_of(render_invoice_pdf(invoice(customer_number="", purchase_order="", bank=None, payment_terms="")))

    assert "Customer number" not in text
    assert "Purchase order" not in text
    assert "Payment" not in text


def test_an_account_that_is_no_iban_is_called_an_account() -> None:
    bank = DocumentBank(name="First Bank", account="000123456789", code="026009593")

    text = text_of(render_invoice_pdf(invoice(bank=bank)))

    assert "Account 000123456789" in text
    assert "Routing number 026009593" in text


@contextmanager
def listening_server() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback that keeps the paths it was asked for."""
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_html_in_a_description_is_text_and_fetches_nothing() -> None:
    with listening_server() as (address, asked):
        hostile = f'<script src="{address}/s"></script><img src="{address}/i"><link rel="attachment" href="file:///etc/passwd">'
        pdf = render_invoice_pdf(invoice(replace(LINE, description=hostile, detail=f'"><style>@import "{address}/c"')))

    assert asked == []
    joined = text_of(pdf).replace(" ", "")
    assert "<scriptsrc=" in joined
    assert "file:///etc/passwd" in joined
    with opened(pdf) as document:
        assert not document.attachments


def test_a_logo_cannot_fetch_anything() -> None:
    with listening_server() as (address, asked):
        logo = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 30" width="90" height="30">'
            f'<image href="{address}/i" width="9" height="9"/><rect width="90" height="30" fill="#123456"/></svg>'
        )
        render_invoice_pdf(invoice(logo=logo.encode()))

    assert asked == []


def test_a_png_logo_is_printed() -> None:
    logo = io.BytesIO()
    Image.new("RGB", (90, 30), "#2f5bea").save(logo, "PNG")

    with opened(render_invoice_pdf(invoice(logo=logo.getvalue()))) as pdf:
        assert len(pdf.pages[0].get_images()) == 1


def test_control_characters_do_not_reach_the_document() -> None:
    pdf = render_invoice_pdf(invoice(replace(LINE, description="one\x0btwo\x01three"), number="INV\x02-1"))

    assert "one two three" in text_of(pdf)
    with opened(pdf) as document:
        assert document.open_metadata()["dc:title"] == "Invoice INV -1"


def test_a_character_that_no_font_has_refuses_the_document() -> None:
    private_use = replace(LINE, description="\U0010fffd")

    with pytest.raises(CharactersUnprintable, match=r"U\+10FFFD"):
        render_invoice_pdf(invoice(private_use))


def test_without_the_subsetting_library_a_worker_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pdf_module, "harfbuzz_subset", None)
    pdf_module._renderer.cache_clear()

    render_invoice_pdf(invoice())
    render_invoice_pdf(invoice())

    assert [record.message for record in caplog.records if "libharfbuzz-subset0" in record.message] == [
        "libharfbuzz-subset is missing: each PDF takes four times as long (Debian: libharfbuzz-subset0)"
    ]


def test_mail_abroad_names_both_countries() -> None:
    text = text_of(render_invoice_pdf(invoice(buyer=DocumentParty(name="Acme", city="Paris", country="FR"))))

    assert "Hamburg · Germany" in text
    assert "France" in text


def test_an_unknown_locale_or_currency_refuses_the_document() -> None:
    with pytest.raises(LocaleUnknown):
        render_invoice_pdf(invoice(locale="tlh_XX"))
    with pytest.raises(CurrencyUnknown):
        render_invoice_pdf(invoice(currency="XXX"))


def test_a_file_is_embedded_with_its_relationship() -> None:
    file = EmbeddedFile(
        name="invoice.xml", content=b"<invoice/>", description="The invoice as data", relationship="Alternative"
    )

    pdf = render_invoice_pdf(invoice(), attachments=[file])

    assert render_invoice_pdf(invoice(), attachments=[file]) == pdf
    with opened(pdf) as document:
        assert document.attachments["invoice.xml"].get_file().read_bytes() == b"<invoice/>"
        assert document.Root.AF[0].AFRelationship == "/Alternative"
        assert document.Root.AF[0].EF.F.Subtype == "/text/xml"
