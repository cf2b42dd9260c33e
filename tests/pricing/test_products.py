from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from pricing import products
from pricing.errors import ProductCodeTaken, ProductInvalid, ProductUnknown, ProductUsageFrozen
from pricing.models import Product
from pricing.products import ProductTerms
from tests import make_accounts
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def manager() -> Actor:
    return make_accounts.actor(Role.PRODUCT_MANAGER)


def test_a_product_is_added_with_its_history_and_an_audit_entry(manager: Actor) -> None:
    meter = make.meter(dimensions=["gpu"])

    product = products.add_product(
        code="H100",
        name="H100 hour",
        group="Compute",
        unit="h",
        meter_id=meter.pk,
        dimension_filter={"gpu": "h100"},
        actor=manager,
        at=NOON,
    )

    assert product.pk
    assert product.history.get().history_user_id == manager.user_id
    assert product.history.get().history_date == NOON
    assert AuditEntry.objects.get(verb="product.added").subject_id == str(product.pk)


def test_adding_the_same_product_twice_adds_one(manager: Actor) -> None:
    terms = ProductTerms(code="FEE", name="Support", group="Fees", unit="month")

    first = products.add_products(products=[terms], actor=manager, at=NOON)
    second = products.add_products(products=[terms, terms], actor=manager, at=NOON)

    assert [*first, *first] == second
    assert Product.objects.count() == 1
    assert AuditEntry.objects.filter(verb="product.added").count() == 1


def test_a_code_cannot_be_given_to_another_product(manager: Actor) -> None:
    make.product(code="FEE", name="Support")

    with pytest.raises(ProductCodeTaken):
        products.add_product(code="FEE", name="Other", group="Compute", unit="h", actor=manager, at=NOON)


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": ""},
        {"code": " A"},
        {"name": "  "},
        {"code": "x" * 121},
        {"group": ""},
        {"dimension_filter": {"gpu": "h100"}},
    ],
    ids=["no code", "blank before", "blank name", "too long", "no group", "filter without meter"],
)
def test_a_product_without_what_it_needs_is_refused(manager: Actor, wrong: dict[str, object]) -> None:
    terms = {"code": "A", "name": "A", "group": "G", "unit": "h", **wrong}

    with pytest.raises(ProductInvalid):
        products.add_product(**terms, actor=manager, at=NOON)  # type: ignore[arg-type]


def test_a_filter_on_a_dimension_that_the_meter_does_not_keep_is_refused(manager: Actor) -> None:
    meter = make.meter(dimensions=["gpu"])

    with pytest.raises(ProductInvalid, match="no dimension 'region'"):
        products.add_product(
            code="A",
            name="A",
            group="G",
            unit="h",
            meter_id=meter.pk,
            dimension_filter={"region": "eu"},
            actor=manager,
            at=NOON,
        )


def test_products_need_the_permission_to_edit_prices() -> None:
    stranger = make_accounts.actor(Role.FINANCE_ANALYST)
    terms = ProductTerms(code="A", name="A", group="G", unit="h")

    with pytest.raises(PermissionMissing):
        products.add_products(products=[terms], actor=stranger, at=NOON)
    with pytest.raises(PermissionMissing):
        products.change_product(
            product_id=make.product().pk, terms=terms, is_active=True, reason="New terms", actor=stranger, at=NOON
        )


def test_adding_fifty_products_takes_as_many_queries_as_adding_one(manager: Actor) -> None:
    one = [ProductTerms(code="one", name="A", group="G", unit="h")]
    fifty = [ProductTerms(code=f"{n}", name="A", group="G", unit="h") for n in range(50)]

    with CaptureQueriesContext(connection) as for_one:
        products.add_products(products=one, actor=manager, at=NOON)
    with CaptureQueriesContext(connection) as for_fifty:
        products.add_products(products=fifty, actor=manager, at=NOON)

    assert len(for_one) == len(for_fifty)


def test_a_priced_product_may_be_renamed_but_keeps_its_usage(manager: Actor) -> None:
    product = make.metered_product("H100")
    make.approved_version(prices={product: make.TEN_CENTS})
    terms = ProductTerms(
        code=product.code,
        name="New name",
        group=product.group,
        unit=product.unit,
        meter_id=product.meter_id,
        dimension_filter=product.dimension_filter,
    )

    renamed = products.change_product(
        product_id=product.pk, terms=terms, is_active=True, reason="Marketing", actor=manager, at=NOON
    )
    with pytest.raises(ProductUsageFrozen):
        products.change_product(
            product_id=product.pk,
            terms=ProductTerms(code=product.code, name="New name", group=product.group, unit="day"),
            is_active=True,
            reason="New terms",
            actor=manager,
            at=NOON,
        )

    assert renamed.name == "New name"
    assert product.history.latest().history_change_reason == "Marketing"


def test_changing_a_product_takes_a_reason(manager: Actor) -> None:
    product = make.product()
    terms = ProductTerms(code=product.code, name="New name", group=product.group, unit=product.unit)

    with pytest.raises(ReasonMissing):
        products.change_product(product_id=product.pk, terms=terms, is_active=True, reason=" ", actor=manager, at=NOON)


def test_a_product_that_is_not_there_is_not_changed(manager: Actor) -> None:
    terms = ProductTerms(code="A", name="A", group="G", unit="h")

    with pytest.raises(ProductUnknown):
        products.change_product(
            product_id=make_accounts.UNKNOWN_ID, terms=terms, is_active=True, reason="New terms", actor=manager, at=NOON
        )


def test_the_database_refuses_other_usage_for_a_priced_product() -> None:
    product = make.metered_product("H100")
    make.submitted_version(prices={product: make.TEN_CENTS})

    with pytest.raises(IntegrityError, match="keeps its usage"):
        Product.objects.filter(pk=product.pk).update(unit="day")


def test_the_database_refuses_a_second_product_of_a_code() -> None:
    make.product(code="A")

    with pytest.raises(IntegrityError, match="product_code_is_unique"):
        Product.objects.create(code="A", name="B", group="C", unit="h")


def test_the_database_refuses_a_filter_without_a_meter() -> None:
    with pytest.raises(IntegrityError, match="product_without_meter_has_no_filter"):
        Product.objects.create(code="A", name="B", group="C", unit="h", dimension_filter={"a": "b"})
