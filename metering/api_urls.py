"""Addresses of the API for usage, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from metering import api, completeness_api

app_name = "metering_api"

urlpatterns = [
    path("events", api.post_events, name="events"),
    path("control-totals", completeness_api.post_control_totals, name="control-totals"),
]
