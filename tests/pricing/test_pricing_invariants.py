from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest
from django.db import connection

from accounts.canonical import canonical_hash
from pricing import content
from pricing.invariants import RULES
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
JAN_5 = datetime(2026, 1, 5, 12, tzinfo=UTC)
FEB_1 = datetime(2026, 2, 1, tzinfo=UTC)
ODD_TEXT = 'ä "quoted" \\ / € \u007f \U0001f600 line\nbreak\ttab \u2028'


def _broken() -> set[str]:
    broken = set()
    with connection.cursor() as cursor:
        for rule in RULES:
            cursor.execute(rule.sql)
            if cursor.fetchall():
                broken.add(rule.name.removeprefix("pricing."))
    return broken


def test_nothing_is_broken_after_all_that_can_be_done() -> None:
    meter = make.meter(dimensions=["sku", "région"])
    odd = make.product(
        code='O\'DD "code"',
        unit='"½"\\',
        meter=meter,
        dimension_filter={"sku": ODD_TEXT, "région": "z"},
    )
    tiered = make.metered_product()
    graduated = {
        "model": "graduated",
        "tiers": [{"up_to": "10", "unit_price": "1"}, {"up_to": None, "unit_price": "0.5", "flat_amount": "3"}],
        "flat_at_zero": True,
        "round_quantity": {"mode": "up", "places": 2},
    }
    book = make.price_book()
    make.approved_version(book=book, prices={odd: make.TEN_CENTS, tiered: graduated})
    make.approved_version(book=book, effective_from=datetime(2026, 2, 1, 3, tzinfo=UTC), at=JAN_5)
    make.submitted_version(book=book, effective_from=datetime(2026, 3, 1, tzinfo=UTC), at=JAN_5)
    make.draft()
    make.contract(book=book, ends_on=date(2026, 1, 1))

    broken = _broken()

    assert broken == set()


def test_the_canonical_json_of_the_database_is_that_of_python() -> None:
    content: dict[str, object] = {
        "b": [1, -2, True, None, {}, []],
        "a": {"ä": ODD_TEXT, "Z": "\u0001\u001f", "aa": 10**20, "é": False},
    }

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sha256(convert_to(canonical_json(jsonb_build_object("
            "'b', jsonb_build_array(1, -2, true, null, '{}'::jsonb, '[]'::jsonb), 'a', jsonb_build_object("
            "'ä', %s::text, 'Z', %s::text, 'aa', 100000000000000000000::numeric, 'é', false))), 'UTF8'))",
            [ODD_TEXT, "\u0001\u001f"],
        )
        (found,) = cursor.fetchone()

    assert bytes(found) == canonical_hash(content)


def _price_changed() -> None:
    version = make.approved_version()
    make.tamper(
        "UPDATE pricing_price SET spec = jsonb_set(spec, '{unit_price}', '\"9\"') WHERE version_id = %s", version.pk
    )
    assert not content.holds_what_was_approved(version)


def _filter_changed() -> None:
    product = make.metered_product("A")
    make.approved_version(prices={product: make.TEN_CENTS})
    make.tamper("UPDATE pricing_product SET dimension_filter = '{}' WHERE id = %s", product.pk)


def _hash_changed() -> None:
    make.tamper(r"UPDATE pricing_pricebookversion SET content_hash = '\x00' WHERE id = %s", make.approved_version().pk)


def _prices_deleted() -> None:
    make.tamper("DELETE FROM pricing_price WHERE version_id = %s", make.approved_version().pk)


def _gap_opened() -> None:
    version = make.approved_version()
    make.tamper(
        "UPDATE pricing_pricebookversion SET valid_during = tstzrange(lower(valid_during), '2030-01-01') WHERE id = %s",
        version.pk,
    )


def _request_reopened() -> None:
    version = make.approved_version()
    make.tamper(
        "UPDATE accounts_approvalrequest SET status = 'pending', closed_at = NULL WHERE subject_id = %s", version.pk
    )


def _audit_lost() -> None:
    version = make.approved_version()
    make.tamper("DELETE FROM accounts_auditentry WHERE subject_id = %s::text", version.pk)


def _contract_audit_lost() -> None:
    make.tamper("DELETE FROM accounts_auditentry WHERE subject_id = %s::text", make.contract().pk)


def _currency_changed() -> None:
    make.tamper("UPDATE accounts_customer SET currency = 'USD' WHERE id = %s", make.contract().customer_id)


def _history_lost() -> None:
    make.tamper("DELETE FROM pricing_historicalproduct WHERE id = %s", make.product().pk)


@pytest.mark.parametrize(
    ("damage", "rules"),
    [
        (_price_changed, {"approved_versions_hold_what_was_approved"}),
        (_filter_changed, {"approved_versions_hold_what_was_approved"}),
        (_hash_changed, {"approved_versions_hold_what_was_approved", "approved_versions_have_their_approval"}),
        (_prices_deleted, {"approved_versions_hold_what_was_approved", "approved_versions_have_prices"}),
        (_gap_opened, {"approved_versions_follow_without_a_gap"}),
        (
            _request_reopened,
            {"approved_versions_have_their_approval", "versions_in_review_wait_for_a_decision"},
        ),
        (_audit_lost, {"version_acts_are_audited"}),
        (_contract_audit_lost, {"contracts_are_audited"}),
        (_currency_changed, {"contracts_have_one_currency"}),
        (_history_lost, {"product_has_history"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_breach_is_found(damage: Callable[[], None], rules: set[str]) -> None:
    damage()

    assert _broken() == rules


def test_every_approved_version_has_one_content_that_is_hashed_alike() -> None:
    version = make.approved_version()

    assert canonical_hash(content.version_content(version.pk)) == bytes(version.content_hash or b"")
