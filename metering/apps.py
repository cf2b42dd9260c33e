"""How Django knows this app."""

from importlib import import_module

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    label = "metering"

    def ready(self) -> None:
        """Make the approvals of erasures and back-fills known; their modules need the models, which exist only now."""
        import_module("metering.erasure")
        import_module("metering.meter_backfill")
        """Make known what is approved here; the modules need the models, which exist only now."""
        import_module("metering.erasure")
        import_module("metering.corrections")
