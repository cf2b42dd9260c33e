"""Who may do what: permissions, roles and the actor on whose behalf every write happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from django.apps import apps
from django.contrib.auth import models as django_auth
from django.contrib.auth.management import create_permissions
from django.db import transaction

from accounts.errors import PermissionMissing

if TYPE_CHECKING:
    from accounts.models import ApiKey, User


class Permission(StrEnum):
    """Every permission of the house; the value is Django's codename, under the app label `accounts`."""

    VIEW_CUSTOMERS = "view_customers", "See customers"
    EDIT_CUSTOMERS = "edit_customers", "Create and edit customers, contacts and subjects"
    EDIT_LEGAL_ENTITIES = "edit_legal_entities", "Edit legal entities and invoice series"
    EDIT_STAFF = "edit_staff", "Create staff, give roles, set approval policies"
    EDIT_API_KEYS = "edit_api_keys", "Issue and revoke API keys"
    VIEW_USAGE = "view_usage", "See usage and quarantine"
    EDIT_METERS = "edit_meters", "Create and edit meters"
    LOAD_USAGE = "load_usage", "Load usage files"
    RELEASE_QUARANTINE = "release_quarantine", "Release or discard quarantined events"
    MANAGE_RETENTION = "manage_retention", "Archive usage, set legal holds, ask for erasures"
    APPROVE_ERASURES = "approve_erasures", "Approve the erasure of usage"
    CORRECT_USAGE = "correct_usage", "Correct usage and fill in what was missing"
    APPROVE_CORRECTIONS = "approve_corrections", "Approve corrections of usage and rebuild totals"
    VIEW_PRICES = "view_prices", "See products, price books and contracts"
    EDIT_PRICES = "edit_prices", "Draft and submit price book versions"
    APPROVE_PRICES = "approve_prices", "Approve price book versions"
    EDIT_CONTRACTS = "edit_contracts", "Create and edit contracts"
    VIEW_INVOICES = "view_invoices", "See bill runs, invoices and journals"
    RUN_BILLING = "run_billing", "Start, redo, submit and cancel bill runs"
    APPROVE_INVOICES = "approve_invoices", "Approve bill runs"
    ISSUE_INVOICES = "issue_invoices", "Issue approved invoices"
    SEND_INVOICES = "send_invoices", "Send and resend invoices by e-mail"
    VIEW_AUDIT = "view_audit", "See the audit log"

    label: str

    def __new__(cls, value: str, label: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member


class Role(StrEnum):
    """The roles of the house; each is a Django group of that name."""

    FINANCE_ANALYST = "Finance analyst"
    FINANCE_CONTROLLER = "Finance controller"
    PRODUCT_MANAGER = "Product manager"
    PRICING_APPROVER = "Pricing approver"
    SUPPORT = "Support"
    AUDITOR = "Auditor"
    ADMINISTRATOR = "Administrator"


_SEE = frozenset(
    {Permission.VIEW_CUSTOMERS, Permission.VIEW_USAGE, Permission.VIEW_PRICES, Permission.VIEW_INVOICES},
)

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.FINANCE_ANALYST: _SEE
    | {
        Permission.EDIT_CUSTOMERS,
        Permission.EDIT_CONTRACTS,
        Permission.LOAD_USAGE,
        Permission.RELEASE_QUARANTINE,
        Permission.CORRECT_USAGE,
        Permission.RUN_BILLING,
        Permission.SEND_INVOICES,
    },
    Role.FINANCE_CONTROLLER: _SEE
    | {
        Permission.EDIT_CUSTOMERS,
        Permission.EDIT_CONTRACTS,
        Permission.EDIT_LEGAL_ENTITIES,
        Permission.RELEASE_QUARANTINE,
        Permission.APPROVE_ERASURES,
        Permission.CORRECT_USAGE,
        Permission.APPROVE_CORRECTIONS,
        Permission.RUN_BILLING,
        Permission.APPROVE_INVOICES,
        Permission.ISSUE_INVOICES,
        Permission.SEND_INVOICES,
        Permission.VIEW_AUDIT,
    },
    Role.PRODUCT_MANAGER: frozenset(
        {
            Permission.VIEW_CUSTOMERS,
            Permission.VIEW_USAGE,
            Permission.VIEW_PRICES,
            Permission.EDIT_METERS,
            Permission.EDIT_PRICES,
        },
    ),
    Role.PRICING_APPROVER: frozenset(
        {
            Permission.VIEW_CUSTOMERS,
            Permission.VIEW_USAGE,
            Permission.VIEW_PRICES,
            Permission.APPROVE_PRICES,
        },
    ),
    Role.SUPPORT: _SEE | {Permission.SEND_INVOICES},
    Role.AUDITOR: _SEE | {Permission.VIEW_AUDIT},
    Role.ADMINISTRATOR: _SEE
    | {
        Permission.EDIT_LEGAL_ENTITIES,
        Permission.EDIT_STAFF,
        Permission.EDIT_API_KEYS,
        Permission.MANAGE_RETENTION,
        Permission.VIEW_AUDIT,
    },
}


# What an API key's scope allows, in the words of the verbs.
SCOPE_PERMISSIONS: Mapping[str, Permission] = {
    "events:write": Permission.LOAD_USAGE,
    "usage:read": Permission.VIEW_USAGE,
    "invoices:read": Permission.VIEW_INVOICES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The one on whose behalf a write happens: a member of staff, an API key, or a job of the house itself."""

    label: str
    user_id: int | None = None
    api_key_id: int | None = None
    permissions: frozenset[str] = field(default_factory=frozenset)
    request_id: str = ""
    is_system: bool = False

    @classmethod
    def of(cls, user: User, *, request_id: str = "") -> Actor:
        """Return the actor for a signed-in user; a deactivated user may do nothing."""
        granted = frozenset(name.removeprefix("accounts.") for name in user.get_all_permissions())
        return cls(label=user.email, user_id=user.pk, permissions=granted, request_id=request_id)

    @classmethod
    def of_key(cls, key: ApiKey, *, request_id: str = "") -> Actor:
        """Return the actor for a program that came in with an API key; its scopes are its only rights."""
        granted = frozenset(SCOPE_PERMISSIONS[scope].value for scope in key.scopes)
        return cls(
            label=f"api-key:{key.prefix} {key.name}", api_key_id=key.pk, permissions=granted, request_id=request_id
        )

    @classmethod
    def system(cls, job: str = "system", *, request_id: str = "") -> Actor:
        """Return the house itself, for jobs; it holds every permission but can never decide an approval."""
        return cls(
            label=f"system:{job}",
            permissions=frozenset(Permission),
            request_id=request_id,
            is_system=True,
        )

    def may(self, permission: Permission) -> bool:
        """Tell whether the actor holds the permission."""
        return permission.value in self.permissions

    def require(self, permission: Permission) -> None:
        """Raise PermissionMissing unless the actor holds the permission."""
        if not self.may(permission):
            msg = f"{self.label} may not do this; it needs the permission “{permission.label}”."
            raise PermissionMissing(msg)


@transaction.atomic
def sync_roles() -> list[Role]:
    """Give every role's group exactly the permissions of the role; returns the roles that had to be changed.

    Run after every migrate. Groups that are no roles are left alone.
    """
    create_permissions(apps.get_app_config("accounts"), verbosity=0)
    granted = {
        permission.codename: permission
        for permission in django_auth.Permission.objects.filter(
            content_type__app_label="accounts",
            codename__in=[permission.value for permission in Permission],
        )
    }
    return [role for role, wanted in ROLE_PERMISSIONS.items() if _sync_role(role, [granted[name] for name in wanted])]


def _sync_role(role: Role, wanted: list[django_auth.Permission]) -> bool:
    group, is_new = django_auth.Group.objects.get_or_create(name=role.value)
    if not is_new and set(group.permissions.all()) == set(wanted):
        return False
    group.permissions.set(wanted)
    return True
