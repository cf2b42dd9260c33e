"""The records of this app in the admin: meters and subjects; batches and refusals to look at.

Events are not here but behind the totals that they make: a list of millions is no page.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from accounts.access import Permission
from accounts.admin_access import PlainRecordAdmin, ReasonForm, RecordAdmin, shown
from accounts.pages import actor_of
from metering import attribution, meters
from metering.models import Meter, RefusedEvent, SubjectAssignment, UsageBatch


@admin.register(Meter)
class MeterAdmin(RecordAdmin):
    """How events become quantities; what a meter counts is settled when it is defined."""

    view_permission = Permission.VIEW_USAGE
    edit_permission = Permission.EDIT_METERS
    list_display = ("name", "code", "event_type", "shown_counting", "unit", "is_active")
    list_filter = (("aggregation", ChoicesDropdownFilter), "is_active")
    search_fields = ("name", "code", "event_type")
    fieldsets = (
        (None, {"fields": (("name", "code"),)}),
        (
            "What it counts",
            {"fields": (("event_type", "aggregation"), ("value_path", "unit"), "dimensions", "event_filter")},
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask whether a meter still counts once it is there."""
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj is None else [*fieldsets[:2], ("State", {"fields": ["is_active"]}), *fieldsets[2:]]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what a meter counts."""
        del request
        settled = ("code", "event_type", "aggregation", "value_path", "unit", "dimensions", "event_filter")
        return () if obj is None else settled

    @shown("Counts")
    def shown_counting(self, meter: Meter) -> str:
        return f"{meter.get_aggregation_display()}{f' ({meter.value_path})' if meter.value_path else ''}"

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(obj, Meter)
        if change:
            return meters.change_meter(
                meter_id=obj.pk,
                name=obj.name,
                is_active=obj.is_active,
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return meters.define_meter(
            code=obj.code,
            name=obj.name,
            event_type=obj.event_type,
            aggregation=obj.aggregation,
            value_path=obj.value_path,
            event_filter=obj.event_filter,
            unit=obj.unit,
            dimensions=obj.dimensions,
            actor=actor_of(request),
            at=timezone.now(),
        )


class AssignmentForm(ReasonForm):
    """Whose a subject is from when until when; later only the end can be moved."""

    name = forms.CharField(label="Subject", widget=UnfoldAdminTextInputWidget)
    starts_at = forms.SplitDateTimeField(label="From (UTC)", widget=UnfoldAdminSplitDateTimeWidget)
    ends_at = forms.SplitDateTimeField(
        label="Until (UTC)",
        widget=UnfoldAdminSplitDateTimeWidget,
        required=False,
        help_text="Left empty: until further notice.",
    )

    class Meta:
        model = SubjectAssignment
        fields = ("customer",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            del self.fields["name"], self.fields["starts_at"]
            self.initial["ends_at"] = self.instance.valid_during.upper


@admin.register(SubjectAssignment)
class SubjectAssignmentAdmin(RecordAdmin):
    """Subjects, and the customers they belong to."""

    form = AssignmentForm
    view_permission = Permission.VIEW_CUSTOMERS
    edit_permission = Permission.EDIT_CUSTOMERS
    list_display = ("subject", "customer", "shown_start", "shown_end")
    list_filter = (("customer", AutocompleteSelectFilter),)
    list_select_related = ("subject", "customer")
    search_fields = ("subject__name", "customer__name", "customer__code")
    autocomplete_fields = ("customer",)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask for everything once; afterwards for the end, and why."""
        if obj is None:
            return [(None, {"fields": ["name", "customer", "starts_at", "ends_at"]})]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": ["subject", "customer", ("shown_start", "shown_end")]})]
        return [(None, {"fields": ["subject", "customer", "shown_start", "ends_at"]}), ("Why", {"fields": ["reason"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep whose a subject is: another customer is another assignment."""
        del request
        return () if obj is None else ("subject", "customer", "shown_start", "shown_end")

    @shown("From", ordering="valid_during")
    def shown_start(self, assignment: SubjectAssignment) -> object:
        return assignment.valid_during.lower

    @shown("Until")
    def shown_end(self, assignment: SubjectAssignment) -> object:
        return assignment.valid_during.upper

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(obj, SubjectAssignment)
        typed = form.cleaned_data
        if change:
            return attribution.end_assignment(
                assignment_id=obj.pk,
                ends_at=typed["ends_at"],
                reason=typed["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return attribution.assign_subject(
            name=typed["name"],
            customer_id=obj.customer_id,
            starts_at=typed["starts_at"],
            ends_at=typed["ends_at"],
            actor=actor_of(request),
            at=timezone.now(),
        )


@admin.register(UsageBatch)
class UsageBatchAdmin(PlainRecordAdmin):
    """What was taken in, by whom, and what became of it."""

    view_permission = Permission.VIEW_USAGE
    may_add = False
    list_display = (
        "id",
        "received_at",
        "door",
        "actor_label",
        "origin",
        "accepted",
        "duplicates",
        "quarantined",
        "rejected",
    )
    list_filter = (("door", ChoicesDropdownFilter),)
    search_fields = ("=origin", "=actor_label")


@admin.register(RefusedEvent)
class RefusedEventAdmin(PlainRecordAdmin):
    """What was refused for good, and why."""

    view_permission = Permission.VIEW_USAGE
    may_add = False
    list_display = ("refused_at", "reason", "detail", "source", "event_id", "batch_id", "position")
    list_filter = (("reason", ChoicesDropdownFilter),)
    search_fields = ("=source", "=event_id")
