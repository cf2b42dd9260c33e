"""The forms of this app's admin; they read what was typed, and the verbs decide."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.forms import BaseDialogForm
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordToggleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from accounts import approvals, policies
from accounts.access import Role
from accounts.admin_access import ReasonForm
from accounts.customers import CustomerDetails
from accounts.legal_entities import LegalEntityDetails
from accounts.models import ApiKey, ApprovalPolicy, Customer, LegalEntity, User
from accounts.postal import Address
from accounts.staff import roles_of

_ADDRESS = ("address_line1", "address_line2", "postal_code", "city", "region", "country")


def _address(cleaned: dict[str, Any]) -> Address:
    return Address(**{name: cleaned[name] for name in _ADDRESS})


class CustomerForm(ReasonForm):
    """A customer; without a currency it is billed in that of its legal entity."""

    class Meta:
        model = Customer
        fields = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "currency" in self.fields:
            self.fields["currency"].required = False
            self.fields["currency"].help_text = "Left empty: the currency of the legal entity."

    def details(self) -> CustomerDetails:
        """Return what was typed."""
        cleaned = self.cleaned_data
        parent: Customer | None = cleaned["parent"]
        return CustomerDetails(
            name=cleaned["name"],
            address=_address(cleaned),
            tax_id=cleaned["tax_id"],
            tax_treatment=cleaned["tax_treatment"],
            payment_terms_days=cleaned["payment_terms_days"],
            locale=cleaned["locale"],
            purchase_order=cleaned["purchase_order"],
            parent_id=parent.pk if parent else None,
        )


class LegalEntityForm(ReasonForm):
    """A legal entity."""

    class Meta:
        model = LegalEntity
        fields = "__all__"

    def details(self) -> LegalEntityDetails:
        """Return what was typed."""
        cleaned = self.cleaned_data
        names = ("name", "email", "registration", "tax_id", "bank_name", "bank_account", "bank_code")
        return LegalEntityDetails(
            **{name: cleaned[name] for name in names},
            tax_name=cleaned["tax_name"],
            tax_rate=cleaned["tax_rate"],
            address=_address(cleaned),
        )


class StaffForm(ReasonForm):
    """A member of staff with their roles."""

    roles = forms.MultipleChoiceField(
        choices=[(role.value, role.value) for role in Role],
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    password = forms.CharField(
        required=False,
        widget=UnfoldAdminPasswordToggleWidget(attrs={"autocomplete": "new-password"}),
        help_text="Left empty: nobody can sign in by password until one is set.",
    )

    class Meta:
        model = User
        fields = ("email", "name", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.fields["roles"].initial = [role.value for role in roles_of(self.instance)]
            del self.fields["password"]

    def chosen_roles(self) -> list[Role]:
        """Return the roles that were ticked."""
        return [Role(name) for name in self.cleaned_data["roles"]]


class PasswordDialog(BaseDialogForm):  # type: ignore[misc]  # unfold comes without types
    """Asks for a new password and why."""

    password = forms.CharField(
        label="New password",
        widget=UnfoldAdminPasswordToggleWidget(attrs={"autocomplete": "new-password"}),
    )
    reason = forms.CharField(label="Reason", widget=UnfoldAdminTextInputWidget)


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # its model is below
    """A new API key."""

    scopes = forms.MultipleChoiceField(choices=ApiKey.Scope.choices, widget=UnfoldAdminCheckboxSelectMultipleWidget)

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "customer", "source", "expires_at")


class PolicyForm(ReasonForm):
    """A policy for one of the kinds of approval that there are; unlike elsewhere, a new one says why, too."""

    kind = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    why = forms.CharField(label="Reason", widget=UnfoldAdminTextInputWidget)

    class Meta:
        model = ApprovalPolicy
        fields = ("kind", "from_amount", "permission", "approvals_required")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "permission" in self.fields:
            self.fields["permission"] = forms.ChoiceField(
                choices=[(permission.value, permission.label) for permission in policies.deciding_permissions()],
                widget=UnfoldAdminSelectWidget,
            )
        if self.instance.pk is None:
            self.fields["kind"].choices = [(kind.key, kind.label) for kind in approvals.kinds()]  # type: ignore[attr-defined]
        else:
            del self.fields["why"]

    def given_reason(self) -> str:
        """Return why the policy is made or changed."""
        reason: str = self.cleaned_data.get("why") or self.cleaned_data["reason"]
        return reason
