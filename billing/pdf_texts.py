"""The fixed texts of a customer's documents, in the languages they are written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceTexts:
    """Every fixed word of an invoice in one language.

    `reverse_charge` has the words that the law asks for (Directive 2006/112/EC, art. 226 (11a), and § 14a (5) UStG).
    """

    language: str
    invoice: str
    invoice_number: str
    invoice_date: str
    due_date: str
    service_period: str
    customer_number: str
    purchase_order: str
    your_tax_id: str
    bill_to: str
    total_due: str
    due_by: str
    description: str
    quantity: str
    unit: str
    unit_price: str
    amount: str
    tiered: str
    flat_fee: str
    above: str
    subtotal: str
    net_total: str
    total: str
    tax_base: str
    reverse_charge: str
    exempt: str
    no_lines: str
    payment: str
    bank: str
    iban: str
    account: str
    bic: str
    routing_number: str
    payment_reference: str
    notes: str
    tax_id: str
    page: str
    page_of: str
    synthetic: str


_ENGLISH = InvoiceTexts(
    language="en",
    invoice="Invoice",
    invoice_number="Invoice number",
    invoice_date="Invoice date",
    due_date="Due date",
    service_period="Service period",
    customer_number="Customer number",
    purchase_order="Purchase order",
    your_tax_id="Your tax ID",
    bill_to="Bill to",
    total_due="Total due",
    due_by="Payable by",
    description="Description",
    quantity="Quantity",
    unit="Unit",
    unit_price="Unit price",
    amount="Amount",
    tiered="tiered",
    flat_fee="flat fee",
    above="above",
    subtotal="Subtotal",
    net_total="Net total",
    total="Total",
    tax_base="on",
    reverse_charge="Reverse charge: the recipient owes the tax.",
    exempt="Not subject to tax.",
    no_lines="There was nothing to charge in this period.",
    payment="Payment",
    bank="Bank",
    iban="IBAN",
    account="Account",
    bic="BIC",
    routing_number="Routing number",
    payment_reference="Payment reference",
    notes="Notes",
    tax_id="Tax ID",
    page="Page",
    page_of="of",
    synthetic="Synthetic demonstration data",
)

_GERMAN = InvoiceTexts(
    language="de",
    invoice="Rechnung",
    invoice_number="Rechnungsnummer",
    invoice_date="Rechnungsdatum",
    due_date="Fällig am",
    service_period="Leistungszeitraum",
    customer_number="Kundennummer",
    purchase_order="Bestellnummer",
    your_tax_id="Ihre USt-IdNr.",
    bill_to="Rechnungsempfänger",
    total_due="Zahlbetrag",
    due_by="Zahlbar bis",
    description="Beschreibung",
    quantity="Menge",
    unit="Einheit",
    unit_price="Einzelpreis",
    amount="Betrag",
    tiered="gestaffelt",
    flat_fee="Pauschale",
    above="über",
    subtotal="Zwischensumme",
    net_total="Nettobetrag",
    total="Gesamtbetrag",
    tax_base="auf",
    reverse_charge="Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge).",
    exempt="Steuerfrei.",
    no_lines="In diesem Zeitraum war nichts zu berechnen.",
    payment="Zahlung",
    bank="Bank",
    iban="IBAN",
    account="Konto",
    bic="BIC",
    routing_number="Bankleitzahl",
    payment_reference="Verwendungszweck",
    notes="Hinweise",
    tax_id="USt-IdNr.",
    page="Seite",
    page_of="von",
    synthetic="Synthetische Demonstrationsdaten",
)

_FRENCH = InvoiceTexts(
    language="fr",
    invoice="Facture",
    invoice_number="Numéro de facture",
    invoice_date="Date de facturation",
    due_date="Date d’échéance",
    service_period="Période de service",
    customer_number="Numéro de client",
    purchase_order="Bon de commande",
    your_tax_id="Votre n° de TVA",
    bill_to="Facturé à",
    total_due="Net à payer",
    due_by="Payable jusqu’au",
    description="Désignation",
    quantity="Quantité",
    unit="Unité",
    unit_price="Prix unitaire",
    amount="Montant",
    tiered="par paliers",
    flat_fee="forfait",
    above="au-delà de",
    subtotal="Sous-total",
    net_total="Total HT",
    total="Total TTC",
    tax_base="sur",
    reverse_charge="Autoliquidation : la taxe est due par le preneur.",
    exempt="Exonéré de taxe.",
    no_lines="Rien n’était à facturer pour cette période.",
    payment="Paiement",
    bank="Banque",
    iban="IBAN",
    account="Compte",
    bic="BIC",
    routing_number="Code banque",
    payment_reference="Référence",
    notes="Remarques",
    tax_id="N° de TVA",
    page="Page",
    page_of="sur",
    synthetic="Données de démonstration synthétiques",
)

_BY_LANGUAGE = {texts.language: texts for texts in (_ENGLISH, _GERMAN, _FRENCH)}


def texts_for(locale: str) -> InvoiceTexts:
    """Return the texts for a locale such as `de_AT`; English for a language that has none of its own."""
    language = locale.replace("-", "_").partition("_")[0].lower()
    return _BY_LANGUAGE.get(language, _ENGLISH)
