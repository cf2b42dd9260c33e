"""What is owed, and the proof: bill runs, invoices, their documents and deliveries, and the ledger."""

from billing.models.documents import InvoiceDelivery, InvoiceDocument
from billing.models.invoices import Invoice, InvoiceLine, InvoiceSeries
from billing.models.ledger import JournalEntry, JournalLine, LedgerAccount
from billing.models.runs import BillRun, BillRunItem, UnbilledUsage

__all__ = [
    "BillRun",
    "BillRunItem",
    "Invoice",
    "InvoiceDelivery",
    "InvoiceDocument",
    "InvoiceLine",
    "InvoiceSeries",
    "JournalEntry",
    "JournalLine",
    "LedgerAccount",
    "UnbilledUsage",
]
