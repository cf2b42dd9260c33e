"""What the background jobs do for bills. Each finds its work in a table, so it may run twice, or beside itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from celery import shared_task
from django.utils import timezone

from accounts.access import Actor
from billing import bill_runs, delivery, documents, issuing
from billing.errors import BillRunNotApproved
from billing.models import BillRun, BillRunItem, Invoice, InvoiceDelivery, InvoiceDocument

_CONTRACTS_AT_ONCE: Final = 200
_INVOICES_AT_ONCE: Final = 200
_DOCUMENTS_AT_ONCE: Final = 5
_MAILS_AT_ONCE: Final = 10
# Well below the time after which a task is ended; what is left over is the next one's.
_LONGEST_SECONDS: Final = 240.0
# As often as beat sweeps: a nudge that no worker took by then is dropped, for the next sweep gives another.
_EXPIRES_SECONDS: Final = 20


@shared_task  # type: ignore[untyped-decorator]  # Celery comes without types
def draft_run(run_id: int) -> None:
    """Draft what waits in a run."""
    _while_there_is_work(
        lambda: bill_runs.draft_chunk(run_id=run_id, limit=_CONTRACTS_AT_ONCE, at=timezone.now()),
    )


@shared_task  # type: ignore[untyped-decorator]  # Celery comes without types
def issue_run(run_id: int) -> None:
    """Issue what waits in a run; somebody who may has started its issuing."""
    actor = Actor.system("issuing")
    # A nudge may come after the run was cancelled.
    with suppress(BillRunNotApproved):
        _while_there_is_work(
            lambda: issuing.issue_chunk(run_id=run_id, limit=_INVOICES_AT_ONCE, actor=actor, at=timezone.now()),
        )


@shared_task  # type: ignore[untyped-decorator]  # Celery comes without types
def make_documents() -> None:
    """Make the PDFs that are due."""
    _while_there_is_work(lambda: documents.make_due_documents(limit=_DOCUMENTS_AT_ONCE, at=timezone.now()))


@shared_task  # type: ignore[untyped-decorator]  # Celery comes without types
def deliver_invoices() -> None:
    """Send the mails that are due."""
    _while_there_is_work(lambda: delivery.deliver_due(limit=_MAILS_AT_ONCE, at=timezone.now()))


@shared_task  # type: ignore[untyped-decorator]  # Celery comes without types
def sweep() -> None:
    """Ask for everything that waits, so that a lost message costs less than a minute."""
    now = timezone.now()
    drafts = BillRunItem.objects.filter(state=BillRunItem.State.PENDING, run__status=BillRun.Status.DRAFT)
    for run_id in drafts.order_by("run_id").values_list("run_id", flat=True).distinct():
        draft_run.apply_async(kwargs={"run_id": run_id}, expires=_EXPIRES_SECONDS)
    approved = Invoice.objects.filter(
        status=Invoice.Status.APPROVED, issue_problem="", bill_run__issuing_started_at__isnull=False
    )
    for run_id in approved.order_by("bill_run_id").values_list("bill_run_id", flat=True).distinct():
        issue_run.apply_async(kwargs={"run_id": run_id}, expires=_EXPIRES_SECONDS)
    if InvoiceDocument.objects.filter(state=InvoiceDocument.State.PENDING, next_attempt_at__lte=now).exists():
        make_documents.apply_async(expires=_EXPIRES_SECONDS)
    if InvoiceDelivery.objects.filter(state=InvoiceDelivery.State.WAITING, next_attempt_at__lte=now).exists():
        deliver_invoices.apply_async(expires=_EXPIRES_SECONDS)


def _while_there_is_work(work: Callable[[], int]) -> None:
    ends_at = time.monotonic() + _LONGEST_SECONDS
    while work() and time.monotonic() < ends_at:
        pass
