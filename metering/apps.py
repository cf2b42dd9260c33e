"""How Django knows this app."""

from importlib import import_module

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    name = "metering"
    label = "metering"

    def ready(self) -> None:
        """Make known what is approved here; the modules need the models, which exist only now."""
        import_module("metering.corrections.corrections")
        import_module("metering.meters.meter_backfill")
        import_module("metering.retention.erasure")
        import_module("metering.usage_backfills.decisions")
