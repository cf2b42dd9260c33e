"""Spreading usage over machines: what would be run, and the polite no of a server that cannot."""

from __future__ import annotations

import io
import re

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection

from metering import distribution
from metering.errors import CitusMissing

pytestmark = pytest.mark.django_db


def test_without_the_extension_nothing_is_changed_and_the_answer_says_what_to_do() -> None:
    before = primary_keys()

    with pytest.raises(CitusMissing, match="nothing was changed"):
        distribution.distribute()
    with pytest.raises(CommandError, match=r"not installed in this database.*docs/scaling\.md"):
        call_command("distribute_usage")

    assert primary_keys() == before


def test_every_usage_table_that_grows_with_events_is_spread_and_by_a_column_of_its_key() -> None:
    spread = {table.name for table in distribution.TABLES}
    usage_tables = {
        model._meta.db_table
        for model in apps.get_app_config("metering").get_models()
        if model._meta.db_table.startswith("usage_")
    }

    # Series are looked up by whoever reads, receipts by source, closings by bill: small beside events, they stay on the
    # coordinator.
    assert usage_tables - spread == {"usage_series", "usage_receipt", "usage_receipt_hour", "usage_closing"}
    assert spread <= usage_tables


def test_the_statements_run_up_to_what_only_the_extension_knows() -> None:
    printed = io.StringIO()

    call_command("distribute_usage", print=True, stdout=printed)

    statements = printed.getvalue().splitlines()
    spread = [re.search(r"create_distributed_table\('(\w+)', '(\w+)'", line) for line in statements]
    assert [found.groups() for found in spread if found] == [
        (table.name, table.column) for table in distribution.TABLES
    ]
    with connection.cursor() as cursor:
        for line in statements:
            if line.startswith(("ALTER TABLE", "CREATE INDEX")):
                cursor.execute(line)
    assert primary_keys()["usage_delta"] == {"customer_id", "id"}


def primary_keys() -> dict[str, set[str]]:
    with connection.cursor() as cursor:
        return {
            table.name: set(connection.introspection.get_primary_key_columns(cursor, table.name) or ())
            for table in distribution.TABLES
        }
