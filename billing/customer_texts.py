"""What we write to customers besides the form of the invoice: the e-mail, and remarks on lines; by language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerTexts:
    """The words of one language; what stands in braces is filled in."""

    language: str
    subject: str
    greeting: str
    opening: str
    amount: str
    due_on: str
    period: str
    attached: str
    questions: str
    regards: str
    synthetic: str
    payable_within: str
    late_usage: str
    billed_before: str
    included: str
    minimum: str
    maximum: str
    share_of_period: str


_ENGLISH = CustomerTexts(
    language="en",
    subject="Invoice {number} from {seller}",
    greeting="Hello,",
    opening="here is the invoice {number} for {buyer}.",
    amount="Total due",
    due_on="Payable by",
    period="Service period",
    attached="The invoice is attached as a PDF.",
    questions="Questions? Just reply to this message.",
    regards="Kind regards",
    synthetic="Synthetic demonstration data: nobody owes this.",
    payable_within="Payable within {days} days, by {due_on}.",
    late_usage="usage reported late",
    billed_before="less {amount} billed before",
    included="{quantity} included",
    minimum="minimum charge {amount}",
    maximum="capped at {amount}",
    share_of_period="{days} of {of_days} days",
)

_GERMAN = CustomerTexts(
    language="de",
    subject="Rechnung {number} von {seller}",
    greeting="Guten Tag,",
    opening="anbei erhalten Sie die Rechnung {number} für {buyer}.",
    amount="Zahlbetrag",
    due_on="Zahlbar bis",
    period="Leistungszeitraum",
    attached="Die Rechnung ist als PDF angehängt.",
    questions="Fragen? Antworten Sie einfach auf diese Nachricht.",
    regards="Mit freundlichen Grüßen",
    synthetic="Synthetische Vorführdaten: Niemand schuldet diesen Betrag.",
    payable_within="Zahlbar innerhalb von {days} Tagen, bis zum {due_on}.",
    late_usage="nachgemeldeter Verbrauch",
    billed_before="abzüglich bereits berechneter {amount}",
    included="{quantity} inklusive",
    minimum="Mindestbetrag {amount}",
    maximum="begrenzt auf {amount}",
    share_of_period="{days} von {of_days} Tagen",
)

_FRENCH = CustomerTexts(
    language="fr",
    subject="Facture {number} de {seller}",
    greeting="Bonjour,",
    opening="veuillez trouver ci-joint la facture {number} pour {buyer}.",
    amount="Montant à payer",
    due_on="À payer avant le",
    period="Période de service",
    attached="La facture est jointe au format PDF.",
    questions="Une question ? Répondez simplement à ce message.",
    regards="Cordialement",
    synthetic="Données de démonstration synthétiques : personne ne doit ce montant.",
    payable_within="Payable sous {days} jours, avant le {due_on}.",
    late_usage="consommation signalée tardivement",
    billed_before="moins {amount} déjà facturés",
    included="{quantity} inclus",
    minimum="montant minimal {amount}",
    maximum="plafonné à {amount}",
    share_of_period="{days} jours sur {of_days}",
)

_BY_LANGUAGE = {texts.language: texts for texts in (_ENGLISH, _GERMAN, _FRENCH)}


def customer_texts(locale: str) -> CustomerTexts:
    """Return the texts for a locale such as `de_AT`; English for a language that has none of its own."""
    language = locale.replace("-", "_").partition("_")[0].lower()
    return _BY_LANGUAGE.get(language, _ENGLISH)
