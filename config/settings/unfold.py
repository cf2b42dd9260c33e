"""The look of the site: its name, its mark and its colours; the sidebar is in config.navigation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static


def _file(path: str) -> Callable[[HttpRequest], str]:
    return lambda _request: static(path)


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Countinghouse",
    "SITE_HEADER": "Countinghouse",
    "SITE_SUBHEADER": "Usage in, invoices out",
    "SITE_URL": "",
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
    "SIDEBAR": {"navigation": "config.navigation.sidebar"},
}
