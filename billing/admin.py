"""The records of this app in the admin, all of them to look at: what is done with them is done on the pages."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.http import HttpRequest
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter

from accounts.access import Permission
from accounts.admin_access import HouseRights, PlainRecordAdmin, shown
from billing.models import (
    BillRun,
    BillRunItem,
    Invoice,
    InvoiceDelivery,
    InvoiceDocument,
    InvoiceLine,
    InvoiceSeries,
    JournalEntry,
    JournalLine,
    LedgerAccount,
    UnbilledUsage,
)
from pricing.money import plain_amount
from pricing.price_texts import amount_text

_INVOICE_COLOURS = {"Issued": "success", "Approved": "info", "In review": "warning", "Void": "danger"}
_STATE_COLOURS = {"Sent": "success", "Made": "success", "Failed": "danger", "Waiting": "warning", "Parked": "danger"}


class InvoiceRecordAdmin(PlainRecordAdmin):
    """What every admin here shares: seen with the permission for invoices, edited by nobody."""

    view_permission = Permission.VIEW_INVOICES
    may_add = False


class LineInline(HouseRights, TabularInline):  # type: ignore[misc]  # unfold comes without types
    """The lines of an invoice."""

    model = InvoiceLine
    view_permission = Permission.VIEW_INVOICES
    may_add = False
    extra = 0
    fields = ("position", "kind", "description", "service_period", "quantity", "unit", "exact_amount", "amount")
    ordering = ("position",)


class JournalLineInline(HouseRights, TabularInline):  # type: ignore[misc]  # unfold comes without types
    """The lines of a journal entry."""

    model = JournalLine
    view_permission = Permission.VIEW_INVOICES
    may_add = False
    extra = 0
    fields = ("account", "customer", "side", "amount", "currency")


@admin.register(BillRun)
class BillRunAdmin(InvoiceRecordAdmin):
    """Bill runs."""

    list_display = ("legal_entity", "month", "shown_status", "created_by", "approved_at", "issued_at")
    list_filter = (("legal_entity", AutocompleteSelectFilter), ("status", ChoicesDropdownFilter))
    list_select_related = ("legal_entity", "created_by")
    search_fields = ("legal_entity__name",)

    @shown("Status", ordering="status", label={**_INVOICE_COLOURS, "Cancelled": "danger"})
    def shown_status(self, run: BillRun) -> str:
        return run.get_status_display()


@admin.register(BillRunItem)
class BillRunItemAdmin(InvoiceRecordAdmin):
    """Each contract's share of a run."""

    list_display = ("contract", "run", "shown_state", "reason")
    list_filter = (("run", AutocompleteSelectFilter), ("state", ChoicesDropdownFilter))
    list_select_related = ("contract__customer", "contract__price_book", "run__legal_entity")
    search_fields = ("contract__customer__name", "contract__customer__code")

    @shown("State", ordering="state", label={**_STATE_COLOURS, "Drafted": "success"})
    def shown_state(self, item: BillRunItem) -> str:
        return item.get_state_display()


@admin.register(UnbilledUsage)
class UnbilledUsageAdmin(InvoiceRecordAdmin):
    """Usage that no line bills, with the reason."""

    list_display = ("customer", "run", "quantity", "event_count", "reason")
    list_filter = (("run", AutocompleteSelectFilter), ("reason", ChoicesDropdownFilter))
    list_select_related = ("customer", "run__legal_entity")
    search_fields = ("customer__name", "customer__code")


@admin.register(Invoice)
class InvoiceAdmin(InvoiceRecordAdmin):
    """Invoices with their lines."""

    list_display = ("shown_number", "customer", "shown_status", "shown_total", "issued_on", "due_on")
    list_filter = (
        ("legal_entity", AutocompleteSelectFilter),
        ("status", ChoicesDropdownFilter),
        ("bill_run", AutocompleteSelectFilter),
        "currency",
    )
    list_select_related = ("customer",)
    search_fields = ("number", "customer__name", "customer__code")
    inlines = (LineInline,)

    @shown("Number", ordering="number")
    def shown_number(self, invoice: Invoice) -> str:
        return str(invoice)

    @shown("Status", ordering="status", label=_INVOICE_COLOURS)
    def shown_status(self, invoice: Invoice) -> str:
        return invoice.get_status_display()

    @shown("Total", ordering="total_amount")
    def shown_total(self, invoice: Invoice) -> str:
        return f"{plain_amount(invoice.total_amount, invoice.currency)} {invoice.currency}"


@admin.register(InvoiceSeries)
class InvoiceSeriesAdmin(InvoiceRecordAdmin):
    """The series that number invoices."""

    list_display = ("legal_entity", "prefix", "year", "next_number", "last_issued_on")
    list_select_related = ("legal_entity",)


@admin.register(InvoiceDocument)
class InvoiceDocumentAdmin(InvoiceRecordAdmin):
    """The PDFs of issued invoices, without their content."""

    list_display = ("invoice", "shown_state", "attempts", "made_at", "last_error")
    list_filter = (("state", ChoicesDropdownFilter),)
    search_fields = ("invoice__number",)
    fields = ("invoice", "state", "attempts", "last_error", "next_attempt_at", "made_at", "shown_hash")

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceDocument]:
        """Leave the files where they are."""
        found: QuerySet[InvoiceDocument] = super().get_queryset(request).defer("content").select_related("invoice")
        return found

    @shown("State", ordering="state", label=_STATE_COLOURS)
    def shown_state(self, document: InvoiceDocument) -> str:
        return document.get_state_display()

    @shown("SHA-256")
    def shown_hash(self, document: InvoiceDocument) -> str:
        return bytes(document.sha256).hex() if document.sha256 else ""


@admin.register(InvoiceDelivery)
class InvoiceDeliveryAdmin(InvoiceRecordAdmin):
    """The mails of issued invoices."""

    list_display = ("invoice", "recipients", "shown_state", "attempts", "sent_at", "last_error")
    list_filter = (("state", ChoicesDropdownFilter),)
    list_select_related = ("invoice",)
    search_fields = ("invoice__number", "recipients")

    @shown("State", ordering="state", label=_STATE_COLOURS)
    def shown_state(self, delivery: InvoiceDelivery) -> str:
        return delivery.get_state_display()


@admin.register(LedgerAccount)
class LedgerAccountAdmin(InvoiceRecordAdmin):
    """The accounts of the books."""

    list_display = ("legal_entity", "code", "currency", "kind")
    list_filter = (("legal_entity", AutocompleteSelectFilter), "currency")
    list_select_related = ("legal_entity",)


@admin.register(JournalEntry)
class JournalEntryAdmin(InvoiceRecordAdmin):
    """Journal entries with their lines."""

    list_display = ("description", "shown_amount", "legal_entity", "kind", "posted_on", "invoice")
    list_filter = (("legal_entity", AutocompleteSelectFilter), ("kind", ChoicesDropdownFilter))
    list_select_related = ("legal_entity", "invoice")
    search_fields = ("description", "invoice__number")
    inlines = (JournalLineInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        """Add what each entry debits, which is what it credits, and in which currency."""
        entries: QuerySet[JournalEntry] = super().get_queryset(request)
        debits = JournalLine.objects.filter(entry=OuterRef("pk"), side=JournalLine.Side.DEBIT).order_by()
        sums = debits.values("entry").annotate(sum=Sum("amount")).values("sum")
        return entries.annotate(debited=Subquery(sums[:1]), currency=Subquery(debits.values("currency")[:1]))

    @shown("Amount")
    def shown_amount(self, entry: JournalEntry) -> str:
        debited = getattr(entry, "debited", None)
        return "–" if debited is None else amount_text(debited, getattr(entry, "currency", ""))
