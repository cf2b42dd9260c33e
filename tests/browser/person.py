"""Somebody at a browser: signs in, clicks, and has every complaint of the browser written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response, ViewportSize, WebError, expect

from billing.demo.people import DEMO_PASSWORD

SCREENSHOT_FOLDER = Path(__file__).resolve().parent.parent.parent / "var" / "screenshots"
WIDE, NARROW = ViewportSize(width=1440, height=900), ViewportSize(width=390, height=844)
PAGE_CHECK = Path(__file__).with_name("page_check.js").read_text(encoding="utf-8")
_BLAMED_STATUS = re.compile(r"status of (\d{3})")


class Person:
    """A member of staff with a browser of their own; `page` is the tab in front of them."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.complaints: list[str] = []
        self._expected: set[int] = set()
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("requestfailed", self._on_failed)
        context.on("response", self._on_response)
        self.page: Page = context.new_page()

    def open_tab(self) -> None:
        """Sit down at a new tab."""
        self.page = self.context.new_page()

    def leave(self) -> list[str]:
        """Close the tab, and return what the browser complained of since the last time."""
        self.page.close()
        complaints, self.complaints = self.complaints, []
        return complaints

    def _on_console(self, message: ConsoleMessage) -> None:
        status = _BLAMED_STATUS.search(message.text)
        if message.type in {"error", "warning"} and not (status and int(status[1]) in self._expected):
            self.complaints.append(f"console: {message.text} at {message.location}")

    def _on_error(self, error: WebError) -> None:
        stack = getattr(error.error, "stack", "")
        self.complaints.append(f"uncaught: {error.error} on {error.page and error.page.url}: {stack}")

    def _on_failed(self, request: Request) -> None:
        # A request that a navigation overtakes, or that turns into a download, is aborted by the browser itself.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.complaints.append(f"{response.status}: {response.request.method} {response.url}")

    @contextmanager
    def expecting(self, *statuses: int) -> Iterator[None]:
        """Take answers of these statuses as they are meant to be, for as long as the block lasts."""
        self._expected = set(statuses)
        try:
            yield
            # What the browser has to say about the last answer arrives before this does.
            self.page.evaluate("1")
        finally:
            self._expected = set()

    def sign_in(self, email: str, password: str = DEMO_PASSWORD) -> None:
        """Fill in the sign-in page that is before this person, or go to it."""
        if "/login/" not in self.page.url:
            self.go("/admin/login/")
        self.page.get_by_label("Email").fill(email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def go(self, path: str) -> Response:
        """Open an address of the site and return its answer once everything on the page is there."""
        answer = self.page.goto(path if path.startswith("http") else f"{self.url}{path}")
        assert answer is not None
        self.settle()
        return answer

    def settle(self) -> None:
        """Wait until the page has loaded and the parts that it asks for by itself have come."""
        self.page.wait_for_load_state("load")
        self.page.wait_for_function("!document.querySelector('.htmx-request')")

    def press(self, name: str, *, within: str = "body") -> None:
        """Press the button or follow the link of this name."""
        place = self.page.locator(within)
        button = place.get_by_role("button", name=name, exact=True)
        button.or_(place.get_by_role("link", name=name, exact=True)).first.click()

    def sees(self, *texts: str | re.Pattern[str], within: str = "body") -> None:
        """Find each of these texts on the page, now or in a moment."""
        for text in texts:
            expect(self.page.locator(within)).to_contain_text(text)

    def sees_no(self, name: str) -> None:
        """Find no button of this name."""
        expect(self.page.get_by_role("button", name=name, exact=True)).to_have_count(0)

    def shoot(self, name: str) -> None:
        """Keep a picture of the page, wide and narrow."""
        for size in (NARROW, WIDE):
            self._resize(size)
            self._picture(name, size)

    def faults(self, picture: str = "") -> list[str]:
        """What is wrong with the page before this person, at both widths; keeps pictures of it if they get a name."""
        found: list[str] = []
        for size in (NARROW, WIDE):
            self._resize(size)
            faults: list[str] = self.page.evaluate(PAGE_CHECK)
            found += [f"{self.page.url} at {size['width']}: {fault}" for fault in faults]
            if picture:
                self._picture(picture, size)
        return found

    def _resize(self, size: ViewportSize) -> None:
        """Give the page another size, and the two frames that it takes to answer to it."""
        self.page.set_viewport_size(size)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def _picture(self, name: str, size: ViewportSize) -> None:
        file = SCREENSHOT_FOLDER / f"{name}-{size['width']}.png"
        self.page.screenshot(path=file, full_page=True, animations="disabled")
