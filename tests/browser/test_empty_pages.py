"""The pages of a house on its first day: nothing to show, and each says so and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from billing.demo.people import ADMINISTRATOR, CONTROLLER, DemoPerson, hire_staff
from tests.browser.person import Person

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]

EMPTY_STATES = {
    "/": "Nothing waits for you",
    "/approvals/": "Nothing waits for you",
    "/approvals/?tab=mine": "You have not asked for anything",
    "/usage/batches/": "",
    "/usage/files/": "No file yet",
    "/usage/quarantine/": "",
    "/usage/completeness/": "Nothing came in, and nothing was stated",
    "/usage/meters/": "No meters yet",
    "/usage/kafka/": "No usage from Kafka",
    "/prices/": "No price book yet",
    "/runs/": "No bill run yet",
    "/invoices/": "",
    "/health/": "",
}


@pytest.fixture(scope="module")
def world(empty_database: None) -> None:
    hire_staff(at=datetime.now(UTC))


@pytest.mark.parametrize("somebody", [CONTROLLER, ADMINISTRATOR], ids=lambda each: each.email[:3])
def test_each_page_of_an_empty_house_is_in_order(somebody: DemoPerson, sit_down: SitDown) -> None:
    person = sit_down(somebody.email)
    person.go("/")
    paths = person.page.eval_on_selector_all("#nav-sidebar a[href^='/']", "all => all.map(a => a.pathname)")

    faults = []
    for path in dict.fromkeys(paths):
        assert person.go(path).status == 200, path
        faults += person.faults(picture=f"empty/{path.strip('/').replace('/', '-') or 'home'}")

    assert not faults, "\n".join(faults)


def test_an_empty_list_says_what_would_be_there(sit_down: SitDown) -> None:
    carl = sit_down(CONTROLLER.email)

    for path, text in EMPTY_STATES.items():
        carl.go(path)
        if text:
            carl.sees(text, within="main")
        else:
            assert carl.page.locator("main .ch-empty").first.is_visible(), path
