"""Two people at once: each act happens once, and in an order that could have been chosen."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from threading import Barrier
from typing import TypeVar

import pytest
from django.db import connection

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalNotPending, CountinghouseError
from accounts.models import AuditEntry
from pricing import contracts, price_books
from pricing.errors import ContractOverlaps, VersionNotDraft
from pricing.models import Contract, Price, PriceBookVersion
from tests import make_accounts
from tests import make_pricing as make
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)
JAN_5 = datetime(2026, 1, 5, 12, tzinfo=UTC)
FEB_1 = datetime(2026, 2, 1, tzinfo=UTC)

T = TypeVar("T")


def _at_once(*acts: Callable[[], T]) -> list[T | CountinghouseError]:
    """Run each act on a thread and a connection of its own, all at the same moment."""
    start = Barrier(len(acts))

    def run(act: Callable[[], T]) -> T | CountinghouseError:
        try:
            connection.ensure_connection()
            start.wait(timeout=PATIENCE_SECONDS)
            return act()
        except CountinghouseError as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def test_two_approvals_at_once_approve_once() -> None:
    version = make.submitted_version(effective_from=JAN_5, at=JAN_5)
    request_id = make.approval_of(version).pk
    first, second = make_accounts.actor(Role.PRICING_APPROVER), make_accounts.actor(Role.PRICING_APPROVER)

    def approve(actor: Actor) -> Callable[[], object]:
        return lambda: approvals.decide(request_id=request_id, outcome="approve", actor=actor, at=JAN_5)

    results = _at_once(approve(first), approve(second))

    assert sum(isinstance(result, ApprovalNotPending) for result in results) == 1
    assert PriceBookVersion.objects.get(pk=version.pk).status == "live"
    assert AuditEntry.objects.filter(verb="price_book_version.activated").count() == 1


def test_two_activations_at_once_take_each_version_live_once() -> None:
    book = make.price_book()
    make.approved_version(book=book)
    second = make.approved_version(book=book, effective_from=FEB_1, at=JAN_5)

    results = _at_once(*[lambda: price_books.activate_due_versions(at=FEB_1)] * 4)

    activated = [
        version_id for each in results if not isinstance(each, CountinghouseError) for version_id in each.activated
    ]
    assert activated == [second.pk]
    assert sorted(PriceBookVersion.objects.values_list("status", flat=True)) == ["live", "superseded"]


def test_an_approval_and_an_activation_at_once_leave_one_live_version() -> None:
    book = make.price_book()
    make.approved_version(book=book)
    make.approved_version(book=book, effective_from=datetime(2026, 1, 1, tzinfo=UTC), at=make.LONG_AGO)
    third = make.submitted_version(book=book, effective_from=JAN_5, at=JAN_5)
    request_id = make.approval_of(third).pk
    approver = make_accounts.actor(Role.PRICING_APPROVER)

    _at_once(
        lambda: price_books.activate_due_versions(at=JAN_5),
        lambda: approvals.decide(request_id=request_id, outcome="approve", actor=approver, at=JAN_5),
    )
    price_books.activate_due_versions(at=JAN_5)

    statuses = list(PriceBookVersion.objects.order_by("number").values_list("status", flat=True))
    assert statuses == ["superseded", "superseded", "live"]


def test_two_drafts_opened_at_once_are_one() -> None:
    book = make.price_book()
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)

    results = _at_once(*[lambda: price_books.open_draft(book_id=book.pk, actor=manager, at=JAN_5)] * 4)

    assert {each.pk for each in results if isinstance(each, PriceBookVersion)} == {book.versions.get().pk}


def test_a_price_set_while_its_version_is_submitted_is_in_the_approval_or_refused() -> None:
    product = make.metered_product()
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)
    version = make.draft(prices={make.metered_product(): make.TEN_CENTS})

    def submit() -> object:
        return price_books.submit_version(
            version_id=version.pk, effective_from=FEB_1, reason="Spring", actor=manager, at=JAN_5
        )

    def add_price() -> object:
        return price_books.set_price(
            version_id=version.pk, product_id=product.pk, spec=make.TEN_CENTS, actor=manager, at=JAN_5
        )

    _, added = _at_once(submit, add_price)

    summary = make.approval_of(version).summary
    assert isinstance(added, VersionNotDraft if summary["prices"] == 1 else Price)
    assert version.prices.count() == summary["prices"]


def test_a_draft_discarded_by_two_at_once_is_discarded_once() -> None:
    version = make.draft()
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)

    results = _at_once(
        *[lambda: price_books.discard_draft(version_id=version.pk, reason="Wrong season", actor=manager, at=JAN_5)] * 4
    )

    assert results == [None] * 4
    assert AuditEntry.objects.filter(verb="price_book_version.discarded").count() == 1


def test_two_contracts_signed_at_once_for_one_customer_are_one() -> None:
    customer, one, other = make_accounts.customer(), make.price_book(), make.price_book()
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)

    def sign(book_id: int) -> Callable[[], object]:
        return lambda: contracts.sign_contract(
            customer_id=customer.pk, price_book_id=book_id, starts_on=date(2026, 1, 1), actor=analyst, at=JAN_5
        )

    results = _at_once(sign(one.pk), sign(other.pk))

    assert sum(isinstance(result, ContractOverlaps) for result in results) == 1
    assert Contract.objects.count() == 1


def test_one_product_added_at_once_is_one_or_refused() -> None:
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)

    results = _at_once(
        *[lambda: price_books.add_product(code="FEE", name="Fee", group="Fees", unit="month", actor=manager, at=JAN_5)]
        * 3
    )

    assert any(not isinstance(result, CountinghouseError) for result in results)
