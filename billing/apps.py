"""How Django knows this app."""

from importlib import import_module

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    label = "billing"

    def ready(self) -> None:
        """Make the approval of bill runs known; its module needs the models, which exist only now."""
        import_module("billing.bill_runs")
