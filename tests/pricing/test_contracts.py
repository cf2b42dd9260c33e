from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import customers
from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from accounts.periods import AnchorDayInvalid
from pricing import contracts
from pricing.contracts import Agreement
from pricing.errors import (
    ContractCurrencyDiffers,
    ContractDatesInvalid,
    ContractOverlaps,
    ContractPartyUnknown,
    ContractUnknown,
    CustomerDeactivated,
)
from pricing.models import Contract
from tests import make_accounts
from tests import make_pricing as make

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
JAN_1, JULY_1 = date(2026, 1, 1), date(2026, 7, 1)


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def test_a_contract_is_signed_once_with_its_history_and_an_audit_entry(analyst: Actor) -> None:
    customer, book = make_accounts.customer(), make.price_book()
    terms: dict[str, Any] = {"customer_id": customer.pk, "price_book_id": book.pk, "starts_on": JAN_1, "anchor_day": 15}

    first = contracts.sign_contract(**terms, actor=analyst, at=NOON)
    second = contracts.sign_contract(**terms, actor=analyst, at=NOON)

    assert first == second
    assert (first.currency, first.ends_on, first.anchor_day, first.created_at) == ("EUR", None, 15, NOON)
    assert first.history.get().history_user_id == analyst.user_id
    assert AuditEntry.objects.get(verb="contract.signed").subject_id == str(first.pk)


def test_a_contract_has_the_currency_of_its_customer(analyst: Actor) -> None:
    customer, book = make_accounts.customer(), make.price_book(currency="USD")

    with pytest.raises(ContractCurrencyDiffers, match="USD"):
        contracts.sign_contract(customer_id=customer.pk, price_book_id=book.pk, starts_on=JAN_1, actor=analyst, at=NOON)


@pytest.mark.parametrize("ends_on", [JAN_1, date(2025, 12, 31)])
def test_a_contract_ends_after_it_starts(analyst: Actor, ends_on: date) -> None:
    customer, book = make_accounts.customer(), make.price_book()

    with pytest.raises(ContractDatesInvalid):
        contracts.sign_contract(
            customer_id=customer.pk, price_book_id=book.pk, starts_on=JAN_1, ends_on=ends_on, actor=analyst, at=NOON
        )


@pytest.mark.parametrize("anchor_day", [0, 32, -1])
def test_a_contract_is_anchored_at_a_day_of_the_month(analyst: Actor, anchor_day: int) -> None:
    customer, book = make_accounts.customer(), make.price_book()

    with pytest.raises(AnchorDayInvalid):
        contracts.sign_contract(
            customer_id=customer.pk,
            price_book_id=book.pk,
            starts_on=JAN_1,
            anchor_day=anchor_day,
            actor=analyst,
            at=NOON,
        )


def test_a_contract_needs_a_customer_and_a_price_book(analyst: Actor) -> None:
    customer, book = make_accounts.customer(), make.price_book()

    for customer_id, book_id in ((0, book.pk), (customer.pk, 0)):
        with pytest.raises(ContractPartyUnknown):
            contracts.sign_contract(
                customer_id=customer_id, price_book_id=book_id, starts_on=JAN_1, actor=analyst, at=NOON
            )


def test_a_deactivated_customer_takes_no_new_contracts(analyst: Actor) -> None:
    customer, book = make_accounts.customer(), make.price_book()
    customers.deactivate_customer(customer_id=customer.pk, reason="Left", actor=analyst, at=NOON)

    with pytest.raises(CustomerDeactivated):
        contracts.sign_contract(customer_id=customer.pk, price_book_id=book.pk, starts_on=JAN_1, actor=analyst, at=NOON)


def test_a_customer_has_one_contract_at_a_time_and_the_next_may_follow_at_once(analyst: Actor) -> None:
    signed = make.contract(starts_on=JAN_1, ends_on=JULY_1)
    book = make.price_book()

    with pytest.raises(ContractOverlaps):
        contracts.sign_contract(
            customer_id=signed.customer_id,
            price_book_id=book.pk,
            starts_on=date(2026, 6, 30),
            actor=analyst,
            at=NOON,
        )
    follower = contracts.sign_contract(
        customer_id=signed.customer_id, price_book_id=book.pk, starts_on=JULY_1, actor=analyst, at=NOON
    )

    assert follower.starts_on == signed.ends_on


def test_many_contracts_are_signed_all_or_none(analyst: Actor) -> None:
    book = make.price_book()
    one, two = make_accounts.customer(), make_accounts.customer()
    make.contract(customer=two, starts_on=JAN_1)
    wanted = [Agreement(customer_id=each.pk, price_book_id=book.pk, starts_on=JULY_1) for each in (one, two)]

    with pytest.raises(ContractOverlaps):
        contracts.sign_contracts(agreements=wanted, actor=analyst, at=NOON)

    assert not Contract.objects.filter(customer=one).exists()


def test_fifty_contracts_take_as_many_queries_as_one(analyst: Actor) -> None:
    book = make.price_book()
    entity = make_accounts.legal_entity()
    wanted = [
        Agreement(customer_id=make_accounts.customer(entity=entity).pk, price_book_id=book.pk, starts_on=JAN_1)
        for _ in range(51)
    ]

    with CaptureQueriesContext(connection) as for_one:
        contracts.sign_contracts(agreements=wanted[:1], actor=analyst, at=NOON)
    with CaptureQueriesContext(connection) as for_fifty:
        signed = contracts.sign_contracts(agreements=wanted[1:], actor=analyst, at=NOON)

    assert len(for_one) == len(for_fifty)
    assert [contract.customer_id for contract in signed] == [each.customer_id for each in wanted[1:]]
    assert Contract.history.count() == 51
    assert AuditEntry.objects.filter(verb="contract.signed").count() == 51


def test_a_contract_is_ended_and_its_end_moved(analyst: Actor) -> None:
    contract = make.contract(starts_on=JAN_1)

    for ends_on in (JULY_1, JULY_1, date(2026, 8, 1)):
        contracts.end_contract(contract_id=contract.pk, ends_on=ends_on, reason="Cancelled", actor=analyst, at=NOON)

    contract.refresh_from_db()
    assert contract.ends_on == date(2026, 8, 1)
    assert contract.history.latest().history_change_reason == "Cancelled"
    latest, earlier = AuditEntry.objects.filter(verb="contract.ended")
    assert (earlier.data["agreed_before"], latest.data["agreed_before"]) == (None, "2026-07-01")


def test_a_contract_does_not_end_before_it_starts_nor_within_the_next(analyst: Actor) -> None:
    contract = make.contract(starts_on=JAN_1, ends_on=JULY_1)
    make.contract(customer=contract.customer, book=contract.price_book, starts_on=JULY_1)

    with pytest.raises(ContractDatesInvalid):
        contracts.end_contract(contract_id=contract.pk, ends_on=JAN_1, reason="New terms", actor=analyst, at=NOON)
    with pytest.raises(ContractOverlaps):
        contracts.end_contract(
            contract_id=contract.pk, ends_on=date(2026, 7, 2), reason="New terms", actor=analyst, at=NOON
        )


def test_ending_a_contract_takes_a_reason(analyst: Actor) -> None:
    contract = make.contract()

    with pytest.raises(ReasonMissing):
        contracts.end_contract(contract_id=contract.pk, ends_on=JULY_1, reason=" ", actor=analyst, at=NOON)


def test_a_contract_that_is_not_there_is_not_ended(analyst: Actor) -> None:
    with pytest.raises(ContractUnknown):
        contracts.end_contract(
            contract_id=make_accounts.UNKNOWN_ID, ends_on=date(2026, 6, 1), reason="New terms", actor=analyst, at=NOON
        )


def test_contracts_need_the_permission_to_edit_them() -> None:
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)
    contract = make.contract()

    with pytest.raises(PermissionMissing):
        contracts.sign_contracts(agreements=[], actor=manager, at=NOON)
    with pytest.raises(PermissionMissing):
        contracts.end_contract(contract_id=contract.pk, ends_on=JULY_1, reason="New terms", actor=manager, at=NOON)
