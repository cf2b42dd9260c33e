"""The month of a shop as its people live it: prices, usage, a bill run, invoices, mails, and who did what.

Each of the seven sits at a browser of their own; usage comes in by HTTP, as a customer's cluster would send it.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, expect

from billing.demo.people import ADMINISTRATOR, ANALYST, CONTROLLER, PRICING_APPROVER, PRODUCT_MANAGER
from tests import make_billing
from tests.browser.person import Person
from tests.browser.running_site import Site
from tests.browser.worlds import World, month_before, noon_of, opened, usage_event

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]

# By hand: 150 hours are 100 at 0.50 and 50 at 0.30, 40 hours are 40 at 0.50; a fee of 9.90 each; 19 % VAT.
ACME_NET, ACME_TOTAL = "EUR 74.90", "EUR 89.13"
BOTH_TOTAL = "EUR 124.71"
PRICE_FILE = """sku,model,unit_price,up_to,amount
{sku},graduated,0.50,100,
{sku},graduated,0.30,,
platform-fee,flat,,,9.00
"""


@pytest.fixture(scope="module")
def world(empty_database: None) -> World:
    return opened(approved=False)


def test_usage_becomes_an_issued_invoice_by_the_hands_of_several_people(
    world: World, site: Site, sit_down: SitDown
) -> None:
    month = month_before(world.now.date())
    pia, paul = sit_down(PRODUCT_MANAGER.email), sit_down(PRICING_APPROVER.email)
    anna, carl = sit_down(ANALYST.email), sit_down(CONTROLLER.email)

    draft_prices(pia, sku=world.shop.product.code)
    submit_prices(pia)
    approve_prices(paul)
    key = issue_key(sit_down(ADMINISTRATOR.email))
    send_usage(site, key, world)
    run_path = draft_month(anna, site, f"{month:%Y-%m}")
    submit_run(anna)
    approve_run(carl)
    issue_run(carl, site, run_path)
    mail = mail_to(site, "payables@acme.example")
    explain_invoice(anna, approver="Paul Pricing")
    pdf = download(anna)

    assert attached_pdf(mail) == pdf
    assert pdf.startswith(b"%PDF-")
    read_audit_log(carl)


def draft_prices(pia: Person, *, sku: str) -> None:
    """By a CSV file, shown before it is taken; then one price by hand."""
    pia.go("/prices/")
    pia.press("List prices")
    pia.press("Draft the next version")
    pia.sees("No prices yet")
    pia.shoot("journey/01-empty-draft")

    pia.press("Upload CSV")
    content = PRICE_FILE.format(sku="NO-SUCH-SKU").encode()
    with pia.expecting(422):
        upload(pia, FilePayload(name="prices.csv", mimeType="text/csv", buffer=content))
        pia.sees("was refused", "NO-SUCH-SKU")
    pia.shoot("journey/02-price-file-refused")

    pia.press("Back to the draft")
    pia.press("Upload CSV")
    content = PRICE_FILE.format(sku=sku).encode()
    upload(pia, FilePayload(name="prices.csv", mimeType="text/csv", buffer=content))
    pia.sees("What prices.csv changes", "H100 hours", "Platform fee")
    pia.shoot("journey/03-price-file-checked")
    pia.press("Take 2 changes")

    pia.press("Edit the price of Platform fee")
    pia.page.get_by_label("Amount per billing period, in EUR").fill("9.90")
    pia.shoot("journey/04-price-by-hand")
    pia.press("Set the price")
    pia.sees("9.90")


def upload(person: Person, file: FilePayload) -> None:
    person.page.get_by_label("CSV file").set_input_files(file)
    person.press("Check the file")


def submit_prices(pia: Person) -> None:
    """Who asked sees that it is somebody else's to approve, and no button for it."""
    pia.press("Submit for approval")
    pia.page.get_by_label("In force from").fill("2024-01-01")
    pia.page.get_by_label("What changes, and why").fill("The first prices")
    pia.press("Submit", within="#submit-dialog")

    pia.sees("You asked for this, so somebody else decides it.")
    pia.sees_no("Approve")
    pia.shoot("journey/05-prices-submitted")


def approve_prices(paul: Person) -> None:
    paul.go("/")
    paul.sees("waits for you")
    paul.page.get_by_label("What waits for you").get_by_role("link").click()
    paul.page.locator("main table a.ch-cell-main").click()
    paul.sees("Pia Product", "The first prices")
    paul.shoot("journey/06-prices-to-approve")
    paul.press("Approve")
    paul.page.get_by_label("Comment, if you like").fill("Agreed with sales.")
    paul.press("Approve", within="#approve-dialog")

    paul.sees("Agreed with sales.")
    paul.sees_no("Approve")
    paul.go("/prices/")
    paul.sees("Version 1")
    paul.shoot("journey/07-prices-live")


def issue_key(ada: Person) -> str:
    """Its secret is shown once."""
    ada.go("/admin/accounts/apikey/add/")
    ada.page.get_by_label("Name").fill("Cluster in Berlin")
    ada.page.locator("input[name=scopes][value='events:write']").check()
    ada.page.locator("button[name=_save]").click()

    secret = ada.page.locator("#secret").inner_text()
    assert secret.startswith("ch_")
    ada.go("/admin/accounts/apikey/")
    ada.sees("Cluster in Berlin")
    expect(ada.page.locator("body")).not_to_contain_text(secret)
    return secret


def send_usage(site: Site, key: str, world: World) -> None:
    """Twice, as a sender does that did not hear the answer."""
    month = month_before(world.now.date())
    acme, bolt = make_billing.subject_of(world.acme), make_billing.subject_of(world.bolt)
    events = [
        usage_event(world.shop, acme, "15", on=noon_of(month, day), name=f"acme-{day}") for day in range(1, 11)
    ] + [usage_event(world.shop, bolt, "8", on=noon_of(month, day), name=f"bolt-{day}") for day in range(1, 6)]

    answers = [post(f"{site.url}/api/v1/events", key, events) for _ in range(2)]

    counted = [(answer["accepted"], answer["duplicates"], answer["quarantined"]) for answer in answers]
    assert counted == [(15, 0, 0), (0, 15, 0)]


def post(url: str, key: str, events: list[dict[str, object]]) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(events).encode(), headers)  # noqa: S310 -- our own site
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        body: dict[str, object] = json.load(answer)
        return body


def draft_month(anna: Person, site: Site, month: str) -> str:
    """The page shows how far the workers are, and by itself what they came to."""
    anna.go("/runs/")
    anna.press("Start a run")
    anna.page.get_by_label("Month").fill(month)
    anna.shoot("journey/08-start-a-run")
    with site.worker_held():
        anna.press("Start", within="#start-dialog")
        expect(anna.page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
        anna.sees("0 of 2", "You may leave this page")
        anna.sees_no("Submit for approval")
        anna.shoot("journey/09-run-under-way")

    expect(anna.page.get_by_role("progressbar")).to_have_count(0)
    anna.sees(BOTH_TOTAL, "2 invoices", "Acme Robotics Ltd", "Bolt Mobility GmbH")
    anna.shoot("journey/10-run-drafted")
    return anna.page.url


def submit_run(anna: Person) -> None:
    """A customer that was new and went silent is to be looked at first; the page asks whether it was."""
    anna.sees("Usage to look at before you submit: 2 findings", "Acme Robotics Ltd", "new, and silent since")
    anna.press("Submit for approval")
    anna.sees(f"Submit 2 invoices, {BOTH_TOTAL}?", within="#submit-dialog")
    anna.page.get_by_label("Note for the approver, if you like").fill("Agrees with the cluster's own count.")
    anna.press("Submit for approval", within="#submit-dialog")
    anna.sees(f"Submit 2 invoices, {BOTH_TOTAL}?", within="#submit-dialog")
    anna.page.get_by_label("I have looked at them").check()
    anna.press("Submit for approval", within="#submit-dialog")

    anna.sees("You asked for this, so somebody else decides it.")
    anna.sees_no("Approve")
    anna.shoot("journey/11-run-submitted")


def approve_run(carl: Person) -> None:
    carl.go("/")
    carl.sees("1 thing waits for you")
    carl.shoot("journey/12-home-of-the-controller")
    carl.page.get_by_label("What waits for you").get_by_role("link").click()
    carl.page.locator("main table a.ch-cell-main").click()
    carl.sees("Anna Analyst", "Agrees with the cluster's own count.", BOTH_TOTAL)
    carl.press("Approve")
    carl.sees(BOTH_TOTAL, within="#approve-dialog")
    carl.press("Approve", within="#approve-dialog")
    carl.sees("Approved")
    carl.sees_no("Approve")


def issue_run(carl: Person, site: Site, run_path: str) -> None:
    """The button and the question both say how many and how much; the page comes to rest by itself."""
    carl.go(run_path)
    carl.press(f"Issue 2 invoices, {BOTH_TOTAL}")
    carl.sees(f"Issue 2 invoices, {BOTH_TOTAL}?", "An issued invoice never changes.", within="#issue-dialog")
    carl.shoot("journey/13-issue-dialog")
    with site.worker_held():
        carl.press("Issue them", within="#issue-dialog")
        expect(carl.page.get_by_role("progressbar")).to_be_visible()
        carl.sees("Issuing has begun")
        carl.shoot("journey/14-issuing-under-way")

    expect(carl.page.get_by_role("progressbar")).to_have_count(0)
    carl.sees(re.compile("Bill run issued"))
    carl.shoot("journey/15-run-issued")


def mail_to(site: Site, address: str) -> Message:
    mails = site.mails.wait_for(2)
    assert sorted(str(mail["To"]) for mail in mails) == ["ap@bolt.example", "payables@acme.example"]
    return next(mail for mail in mails if address in str(mail["To"]))


def explain_invoice(anna: Person, *, approver: str) -> None:
    """From the amount down to the steps, the price and who approved it, the hours and the events."""
    anna.go("/invoices/")
    row = anna.page.locator("main table tr", has_text="Acme Robotics Ltd")
    row.locator("a.ch-cell-main").click()
    anna.sees("Issued", ACME_NET, ACME_TOTAL, "PDF made", "payables@acme.example")
    anna.shoot("journey/16-invoice")

    anna.page.get_by_role("button", name="Why does H100 hours cost EUR 65.00?").click()
    anna.sees(
        "Tier 1, 0 to 100: 100 GPU-hour at",
        "Tier 2, above 100: 50 GPU-hour at",
        "Worked out once more just now: the same, to the last digit.",
        "List prices, version 1",
        approver,
        "Pia Product",
        "Read once more just now: exactly the hours that this line bills.",
        "10 of 10 events",
        "acme-1",
        within="#drawer",
    )
    expect(anna.page.locator("#drawer canvas")).to_be_visible()
    anna.shoot("journey/17-why")
    faults = anna.faults()
    anna.press("All events", within="#drawer")
    anna.sees("Events behind H100 hours", "acme-10")
    faults += anna.faults()
    anna.shoot("journey/18-events-of-a-line")
    assert not faults, "\n".join(faults)
    anna.page.go_back()


def download(anna: Person) -> bytes:
    with anna.page.expect_download() as waiting:
        anna.press("PDF")
    assert waiting.value.suggested_filename.endswith(".pdf")
    return Path(waiting.value.path()).read_bytes()


def attached_pdf(mail: Message) -> bytes:
    pdf = next(part for part in mail.walk() if part.get_content_type() == "application/pdf")
    content = pdf.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def read_audit_log(carl: Person) -> None:
    """Each act with the one who did it."""
    carl.go("/audit/")
    for who, what in (
        (PRODUCT_MANAGER, "Price book version drafted"),
        (PRODUCT_MANAGER, "Price book version submitted"),
        (PRICING_APPROVER, "Approval given"),
        (ADMINISTRATOR, "Api key issued"),
        (ANALYST, "Bill run started"),
        (ANALYST, "Bill run submitted"),
        (CONTROLLER, "Bill run approved"),
        (CONTROLLER, "Bill run issuing started"),
    ):
        row = carl.page.locator("main table tr", has_text=re.compile(what, re.IGNORECASE)).filter(has_text=who.name)
        expect(row.first).to_be_visible()
    carl.sees("Invoice issued", "Invoice sent")
    carl.shoot("journey/19-audit")
