"""Home, bill runs, invoices, the reasons behind a line, customers and health, as people see them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.urls import reverse

from accounts.access import Role
from billing import bill_runs, delivery, documents
from billing.models import BillRun, BillRunItem, Invoice, InvoiceDelivery
from tests import make_billing as make
from tests.make_billing import Shop
from tests.make_pages import queries, said, signed_in, words

pytestmark = pytest.mark.django_db


@pytest.fixture
def shop() -> Shop:
    return make.shop()


def _billed(shop: Shop, bring: Callable[[Shop], BillRun], quantity: str = "120") -> BillRun:
    """Let one customer use something in October, and bring the run of the month as far as asked."""
    customer = make.subscriber(shop)
    make.use(shop, customer, quantity, on=make.OCT_10)
    return bring(shop)


def test_home_shows_each_role_its_own_work(shop: Shop) -> None:
    _billed(shop, make.submitted_run)

    controller = words(signed_in(actor=shop.controller).get("/"))
    analyst = words(signed_in(actor=shop.analyst).get("/"))

    assert "Approvals to decide 1" in controller
    assert "Approvals to decide" not in analyst
    assert "Nothing waits for you." in analyst


def test_home_names_what_is_to_be_submitted_and_issued(shop: Shop) -> None:
    _billed(shop, make.drafted_run)
    analyst = words(signed_in(actor=shop.analyst).get("/"))
    bill_runs.submit_bill_run(run_id=BillRun.objects.get().pk, reason="Month end", actor=shop.analyst, at=make.NOV_2)
    make.approve(shop, BillRun.objects.get())

    controller = words(signed_in(actor=shop.controller).get("/"))

    assert "Bill runs to submit 1" in analyst
    assert "Bill runs to issue 1" in controller


def test_home_without_any_role_shows_no_figures() -> None:
    page = words(signed_in().get("/"))

    assert "Nothing waits for you." in page
    assert "Events counted" not in page


def test_the_chart_of_usage_has_its_figures_as_a_table(shop: Shop) -> None:
    _billed(shop, make.issued_run)

    chart = words(signed_in(Role.SUPPORT).get("/home/usage/", {"meter": shop.meter.pk}))

    assert f"10 Oct 120 {shop.meter.unit}" in chart


def test_a_run_is_started_from_its_page(shop: Shop) -> None:
    make.subscriber(shop)

    answer = signed_in(actor=shop.analyst).post("/runs/start/", {"legal_entity": shop.entity.pk, "month": "2026-10"})

    run = BillRun.objects.get()
    assert answer["Location"] == reverse("billing:run", args=[run.pk])


@pytest.mark.parametrize("month", ["", "2026-13", "October", "2126-01"])
def test_a_month_that_cannot_be_billed_is_refused_in_words(shop: Shop, month: str) -> None:
    make.subscriber(shop)

    answer = signed_in(actor=shop.analyst).post("/runs/start/", {"legal_entity": shop.entity.pk, "month": month})

    assert said(answer)
    assert not BillRun.objects.exists()


def test_a_run_shows_its_totals_and_what_changed_against_the_bill_before(shop: Shop) -> None:
    customer = make.subscriber(shop)
    make.use(shop, customer, "100", on=make.OCT_10)
    make.issued_run(shop)
    make.use(shop, customer, "120", on=make.NOV_10)
    run = make.drafted_run(shop, make.NOVEMBER, at=make.DEC_2)

    page = words(signed_in(actor=shop.controller).get(reverse("billing:run", args=[run.pk])))

    assert "EUR 66.64" in page  # 100 x 0.50 + 20 x 0.30, and 19 % on it
    assert "EUR 59.50" in page
    assert "+12.0%" in page


def test_a_run_at_work_asks_for_its_progress_and_stops_when_it_is_done(shop: Shop) -> None:
    make.use(shop, make.subscriber(shop), "120", on=make.OCT_10)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    client = signed_in(actor=shop.analyst)
    address = reverse("billing:run-progress", args=[run.pk])

    at_work = client.get(address)
    make.drafted_run(shop)
    done = client.get(address)

    assert "Drafting invoices 0 of 1, 0%" in words(at_work)
    assert 'hx-trigger="every 1s"' in at_work.content.decode()
    assert done["HX-Refresh"] == "true"
    assert "hx-trigger" not in done.content.decode()


def test_parked_contracts_and_their_reasons_are_on_the_page_and_can_be_tried_again() -> None:
    shop = make.shop(approved=False)
    run = _billed(shop, make.drafted_run)
    client = signed_in(actor=shop.analyst)

    page = words(client.get(reverse("billing:run", args=[run.pk])))
    client.post(reverse("billing:retry-parked", args=[run.pk]))

    assert "Parked 1" in page
    assert "no approved prices" in page
    assert run.items.get().state == BillRunItem.State.PENDING


def test_a_run_goes_from_draft_to_issued_through_the_pages_of_two_people(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)
    analyst, controller = signed_in(actor=shop.analyst), signed_in(actor=shop.controller)
    address = reverse("billing:run", args=[run.pk])

    analyst.post(reverse("billing:submit-run", args=[run.pk]), {"reason": "Month end"})
    own_view = words(analyst.get(address))
    run.refresh_from_db()
    controller.post(reverse("accounts:decide", args=[run.approval_id]), {"outcome": "approve", "next": address})
    approved_view = words(controller.get(address))
    controller.post(reverse("billing:issue-run", args=[run.pk]))

    run.refresh_from_db()
    assert "somebody else decides it" in own_view
    assert "Issue 1 invoice, EUR 66.64" in approved_view
    assert run.issuing_started_at is not None


def test_who_may_not_issue_cannot(shop: Shop) -> None:
    run = _billed(shop, make.approved_run)

    response = signed_in(actor=shop.analyst).post(reverse("billing:issue-run", args=[run.pk]))

    run.refresh_from_db()
    assert response.status_code == 403
    assert run.issuing_started_at is None


def test_issuing_what_is_not_approved_is_refused_in_words(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)

    answer = signed_in(actor=shop.controller).post(reverse("billing:issue-run", args=[run.pk]))

    assert "Only an approved bill run is issued" in said(answer)


def test_a_run_is_redone_and_cancelled_with_a_reason(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)
    client = signed_in(actor=shop.analyst)

    client.post(reverse("billing:redo-run", args=[run.pk]), {"reason": "A price was late"})
    redone = run.items.get().state
    client.post(reverse("billing:cancel-run", args=[run.pk]), {"reason": "Wrong month"})

    run.refresh_from_db()
    assert redone == BillRunItem.State.PENDING
    assert run.status == BillRun.Status.CANCELLED


def test_a_run_as_csv_holds_plain_decimals(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)

    response = signed_in(actor=shop.controller).get(reverse("billing:run", args=[run.pk]), {"format": "csv"})

    header, row = response.content.decode().splitlines()
    assert header.split(",")[4:8] == ["currency", "net", "tax", "total"]
    assert row.split(",")[4:8] == ["EUR", "56.00", "10.64", "66.64"]


def test_invoices_are_found_by_state_number_and_amount(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    number = Invoice.objects.get().number or ""
    client = signed_in(Role.SUPPORT)

    issued = words(client.get("/invoices/", {"tab": "issued", "q": number, "month": "2026-10"}))
    drafts = words(client.get("/invoices/", {"tab": "draft"}))
    too_small = words(client.get("/invoices/", {"least": "66.65"}))
    just_right = words(client.get("/invoices/", {"least": "66.64", "most": "66.64"}))

    assert number in issued
    assert "1 invoice in EUR Net EUR 56.00 Tax EUR 10.64 Total EUR 66.64" in issued
    assert "No invoice fits" in drafts
    assert "No invoice fits" in too_small
    assert number in just_right


def test_filters_that_make_no_sense_narrow_nothing(shop: Shop) -> None:
    _billed(shop, make.issued_run)

    page = words(signed_in(Role.SUPPORT).get("/invoices/?tab=nonsense&month=soon&least=lots&entity=none&page=99"))

    assert "1–1 of 1" in page


def test_an_invoice_shows_its_lines_its_posting_and_its_approver(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    invoice = Invoice.objects.get()

    page = words(signed_in(Role.SUPPORT).get(reverse("billing:invoice", args=[invoice.pk])))

    assert f"Invoice {invoice.number} Issued" in page
    assert "H100 hours" in page
    assert "EUR 56.00" in page
    assert "Accounts receivable EUR 66.64" in page


def test_a_line_says_why(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    line = Invoice.objects.get().lines.get()

    why = words(signed_in(Role.SUPPORT).get(reverse("billing:why", args=[line.pk])))

    assert "Tier 1, 0 to 100: 100" in why
    assert "at EUR 0.50 EUR 50.00" in why
    assert "Tier 2, above 100: 20" in why
    assert "at EUR 0.30 EUR 6.00" in why
    assert "Exact amount EUR 56.00" in why
    assert "the same, to the last digit" in why
    assert "exactly the hours that this line bills" in why


def test_the_events_behind_a_line_are_listed_and_downloaded(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    line = Invoice.objects.get().lines.get()
    client = signed_in(Role.SUPPORT)

    page = words(client.get(reverse("billing:line-events", args=[line.pk])))
    file = client.get(reverse("billing:line-events", args=[line.pk]), {"format": "csv"}).content.decode()

    assert "1 event billed" in page
    assert len(file.splitlines()) == 2


def test_the_pdf_is_shown_once_it_is_made_and_mailed_again_on_demand(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    invoice = Invoice.objects.get()
    client = signed_in(Role.SUPPORT)
    address = reverse("billing:invoice-pdf", args=[invoice.pk])

    too_early = client.get(address)
    documents.make_due_documents(limit=1, at=make.NOV_3)
    delivery.deliver_due(limit=1, at=make.NOV_3)
    pdf = client.get(address, {"download": ""})
    client.post(reverse("billing:resend", args=[invoice.pk]))

    assert too_early.status_code == 404
    assert pdf.content.startswith(b"%PDF-")
    assert pdf["Content-Disposition"] == f'attachment; filename="{invoice.number}.pdf"'
    assert InvoiceDelivery.objects.filter(invoice=invoice).count() == 2


def test_the_customer_page_shows_what_they_owe_and_agreed(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    customer = Invoice.objects.get().customer

    page = words(signed_in(Role.SUPPORT).get(reverse("billing:customer", args=[customer.pk])))

    assert "Owes, by the ledger EUR 66.64" in page
    assert shop.book.name in page
    assert make.subject_of(customer) in page


def test_who_sees_no_invoices_sees_a_customer_without_money(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    customer = Invoice.objects.get().customer

    page = words(signed_in(Role.PRODUCT_MANAGER).get(reverse("billing:customer", args=[customer.pk])))

    assert customer.name in page
    assert "EUR 66.64" not in page


def test_health_lists_what_waits_and_what_failed(shop: Shop) -> None:
    _billed(shop, make.issued_run)
    InvoiceDelivery.objects.update(state=InvoiceDelivery.State.FAILED, last_error="mailbox full")

    page = words(signed_in(Role.SUPPORT).get("/health/"))

    assert "PDFs to make of issued invoices 1" in page
    assert "mailbox full" in page


@pytest.mark.parametrize("address", ["/runs/", "/runs/1/", "/invoices/", "/invoices/1/", "/health/"])
def test_money_is_for_whom_it_is_for(address: str) -> None:
    assert signed_in(Role.PRODUCT_MANAGER).get(address).status_code == 403


def test_a_thing_that_is_not_there_is_not_found() -> None:
    client = signed_in(Role.SUPPORT)

    for name in ("run", "invoice", "why", "customer", "line-events"):
        assert client.get(reverse(f"billing:{name}", args=[999])).status_code == 404, name


def test_pages_take_as_many_queries_for_fifty_rows_as_for_one(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)
    client = signed_in(actor=shop.controller)
    addresses = ["/", "/runs/", "/invoices/", "/health/", reverse("billing:run", args=[run.pk])]
    for address in addresses:
        queries(client, address)

    for_one = [queries(client, address) for address in addresses]
    for number in range(49):
        customer = make.subscriber(shop, name=f"Customer {number}")
        make.use(shop, customer, "10", on=make.OCT_10)
    make.drafted_run(shop)

    assert run.invoices.count() == 50
    assert [queries(client, address) for address in addresses] == for_one


def test_an_invoice_takes_as_many_queries_for_fifty_lines_as_for_one(shop: Shop) -> None:
    run = _billed(shop, make.drafted_run)
    invoice = run.invoices.get()
    client = signed_in(actor=shop.controller)
    address = reverse("billing:invoice", args=[invoice.pk])
    queries(client, address)
    line = invoice.lines.get()

    for_one = queries(client, address)
    for position in range(2, 51):
        line.pk, line.position = None, position
        line.save(force_insert=True)

    assert invoice.lines.count() == 50
    assert queries(client, address) == for_one


def test_staff_without_a_role_see_nothing(shop: Shop) -> None:
    run = _billed(shop, make.issued_run)
    customer = Invoice.objects.get().customer
    client = signed_in()

    for name, key in (("run", run.pk), ("customer", customer.pk), ("invoice", Invoice.objects.get().pk)):
        response = client.get(reverse(f"billing:{name}", args=[key]))
        assert response.status_code == 403, name
