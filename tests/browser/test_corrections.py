"""A disputed bill, in a real browser: find the events, correct two, have it approved, see it wait for the next bill."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from billing.demo.people import ANALYST, CONTROLLER
from tests.browser.person import Person
from tests.browser.worlds import World, in_full_work, month_before

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]


@pytest.fixture(scope="module")
def world(empty_database: None) -> World:
    return in_full_work()


def test_two_events_of_a_billed_month_are_corrected_where_they_are_found(world: World, sit_down: SitDown) -> None:
    month = month_before(world.now.date(), 2)
    clerk = sit_down(ANALYST.email)
    page = clerk.page
    clerk.go(f"/customers/{world.acme.pk}/")
    clerk.press("Usage and events")
    page.wait_for_url("**/usage/explorer/?customer=**")
    clerk.go(f"{page.url}&meter={world.shop.meter.code}&first={month}&last={month.replace(day=28)}&time_zone=UTC")
    page.locator("main a", has_text="Events").first.click()
    page.wait_for_url("**/usage/explorer/events/**")
    clerk.settle()

    page.locator("input[name=event]").nth(0).check()
    page.locator("input[name=event]").nth(1).check()
    clerk.press("Correct them")
    clerk.sees("The 2 events that you ticked")
    faults = clerk.faults(picture="corrections/ticked")
    for box in page.locator("input.ch-num").all():
        box.fill("10")
    page.get_by_label("Reason").fill("The customer's log says so, ticket 4711")
    clerk.press("Preview")

    clerk.sees("116", "−4", "It takes a second person's approval")
    faults += clerk.faults(picture="corrections/preview")
    clerk.press("Submit for approval")
    clerk.sees("It waits for a second person")

    controller = sit_down(CONTROLLER.email)
    controller.go("/approvals/")
    controller.page.locator("main a", has_text="Replace 2 events").first.click()
    controller.sees("ticket 4711")
    controller.page.get_by_role("button", name="Approve").first.click()
    dialog = controller.page.locator("dialog[open] button[type=submit]")
    if dialog.count():
        dialog.first.click()
    controller.sees("Approved")

    page.reload()
    expect(page.locator("#correction-progress")).to_contain_text("2 of 2 events done")

    clerk.go(f"/usage/after-closing/?month={month:%Y-%m}")
    clerk.sees("−4", "for the next bill", within="main table")
    expect(page.locator("main table")).to_contain_text(world.acme.name)
    faults += clerk.faults(picture="corrections/after-closing")
    assert faults == []
