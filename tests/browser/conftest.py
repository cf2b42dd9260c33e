"""A real browser at a real site: gunicorn, a Celery worker and an SMTP server on the database that pytest made.

Each module says in a fixture `world` what the database holds when its people sit down; it is empty again afterwards.
The modules share an xdist group, so that one browser is at work at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from playwright.sync_api import Browser, expect, sync_playwright

from accounts.access import sync_roles
from tests.browser.person import WIDE, Person
from tests.browser.running_site import Site, running_site

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MILLISECONDS = 60_000


@pytest.fixture(autouse=True)
def _django_db_marker() -> None:
    """Do nothing for the mark `django_db`, which here only says that the tests' database has to be there.

    Pytest-django would wrap each test in a transaction, and a site in processes of its own sees nothing of that.
    """


@pytest.fixture(scope="module")
def empty_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Open the tests' database to writes that stay, for one module; they are gone after it."""
    # Without a test that is marked `django_db` nobody makes the tests' database, and this would be somebody's own.
    assert connection.settings_dict["NAME"] == connection.settings_dict["TEST"]["NAME"]
    with django_db_blocker.unblock():
        sync_roles()
        try:
            yield
        finally:
            # Numbers go on: this process remembers series by the ids of their customers, and ids never come twice.
            call_command("flush", verbosity=0, interactive=False, reset_sequences=False)
            connection.close()


@pytest.fixture(scope="module")
def site(world: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve what `world` made."""
    name = str(connection.settings_dict["NAME"])
    with running_site(database=name, log_folder=tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    """Start a browser once the site is there: Django's ORM does not work where Playwright does."""
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in() -> dict[str, Person]:
    """Those who signed in before, by e-mail address: they stay signed in, and their browsers keep what they loaded."""
    return {}


@pytest.fixture
def sit_down(browser: Browser, site: Site, signed_in: dict[str, Person]) -> Iterator[Callable[[str], Person]]:
    """Seat somebody at a new tab, signed in if they name their address; without one the browser is a fresh one.

    Afterwards nobody's browser may have complained.
    """
    people: list[Person] = []

    def sit(email: str = "") -> Person:
        person = signed_in.get(email)
        if person is None:
            context = browser.new_context(viewport=WIDE, locale="en-GB", timezone_id="Europe/Berlin")
            context.set_default_timeout(WAIT_MILLISECONDS)
            person = Person(context, site.url)
            if email:
                person.sign_in(email)
                person.page.wait_for_url(lambda url: "/login/" not in url)
                signed_in[email] = person
        elif person not in people:
            person.open_tab()
        people.append(person)
        return person

    yield sit
    complaints = [complaint for person in people for complaint in person.leave()]
    assert not complaints, "\n".join(complaints)
