"""How Django knows this app."""

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    label = "metering"
