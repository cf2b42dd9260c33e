"""Bill one month of a legal entity from start to finish, each step by whoever may do it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

from accounts.models import LegalEntity
from billing import bill_runs, delivery, documents, issuing
from billing.demo.approving import approve_pending
from billing.demo.people import DemoStaff
from billing.models import BillRun, BillRunItem, Invoice, InvoiceDelivery, InvoiceDocument

CHUNK = 100

Progress = Callable[[str, int, int], None]
"""Told a label, how many are done and how many there are."""


def submit_month(entity: LegalEntity, month: date, staff: DemoStaff, *, at: datetime, progress: Progress) -> BillRun:
    """Draft the month's invoices and submit them for approval; a run that is further on is returned as it is."""
    run = bill_runs.start_bill_run(legal_entity_id=entity.pk, month=month, actor=staff.analyst, at=at)
    if run.status != BillRun.Status.DRAFT:
        return run
    total = run.items.count()
    while bill_runs.draft_chunk(run_id=run.pk, limit=CHUNK, at=at):
        progress("drafting invoices", total - run.items.filter(state=BillRunItem.State.PENDING).count(), total)
    return bill_runs.submit_bill_run(run_id=run.pk, reason=f"Usage of {month:%B %Y}", actor=staff.analyst, at=at)


def bill_month(entity: LegalEntity, month: date, staff: DemoStaff, *, at: datetime, progress: Progress) -> BillRun:
    """Bill a month up to the sent mails; whatever was done before is not done again."""
    run = submit_month(entity, month, staff, at=at, progress=progress)
    approve_pending(
        kind=bill_runs.APPROVAL_KIND,
        subject_id=run.pk,
        comment="Totals agree with the usage report.",
        actor=staff.controller,
        at=at,
    )
    run.refresh_from_db()
    if run.status == BillRun.Status.APPROVED:
        total = run.invoices.count()
        issuing.start_issuing(run_id=run.pk, actor=staff.controller, at=at)
        while issuing.issue_chunk(run_id=run.pk, limit=CHUNK, actor=staff.controller, at=at):
            progress("issuing invoices", run.invoices.filter(status=Invoice.Status.ISSUED).count(), total)
    _send_out(run, at=at, progress=progress)
    run.refresh_from_db()
    return run


def _send_out(run: BillRun, *, at: datetime, progress: Progress) -> None:
    made = InvoiceDocument.objects.filter(invoice__bill_run=run)
    total = made.count()
    while documents.make_due_documents(limit=10, at=at):
        progress("making PDFs", made.filter(state=InvoiceDocument.State.MADE).count(), total)
    sent = InvoiceDelivery.objects.filter(invoice__bill_run=run)
    while delivery.deliver_due(limit=25, at=at):
        progress("sending mails", sent.filter(state=InvoiceDelivery.State.SENT).count(), total)
