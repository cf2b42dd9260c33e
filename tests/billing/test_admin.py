"""The records in the admin: seen by those who may see invoices, edited by nobody."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.access import Role
from accounts.models import Customer
from billing import documents
from tests import make_accounts, make_pricing
from tests import make_billing as make
from tests.make_pages import signed_in

pytestmark = pytest.mark.django_db

MODELS = [model for model in apps.get_app_config("billing").get_models() if admin.site.is_registered(model)]


@pytest.fixture
def billed(client: Client) -> Customer:
    shop = make.shop()
    customer = make.subscriber(shop)
    make.use(shop, customer, "100", on=make.OCT_10)
    make.use(shop, customer, "3", on=make.OCT_10, event_type=make_pricing.meter().event_type)
    make.issued_run(shop)
    documents.make_due_documents(limit=1, at=make.NOV_2)
    client.force_login(make_accounts.staff(Role.AUDITOR))
    return customer


def url(model: type[Model], page: str, *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_records_are_listed_shown_and_not_changed(client: Client, billed: Customer, model: type[Model]) -> None:
    record = model._default_manager.all()[0]

    listed = client.get(url(model, "changelist"))
    one = client.get(url(model, "change", record.pk))
    written = client.post(url(model, "change", record.pk), {})
    added = client.get(url(model, "add"))
    deleted = client.post(url(model, "delete", record.pk), {"post": "yes"})

    assert (listed.status_code, one.status_code) == (200, 200)
    assert (written.status_code, added.status_code, deleted.status_code) == (403, 403, 403)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.model_name)
def test_who_may_not_see_invoices_sees_no_records(client: Client, billed: Customer, model: type[Model]) -> None:
    client.force_login(make_accounts.staff(Role.PRODUCT_MANAGER))

    assert client.get(url(model, "changelist")).status_code == 403


def test_whoever_made_a_record_is_a_link_only_for_who_may_see_staff() -> None:
    shop = make.shop()
    make.subscriber(shop)
    run = make.drafted_run(shop)
    page = reverse("admin:billing_billrun_change", args=[run.pk])
    staff = reverse("admin:accounts_user_change", args=[run.created_by_id])

    support, administrator = (signed_in(role).get(page).content.decode() for role in (Role.SUPPORT, Role.ADMINISTRATOR))

    assert str(run.created_by) in support
    assert staff not in support
    assert f'href="{staff}"' in administrator
