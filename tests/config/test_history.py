"""The history of everything that staff edit is only ever added to."""

from __future__ import annotations

import pytest
from django.apps import apps
from simple_history.models import registered_models

from accounts.models import ApprovalPolicy
from billing.models import InvoiceSeries
from tests import make_accounts, make_files
from tests import make_billing as make
from tests.behind_the_back import execute, refused

HISTORIES = [model._meta.db_table for model in apps.get_models() if "_historical" in model._meta.db_table]


@pytest.mark.django_db
def test_the_database_refuses_to_rewrite_any_history() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop, email="ap@acme.example"), "100", on=make.OCT_10)
    make.issued_run(shop)
    make_accounts.staff()
    make_files.mapping_record()
    ApprovalPolicy.objects.create(kind="anything", permission="approve_prices")
    InvoiceSeries.objects.create(legal_entity=shop.entity, prefix="NEXT", year=2027)
    execute("SELECT 1")

    assert len(HISTORIES) == len(registered_models)
    for table in HISTORIES:
        with refused("history_never_changes"):
            execute(f"UPDATE {table} SET history_change_reason = 'x'")  # noqa: S608 -- of our own models
        with refused("history_never_changes"):
            execute(f"DELETE FROM {table}")  # noqa: S608
        with refused("history_is_never_emptied"):
            execute(f"TRUNCATE {table}")
