"""What every admin of the house shares: rights from `accounts.access`, writes through verbs, and a reason for edits.

An admin says which permission shows its records and which lets staff edit them, and overrides `write` to call ONE verb.
Nothing of record can be deleted here, and nothing is saved but by a verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin
from unfold.admin import TabularInline as UnfoldTabularInline
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import AdminForm, BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.access import Permission
from accounts.errors import CountinghouseError
from accounts.pages import actor_of, attempt
from accounts.paging import BoundedPaginator

Method = TypeVar("Method", bound=Callable[..., Any])


def may(request: HttpRequest, permission: Permission | None) -> bool:
    """Tell whether the signed-in person holds the permission; nobody holds what is None."""
    return permission is not None and request.user.is_authenticated and actor_of(request).may(permission)


class ReasonForm(forms.ModelForm):  # type: ignore[type-arg]  # each admin gives it its own model
    """A form that asks why when it changes a record; a new record is its own reason."""

    reason = forms.CharField(
        label="Reason for the change",
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept in the history and in the audit log.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None:
            del self.fields["reason"]


class ReasonDialog(BaseDialogForm):  # type: ignore[misc]  # unfold comes without types
    """The dialog of an action that asks why."""

    reason = forms.CharField(label="Reason", widget=UnfoldAdminTextInputWidget)


def shown(
    description: str,
    *,
    ordering: str | None = None,
    label: Mapping[str, str] | None = None,
) -> Callable[[Method], Method]:
    """Name a column that is worked out; `label` gives its values colours (success, warning, danger, info)."""
    decorate: Callable[[Method], Method] = display(description=description, ordering=ordering, label=label)
    return decorate


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    """What an action of one record asks before it acts."""

    title: str
    submit: str
    text: str = ""
    form: type[BaseDialogForm] = ReasonDialog


def asks(
    description: str,
    dialog: Dialog,
    *,
    permission: str = "edit",
    icon: str | None = None,
    variant: ActionVariant = ActionVariant.DEFAULT,
) -> Callable[[Method], Method]:
    """Make an action of one record that opens a dialog first; it is offered if `has_<permission>_permission`."""
    decorate: Callable[[Method], Method] = action(
        description=description,
        permissions=[permission],
        icon=icon,
        variant=variant,
        dialog={
            "title": dialog.title,
            "description": dialog.text,
            "form_class": dialog.form,
            "form_submit_text": dialog.submit,
        },
    )
    return decorate


class HouseRights:
    """Maps the questions of Django's admin to the permissions of the house."""

    view_permission: ClassVar[Permission]
    edit_permission: ClassVar[Permission | None] = None
    may_add: ClassVar[bool] = True

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        del obj
        return may(request, self.view_permission) or may(request, self.edit_permission)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Inlines are asked with the record above them, admins without.
        del obj
        return self.may_add and may(request, self.edit_permission)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        del obj
        return may(request, self.edit_permission)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        del request, obj
        return False

    def has_edit_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Tell whether an action with `permissions=["edit"]` is offered."""
        del obj
        return may(request, self.edit_permission)


class PlainRecordAdmin(HouseRights, ModelAdmin):  # type: ignore[misc]  # unfold comes without types
    """The admin of records that keep no history of edits: read-only unless `write` says how a verb saves them."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_filter_sheet = False
    list_filter_submit = True
    warn_unsaved_form = True

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        """Call the one verb that saves the form; return the record as it then is."""
        del request, form, obj, change
        raise PermissionDenied

    def save_model(self, request: HttpRequest, obj: Model, form: forms.ModelForm[Any], change: bool) -> None:  # noqa: FBT001 -- Django's own signature
        """Save by the verb, and let the admin go on with what the verb returned."""
        vars(obj).update(vars(self.write(request, form, obj=obj, change=change)))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Show the refusal of a verb as a message above the form; nothing has been saved then."""
        try:
            answer: HttpResponseBase = super().changeform_view(request, object_id, form_url, extra_context)
        except CountinghouseError as refusal:
            messages.error(request, str(refusal))
            return HttpResponseRedirect(request.get_full_path())
        return answer

    def settle(
        self,
        request: HttpRequest,
        object_id: object,
        *,
        verb: Callable[[], object],
        done: str,
    ) -> HttpResponse:
        """Run the verb of a dialog, say what came of it, and show the record again."""
        attempt(request, verb, done)
        meta = self.model._meta
        url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[object_id])
        return HttpResponse(headers={"HX-Redirect": url})


class RecordAdmin(PlainRecordAdmin, SimpleHistoryAdmin):  # type: ignore[misc]  # both come without types
    """The admin of records that staff edit: their history is shown, and each edit says why."""

    form = ReasonForm
    object_history_list_template = "accounts/history.html"
    object_history_form_template = "accounts/history_version.html"

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask for the reason wherever something can be changed."""
        fieldsets = list(super().get_fieldsets(request, obj))
        if obj is None or not self.has_change_permission(request, obj):
            return fieldsets
        return [*fieldsets, ("Why", {"fields": ["reason"]})]

    def history_form_view(
        self,
        request: HttpRequest,
        object_id: str,
        version_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """Show one version; going back to it is an edit like any other, with a reason."""
        if request.method != "GET":
            raise PermissionDenied
        answer: HttpResponseBase = super().history_form_view(request, object_id, version_id, extra_context)
        return answer

    def render_history_view(
        self, request: HttpRequest, template: str, context: dict[str, Any], **kwargs: Any
    ) -> HttpResponse:
        """Show a version as it was, in no form: there is nothing to fill in, and no reason to ask for."""
        if template != self.object_history_form_template:
            listed: HttpResponse = super().render_history_view(request, template, context, **kwargs)
            return listed
        known = {field.name for field in self.model._meta.get_fields()}
        shown = [name for name in flatten_fieldsets(context["adminform"].fieldsets) if name in known]
        as_it_was = AdminForm(context["adminform"].form, [(None, {"fields": shown})], {}, shown, model_admin=self)
        # The links above the page are the record's, not those of its history.
        changed = {"adminform": as_it_was, "opts": self.model._meta}
        answer: HttpResponse = super().render_history_view(request, template, {**context, **changed}, **kwargs)
        return answer

    def revert_disabled(self, request: HttpRequest, obj: Model | None = None) -> bool:
        del request, obj
        return True


class RecordInline(HouseRights, UnfoldTabularInline):  # type: ignore[misc]  # unfold comes without types
    """Rows below a record, with the rights of the house; the admin above saves them by verbs."""

    extra = 0
    tab = True
