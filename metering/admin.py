"""The records of this app in the admin: meters and subjects; batches and refusals to look at.

Events are not here but behind the totals that they make: a list of millions is no page.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.forms import SimpleArrayField
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.widgets import UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextInputWidget

from accounts.access import Permission
from accounts.admin_access import PlainRecordAdmin, ReasonForm, RecordAdmin, shown
from accounts.pages import actor_of
from metering import attribution
from metering.files.file_admin import UsageFileMappingAdmin
from metering.meters import meters
from metering.models import Meter, QuarantinedEvent, RefusedEvent, SubjectAssignment, UsageBatch, UsageFileMapping


class MeterForm(ReasonForm):
    """What a meter is and, when it is defined, what its first version reads; later readings are further versions."""

    value_path = forms.CharField(
        label="Name of the value in the event's data",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Dots lead into nested objects. Left empty by a meter that counts events.",
    )
    conversion = forms.DecimalField(
        label="Each value times",
        initial=1,
        widget=UnfoldAdminTextInputWidget,
        help_text="An exact factor, such as 0.000000001 from bytes to gigabytes.",
    )
    dimensions = SimpleArrayField(
        forms.CharField(max_length=80),
        label="Dimensions",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Names in the event's data that the meter keeps apart, with commas between.",
    )
    event_filter = forms.JSONField(
        label="Only events whose data holds",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text='Such as {"state": "running"}.',
    )

    class Meta:
        model = Meter
        fields = ("name", "code", "event_type", "aggregation", "unit", "divisor", "series_limit", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            for name in ("value_path", "conversion", "dimensions", "event_filter"):
                del self.fields[name]


@admin.register(Meter)
class MeterAdmin(RecordAdmin):
    """How events become quantities."""

    form = MeterForm
    view_permission = Permission.VIEW_USAGE
    edit_permission = Permission.EDIT_METERS
    list_display = ("name", "code", "event_type", "aggregation", "unit", "is_active")
    list_filter = (("aggregation", ChoicesDropdownFilter), "is_active")
    search_fields = ("name", "code", "event_type")

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Ask what the first version reads when the meter is defined, and later whether it still counts."""
        counts: list[Any] = [("event_type", "aggregation"), ("unit", "divisor")]
        if obj is None:
            counts = [
                ("event_type", "aggregation"),
                "value_path",
                ("conversion", "divisor"),
                "unit",
                "dimensions",
                "event_filter",
            ]
        state: list[Any] = [] if obj is None else [("State", {"fields": ["series_limit", "is_active"]})]
        why: list[Any] = [("Why", {"fields": ["reason"]})] if obj and self.has_change_permission(request, obj) else []
        return [(None, {"fields": [("name", "code")]}), ("What it counts", {"fields": counts}), *state, *why]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Keep what never changes."""
        del request
        return () if obj is None else ("code", "event_type", "aggregation", "unit", "divisor")

    def write(self, request: HttpRequest, form: forms.ModelForm[Any], *, obj: Model, change: bool) -> Model:
        assert isinstance(obj, Meter)
        if change:
            return meters.change_meter(
                meter_id=obj.pk,
                name=obj.name,
                is_active=obj.is_active,
                series_limit=obj.series_limit,
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                at=timezone.now(),
            )
        return meters.define_meter(
            code=obj.code,
            name=obj.name,
            event_type=obj.event_type,
            aggregation=obj.aggregation,
            value_path=form.cleaned_data["value_path"],
            event_filter=form.cleaned_data["event_filter"],
            conversion=form.cleaned_data["conversion"],
            unit=obj.unit,
            divisor=obj.divisor,
            dimensions=form.cleaned_data["dimensions"],
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
        if isinstance(start := self.initial.get("starts_at"), str):
            self.initial["starts_at"] = _moment(start)
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
        assigned = attribution.assign_subject(
            name=typed["name"],
            customer_id=obj.customer_id,
            starts_at=typed["starts_at"],
            ends_at=typed["ends_at"],
            actor=actor_of(request),
            at=timezone.now(),
        )
        _say_what_waits(request, typed["name"])
        return assigned


def _moment(text: str) -> datetime | None:
    """Read a moment of an address; anything else is none."""
    try:
        return parse_datetime(text)
    except ValueError:
        return None


def _say_what_waits(request: HttpRequest, subject: str) -> None:
    """Lead on to the events that waited to know whose the subject is."""
    rule = {"reason": QuarantinedEvent.Reason.UNKNOWN_SUBJECT.value, "subject": subject}
    waiting = QuarantinedEvent.objects.filter(status=QuarantinedEvent.Status.OPEN, **rule).count()
    if waiting:
        address = f"{reverse('metering:quarantine-rule')}?{urlencode(rule)}"
        words = "1 event waits" if waiting == 1 else f"{waiting:,} events wait"
        messages.warning(request, format_html('{} in quarantine for it. <a href="{}">Release them</a>', words, address))


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


admin.site.register(UsageFileMapping, UsageFileMappingAdmin)
