from __future__ import annotations

from datetime import date

import pytest
from django.test import Client
from django.urls import reverse

from accounts.access import Role
from accounts.models import AuditEntry, User
from pricing.models import Contract, PriceBook, Product
from tests import make_accounts
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
MODELS = ("product", "pricebook", "pricebookversion", "price", "contract")


def _signed_in(*roles: Role) -> tuple[Client, User]:
    user = make_accounts.staff(*roles)
    client = Client()
    client.force_login(user)
    return client, user


@pytest.mark.parametrize("name", MODELS)
def test_the_records_of_each_kind_are_listed_shown_and_have_a_history(name: str) -> None:
    client, _ = _signed_in(Role.PRODUCT_MANAGER, Role.FINANCE_ANALYST)
    version = make.approved_version()
    contract = make.contract(book=version.book)
    price = version.prices.get()
    record = {
        "product": price.product,
        "pricebook": version.book,
        "pricebookversion": version,
        "price": price,
        "contract": contract,
    }[name]

    listed = client.get(reverse(f"admin:pricing_{name}_changelist"))
    shown = client.get(reverse(f"admin:pricing_{name}_change", args=[record.pk]))
    history = client.get(reverse(f"admin:pricing_{name}_history", args=[record.pk]))

    assert (listed.status_code, shown.status_code, history.status_code) == (200, 200, 200)


@pytest.mark.parametrize("name", MODELS)
def test_nobody_deletes_and_who_may_only_look_cannot_add(name: str) -> None:
    client, _ = _signed_in(Role.AUDITOR)

    added = client.get(reverse(f"admin:pricing_{name}_add"))
    listed = client.get(reverse(f"admin:pricing_{name}_changelist"))

    assert (added.status_code, listed.status_code) == (403, 200)


@pytest.mark.parametrize("name", ["pricebookversion", "price"])
def test_versions_and_prices_are_only_looked_at(name: str) -> None:
    client, _ = _signed_in(Role.PRODUCT_MANAGER)

    added = client.get(reverse(f"admin:pricing_{name}_add"))

    assert added.status_code == 403


def test_a_product_is_added_and_renamed_with_a_reason() -> None:
    client, user = _signed_in(Role.PRODUCT_MANAGER)
    meter = make.meter()
    typed = {
        "code": "H100",
        "name": "H100 hour",
        "group": "Compute",
        "unit": "h",
        "meter": meter.pk,
        "dimension_filter": '{"sku": "H100"}',
    }

    added = client.post(reverse("admin:pricing_product_add"), typed)
    product = Product.objects.get()
    changed = client.post(
        reverse("admin:pricing_product_change", args=[product.pk]),
        {**typed, "name": "H100 SXM hour", "is_active": "on", "reason": "As sold"},
    )

    product.refresh_from_db()
    assert (added.status_code, changed.status_code) == (302, 302)
    assert (product.name, product.dimension_filter, product.meter) == ("H100 SXM hour", {"sku": "H100"}, meter)
    assert product.history.latest().history_change_reason == "As sold"
    assert AuditEntry.objects.get(verb="product.changed").actor == user


def test_a_price_book_is_opened_and_renamed() -> None:
    client, _ = _signed_in(Role.PRODUCT_MANAGER)

    client.post(
        reverse("admin:pricing_pricebook_add"), {"code": "list", "name": "List", "currency": "EUR", "description": ""}
    )
    book = PriceBook.objects.get()
    client.post(
        reverse("admin:pricing_pricebook_change", args=[book.pk]),
        {"name": "List prices", "description": "All", "reason": "Clearer"},
    )

    book.refresh_from_db()
    assert (book.code, book.name, book.description) == ("list", "List prices", "All")


def test_a_price_book_in_no_currency_is_refused_with_a_message() -> None:
    client, _ = _signed_in(Role.PRODUCT_MANAGER)

    answer = client.post(
        reverse("admin:pricing_pricebook_add"),
        {"code": "list", "name": "List", "currency": "ZZZ", "description": ""},
        follow=True,
    )

    assert answer.status_code == 200
    assert "ZZZ" in answer.content.decode()
    assert not PriceBook.objects.exists()


def test_a_contract_is_signed_and_ended() -> None:
    client, _ = _signed_in(Role.FINANCE_ANALYST)
    customer, book = make_accounts.customer(), make.price_book()

    client.post(
        reverse("admin:pricing_contract_add"),
        {
            "customer": customer.pk,
            "price_book": book.pk,
            "starts_on": "2026-01-01",
            "ends_on": "",
            "anchor_day": "1",
        },
    )
    contract = Contract.objects.get()
    client.post(
        reverse("admin:pricing_contract_end", args=[contract.pk]),
        {"_form_submitted": "True", "ends_on": "2026-07-01", "reason": "Cancelled"},
    )

    contract.refresh_from_db()
    assert (contract.currency, contract.starts_on, contract.ends_on) == ("EUR", date(2026, 1, 1), date(2026, 7, 1))
    assert list(AuditEntry.objects.filter(subject_type="pricing.contract").values_list("verb", flat=True)) == [
        "contract.ended",
        "contract.signed",
    ]


def test_a_contract_that_overlaps_is_refused_with_a_message() -> None:
    client, _ = _signed_in(Role.FINANCE_ANALYST)
    contract = make.contract()

    answer = client.post(
        reverse("admin:pricing_contract_add"),
        {
            "customer": contract.customer_id,
            "price_book": contract.price_book_id,
            "starts_on": "2026-01-01",
            "ends_on": "",
            "anchor_day": "1",
        },
        follow=True,
    )

    assert answer.status_code == 200
    assert Contract.objects.count() == 1
