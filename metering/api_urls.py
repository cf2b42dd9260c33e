"""Addresses of the API for usage, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from metering.completeness import completeness_api
from metering.reading import usage_api

app_name = "metering_api"

urlpatterns = [
    path("events", usage_api.events, name="events"),
    path("usage", usage_api.get_usage, name="usage"),
    path("control-totals", completeness_api.post_control_totals, name="control-totals"),
]
