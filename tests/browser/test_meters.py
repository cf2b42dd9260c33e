"""A product manager defines a meter, sees what it would count before it does, and has it count last month too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from billing.demo.people import PRODUCT_MANAGER
from tests.browser.person import Person
from tests.browser.worlds import World, month_before, opened, use

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]


@pytest.fixture(scope="module")
def world(empty_database: None) -> World:
    """Have ten events of each of two customers in last month: 2 and 5 hours a day."""
    world = opened(approved=True)
    month = month_before(world.now.date())
    use(world, world.acme, "2", month=month)
    use(world, world.bolt, "5", month=month)
    return world


def test_a_meter_is_previewed_defined_and_back_filled(world: World, sit_down: SitDown) -> None:
    pia = sit_down(PRODUCT_MANAGER.email)
    first = month_before(world.now.date())
    last = world.now.date().replace(day=1) - timedelta(days=1)

    pia.go("/usage/meters/")
    pia.press("Define a meter", within="main")
    pia.page.get_by_label("Name", exact=True).fill("Greatest job")
    pia.page.get_by_label("Code").fill("greatest-job")
    pia.page.get_by_label("Event type").fill(world.shop.meter.event_type)
    pia.page.get_by_label("Greatest value").check()
    pia.page.get_by_label("Unit after that").fill("hours")
    pia.page.locator("#p-first").fill(first.isoformat())
    pia.page.locator("#p-last").fill(last.isoformat())
    pia.sees("reads no value", "quantity", within="#meter-preview")
    pia.page.get_by_label("Name of the value in the event's data").fill("quantity")
    pia.page.get_by_label("Split by (dimensions)").fill("sku")
    pia.sees("of 20 stored and 0 in quarantine", world.bolt.name, "5 hours", "sku: h100", within="#meter-preview")
    faults = pia.faults(picture="meters/preview")
    pia.press("Define the meter", within="main")
    pia.sees("Greatest job counts from now on", "No series yet")
    meter_path = pia.page.url

    pia.press("Back-fill", within="main")
    pia.page.locator("#b-first").fill(first.isoformat())
    pia.page.locator("#b-last").fill(last.isoformat())
    pia.press("Preview", within="main")
    pia.sees("Read 20 stored events", world.acme.name, within="main")
    faults += pia.faults(picture="meters/back-fill")
    pia.page.get_by_label("Reason").fill("It is sold since last month")
    pia.press("Back-fill", within="main form[method=post]")
    pia.sees("Done", "20 of 20 events read", "Counted now20 events", within="#backfill-progress")
    faults += pia.faults(picture="meters/back-fill-done")
    pia.go(meter_path)
    pia.sees(world.acme.name, "20 events counted", within="main")
    faults += pia.faults(picture="meters/meter")

    assert not faults, "\n".join(faults)
