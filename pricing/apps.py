"""How Django knows this app."""

from importlib import import_module

from django.apps import AppConfig


class PricingConfig(AppConfig):
    name = "pricing"
    label = "pricing"

    def ready(self) -> None:
        """Make the approval of price book versions known; its module needs the models, which exist only now."""
        import_module("pricing.publication")
