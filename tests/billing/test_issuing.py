"""Numbers, frozen copies, postings, and what keeps an invoice from being issued."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.access import Role
from accounts.customers import change_address
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry
from accounts.postal import Address
from billing import issuing, ledger
from billing.errors import (
    BillRunNotApproved,
    BillRunUnknown,
    EntryReversed,
    InvoiceNotApproved,
    InvoiceNotIssuable,
    InvoiceUnknown,
    IssueDateGoesBack,
)
from billing.models import (
    BillRun,
    Invoice,
    InvoiceDelivery,
    InvoiceDocument,
    InvoiceSeries,
    JournalEntry,
    JournalLine,
)
from tests import make_accounts
from tests import make_billing as make

pytestmark = pytest.mark.django_db


def shop_with_usage(*quantities: str, tax_rate: str = "19") -> make.Shop:
    shop = make.shop(tax_rate=tax_rate)
    for number, quantity in enumerate(quantities):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}"), quantity, on=make.OCT_10)
    return shop


def posted() -> list[tuple[str, str, Decimal]]:
    return list(JournalLine.objects.order_by("entry_id", "pk").values_list("account__code", "side", "amount"))


def test_invoices_are_numbered_without_a_gap_in_the_order_of_customers() -> None:
    shop = shop_with_usage("1", "2", "3")

    run = make.issued_run(shop)

    prefix = shop.entity.code.upper()
    numbers = Invoice.objects.order_by("customer_id").values_list("number", flat=True)
    assert list(numbers) == [f"{prefix}-2026-000001", f"{prefix}-2026-000002", f"{prefix}-2026-000003"]
    assert run.status == BillRun.Status.ISSUED
    assert InvoiceSeries.objects.get().next_number == 4


def test_an_issued_invoice_keeps_what_it_prints() -> None:
    shop = make.shop()
    customer = make.subscriber(shop, name="Acme Robotics Ltd")
    make.use(shop, customer, "100", on=make.OCT_10)

    make.issued_run(shop)

    invoice = make.invoice_of(customer)
    change_address(
        customer_id=customer.pk,
        address=Address(address_line1="New Street 1", city="Cork", country="IE"),
        reason="Moved",
        actor=shop.analyst,
        at=make.NOV_3,
    )
    invoice.refresh_from_db()
    assert invoice.issued_on == date(2026, 11, 2)
    assert invoice.due_on == date(2026, 12, 2)
    assert invoice.buyer is not None
    assert (invoice.buyer["name"], invoice.buyer["city"]) == ("Acme Robotics Ltd", "Dublin")
    assert invoice.seller is not None
    assert invoice.seller["bank_account"] == "DE02120300000000202051"


def test_the_issue_date_is_the_local_date_of_the_legal_entity() -> None:
    shop = shop_with_usage("1")
    run = make.approved_run(shop)

    make.issue(shop, run, at=datetime(2026, 12, 31, 23, 30, tzinfo=UTC))

    invoice = Invoice.objects.get()
    assert (invoice.issued_on, invoice.due_on) == (date(2027, 1, 1), date(2027, 1, 31))
    assert invoice.number is not None
    assert invoice.number.endswith("-2027-000001")


def test_an_invoice_is_posted_as_receivable_revenue_and_tax() -> None:
    shop = shop_with_usage("100")

    make.issued_run(shop)

    customer = Invoice.objects.get().customer
    assert posted() == [
        ("receivable", "debit", Decimal("59.50")),
        ("revenue", "credit", Decimal("50.00")),
        ("tax_payable", "credit", Decimal("9.50")),
    ]
    assert ledger.receivable_of(customer_id=customer.pk, currency="EUR") == Decimal("59.50")
    assert [(each.code, each.balance) for each in ledger.balances(legal_entity_id=shop.entity.pk)] == [
        ("receivable", Decimal("59.50")),
        ("revenue", Decimal("-50.00")),
        ("tax_payable", Decimal("-9.50")),
    ]


def test_an_invoice_without_tax_posts_two_lines_and_one_of_nothing_none() -> None:
    shop = shop_with_usage("100", "0", tax_rate="0")

    make.issued_run(shop)

    assert posted() == [("receivable", "debit", Decimal("50.00")), ("revenue", "credit", Decimal("50.00"))]
    assert Invoice.objects.filter(status="issued").count() == 2


def test_issuing_twice_issues_once() -> None:
    shop = shop_with_usage("1", "2")
    run = make.issued_run(shop)

    make.issue(shop, run, at=make.NOV_3)

    assert issuing.issue_chunk(run_id=run.pk, limit=10, actor=shop.controller, at=make.NOV_3) == 0
    assert JournalEntry.objects.count() == 2
    assert AuditEntry.objects.filter(verb="invoice.issued").count() == 2
    assert AuditEntry.objects.filter(verb="bill_run.issued").count() == 1


def test_one_invoice_is_issued_once() -> None:
    shop = shop_with_usage("1", "2")
    run = make.approved_run(shop)
    invoice = run.invoices.order_by("customer_id")[0]

    first = issuing.issue_invoice(invoice_id=invoice.pk, actor=shop.controller, at=make.NOV_2)
    second = issuing.issue_invoice(invoice_id=invoice.pk, actor=shop.controller, at=make.NOV_3)

    assert first.number == second.number
    assert second.issued_at == make.NOV_2
    assert JournalEntry.objects.count() == 1
    run.refresh_from_db()
    assert run.status == BillRun.Status.APPROVED


def test_only_an_approved_invoice_is_issued() -> None:
    shop = shop_with_usage("1")
    run = make.submitted_run(shop)

    with pytest.raises(InvoiceNotApproved, match="in review"):
        issuing.issue_invoice(invoice_id=Invoice.objects.get().pk, actor=shop.controller, at=make.NOV_2)
    with pytest.raises(BillRunNotApproved):
        issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
    with pytest.raises(BillRunNotApproved):
        issuing.issue_chunk(run_id=run.pk, limit=1, actor=shop.controller, at=make.NOV_2)


def test_what_does_not_exist_is_unknown() -> None:
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)

    with pytest.raises(InvoiceUnknown):
        issuing.issue_invoice(invoice_id=0, actor=controller, at=make.NOV_2)
    with pytest.raises(BillRunUnknown):
        issuing.start_issuing(run_id=0, actor=controller, at=make.NOV_2)


def test_issuing_needs_the_permission() -> None:
    shop = shop_with_usage("1")
    run = make.approved_run(shop)

    with pytest.raises(PermissionMissing):
        issuing.start_issuing(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)
    with pytest.raises(PermissionMissing):
        issuing.issue_chunk(run_id=run.pk, limit=1, actor=shop.analyst, at=make.NOV_2)
    with pytest.raises(PermissionMissing):
        issuing.issue_invoice(invoice_id=Invoice.objects.get().pk, actor=shop.analyst, at=make.NOV_2)


def test_a_customer_without_an_address_waits_and_is_issued_once_it_has_one() -> None:
    shop = make.shop()
    homeless = make.subscriber(shop, name="Homeless Ltd", address=Address(city="Dublin", country="IE"))
    settled = make.subscriber(shop)
    for customer in (homeless, settled):
        make.use(shop, customer, "1", on=make.OCT_10)

    run = make.issued_run(shop)

    waiting = make.invoice_of(homeless)
    assert run.status == BillRun.Status.APPROVED
    assert waiting.status == Invoice.Status.APPROVED
    assert waiting.issue_problem.startswith("Homeless Ltd has no complete address")
    assert make.invoice_of(settled).number is not None
    with pytest.raises(InvoiceNotIssuable, match="Homeless Ltd"):
        issuing.issue_invoice(invoice_id=waiting.pk, actor=shop.controller, at=make.NOV_2)

    change_address(
        customer_id=homeless.pk, address=make_accounts.DUBLIN, reason="Told us", actor=shop.analyst, at=make.NOV_3
    )
    make.issue(shop, run, at=make.NOV_3)

    run.refresh_from_db()
    assert run.status == BillRun.Status.ISSUED
    issued = make.invoice_of(homeless)
    assert (issued.sequence, issued.issue_problem) == (2, "")


def test_a_number_never_carries_an_earlier_date_than_the_one_before() -> None:
    shop = shop_with_usage("1", "2")
    run = make.approved_run(shop)
    first, second = run.invoices.order_by("customer_id")
    issuing.issue_invoice(invoice_id=first.pk, actor=shop.controller, at=make.NOV_3)

    with pytest.raises(IssueDateGoesBack, match="later than 2026-11-02"):
        issuing.issue_invoice(invoice_id=second.pk, actor=shop.controller, at=make.NOV_2)

    second.refresh_from_db()
    assert second.number is None
    assert InvoiceSeries.objects.get().next_number == 2


def test_papers_are_queued_for_those_who_receive_invoices() -> None:
    shop = make.shop()
    customer = make.subscriber(shop, email="ap@acme.example")
    make_accounts.contact(customer=customer, email="boss@acme.example", receives_invoices=False)
    make.use(shop, customer, "1", on=make.OCT_10)

    make.issued_run(shop)

    delivery = InvoiceDelivery.objects.get()
    assert (delivery.recipients, delivery.state) == (["ap@acme.example"], "waiting")
    assert InvoiceDocument.objects.get().state == "pending"


def test_an_invoice_that_nobody_receives_is_a_failed_delivery_that_says_so() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop, email=None), "1", on=make.OCT_10)

    make.issued_run(shop)

    delivery = InvoiceDelivery.objects.get()
    assert (delivery.state, delivery.last_error) == ("failed", issuing.NO_RECIPIENT)


def test_an_entry_is_taken_back_once_by_its_mirror() -> None:
    shop = shop_with_usage("100")
    make.issued_run(shop)
    entry = JournalEntry.objects.get()

    first = ledger.reverse_entry(
        entry_id=entry.pk, reason="Test", posted_on=date(2026, 11, 3), actor=shop.controller, at=make.NOV_3
    )
    second = ledger.reverse_entry(
        entry_id=entry.pk, reason="Test", posted_on=date(2026, 11, 3), actor=shop.controller, at=make.NOV_3
    )

    assert first == second
    assert posted()[3:] == [
        ("receivable", "credit", Decimal("59.50")),
        ("revenue", "debit", Decimal("50.00")),
        ("tax_payable", "debit", Decimal("9.50")),
    ]
    assert all(each.balance == 0 for each in ledger.balances(legal_entity_id=shop.entity.pk))
    with pytest.raises(EntryReversed):
        ledger.reverse_entry(
            entry_id=first.pk, reason="Test", posted_on=date(2026, 11, 3), actor=shop.controller, at=make.NOV_3
        )


def test_a_chunk_takes_as_many_queries_for_fifty_invoices_as_for_one() -> None:
    counts = []
    for number in (1, 50):
        run = make.approved_run(shop := shop_with_usage(*["1"] * number))
        issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
        with CaptureQueriesContext(connection) as queries:
            assert issuing.issue_chunk(run_id=run.pk, limit=100, actor=shop.controller, at=make.NOV_2) == number
        counts.append(len(queries))

    assert counts[0] == counts[1]
