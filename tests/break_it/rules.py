"""Asks every rule that can be asked as SQL."""

from __future__ import annotations

from importlib import import_module

from django.apps import apps
from django.db import connection
from django.utils.module_loading import module_has_submodule

from accounts.invariants import Rule


def all_rules() -> list[Rule]:
    """The rules of every app that has any."""
    houses = [
        config for config in apps.get_app_configs() if config.name in {"accounts", "metering", "pricing", "billing"}
    ]
    return [
        rule
        for config in houses
        if config.module is not None and module_has_submodule(config.module, "invariants")
        for rule in import_module(f"{config.name}.invariants").RULES
    ]


def assert_all_rules_hold() -> None:
    """Fail with the name of the first rule that is broken."""
    with connection.cursor() as cursor:
        for rule in all_rules():
            cursor.execute(rule.sql)
            assert cursor.fetchall() == [], rule.name
