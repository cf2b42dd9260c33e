"""The demonstration: the sample month comes out to the digit, and a second time nothing is added."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core import mail
from django.core.management import CommandError, call_command

from accounts.models import ApprovalRequest
from billing.models import Invoice, InvoiceDocument, JournalEntry
from metering.models import RefusedEvent, UsageEvent


def run_demo() -> dict[str, Any]:
    out = io.StringIO()
    call_command("demo", "--sample-only", "--json", stdout=out)
    summary: dict[str, Any] = json.loads(out.getvalue())
    return summary


@pytest.fixture
def tables_are_set_up(transactional_db: None) -> None:
    call_command("sync_roles", verbosity=0)


@pytest.mark.usefixtures("tables_are_set_up")
def test_the_sample_month_is_billed_to_the_digit_and_a_second_time_adds_nothing() -> None:
    first = run_demo()

    assert first == {
        "records": 1000,
        "billable_events": 941,
        "customers": 66,
        "quarantined": {"inconsistent": 25, "unknown_subject": 31},
        "refused": {"AWS: charge category Credit": 1, "Oracle: charge category Adjustment": 2},
        "currency": "USD",
        "exact_rated_total": "20.76301764060",
        "unrounded_line_total": "20.763017638707481",
        "invoiced_total": "20.79",
        "difference": "0.02698235940",
        "invoices": 66,
        "lines": 451,
        "documents": 66,
        "mails": 66,
        "new_events": 941,
    }
    assert Invoice.objects.filter(status=Invoice.Status.ISSUED).count() == 66
    assert list(Invoice.objects.order_by("sequence").values_list("sequence", flat=True)) == list(range(1, 67))
    assert len(mail.outbox) == 66
    assert all(message.attachments for message in mail.outbox)

    second = run_demo()

    assert second == {**first, "new_events": 0}
    assert UsageEvent.objects.count() == 941
    assert RefusedEvent.objects.count() == 3
    assert Invoice.objects.count() == InvoiceDocument.objects.count() == 66
    assert JournalEntry.objects.count() == Invoice.objects.exclude(total_amount=0).count()
    assert ApprovalRequest.objects.count() == 2
    assert len(mail.outbox) == 66
    call_command("check_invariants", stdout=io.StringIO())


def test_it_does_not_run_where_published_passwords_are_not_allowed(settings: Any) -> None:
    settings.DEMONSTRATION_ALLOWED = False

    with pytest.raises(CommandError, match="does not run in production"):
        call_command("demo")
