"""What goes wrong between people and pages: impatience, stale tabs, the back button, a session that ran out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.db import connection
from playwright.sync_api import expect

from billing.demo.people import ANALYST, CONTROLLER, PRICING_APPROVER
from tests.browser.person import Person
from tests.browser.running_site import Site
from tests.browser.worlds import (
    SECOND_CONTROLLER,
    hire_second_controller,
    opened,
    propose_prices,
    run_to_decide,
)

pytestmark = [pytest.mark.browser, pytest.mark.django_db, pytest.mark.xdist_group("browser")]

SitDown = Callable[[str], Person]
Ask = Callable[..., list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """A bill run for each mishap, each of a shop of its own; `version_id` is in review."""

    to_approve: int
    to_issue: int
    to_race: int
    to_withdraw: int
    to_leave: int
    version_id: int


@pytest.fixture(scope="module")
def world(empty_database: None) -> Runs:
    hire_second_controller()
    approved = run_to_decide(0, approved=True)
    waiting = [run_to_decide(number) for number in range(1, 5)]
    return Runs(
        to_issue=approved.pk,
        to_approve=waiting[0].pk,
        to_race=waiting[1].pk,
        to_withdraw=waiting[2].pk,
        to_leave=waiting[3].pk,
        version_id=propose_prices(opened(approved=True)).pk,
    )


@pytest.fixture(scope="module")
def ask(site: Site) -> Iterator[Ask]:
    """Ask the database itself, past the site and past Django."""
    parameters = connection.get_connection_params()
    known = {key: parameters[key] for key in ("dbname", "user", "password", "host", "port") if key in parameters}
    with psycopg.connect(**known, autocommit=True) as straight:
        yield lambda sql, *values: straight.execute(sql, values).fetchall()


def decisions_on(ask: Ask, run_id: int) -> int:
    sql = (
        "SELECT count(*) FROM accounts_approvaldecision d JOIN accounts_approvalrequest r ON r.id = d.request_id "
        "WHERE r.kind = 'bill_run' AND r.subject_id = %s"
    )
    return int(ask(sql, run_id)[0][0])


def test_a_double_click_on_approve_decides_once(world: Runs, sit_down: SitDown, ask: Ask) -> None:
    carl = sit_down(CONTROLLER.email)
    carl.go(f"/runs/{world.to_approve}/")
    carl.press("Approve")

    carl.page.locator("#approve-dialog button[type=submit]").dblclick()

    carl.sees("Approved by Carl Controller")
    carl.sees_no("Approve")
    assert decisions_on(ask, world.to_approve) == 1


def test_a_double_click_on_issue_issues_once_and_the_back_button_offers_it_no_more(
    world: Runs, sit_down: SitDown, ask: Ask, site: Site
) -> None:
    carl = sit_down(CONTROLLER.email)
    carl.go("/runs/")
    carl.go(f"/runs/{world.to_issue}/")
    carl.page.locator("[data-opens=issue-dialog]").click()

    carl.page.locator("#issue-dialog button[type=submit]").dblclick()

    expect(carl.page.get_by_role("progressbar")).to_have_count(0)
    carl.sees("Bill run issued")
    site.mails.wait_for(2)
    invoices = ask("SELECT number FROM billing_invoice WHERE bill_run_id = %s ORDER BY number", world.to_issue)
    assert len({number for (number,) in invoices}) == 2
    started = ask("SELECT count(*) FROM accounts_auditentry WHERE verb = 'bill_run.issuing_started'")
    assert started == [(1,)]

    carl.page.go_back()
    carl.settle()
    carl.page.go_back()
    carl.settle()
    expect(carl.page.locator("[data-opens=issue-dialog]")).to_have_count(0)
    carl.shoot("mishaps/back-after-issuing")
    assert ask("SELECT count(*) FROM billing_journalentry") == [(2,)]
    assert len(site.mails.arrived) == 2


def test_a_stale_tab_is_told_that_somebody_else_decided_already(world: Runs, sit_down: SitDown, ask: Ask) -> None:
    carl, cora = sit_down(CONTROLLER.email), sit_down(SECOND_CONTROLLER)
    for person in (carl, cora):
        person.go(f"/runs/{world.to_race}/")
        person.press("Approve")
    carl.press("Approve", within="#approve-dialog")
    carl.sees("Approved by Carl Controller")

    cora.press("Approve", within="#approve-dialog")

    cora.sees("This request is closed")
    cora.sees("Approved by Carl Controller")
    cora.shoot("mishaps/stale-approval")
    assert decisions_on(ask, world.to_race) == 1


def test_a_stale_tab_cannot_approve_what_was_withdrawn(world: Runs, sit_down: SitDown, ask: Ask) -> None:
    anna, carl = sit_down(ANALYST.email), sit_down(CONTROLLER.email)
    carl.go(f"/runs/{world.to_withdraw}/")
    carl.press("Approve")
    anna.go(f"/runs/{world.to_withdraw}/")
    anna.press("Withdraw the request")
    anna.page.get_by_label("Reason", exact=True).locator("visible=true").fill("A meter was read wrongly.")
    anna.press("Withdraw", within="#withdraw-dialog")
    anna.sees("Submit for approval")

    carl.press("Approve", within="#approve-dialog")

    carl.sees("This request is closed")
    carl.shoot("mishaps/approval-of-withdrawn")
    assert decisions_on(ask, world.to_withdraw) == 0
    assert ask("SELECT status FROM billing_billrun WHERE id = %s", world.to_withdraw) == [("draft",)]


def test_a_session_that_ran_out_asks_to_sign_in_and_decides_nothing(world: Runs, sit_down: SitDown, ask: Ask) -> None:
    carl = sit_down("")
    carl.sign_in(CONTROLLER.email)
    carl.page.wait_for_url(lambda url: "/login/" not in url)
    carl.go(f"/runs/{world.to_leave}/")
    carl.press("Approve")
    carl.context.clear_cookies(name="sessionid")

    carl.press("Approve", within="#approve-dialog")

    expect(carl.page.get_by_label("Password")).to_be_visible()
    carl.shoot("mishaps/session-ran-out")
    assert decisions_on(ask, world.to_leave) == 0

    carl.sign_in(CONTROLLER.email)
    carl.page.wait_for_url(f"**/runs/{world.to_leave}/")
    assert decisions_on(ask, world.to_leave) == 0
    carl.press("Approve")
    carl.press("Approve", within="#approve-dialog")
    carl.sees("Approved by Carl Controller")


def test_a_browser_that_lost_its_cookies_is_told_what_to_do(world: Runs, sit_down: SitDown, ask: Ask) -> None:
    paul = sit_down("")
    paul.sign_in(PRICING_APPROVER.email)
    paul.page.wait_for_url(lambda url: "/login/" not in url)
    paul.go(f"/prices/versions/{world.version_id}/")
    paul.press("Approve")
    paul.context.clear_cookies()

    with paul.expecting(403):
        paul.press("Approve", within="#approve-dialog")
        paul.sees("load the page again")
    assert not paul.faults()
    paul.shoot("mishaps/cookies-lost")
    assert ask("SELECT status FROM pricing_pricebookversion WHERE id = %s", world.version_id) == [("in_review",)]
