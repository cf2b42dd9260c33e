"""The usage explorer, in a real browser: choose, group, compare, go down to events, and back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from accounts.access import Actor
from billing.demo.people import ANALYST
from metering import ingestion
from metering.models import UsageBatch
from tests import make_billing
from tests.browser.person import Person
from tests.browser.worlds import World, in_full_work, month_before, noon_of, usage_event

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]


@pytest.fixture(scope="module")
def world(empty_database: None) -> World:
    """A house in full work, and one event that came after the bill of its month."""
    world = in_full_work()
    older = month_before(world.now.date(), 2)
    late = usage_event(world.shop, make_billing.subject_of(world.acme), "3", on=noon_of(older, 12), name="late")
    ingestion.ingest(events=[late], door=UsageBatch.Door.FILE, actor=Actor.system("tests"), at=world.now)
    return world


def test_from_a_customer_through_bars_to_events_and_back(world: World, sit_down: SitDown) -> None:
    person = sit_down(ANALYST.email)
    page = person.page
    person.go("/usage/explorer/")
    person.sees("Choose a customer")
    person.shoot("explorer/empty")

    page.get_by_label("Customer").fill(world.acme.code)
    page.keyboard.press("Tab")
    expect(page.locator("#x-title")).to_contain_text(world.acme.name)
    page.get_by_label("Group by").select_option("sku")
    expect(page.locator("#x-title")).to_contain_text("by sku")
    page.get_by_label("Compare").select_option("1")
    person.sees("Before", within="main table.ch-table:not(.ch-table-plain)")
    expect(page).to_have_url(re.compile("group_by=sku.*compare=1"))
    faults = person.faults(picture="explorer/grouped")

    # The address holds all of it.
    address = page.url
    person.go(address)
    expect(page.get_by_label("Group by")).to_have_value("sku")
    expect(page.get_by_label("Compare")).to_have_value("1")

    # By the keyboard: the figures as a table have a link for each bar.
    page.get_by_text("Figures as a table").press("Enter")
    page.locator("details.ch-as-table a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/usage/explorer/events/**")
    person.sees("Events")
    page.go_back()
    page.locator("main a", has_text="Events").first.click()
    page.wait_for_url("**/usage/explorer/events/**")
    person.sees("Counted", within="main table")
    faults += person.faults(picture="explorer/events")

    page.go_back()
    with page.expect_download() as download:
        page.locator("main a", has_text="Parquet").click()
    assert download.value.suggested_filename.endswith(".parquet")
    assert not faults, "\n".join(faults)


def test_customers_are_compared_and_late_usage_is_seen_and_followed(world: World, sit_down: SitDown) -> None:
    older = month_before(world.now.date(), 2)
    person = sit_down(ANALYST.email)
    page = person.page
    person.go(f"/usage/explorer/?first={older.isoformat()}&last={older.replace(day=28).isoformat()}")

    page.locator("main a", has_text="all customers").click()
    expect(page.locator("#x-title")).to_contain_text("by customer, all customers")
    person.sees(world.bolt.name, within="main table.ch-table:not(.ch-table-plain)")
    person.go(f"/usage/explorer/?customer=(all)&first={older.isoformat()}&last={older.replace(day=28).isoformat()}")
    person.sees("1 event came in after its period was billed")
    page.get_by_text("Figures as a table").press("Enter")
    person.sees("Came in late", within="details.ch-as-table table")
    faults = person.faults(picture="explorer/customers")

    page.locator("main table a", has_text=world.acme.name).click()
    expect(page.locator("#x-title")).to_contain_text(world.acme.name)
    page.locator("main table a", has_text="Events").first.click()
    page.wait_for_url("**/usage/explorer/events/**")
    faults += person.faults(picture="explorer/late-event")
    page.locator("main table a", has_text="Late").locator("visible=true").click()
    page.wait_for_url("**/usage/after-closing/**")
    person.sees(world.acme.name, within="main table")
    assert not faults, "\n".join(faults)
