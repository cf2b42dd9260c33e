"""How Django knows this app."""

from importlib import import_module

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    label = "metering"

    def ready(self) -> None:
        """Make the approval of erasures known; its module needs the models, which exist only now."""
        import_module("metering.erasure")
