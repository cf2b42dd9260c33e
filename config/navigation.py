"""The sidebar: every place a person may go to, by their permissions, with what waits there."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

from accounts import inbox
from accounts.access import Permission
from accounts.pages import actor_of

Item = dict[str, Any]


def sidebar(request: HttpRequest) -> list[Item]:
    """Return the groups of the sidebar as unfold wants them; what a person may not open is not shown."""
    if not request.user.is_authenticated:
        return []
    places = _Places(request)
    waiting = inbox.waiting_for(actor_of(request)).count()
    groups: list[Item] = [
        {"items": [places.home(), places.page("Approvals", "fact_check", "accounts:inbox", badge=waiting or "")]},
        {"title": "Usage", "items": _usage(places)},
        {"title": "Usage intake", "items": _usage_intake(places)},
        {"title": "Pricing", "items": _pricing(places)},
        {"title": "Billing", "items": _billing(places)},
        {"title": "Control", "items": _control(places)},
        {"title": "Set-up", "items": _set_up(places)},
    ]
    return [{**group, "items": shown} for group in groups if (shown := [item for item in group["items"] if item])]


def _usage(places: _Places) -> list[Item | None]:
    see = Permission.VIEW_USAGE
    return [
        places.page("Explorer", "query_stats", "metering:explorer", see),
        places.page("Meters", "speed", "metering:meters", see, "/usage/back-fills/", "/admin/metering/meter/"),
        places.records("Subjects", "badge", "metering.subjectassignment", see),
        places.page("Corrections", "edit_note", "metering:corrections", see),
        places.page("Backfills", "backup", "metering:usage-backfills", see),
        places.page("After closing", "event_repeat", "metering:after-closing", see),
    ]


def _usage_intake(places: _Places) -> list[Item | None]:
    see = Permission.VIEW_USAGE
    return [
        places.page("Completeness", "rule", "metering:completeness", see),
        places.page("Quarantine", "report", "metering:quarantine", see),
        places.page("Load usage", "upload_file", "metering:files", see),
        places.records("File mappings", "table_chart", "metering.usagefilemapping", Permission.LOAD_USAGE),
        places.page("Kafka", "stream", "metering:kafka", see),
        places.page("Batches", "inventory_2", "metering:batches", see),
        places.page("Retention", "archive", "metering:retention", see),
    ]


def _pricing(places: _Places) -> list[Item | None]:
    see = Permission.VIEW_PRICES
    return [
        places.page("Price books", "sell", "pricing:books", see),
        places.records("Products", "category", "pricing.product", see),
        places.records("Contracts", "handshake", "pricing.contract", see),
    ]


def _billing(places: _Places) -> list[Item | None]:
    return [
        places.records("Customers", "apartment", "accounts.customer", Permission.VIEW_CUSTOMERS, "/customers/"),
        places.page("Bill runs", "play_circle", "billing:runs", Permission.VIEW_INVOICES),
        places.page("Invoices", "receipt_long", "billing:invoices", Permission.VIEW_INVOICES),
        places.records("Journal", "menu_book", "billing.journalentry", Permission.VIEW_INVOICES),
    ]


def _control(places: _Places) -> list[Item | None]:
    return [
        places.page("Audit log", "history", "accounts:audit", Permission.VIEW_AUDIT),
        places.page("Health", "monitor_heart", "billing:health", Permission.VIEW_INVOICES),
    ]


def _set_up(places: _Places) -> list[Item | None]:
    return [
        places.records("Legal entities", "domain", "accounts.legalentity", Permission.EDIT_LEGAL_ENTITIES),
        places.records("Staff", "group", "accounts.user", Permission.EDIT_STAFF),
        places.records("Approval policies", "rule", "accounts.approvalpolicy", Permission.EDIT_STAFF),
        places.records("API keys", "key", "accounts.apikey", Permission.EDIT_API_KEYS),
    ]


class _Places:
    """Makes the links of one person's sidebar."""

    def __init__(self, request: HttpRequest) -> None:
        self.path = request.path
        self.actor = actor_of(request)

    def home(self) -> Item:
        """Link home; only active at home itself, for every other address starts with it."""
        return {"title": "Home", "icon": "home", "link": reverse("billing:home"), "active": self.path == "/"}

    def page(
        self,
        title: str,
        icon: str,
        name: str,
        needs: Permission | None = None,
        *more_starts: str,
        badge: int | str = "",
    ) -> Item | None:
        """Link to a page, active under its address and under any of the further ones."""
        if needs is not None and not self.actor.may(needs):
            return None
        link = reverse(name)
        active = self.path.startswith((link, *more_starts))
        return {
            "title": title,
            "icon": icon,
            "link": link,
            "active": active,
            "badge": badge,
            "badge_variant": "warning",
        }

    def records(self, title: str, icon: str, model: str, needs: Permission, *more_starts: str) -> Item | None:
        """Link to the records of a model such as "accounts.customer", if the admin has them."""
        app, name = model.split(".")
        if not admin.site.is_registered(apps.get_model(app, name)):
            return None
        return self.page(title, icon, f"admin:{app}_{name}_changelist", needs, *more_starts)
