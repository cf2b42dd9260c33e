"""Contracts: which customer is billed by which price book, from when until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.models import Customer
from accounts.periods import LAST_ANCHOR_DAY, AnchorDayInvalid
from accounts.validation import require_reason
from pricing.errors import (
    ContractCurrencyDiffers,
    ContractDatesInvalid,
    ContractOverlaps,
    ContractPartyUnknown,
    ContractUnknown,
    CustomerDeactivated,
)
from pricing.models import Contract, PriceBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What is signed: from `starts_on` until before `ends_on` (None: open), local dates of the legal entity.

    `anchor_day` (1 to 31) is the day of the month on which billing periods begin.
    """

    customer_id: int
    price_book_id: int
    starts_on: date
    ends_on: date | None = None
    anchor_day: int = 1


def sign_contract(
    *,
    customer_id: int,
    price_book_id: int,
    starts_on: date,
    ends_on: date | None = None,
    anchor_day: int = 1,
    actor: Actor,
    at: datetime,
) -> Contract:
    """Sign a contract; the same once more returns the one that was signed.

    The price book may still be without an approved version; it can not be billed until it has one.

    Raises: PermissionMissing, ContractPartyUnknown, CustomerDeactivated, ContractCurrencyDiffers, ContractDatesInvalid,
    AnchorDayInvalid, ContractOverlaps.
    """
    agreement = Agreement(
        customer_id=customer_id,
        price_book_id=price_book_id,
        starts_on=starts_on,
        ends_on=ends_on,
        anchor_day=anchor_day,
    )
    return sign_contracts(agreements=[agreement], actor=actor, at=at)[0]


@transaction.atomic
def sign_contracts(*, agreements: Sequence[Agreement], actor: Actor, at: datetime) -> list[Contract]:
    """Sign many contracts, all or none, and return them in the order asked; see `sign_contract`.

    Raises: as `sign_contract`.
    """
    actor.require(Permission.EDIT_CONTRACTS)
    # Locked in the order of the key, so that two callers who sign for the same customers never wait for each other.
    wanted = {agreement.customer_id for agreement in agreements}
    locked = Customer.objects.select_for_update(no_key=True).filter(pk__in=wanted).order_by("pk")
    customers = {customer.pk: customer for customer in locked}
    books = PriceBook.objects.in_bulk({agreement.price_book_id for agreement in agreements})
    for agreement in agreements:
        _require_valid(agreement, customers, books)
    signed = {_agreement_of(contract): contract for contract in Contract.objects.filter(customer_id__in=wanted)}
    new = [
        Contract(
            customer=customers[each.customer_id],
            price_book=books[each.price_book_id],
            currency=books[each.price_book_id].currency,
            starts_on=each.starts_on,
            ends_on=each.ends_on,
            anchor_day=each.anchor_day,
            created_at=at,
        )
        for each in dict.fromkeys(agreements)
        if each not in signed
    ]

    with named("customer_has_one_contract_at_a_time", ContractOverlaps):
        added = history.bulk_create(new, model=Contract, actor=actor, at=at)
    audit.record_many(actor=actor, verb="contract.signed", subjects=added, at=at)
    signed |= {_agreement_of(contract): contract for contract in added}
    return [signed[agreement] for agreement in agreements]


def _require_valid(agreement: Agreement, customers: dict[int, Customer], books: dict[int, PriceBook]) -> None:
    customer, book = customers.get(agreement.customer_id), books.get(agreement.price_book_id)
    if customer is None or book is None:
        raise ContractPartyUnknown
    if not customer.is_active:
        raise CustomerDeactivated(f"{customer} is deactivated and takes no new contracts.")
    if customer.currency != book.currency:
        message = f"{customer} is billed in {customer.currency}, and {book.name} has prices in {book.currency}."
        raise ContractCurrencyDiffers(message)
    _require_dates(agreement.starts_on, agreement.ends_on)
    if not 1 <= agreement.anchor_day <= LAST_ANCHOR_DAY:
        raise AnchorDayInvalid


def _require_dates(starts_on: date, ends_on: date | None) -> None:
    if ends_on is not None and ends_on <= starts_on:
        message = f"A contract from {starts_on.isoformat()} can not end before {ends_on.isoformat()} begins."
        raise ContractDatesInvalid(message)


def _agreement_of(contract: Contract) -> Agreement:
    return Agreement(
        customer_id=contract.customer_id,
        price_book_id=contract.price_book_id,
        starts_on=contract.starts_on,
        ends_on=contract.ends_on,
        anchor_day=contract.anchor_day,
    )


@transaction.atomic
def end_contract(*, contract_id: int, ends_on: date, reason: str, actor: Actor, at: datetime) -> Contract:
    """Let a contract end before that day begins, a local date of the legal entity; also moves an end that was agreed.

    Raises: PermissionMissing, ReasonMissing, ContractUnknown, ContractDatesInvalid, ContractOverlaps.
    """
    actor.require(Permission.EDIT_CONTRACTS)
    require_reason(reason)
    if Customer.objects.select_for_update(no_key=True).filter(contracts=contract_id).first() is None:
        raise ContractUnknown
    contract = (
        Contract.objects.select_for_update(no_key=True, of=("self",))
        .select_related("customer", "price_book")
        .get(pk=contract_id)
    )
    if contract.ends_on == ends_on:
        return contract
    _require_dates(contract.starts_on, ends_on)
    before = contract.ends_on
    contract.ends_on = ends_on

    with named("customer_has_one_contract_at_a_time", ContractOverlaps):
        history.save(contract, reason=reason, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="contract.ended",
        subject=contract,
        at=at,
        reason=reason,
        data={"ends_on": ends_on, "agreed_before": before},
    )
    return contract
