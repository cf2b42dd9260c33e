"""What billing refuses, named after the state that was found."""

from __future__ import annotations

from accounts.errors import CountinghouseError


class BillRunUnknown(CountinghouseError):
    """There is no such bill run."""

    code = "bill_run_unknown"


class InvoiceUnknown(CountinghouseError):
    """There is no such invoice or invoice line."""

    code = "invoice_unknown"


class PeriodNotOver(CountinghouseError):
    """A billing period is billed only once it is over."""

    code = "period_not_over"


class NoContractsInMonth(CountinghouseError):
    """No contract of this legal entity has a billing period that starts in this month."""

    code = "no_contracts_in_month"


class OtherRunOpen(CountinghouseError):
    """Another bill run of this legal entity is not approved yet; finish or cancel it first."""

    code = "other_run_open"


class BillRunNotDraft(CountinghouseError):
    """The bill run is not a draft any more."""

    code = "bill_run_not_draft"


class BillRunNotApproved(CountinghouseError):
    """Only an approved bill run is issued."""

    code = "bill_run_not_approved"


class BillRunUnfinished(CountinghouseError):
    """Some contracts of the bill run are not worked on yet."""

    code = "bill_run_unfinished"


class BillRunEmpty(CountinghouseError):
    """The bill run has no invoice to approve."""

    code = "bill_run_empty"


class BillRunPartlyIssued(CountinghouseError):
    """Invoices of the bill run are issued; issued invoices are corrected by credit notes, never cancelled."""

    code = "bill_run_partly_issued"


class NoApprovedPrices(CountinghouseError):
    """The price book of the contract has no approved prices in the period."""

    code = "no_approved_prices"


class InvoiceTotalNegative(CountinghouseError):
    """The lines add up to less than nothing; an invoice cannot pay money out."""

    code = "invoice_total_negative"


class InvoiceTotalAbsurd(CountinghouseError):
    """The lines add up to more than anybody owes for a month; a quantity or a price has to be wrong."""

    code = "invoice_total_absurd"


class IssueDateGoesBack(CountinghouseError):
    """Numbers are given in the order of dates, and a later number carries a later date already."""

    code = "issue_date_goes_back"


class InvoiceNotApproved(CountinghouseError):
    """Only an approved invoice is issued."""

    code = "invoice_not_approved"


class InvoiceNotIssued(CountinghouseError):
    """Only an issued invoice is sent."""

    code = "invoice_not_issued"


class InvoiceHasNoRecipient(CountinghouseError):
    """No contact of the customer receives invoices by e-mail."""

    code = "invoice_has_no_recipient"


class InvoiceNotIssuable(CountinghouseError):
    """Something that an issued invoice must print is missing."""

    code = "invoice_not_issuable"


class EntryReversed(CountinghouseError):
    """A journal entry is reversed at most once, and a reversal never."""

    code = "entry_reversed"


class DocumentNotMade(CountinghouseError):
    """The document of the invoice is not made yet."""

    code = "document_not_made"
