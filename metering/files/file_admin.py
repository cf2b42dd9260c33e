"""File mappings in the admin: which column of a table becomes which part of an event, as JSON."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextareaWidget

from accounts.access import Permission
from accounts.admin_access import ReasonForm, RecordAdmin, shown
from accounts.pages import actor_of
from metering.files import mapping_form, mappings
from metering.models import UsageFileMapping
from metering.sources.mapping import MappingInvalid, read_mapping


class MappingForm(ReasonForm):
    """A mapping as JSON, as `load_usage --mapping` takes it from a file."""

    spec = forms.CharField(
        label="Mapping",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 24, "spellcheck": "false", "style": "font-family: monospace"}),
        help_text="JSON; load_usage --help shows every part. Files that were loaded keep the mapping as it was.",
    )

    class Meta:
        model = UsageFileMapping
        fields = ("name", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None:
            self.fields.pop("is_active", None)
        else:
            self.initial["spec"] = json.dumps(read_mapping(self.instance.spec).as_json(), indent=2, ensure_ascii=False)

    def clean_spec(self) -> dict[str, Any]:
        """Read the mapping, and say at its field what is wrong with it."""
        try:
            return read_mapping(self.cleaned_data["spec"]).as_json()
        except MappingInvalid as refusal:
            raise forms.ValidationError(str(refusal)) from refusal


class UsageFileMappingAdmin(RecordAdmin):
    """Mappings, offered when a file is sent."""

    form = MappingForm
    view_permission = Permission.VIEW_USAGE
    edit_permission = Permission.LOAD_USAGE
    list_display = ("name", "shown_parts", "is_active")
    list_filter = ("is_active",)
    search_fields = ("name",)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask whether a mapping is offered once it is there; those who only look see it as it is kept."""
        if obj is None:
            return [(None, {"fields": ["name", "spec"]})]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": ["name", "is_active", "shown_parts"]})]
        return [(None, {"fields": ["name", "is_active", "spec"]}), ("Why", {"fields": ["reason"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Show the mapping in words to those who only look."""
        readable = obj is not None and not self.has_change_permission(request, obj)
        return ("name", "is_active", "shown_parts") if readable else ()

    @shown("Reads")
    def shown_parts(self, mapping: UsageFileMapping) -> str:
        return "; ".join(f"{part}: {origin}" for part, origin in mapping_form.lines_of(read_mapping(mapping.spec)))

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(obj, UsageFileMapping)
        typed = form.cleaned_data
        if change:
            return mappings.change_mapping(
                mapping_id=obj.pk,
                name=obj.name,
                mapping=read_mapping(typed["spec"]),
                is_active=obj.is_active,
                reason=typed["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return mappings.define_mapping(
            name=obj.name, mapping=read_mapping(typed["spec"]), actor=actor_of(request), at=timezone.now()
        )
