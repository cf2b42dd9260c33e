"""Issues approved invoices: gives them their numbers, freezes what they print, posts them, and queues PDF and e-mail.

The number is taken from a counter in the same transaction, so a rollback gives it back and no number is ever missing.
Locks are taken in the order run, invoice, series.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connection, transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.access import Actor, Permission
from accounts.models import Contact, Customer, LegalEntity
from accounts.periods import local_date
from billing import ledger, nudges, usage_closing
from billing.errors import (
    BillRunNotApproved,
    BillRunUnknown,
    InvoiceNotApproved,
    InvoiceNotIssuable,
    InvoiceUnknown,
    IssueDateGoesBack,
)
from billing.models import BillRun, Invoice, InvoiceDelivery, InvoiceDocument, InvoiceSeries

NO_RECIPIENT: Final = "No contact of the customer receives invoices by e-mail; add one and send the invoice again."
_PREFIX_LENGTH: Final = 20
_ADDRESS: Final = ("address_line1", "address_line2", "postal_code", "city", "region", "country")

# In one statement: whoever comes second waits here, and then sees the numbers and the date that the first one left. The
# date of the row itself is asked for apart, for only a row that was waited for is looked at anew, not a subquery.
_TAKE_NUMBERS = """
    UPDATE billing_invoiceseries
    SET next_number = next_number + %(count)s, last_issued_on = %(on)s
    WHERE legal_entity_id = %(entity)s AND year = %(year)s
      AND NOT EXISTS (
          SELECT FROM billing_invoiceseries other
          WHERE other.legal_entity_id = %(entity)s AND other.last_issued_on > %(on)s
      )
      AND (last_issued_on IS NULL OR last_issued_on <= %(on)s)
    RETURNING id, prefix, next_number - %(count)s
"""

_ISSUE = """
    UPDATE billing_invoice invoice
    SET status = 'issued', series_id = %s, sequence = issued.sequence, number = issued.number,
        issued_at = %s, issued_on = %s, due_on = issued.due_on, seller = %s, buyer = issued.buyer::jsonb
    FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::date[], %s::text[])
         AS issued (id, sequence, number, due_on, buyer)
    WHERE invoice.id = issued.id
"""


class InvoiceNumbers(NamedTuple):
    """Numbers taken from a series: `count` of them from `first` on."""

    series_id: int
    prefix: str
    year: int
    first: int

    def number(self, sequence: int) -> str:
        """The number as it is printed."""
        return f"{self.prefix}-{self.year}-{sequence:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbered:
    """An invoice with all that it gets when it is issued."""

    invoice: Invoice
    sequence: int
    due_on: date
    recipients: list[str]


@transaction.atomic
def start_issuing(*, run_id: int, actor: Actor, at: datetime) -> BillRun:
    """Let an approved run be issued by the workers; invoices that could not be issued before are tried again.

    Raises: PermissionMissing, BillRunUnknown, BillRunNotApproved.
    """
    actor.require(Permission.ISSUE_INVOICES)
    run = _lock_run(run_id)
    if run.status == BillRun.Status.ISSUED:
        return run
    if run.status != BillRun.Status.APPROVED:
        raise BillRunNotApproved
    _approved(run).exclude(issue_problem="").update(issue_problem="")
    if run.issuing_started_at is None:
        run.issuing_started_at = at
        run.save(update_fields=["issuing_started_at"])
    audit.record(actor=actor, verb="bill_run.issuing_started", subject=run, at=at)
    _finish_if_nothing_is_left(run, actor=actor, at=at)
    nudges.nudge(nudges.ISSUE_RUN, run_id=run.pk)
    return run


@transaction.atomic
def issue_chunk(*, run_id: int, limit: int, actor: Actor, at: datetime) -> int:
    """Issue up to `limit` approved invoices of the run and return how many were taken up; none: nothing waits.

    Their date is the local date of the legal entity at `at`. An invoice that lacks an address stays approved, with
    the reason in `issue_problem`, until issuing is started again. The run is issued once no invoice is left.

    Raises: PermissionMissing, BillRunUnknown, BillRunNotApproved, IssueDateGoesBack.
    """
    actor.require(Permission.ISSUE_INVOICES)
    run = _lock_run(run_id)
    if run.status == BillRun.Status.ISSUED:
        return 0
    if run.status != BillRun.Status.APPROVED:
        raise BillRunNotApproved
    waiting = _approved(run).filter(issue_problem="").select_related("customer").order_by("customer_id", "pk")
    invoices = list(waiting.select_for_update(no_key=True, of=("self",))[:limit])
    issuable = _set_aside_problems(run.legal_entity, invoices)
    _issue(run.legal_entity, issuable, actor=actor, at=at)
    _finish_if_nothing_is_left(run, actor=actor, at=at)
    return len(invoices)


@transaction.atomic
def issue_invoice(*, invoice_id: int, actor: Actor, at: datetime) -> Invoice:
    """Issue one approved invoice; asking twice returns the invoice as it was issued the first time.

    Raises: PermissionMissing, InvoiceUnknown, InvoiceNotApproved, InvoiceNotIssuable, IssueDateGoesBack.
    """
    actor.require(Permission.ISSUE_INVOICES)
    run_id = Invoice.objects.filter(pk=invoice_id).values_list("bill_run_id", flat=True).first()
    if run_id is None:
        raise InvoiceUnknown
    run = _lock_run(run_id)
    invoice = Invoice.objects.select_for_update(no_key=True, of=("self",)).select_related("customer").get(pk=invoice_id)
    if invoice.status == Invoice.Status.ISSUED:
        return invoice
    if invoice.status != Invoice.Status.APPROVED:
        message = f"The invoice is {invoice.get_status_display().lower()}; only an approved one is issued."
        raise InvoiceNotApproved(message)
    problem = _problem(run.legal_entity, invoice.customer)
    if problem:
        raise InvoiceNotIssuable(problem)
    _issue(run.legal_entity, [invoice], actor=actor, at=at)
    _finish_if_nothing_is_left(run, actor=actor, at=at)
    invoice.refresh_from_db()
    return invoice


def _lock_run(run_id: int) -> BillRun:
    run = (
        BillRun.objects.select_for_update(no_key=True, of=("self",))
        .select_related("legal_entity")
        .filter(pk=run_id)
        .first()
    )
    if run is None:
        raise BillRunUnknown
    return run


def _approved(run: BillRun) -> QuerySet[Invoice]:
    return run.invoices.filter(status=Invoice.Status.APPROVED)


def _problem(entity: LegalEntity, customer: Customer) -> str:
    """What keeps an invoice of this customer from being issued; empty: nothing does."""
    if not entity.has_address:
        return f"{entity.name} has no complete address (street, city and country), which an invoice must print."
    if not customer.has_address:
        return f"{customer.name} has no complete address (street, city and country), which an invoice must print."
    return ""


def _set_aside_problems(entity: LegalEntity, invoices: Sequence[Invoice]) -> list[Invoice]:
    issuable = []
    for invoice in invoices:
        invoice.issue_problem = _problem(entity, invoice.customer)
        if not invoice.issue_problem:
            issuable.append(invoice)
    with_problem = [invoice for invoice in invoices if invoice.issue_problem]
    if with_problem:
        Invoice.objects.bulk_update(with_problem, ["issue_problem"], batch_size=500)
    return issuable


def _issue(entity: LegalEntity, invoices: Sequence[Invoice], *, actor: Actor, at: datetime) -> None:
    """Issue invoices that may be: the rules that one invoice and a whole chunk share. The caller holds their locks."""
    if not invoices:
        return
    issued_on = local_date(at, entity.time_zone)
    recipients = _recipients([invoice.customer_id for invoice in invoices])
    for currency in {invoice.currency for invoice in invoices}:
        ledger.open_accounts(legal_entity_id=entity.pk, currency=currency)
    numbers = _take_numbers(entity, count=len(invoices), on=issued_on)
    numbered = [
        _Numbered(
            invoice=invoice,
            sequence=sequence,
            due_on=issued_on + timedelta(days=invoice.customer.payment_terms_days),
            recipients=recipients.get(invoice.customer_id, []),
        )
        for sequence, invoice in enumerate(invoices, start=numbers.first)
    ]
    _write(entity, numbered, numbers, issued_on=issued_on, at=at)
    ledger.post_invoices(invoice_ids=[invoice.pk for invoice in invoices])
    usage_closing.close_usage(invoice_ids=[invoice.pk for invoice in invoices], at=at)
    _queue_papers(numbered, actor=actor, at=at)
    audit.record_many(actor=actor, verb="invoice.issued", subjects=invoices, at=at)
    nudges.nudge(nudges.MAKE_DOCUMENTS)


def _take_numbers(entity: LegalEntity, *, count: int, on: date) -> InvoiceNumbers:
    """Take the next numbers of the year's series; the last lock that issuing takes, and held until it commits.

    Raises: IssueDateGoesBack.
    """
    InvoiceSeries.objects.bulk_create(
        [InvoiceSeries(legal_entity=entity, prefix=entity.code.upper()[:_PREFIX_LENGTH], year=on.year)],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_NUMBERS, {"count": count, "on": on, "entity": entity.pk, "year": on.year})
        row = cursor.fetchone()
    if row is None:
        message = f"Invoices of {entity.name} carry a date later than {on.isoformat()} already."
        raise IssueDateGoesBack(message)
    series_id, prefix, first = row
    return InvoiceNumbers(series_id, prefix, on.year, first)


def _write(
    entity: LegalEntity, numbered: Sequence[_Numbered], numbers: InvoiceNumbers, *, issued_on: date, at: datetime
) -> None:
    for each in numbered:
        each.invoice.number = numbers.number(each.sequence)
    with connection.cursor() as cursor:
        cursor.execute(
            _ISSUE,
            [
                numbers.series_id,
                at,
                issued_on,
                json.dumps(_seller(entity)),
                [each.invoice.pk for each in numbered],
                [each.sequence for each in numbered],
                [each.invoice.number for each in numbered],
                [each.due_on for each in numbered],
                [json.dumps(_buyer(each.invoice.customer)) for each in numbered],
            ],
        )


def _seller(entity: LegalEntity) -> dict[str, Any]:
    """What the document keeps of the legal entity, as it is now."""
    kept = ("code", "name", "registration", "tax_id", "email", "bank_name", "bank_account", "bank_code", "is_synthetic")
    return {name: getattr(entity, name) for name in (*kept, *_ADDRESS)}


def _buyer(customer: Customer) -> dict[str, Any]:
    """What the document keeps of the customer, as it is now."""
    kept = ("code", "name", "tax_id", "tax_treatment", "payment_terms_days", "locale", "purchase_order")
    return {name: getattr(customer, name) for name in (*kept, *_ADDRESS)}


def _recipients(customer_ids: Sequence[int]) -> dict[int, list[str]]:
    """The addresses to which each customer has its invoices sent, in the order of their names."""
    found: dict[int, list[str]] = {}
    contacts = Contact.objects.filter(customer_id__in=customer_ids, receives_invoices=True).order_by("name", "pk")
    for customer_id, email in contacts.values_list("customer_id", "email"):
        found.setdefault(customer_id, []).append(email)
    return found


def _queue_papers(numbered: Sequence[_Numbered], *, actor: Actor, at: datetime) -> None:
    """Queue the PDF and the e-mail of each invoice; one that nobody receives is a failed delivery, for all to see."""
    InvoiceDocument.objects.bulk_create(
        InvoiceDocument(invoice_id=each.invoice.pk, next_attempt_at=at) for each in numbered
    )
    InvoiceDelivery.objects.bulk_create(
        InvoiceDelivery(
            invoice_id=each.invoice.pk,
            recipients=each.recipients,
            state=InvoiceDelivery.State.WAITING if each.recipients else InvoiceDelivery.State.FAILED,
            last_error="" if each.recipients else NO_RECIPIENT,
            next_attempt_at=at,
            requested_by_id=actor.user_id,
            created_at=at,
        )
        for each in numbered
    )


def _finish_if_nothing_is_left(run: BillRun, *, actor: Actor, at: datetime) -> None:
    if _approved(run).exists():
        return
    run.status = BillRun.Status.ISSUED
    run.issued_at = at
    run.issuing_started_at = run.issuing_started_at or at
    run.save(update_fields=["status", "issued_at", "issuing_started_at"])
    audit.record(actor=actor, verb="bill_run.issued", subject=run, at=at)
