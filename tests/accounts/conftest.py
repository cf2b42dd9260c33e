from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from threading import Barrier

import pytest
from django.db import connection

from accounts import approvals
from accounts.access import Actor, Permission, Role
from accounts.errors import CountinghouseError, CustomerUnknown
from accounts.models import ApprovalRequest, Customer
from tests import make_accounts as make
from tests.patience import PATIENCE_SECONDS

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def at_the_same_moment(*acts: Callable[[], object]) -> list[object]:
    """Run each act on a thread and connection of its own, all starting together; return results and errors."""
    barrier = Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        barrier.wait(timeout=PATIENCE_SECONDS)
        try:
            return act()
        except CountinghouseError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=len(acts)) as pool:
        return list(pool.map(run, acts))


@dataclass
class Effects:
    """What the kind of approval used in these tests was told to carry out."""

    approved: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    refuse_to_act: bool = False

    def on_approved(self, *, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
        del request, actor, at
        if self.refuse_to_act:
            raise CustomerUnknown
        self.approved.append(subject_id)

    def on_refused(self, *, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
        del subject_id, actor, at
        self.refused.append(request.status)


def _lock(subject_id: int) -> Customer:
    return Customer.objects.select_for_update(no_key=True).get(pk=subject_id)


def _content(subject_id: int) -> dict[str, object]:
    customer = Customer.objects.get(pk=subject_id)
    return {"name": customer.name, "terms": customer.payment_terms_days}


@pytest.fixture
def effects() -> Iterator[Effects]:
    """Register a kind of approval whose subjects are customers: their name and terms need a second person."""
    effects = Effects()
    approvals.register(
        approvals.ApprovalKind(
            key="customer_terms",
            label="Customer terms",
            permission=Permission.APPROVE_PRICES,
            content=_content,
            on_approved=effects.on_approved,
            on_refused=effects.on_refused,
            url=lambda subject_id: f"/customers/{subject_id}/",
            lock=_lock,
        ),
    )
    yield effects
    approvals._kinds.pop("customer_terms")


@pytest.fixture
def submit(effects: Effects) -> Callable[..., ApprovalRequest]:
    """Return a function that submits a customer's terms for approval."""

    def submit(subject: Customer, *, actor: Actor, amount: str | None = None) -> ApprovalRequest:
        return approvals.request_approval(
            kind="customer_terms",
            subject_id=subject.pk,
            title=f"Terms of {subject}",
            summary={"terms": subject.payment_terms_days},
            amount=None if amount is None else Decimal(amount),
            currency="" if amount is None else "EUR",
            actor=actor,
            at=NOON,
        )

    return submit


@pytest.fixture
def acme(db: None) -> Customer:
    return make.customer(name="Acme")


@pytest.fixture
def administrator(db: None) -> Actor:
    return make.actor(Role.ADMINISTRATOR)


@pytest.fixture
def analyst(db: None) -> Actor:
    return make.actor(Role.FINANCE_ANALYST)


@pytest.fixture
def controller(db: None) -> Actor:
    return make.actor(Role.FINANCE_CONTROLLER)


@pytest.fixture
def product_manager(db: None) -> Actor:
    return make.actor(Role.PRODUCT_MANAGER)


@pytest.fixture
def approver(db: None) -> Actor:
    return make.actor(Role.PRICING_APPROVER)
