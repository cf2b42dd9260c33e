"""The look of the site: name, colours and the sidebar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy

from accounts.access import Permission

Item = dict[str, Any]


def _may(permission: Permission) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(f"accounts.{permission.value}")


def _file(path: str) -> Callable[[HttpRequest], str]:
    return lambda _request: static(path)


def _under(*starts: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.path.startswith(starts)


def _page(title: str, icon: str, name: str, needs: Permission | None, *starts: str, **more: object) -> Item:
    """A link of the sidebar to a page of ours; shown as active under each of the addresses in `starts`."""
    item: Item = {"title": title, "icon": icon, "link": reverse_lazy(name), "active": _under(*starts), **more}
    return item if needs is None else {**item, "permission": _may(needs)}


def _records(title: str, icon: str, model: str, needs: Permission, *more_starts: str) -> Item:
    """A link of the sidebar to the records of a model, such as "accounts.customer"."""
    app, name = model.split(".")
    return _page(title, icon, f"admin:{app}_{name}_changelist", needs, f"/admin/{app}/{name}/", *more_starts)


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Countinghouse",
    "SITE_HEADER": "Countinghouse",
    "SITE_SUBHEADER": "Usage in, invoices out",
    "SITE_URL": None,
    "SITE_ICON": _file("accounts/mark.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("accounts/mark.svg")}],
    "STYLES": [_file("accounts/pages.css")],
    "SCRIPTS": [_file("accounts/pages.js")],
    "LOGIN": {"image": _file("accounts/sign-in.svg")},
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    # 600 carries white text and 500 stands on dark ground: both keep a contrast above 4.5.
    "COLORS": {
        "primary": {
            "50": "#f0fdfa",
            "100": "#ccfbf1",
            "200": "#99f6e4",
            "300": "#5eead4",
            "400": "#2dd4bf",
            "500": "#14b8a6",
            "600": "#0f766e",
            "700": "#115e59",
            "800": "#134e4a",
            "900": "#123f3c",
            "950": "#042f2e",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "items": [
                    {
                        "title": "Home",
                        "icon": "home",
                        "link": reverse_lazy("billing:home"),
                        "active": lambda request: request.path == "/",
                    },
                    _page(
                        "Approvals",
                        "fact_check",
                        "accounts:inbox",
                        None,
                        "/approvals/",
                        badge="accounts.inbox.waiting_badge",
                    ),
                ],
            },
            {
                "title": "Usage",
                "items": [
                    _page("Loads", "upload_file", "metering:batches", Permission.VIEW_USAGE, "/usage/batches/"),
                    _page("Quarantine", "report", "metering:quarantine", Permission.VIEW_USAGE, "/usage/quarantine/"),
                ],
            },
            {
                "title": "Pricing",
                "items": [
                    _page("Price books", "sell", "pricing:books", Permission.VIEW_PRICES, "/prices/"),
                ],
            },
            {
                "title": "Billing",
                "items": [
                    _page("Bill runs", "play_circle", "billing:runs", Permission.VIEW_INVOICES, "/runs/"),
                    _page("Invoices", "receipt_long", "billing:invoices", Permission.VIEW_INVOICES, "/invoices/"),
                ],
            },
            {
                "title": "Control",
                "items": [
                    _page("Audit log", "history", "accounts:audit", Permission.VIEW_AUDIT, "/audit/"),
                    _page("Health", "monitor_heart", "billing:health", Permission.VIEW_INVOICES, "/health/"),
                ],
            },
        ],
    },
}
