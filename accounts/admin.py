"""The records of this app in the admin: customers, legal entities, staff, API keys, approval policies."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.enums import ActionVariant

from accounts import api_keys, contacts, customers, legal_entities, policies, sign_in, staff
from accounts.access import Permission
from accounts.admin_access import Dialog, PlainRecordAdmin, ReasonDialog, RecordAdmin, RecordInline, asks, shown
from accounts.admin_forms import (
    ApiKeyForm,
    CustomerForm,
    LegalEntityForm,
    PasswordDialog,
    PolicyForm,
    StaffForm,
)
from accounts.models import ApiKey, ApprovalPolicy, Contact, Customer, LegalEntity, User
from accounts.pages import actor_of, whole_number

# Roles are groups, and groups follow the code: `manage.py sync_roles`.
admin.site.unregister(Group)

_ADDRESS = ("address_line1", "address_line2", ("postal_code", "city"), ("region", "country"))


class ContactInline(RecordInline):
    """The people at a customer."""

    model = Contact
    fields = ("name", "email", "receives_invoices")
    view_permission = Permission.VIEW_CUSTOMERS
    edit_permission = Permission.EDIT_CUSTOMERS

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Let people who left be removed: a contact is no fact of record, and its history stays."""
        return self.has_change_permission(request, obj)


@admin.register(Customer)
class CustomerAdmin(RecordAdmin):
    """Customers with their address, terms and contacts."""

    form = CustomerForm
    view_permission = Permission.VIEW_CUSTOMERS
    edit_permission = Permission.EDIT_CUSTOMERS
    list_display = ("name", "code", "legal_entity", "currency", "payment_terms_days", "place", "shown_state")
    list_filter = (
        ("legal_entity", AutocompleteSelectFilter),
        ("tax_treatment", ChoicesDropdownFilter),
        "currency",
        "is_active",
    )
    list_select_related = ("legal_entity",)
    search_fields = ("name", "code", "tax_id", "contacts__email")
    autocomplete_fields = ("legal_entity", "parent")
    inlines = (ContactInline,)
    actions_detail = ("deactivate", "reactivate")
    fieldsets = (
        (None, {"fields": (("name", "code"), ("legal_entity", "currency"), "parent")}),
        ("Address", {"classes": ["tab"], "fields": _ADDRESS}),
        (
            "Billing",
            {
                "classes": ["tab"],
                "fields": (("payment_terms_days", "locale"), "purchase_order", ("tax_id", "tax_treatment")),
            },
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what was settled when the customer was opened."""
        del request
        return () if obj is None else ("code", "legal_entity", "currency")

    @shown("Place")
    def place(self, customer: Customer) -> str:
        return ", ".join(part for part in (customer.city, customer.country) if part)

    @shown("State", label={"active": "success", "deactivated": "warning"})
    def shown_state(self, customer: Customer) -> str:
        return "active" if customer.is_active else "deactivated"

    def write(self, request: HttpRequest, form: ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(form, CustomerForm)
        if change:
            return customers.change_customer(
                customer_id=obj.pk,
                details=form.details(),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return customers.open_customer(
            legal_entity_id=form.cleaned_data["legal_entity"].pk,
            code=form.cleaned_data["code"],
            details=form.details(),
            currency=form.cleaned_data["currency"],
            actor=actor_of(request),
            at=timezone.now(),
        )

    def save_formset(
        self,
        request: HttpRequest,
        form: ModelForm[Any],
        formset: BaseInlineFormSet[Any, Any, Any],
        change: bool,  # noqa: FBT001 -- Django's own signature
    ) -> None:
        """Save the contacts by their verbs; the reason is the customer's."""
        del change
        formset.new_objects, formset.changed_objects, formset.deleted_objects = [], [], []
        contacts.change_contacts(
            customer_id=form.instance.pk,
            rows=[_contact_row(row) for row in formset.forms if row.has_changed()],
            reason=form.cleaned_data.get("reason", ""),
            actor=actor_of(request),
            at=timezone.now(),
        )

    @asks(
        "Deactivate",
        Dialog(
            title="Deactivate this customer",
            submit="Deactivate",
            text="It takes no new contracts. Nothing of record goes away.",
        ),
        permission="deactivate",
        icon="block",
        variant=ActionVariant.WARNING,
    )
    def deactivate(self, request: HttpRequest, form: ReasonDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: customers.deactivate_customer(
                customer_id=int(object_id),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done="The customer is deactivated.",
        )

    def has_deactivate_permission(self, request: HttpRequest, object_id: str = "0") -> bool:
        return (
            self.has_edit_permission(request)
            and Customer.objects.filter(pk=whole_number(object_id) or 0, is_active=True).exists()
        )

    @asks(
        "Reactivate", Dialog(title="Take this customer back", submit="Reactivate"), permission="reactivate", icon="undo"
    )
    def reactivate(self, request: HttpRequest, form: ReasonDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: customers.reactivate_customer(
                customer_id=int(object_id),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done="The customer is active again.",
        )

    def has_reactivate_permission(self, request: HttpRequest, object_id: str = "0") -> bool:
        return (
            self.has_edit_permission(request)
            and Customer.objects.filter(pk=whole_number(object_id) or 0, is_active=False).exists()
        )


def _contact_row(row: ModelForm[Any]) -> contacts.ContactRow:
    cleaned = row.cleaned_data
    return contacts.ContactRow(
        contact_id=row.instance.pk,
        name=cleaned.get("name", ""),
        email=cleaned.get("email", ""),
        receives_invoices=cleaned.get("receives_invoices", False),
        is_removed=cleaned.get("DELETE", False),
    )


@admin.register(LegalEntity)
class LegalEntityAdmin(RecordAdmin):
    """The operator's companies."""

    form = LegalEntityForm
    view_permission = Permission.VIEW_INVOICES
    edit_permission = Permission.EDIT_LEGAL_ENTITIES
    list_display = ("name", "code", "currency", "time_zone", "tax_name", "tax_rate", "country")
    search_fields = ("name", "code")
    fieldsets = (
        (None, {"fields": (("name", "code"), ("currency", "time_zone"), "email", "is_synthetic")}),
        ("Address", {"classes": ["tab"], "fields": _ADDRESS}),
        ("Register and tax", {"classes": ["tab"], "fields": (("registration", "tax_id"), ("tax_name", "tax_rate"))}),
        ("Bank", {"classes": ["tab"], "fields": ("bank_name", ("bank_account", "bank_code"))}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what was settled when the company was opened."""
        del request
        return ("is_synthetic",) if obj is None else ("code", "currency", "time_zone", "is_synthetic")

    def write(self, request: HttpRequest, form: ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(form, LegalEntityForm)
        if change:
            return legal_entities.change_legal_entity(
                legal_entity_id=obj.pk,
                details=form.details(),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return legal_entities.open_legal_entity(
            code=form.cleaned_data["code"],
            currency=form.cleaned_data["currency"],
            time_zone=form.cleaned_data["time_zone"],
            details=form.details(),
            actor=actor_of(request),
            at=timezone.now(),
        )


@admin.register(User)
class StaffAdmin(RecordAdmin):
    """Members of staff and their roles."""

    form = StaffForm
    view_permission = Permission.EDIT_STAFF
    edit_permission = Permission.EDIT_STAFF
    list_display = ("name", "email", "shown_roles", "shown_state", "date_joined")
    list_filter = ("is_active",)
    search_fields = ("name", "email")
    ordering = ("name",)
    actions_detail = ("reset_password", "release_sign_in")
    fieldsets = ((None, {"fields": ("email", "name", "roles", "is_active")}),)
    add_fieldsets = ((None, {"fields": ("email", "name", "roles", "password")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep the address under which a member of staff signs in."""
        del request
        return () if obj is None else ("email",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        staff: QuerySet[User] = super().get_queryset(request).prefetch_related("groups")
        return staff

    @shown("Roles")
    def shown_roles(self, user: User) -> str:
        return "Superuser" if user.is_superuser else ", ".join(sorted(group.name for group in user.groups.all()))

    @shown("State", label={"active": "success", "deactivated": "warning"})
    def shown_state(self, user: User) -> str:
        return "active" if user.is_active else "deactivated"

    def write(self, request: HttpRequest, form: ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(form, StaffForm)
        cleaned = form.cleaned_data
        if change:
            return staff.change_staff(
                user_id=obj.pk,
                name=cleaned["name"],
                roles=form.chosen_roles(),
                is_active=cleaned["is_active"],
                reason=cleaned["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return staff.invite_staff(
            email=cleaned["email"],
            name=cleaned["name"],
            roles=form.chosen_roles(),
            password=cleaned["password"] or None,
            actor=actor_of(request),
            at=timezone.now(),
        )

    @asks(
        "Reset password",
        Dialog(
            title="Set a new password",
            submit="Set the password",
            text="It ends every session of this person.",
            form=PasswordDialog,
        ),
        icon="lock_reset",
    )
    def reset_password(self, request: HttpRequest, form: PasswordDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: staff.reset_password(
                user_id=int(object_id),
                password=form.cleaned_data["password"],
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done="The password is set.",
        )

    @asks(
        "Unlock sign-in",
        Dialog(
            title="Let this person sign in again",
            submit="Unlock",
            text="Five failed attempts keep this person out for a quarter of an hour. This ends it at once.",
            form=ReasonDialog,
        ),
        icon="lock_open",
    )
    def release_sign_in(self, request: HttpRequest, form: ReasonDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: sign_in.release(
                user_id=int(object_id),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done="This person can sign in again.",
        )


@admin.register(ApiKey)
class ApiKeyAdmin(PlainRecordAdmin):
    """API keys: issued here with their secret shown once, revoked here, never edited."""

    form = ApiKeyForm
    view_permission = Permission.EDIT_API_KEYS
    edit_permission = Permission.EDIT_API_KEYS
    list_display = (
        "name",
        "prefix",
        "shown_scopes",
        "customer",
        "source",
        "created_at",
        "expires_at",
        "last_used_at",
        "state",
    )
    list_filter = (("customer", AutocompleteSelectFilter),)
    list_select_related = ("customer",)
    search_fields = ("name", "prefix", "source", "customer__name")
    autocomplete_fields = ("customer",)
    actions_detail = ("revoke",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("name", "prefix"),
                    ("shown_scopes",),
                    ("customer", "source"),
                    ("created_by", "created_at"),
                    ("expires_at", "last_used_at", "revoked_at"),
                ),
            },
        ),
    )
    add_fieldsets = ((None, {"fields": ("name", "scopes", "customer", "source", "expires_at")}),)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Refuse edits to everybody: a key that may do something else is another key."""
        del request, obj
        return False

    @shown("Scopes")
    def shown_scopes(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @shown("State", label={"valid": "success", "dormant": "warning", "expired": "warning", "revoked": "danger"})
    def state(self, key: ApiKey) -> str:
        return api_keys.state_of(key, at=timezone.now())

    def write(self, request: HttpRequest, form: ModelForm[Any], *, obj: Model, change: bool) -> Model:
        del obj, change
        issued = api_keys.issue_api_key(
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            customer_id=form.cleaned_data["customer"].pk if form.cleaned_data["customer"] else None,
            source=form.cleaned_data["source"],
            expires_at=form.cleaned_data["expires_at"],
            actor=actor_of(request),
            at=timezone.now(),
        )
        # Handed to the answer of this very request, and kept nowhere.
        request.issued_key = issued  # type: ignore[attr-defined]
        return issued.key

    def response_add(self, request: HttpRequest, obj: Model, post_url_continue: str | None = None) -> HttpResponseBase:
        """Show the secret, once; no redirect, since a secret belongs into no message and no session."""
        del obj, post_url_continue
        return TemplateResponse(
            request,
            "accounts/api_key_issued.html",
            {
                **self.admin_site.each_context(request),
                "title": "API key issued",
                "issued": request.issued_key,  # type: ignore[attr-defined]
                "opts": self.model._meta,
            },
        )

    @asks(
        "Revoke",
        Dialog(
            title="Revoke this key for good",
            submit="Revoke",
            text="Programs that use it are refused from this moment on.",
        ),
        permission="revoke",
        icon="key_off",
        variant=ActionVariant.DANGER,
    )
    def revoke(self, request: HttpRequest, form: ReasonDialog, object_id: str) -> HttpResponse:
        return self.settle(
            request,
            object_id,
            verb=lambda: api_keys.revoke_api_key(
                key_id=int(object_id),
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            ),
            done="The key is revoked.",
        )

    def has_revoke_permission(self, request: HttpRequest, object_id: str = "0") -> bool:
        return (
            self.has_edit_permission(request)
            and ApiKey.objects.filter(pk=whole_number(object_id) or 0, revoked_at__isnull=True).exists()
        )


@admin.register(ApprovalPolicy)
class ApprovalPolicyAdmin(RecordAdmin):
    """Who approves what, and how many must."""

    form = PolicyForm
    view_permission = Permission.VIEW_AUDIT
    edit_permission = Permission.EDIT_STAFF
    list_display = ("kind", "from_amount", "permission", "approvals_required")
    list_filter = ("kind",)
    fieldsets = ((None, {"fields": (("kind", "from_amount"), ("permission", "approvals_required"))}),)
    add_fieldsets = ((None, {"fields": (("kind", "from_amount"), ("permission", "approvals_required"), "why")}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what a policy is about; another amount is another policy."""
        del request
        return () if obj is None else ("kind", "from_amount")

    def write(self, request: HttpRequest, form: ModelForm[Any], *, obj: Model, change: bool) -> Model:
        del change
        assert isinstance(form, PolicyForm)
        assert isinstance(obj, ApprovalPolicy)
        return policies.set_approval_policy(
            kind=obj.kind,
            from_amount=obj.from_amount,
            permission=Permission(obj.permission),
            approvals_required=obj.approvals_required,
            reason=form.given_reason(),
            actor=actor_of(request),
            at=timezone.now(),
        )
