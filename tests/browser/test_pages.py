"""Every page that a role finds in its sidebar, wide and narrow: it answers, looks in order, and can be used by all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from billing.demo.people import (
    ADMINISTRATOR,
    ANALYST,
    AUDITOR,
    CONTROLLER,
    PEOPLE,
    PRICING_APPROVER,
    PRODUCT_MANAGER,
    DemoPerson,
)
from tests.browser.person import Person
from tests.browser.worlds import World, in_full_work

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]

# Who follows which links to the pages that no sidebar names; the last one's page is looked at.
DEEPER: dict[str, tuple[DemoPerson, list[str]]] = {
    "run-in-review": (CONTROLLER, ["/runs/", "main table tbody tr:first-child a"]),
    "run-issued": (CONTROLLER, ["/runs/", "main table tbody tr:last-child a"]),
    "invoice-issued": (ANALYST, ["/invoices/?tab=issued", "main table tbody tr:first-child a.ch-cell-main"]),
    "invoice-in-review": (ANALYST, ["/invoices/?tab=review", "main table tbody tr:first-child a.ch-cell-main"]),
    "customer": (CONTROLLER, ["/invoices/", "main table tbody a[href^='/customers/']"]),
    "price-book": (PRODUCT_MANAGER, ["/prices/", "main a:text-is('List prices')"]),
    "version-in-review": (PRICING_APPROVER, ["/prices/", "main a:text-is('Version 2')"]),
    "version-changes": (PRICING_APPROVER, ["/prices/", "main a:text-is('Version 2')", "main .ch-tabs a:last-child"]),
    "version-live": (PRODUCT_MANAGER, ["/prices/", "main a:text-is('Version 1')"]),
    "approval-prices": (PRICING_APPROVER, ["/approvals/", "main table tbody a.ch-cell-main"]),
    "approval-run": (CONTROLLER, ["/approvals/", "main table tbody a.ch-cell-main"]),
    "requests-mine": (PRODUCT_MANAGER, ["/approvals/?tab=mine"]),
    "requests-closed": (AUDITOR, ["/approvals/?tab=closed"]),
    "quarantine-group": (ANALYST, ["/usage/quarantine/", "main table tbody a"]),
    "completeness": (ANALYST, ["/usage/completeness/?show=all&from=2000-01-01"]),
    "completeness-hour": (ANALYST, ["/usage/completeness/?show=all&from=2000-01-01", "#hours tbody a"]),
    "batch": (ANALYST, ["/usage/batches/", "main table tbody tr:first-child a"]),
    "customer-record": (CONTROLLER, ["/admin/accounts/customer/", "#result_list tbody th a"]),
    "legal-entity-record": (CONTROLLER, ["/admin/accounts/legalentity/", "#result_list tbody th a"]),
    "product-record": (PRODUCT_MANAGER, ["/admin/pricing/product/", "#result_list tbody th a"]),
    "meter": (PRODUCT_MANAGER, ["/usage/meters/", "main table tbody a.ch-cell-main"]),
    "meter-version": (
        PRODUCT_MANAGER,
        ["/usage/meters/", "main table tbody a.ch-cell-main", "main a[href$='version/']"],
    ),
    "meter-form": (PRODUCT_MANAGER, ["/usage/meters/new/"]),
    "meter-record": (PRODUCT_MANAGER, ["/admin/metering/meter/", "#result_list tbody th a"]),
    "contract-record": (CONTROLLER, ["/admin/pricing/contract/", "#result_list tbody th a"]),
    "staff-record": (ADMINISTRATOR, ["/admin/accounts/user/", "#result_list tbody th a"]),
    "api-key-form": (ADMINISTRATOR, ["/admin/accounts/apikey/add/"]),
    "policy-form": (ADMINISTRATOR, ["/admin/accounts/approvalpolicy/add/"]),
    "records": (ADMINISTRATOR, ["/admin/"]),
    "my-password": (ADMINISTRATOR, ["/admin/password_change/"]),
}


@pytest.fixture(scope="module")
def world(empty_database: None) -> World:
    return in_full_work()


@pytest.fixture(scope="module")
def pictured() -> set[str]:
    return set()


@pytest.mark.parametrize("somebody", PEOPLE, ids=lambda somebody: somebody.role.replace(" ", "-").lower())
def test_every_page_in_the_sidebar_of_a_role_is_in_order(
    somebody: DemoPerson, sit_down: SitDown, pictured: set[str]
) -> None:
    person = sit_down(somebody.email)
    person.go("/")
    paths = person.page.eval_on_selector_all("#nav-sidebar a[href^='/']", "all => all.map(a => a.pathname)")
    assert "/" in paths

    faults = []
    for path in dict.fromkeys(paths):
        answer = person.go(path)
        assert answer.status == 200, path
        name = "" if path in pictured else f"pages/{path.strip('/').replace('/', '-') or 'home'}"
        pictured.add(path)
        faults += person.faults(picture=name)

    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("station", DEEPER)
def test_every_page_behind_a_list_is_in_order(station: str, sit_down: SitDown) -> None:
    somebody, (start, *links) = DEEPER[station]
    person = sit_down(somebody.email)
    person.go(start)
    for link in links:
        # Tables may be wider than a phone and scroll by themselves, so the link itself is asked where it leads.
        person.go(person.page.locator(link).first.evaluate("a => a.href"))

    faults = person.faults(picture=f"pages/{station}")

    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("somebody", PEOPLE, ids=lambda somebody: somebody.role.replace(" ", "-").lower())
def test_a_page_that_is_not_for_a_role_says_so_and_leads_home(somebody: DemoPerson, sit_down: SitDown) -> None:
    person = sit_down(somebody.email)
    person.go("/")
    own = set(person.page.eval_on_selector_all("#nav-sidebar a[href^='/']", "all => all.map(a => a.pathname)"))
    every = {
        "/runs/", "/invoices/", "/audit/", "/health/", "/prices/", "/usage/quarantine/", "/usage/batches/",
        "/admin/accounts/user/", "/admin/accounts/apikey/",
    }  # fmt: skip

    faults = []
    for path in sorted(every - own):
        with person.expecting(403):
            answer = person.go(path)
        assert answer.status == 403, path
        assert person.page.locator("a[href='/']", has_text="Back to").is_visible(), path
        faults += person.faults()
    if every - own:
        person.shoot(f"pages/refused-{somebody.role.replace(' ', '-').lower()}")

    assert not faults, "\n".join(faults)


def test_the_sign_in_page_is_in_order_and_says_what_was_wrong(sit_down: SitDown) -> None:
    person = sit_down("")
    person.go("/runs/")
    assert "/login/" in person.page.url
    faults = person.faults()

    person.sign_in(ANALYST.email, "a wrong password")

    person.sees("Please enter the correct")
    faults += person.faults()
    person.shoot("pages/sign-in-refused")
    assert not faults, "\n".join(faults)

    person.sign_in(ANALYST.email)
    person.page.wait_for_url("**/runs/")
