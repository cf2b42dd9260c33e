"""Two people who do contrary things to the same run, version or event at the same moment.

Whoever comes second is told by name what was found. No deadlock and no broken constraint reaches them, and nothing
happens twice or by halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import CountinghouseError
from accounts.models import ApprovalRequest
from billing import bill_runs, delivery, issuing
from billing.models import BillRun, Invoice, InvoiceDelivery, InvoiceSeries, JournalEntry
from metering.models import QuarantinedEvent, UsageEvent
from metering.quarantine import quarantine
from pricing import content, contracts, price_books, publication
from pricing.models import Price, PriceBookVersion
from tests import make_accounts, make_metering, make_pricing
from tests import make_billing as make
from tests.break_it.at_once import at_once
from tests.break_it.rules import assert_all_rules_hold

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 2
Act = Callable[[], object]


def shop_with(customers: int = 3) -> make.Shop:
    shop = make.shop()
    for number in range(customers):
        make.use(shop, make.subscriber(shop, name=f"Customer {number}"), "10", on=make.OCT_10)
    return shop


def acts_of(shop: make.Shop, run: BillRun) -> dict[str, Act]:
    """All that may be done to a run, whatever state it is in."""
    analyst, controller, at = shop.analyst, shop.controller, make.NOV_2
    request = ApprovalRequest.objects.filter(kind="bill_run", subject_id=run.pk).order_by("pk").last()
    request_id = request.pk if request else 0
    return {
        "start": partial(
            bill_runs.start_bill_run, legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=analyst, at=at
        ),
        "draft": partial(bill_runs.draft_chunk, run_id=run.pk, limit=2, at=at),
        "redo": partial(bill_runs.redo_bill_run, run_id=run.pk, reason="again", actor=analyst, at=at),
        "retry": partial(bill_runs.retry_parked, run_id=run.pk, actor=analyst, at=at),
        "submit": partial(bill_runs.submit_bill_run, run_id=run.pk, reason="month end", actor=analyst, at=at),
        "cancel": partial(bill_runs.cancel_bill_run, run_id=run.pk, reason="wrong", actor=analyst, at=at),
        "approve": partial(approvals.decide, request_id=request_id, outcome="approve", actor=controller, at=at),
        "reject": partial(
            approvals.decide, request_id=request_id, outcome="reject", comment="no", actor=controller, at=at
        ),
        "withdraw": partial(approvals.withdraw, request_id=request_id, reason="no", actor=analyst, at=at),
        "begin": partial(issuing.start_issuing, run_id=run.pk, actor=controller, at=at),
        "issue": partial(issuing.issue_chunk, run_id=run.pk, limit=2, actor=controller, at=at),
    }


STAGES = {"drafted": make.drafted_run, "submitted": make.submitted_run, "approved": make.approved_run}
PAIRS = {
    "drafted": [
        ("submit", "redo"),
        ("submit", "cancel"),
        ("redo", "draft"),
        ("cancel", "start"),
        ("start", "start"),
        ("start", "submit"),
    ],
    "submitted": [
        ("approve", "withdraw"),
        ("approve", "reject"),
        ("approve", "redo"),
        ("approve", "cancel"),
        ("withdraw", "redo"),
        ("reject", "withdraw"),
        ("submit", "withdraw"),
        ("approve", "begin"),
    ],
    "approved": [
        ("issue", "cancel"),
        ("issue", "issue"),
        ("begin", "issue"),
        ("cancel", "start"),
    ],
}


@pytest.mark.parametrize(
    ("stage", "pair"), [(stage, pair) for stage, pairs in PAIRS.items() for pair in pairs], ids=str
)
def test_two_contrary_acts_on_a_run_leave_one_outcome(stage: str, pair: tuple[str, str]) -> None:
    shop = shop_with()
    run = STAGES[stage](shop)
    acts = acts_of(shop, run)

    # Each of the two twice: the one who clicks again comes in between as well.
    told = at_once(*[acts[name] for name in (*pair, *pair)])

    assert any(not isinstance(each, CountinghouseError) for each in told)
    assert_run_is_consistent(shop)
    assert_the_month_can_be_finished(shop)


def assert_run_is_consistent(shop: make.Shop) -> None:
    live = BillRun.objects.exclude(status="cancelled")
    assert live.count() <= 1
    for invoice in Invoice.objects.exclude(status="void"):
        expected = {"issued": {"issued"}, "approved": {"approved", "issued"}}.get(
            invoice.bill_run.status, {invoice.bill_run.status}
        )
        assert invoice.status in expected
    numbers = list(Invoice.objects.filter(status="issued").order_by("sequence").values_list("sequence", flat=True))
    assert numbers == list(range(1, len(numbers) + 1))
    assert JournalEntry.objects.count() == len(numbers)
    assert_all_rules_hold()


def assert_the_month_can_be_finished(shop: make.Shop) -> None:
    """Whatever the race left behind, the month is billed to its end from there: each customer once."""
    run = make.drafted_run(shop)
    if run.status == "draft":
        run = bill_runs.submit_bill_run(run_id=run.pk, actor=shop.analyst, at=make.NOV_2)
    if run.status == "in_review":
        make.approve(shop, run)
    make.issue(shop, run)
    assert Invoice.objects.filter(status="issued").count() == 3
    assert list(InvoiceSeries.objects.values_list("next_number", flat=True)) == [4]
    assert JournalEntry.objects.count() == 3
    assert_all_rules_hold()


def test_many_who_start_and_draft_the_same_month_at_once_bill_it_once() -> None:
    shop = shop_with(6)
    start = partial(
        bill_runs.start_bill_run, legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )

    runs = at_once(start, start, start, start)
    (run,) = {each for each in runs if isinstance(each, BillRun)}
    settled = at_once(*[partial(bill_runs.draft_chunk, run_id=run.pk, limit=2, at=make.NOV_2)] * 6)

    assert sum(int(str(each)) for each in settled) == 6
    assert Invoice.objects.count() == 6


def test_six_workers_that_issue_at_once_number_without_a_gap() -> None:
    shop = shop_with(9)
    run = make.approved_run(shop)
    issuing.start_issuing(run_id=run.pk, actor=shop.controller, at=make.NOV_2)
    one_by_one = [
        partial(issuing.issue_invoice, invoice_id=pk, actor=shop.controller, at=make.NOV_2)
        for pk in Invoice.objects.order_by("-pk").values_list("pk", flat=True)[:3]
    ]

    at_once(
        *[partial(issuing.issue_chunk, run_id=run.pk, limit=2, actor=shop.controller, at=make.NOV_2)] * 6, *one_by_one
    )
    make.issue(shop, run)

    sequences = Invoice.objects.order_by("sequence").values_list("sequence", flat=True)
    assert list(sequences) == list(range(1, 10))
    assert InvoiceDelivery.objects.count() == JournalEntry.objects.count() == 9
    assert_all_rules_hold()


def test_two_entities_issue_at_once_and_each_keeps_its_own_numbers() -> None:
    shops = [shop_with(4), shop_with(4)]
    runs = [make.approved_run(shop) for shop in shops]

    at_once(*[partial(make.issue, shop, run) for shop, run in zip(shops, runs, strict=True)] * 2)

    for shop in shops:
        sequences = Invoice.objects.filter(legal_entity=shop.entity).order_by("sequence")
        assert list(sequences.values_list("sequence", flat=True)) == [1, 2, 3, 4]


@pytest.mark.parametrize("other", ["submit", "set", "remove", "open", "withdraw"])
def test_a_price_that_is_set_while_others_act_is_approved_as_it_is_or_refused(other: str) -> None:
    for _ in range(ROUNDS):
        manager = make_accounts.actor(Role.PRODUCT_MANAGER)
        product = make_pricing.metered_product()
        version = make_pricing.draft(prices={product: make_pricing.TEN_CENTS})
        second = make_pricing.metered_product()
        at = make.LONG_AGO
        submit = partial(
            price_books.submit_version,
            version_id=version.pk,
            effective_from=at,
            reason="season",
            actor=manager,
            at=at,
        )
        against: dict[str, Act] = {
            "submit": submit,
            "set": partial(
                price_books.set_price,
                version_id=version.pk,
                product_id=product.pk,
                spec={"model": "per_unit", "unit_price": "0.20"},
                actor=manager,
                at=at,
            ),
            "remove": partial(
                price_books.remove_price, version_id=version.pk, product_id=product.pk, actor=manager, at=at
            ),
            "open": partial(price_books.open_draft, book_id=version.book_id, actor=manager, at=at),
            "withdraw": partial(publication.withdraw_version, version_id=version.pk, reason="no", actor=manager, at=at),
        }
        set_price = partial(
            price_books.set_price,
            version_id=version.pk,
            product_id=second.pk,
            spec=dict(make_pricing.TEN_CENTS),
            actor=manager,
            at=at,
        )

        at_once(set_price, against[other], submit, set_price)

        version.refresh_from_db()
        if version.status == "in_review":
            request = make_pricing.approval_of(version)
            approver = make_accounts.actor(Role.PRICING_APPROVER)
            approvals.decide(request_id=request.pk, outcome="approve", actor=approver, at=at)
            version.refresh_from_db()
            assert content.holds_what_was_approved(version)
        assert Price.objects.filter(version=version, product=second).count() <= 1
    assert_all_rules_hold()


@pytest.mark.parametrize("other", ["approve", "withdraw", "reject", "activate"])
def test_contrary_decisions_on_a_version_leave_one_outcome(other: str) -> None:
    for _ in range(ROUNDS):
        manager = make_accounts.actor(Role.PRODUCT_MANAGER)
        version = make_pricing.submitted_version(by=manager)
        request_id = make_pricing.approval_of(version).pk
        approvers = [make_accounts.actor(Role.PRICING_APPROVER) for _ in range(2)]
        approve, also = (
            partial(approvals.decide, request_id=request_id, outcome="approve", actor=each, at=make.LONG_AGO)
            for each in approvers
        )
        against: dict[str, Act] = {
            "approve": also,
            "withdraw": partial(
                publication.withdraw_version, version_id=version.pk, reason="no", actor=manager, at=make.LONG_AGO
            ),
            "reject": partial(
                approvals.decide,
                request_id=request_id,
                outcome="reject",
                comment="no",
                actor=approvers[1],
                at=make.LONG_AGO,
            ),
            "activate": partial(price_books.activate_due_versions, at=make.LONG_AGO),
        }

        told = at_once(approve, against[other], approve)

        assert any(not isinstance(each, CountinghouseError) for each in told)
        version.refresh_from_db()
        request = ApprovalRequest.objects.get(pk=request_id)
        assert (version.status, request.status) in {
            ("live", "approved"),
            ("draft", "withdrawn"),
            ("draft", "rejected"),
        }
    assert_all_rules_hold()


def test_release_and_discard_at_once_count_an_event_or_discard_it() -> None:
    for number in range(ROUNDS):
        customer = make_accounts.customer()
        make_metering.meter(event_type=f"t{number}")
        events = [
            make_metering.event(f"r{number}-{each}", subject=f"later-{number}", event_type=f"t{number}")
            for each in range(40)
        ]
        make_metering.ingested(*events)
        make_metering.subject(f"later-{number}", customer=customer)
        ids = list(QuarantinedEvent.objects.filter(status="open").values_list("pk", flat=True))
        analyst = make_accounts.actor(Role.FINANCE_ANALYST)

        at_once(
            partial(quarantine.release, event_ids=ids, actor=analyst, at=make_metering.NOON),
            partial(quarantine.discard, event_ids=ids[::-1], reason="no", actor=analyst, at=make_metering.NOON),
            partial(quarantine.release, event_ids=ids[::-1], actor=analyst, at=make_metering.NOON),
            partial(make_metering.ingested, *events[::-1]),
        )

        released = QuarantinedEvent.objects.filter(pk__in=ids, status="released").count()
        assert UsageEvent.objects.filter(customer_id=customer.pk).count() == released
        assert not QuarantinedEvent.objects.filter(status="open").exists()
    assert_all_rules_hold()


def test_a_contract_that_ends_while_its_month_is_drafted_is_billed_as_one_or_the_other() -> None:
    shop = shop_with(3)
    run = bill_runs.start_bill_run(
        legal_entity_id=shop.entity.pk, month=make.OCTOBER, actor=shop.analyst, at=make.NOV_2
    )
    contract_ids = list(run.items.values_list("contract_id", flat=True))
    house = Actor.system("tests")

    at_once(
        *[
            partial(
                contracts.end_contract,
                contract_id=pk,
                ends_on=make.OCTOBER.replace(day=20),
                reason="left",
                actor=house,
                at=make.NOV_2,
            )
            for pk in contract_ids
        ],
        *[partial(bill_runs.draft_chunk, run_id=run.pk, limit=1, at=make.NOV_2)] * 3,
    )

    assert Invoice.objects.count() == 3
    assert_all_rules_hold()


def test_sending_again_while_the_mail_is_being_sent_never_fails_and_never_loses_a_recipient() -> None:
    shop = shop_with(1)
    make.issued_run(shop)
    (invoice,) = Invoice.objects.all()
    resend = partial(delivery.resend_invoice, invoice_id=invoice.pk, actor=shop.controller, at=make.NOV_2)
    send: Sequence[Act] = [partial(delivery.deliver_due, limit=5, at=make.NOV_2)] * 2

    at_once(resend, *send, resend)

    assert InvoiceDelivery.objects.exists()
    assert PriceBookVersion.objects.exists()
