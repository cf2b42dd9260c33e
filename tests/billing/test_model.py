"""Whatever happens in whatever order, a customer pays for each period what all its usage costs, rounded once.

Hypothesis plays months of a small company against the real database: usage on time and late, voided, replaced and
counted again, drafts thrown away, rejections, cancelled months, prices and contracts that change. At the end everything
is billed, and what each customer was billed is compared with a model that knows nothing of runs: it adds up the usage
of a period and rates it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.db.models import Sum
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from accounts import approvals
from accounts.models import Customer
from billing import bill_runs, issuing
from billing.invariants import RULES
from billing.models import BillRun, BillRunItem, Invoice, InvoiceLine, UnbilledUsage
from metering import attribution, rollups
from metering.models import UsageCorrection
from pricing import contracts
from pricing.money import minor_unit_exponent
from tests import make_accounts, make_corrections, make_pricing
from tests import make_billing as make

pytestmark = pytest.mark.django_db(transaction=True)

BERLIN = ZoneInfo("Europe/Berlin")
MONTHS = [date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1), date(2027, 3, 1)]
LAST = len(MONTHS) - 3  # the two months after the last are for what comes late in it
QUANTITIES = st.decimals(min_value="0.001", max_value="90", places=3)
MOMENTS = st.tuples(st.integers(0, LAST), st.integers(0, 27), st.integers(0, 23))
# Months, and for each a run that was open, a bill below zero that is lifted, and a bill.
MOST_ATTEMPTS = 3 * len(MONTHS)
# When usage comes in and is corrected, so that none of it is ahead of its time; which bill sees it does not follow it.
AFTERWARDS = datetime(2027, 6, 1, tzinfo=UTC)


@dataclass
class Terms:
    """One contract as the model knows it: local days, `[starts_on, ends_on)`."""

    pk: int
    starts_on: date
    ends_on: date | None


@dataclass
class Prices:
    """One price version: a unit up to 100, a unit above, a fee a month; from when, and when it was approved."""

    valid_from: datetime
    approved_at: datetime
    first: Decimal
    above: Decimal
    fee: Decimal


Fact = tuple[datetime, Decimal]


@dataclass
class Account:
    """A customer with all that happened to it."""

    customer: Customer
    contracts: list[Terms] = field(default_factory=list)
    # What counts by now, by the id of the event that says so.
    events: dict[str, Fact] = field(default_factory=dict)
    # Each correction that stands, with the event that it was about, what that said, and the one in its place.
    corrected: list[tuple[UsageCorrection, str, Fact, str | None]] = field(default_factory=list)
    # When each contract's month was drafted in a run that stands, by number of the month: its prices are those of then.
    drafted: dict[tuple[int, int], tuple[int, datetime]] = field(default_factory=dict)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=BERLIN).astimezone(UTC)


def cost(prices: Prices, quantity: Decimal) -> Decimal:
    return min(quantity, Decimal(100)) * prices.first + max(quantity - 100, Decimal(0)) * prices.above


def naive_total(account: Account, versions: list[Prices], months: int, places: int) -> Decimal:
    """What the customer owes in all: for each contract, month and price, all usage so far, rated and rounded once."""

    def rounded(exact: Decimal) -> Decimal:
        return exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)

    owed = Decimal(0)
    for terms in account.contracts:
        for number, (first, following) in enumerate(pairwise(MONTHS[: months + 1])):
            day_one, day_last = max(first, terms.starts_on), min(following, terms.ends_on or following)
            if day_one >= day_last:
                continue
            _, as_of = account.drafted[terms.pk, number]
            valid = [each for each in versions if each.approved_at <= as_of]
            edges = [*(each.valid_from for each in valid), datetime.max.replace(tzinfo=UTC)]
            before = Decimal(0)
            for prices, (start, end) in zip(valid, pairwise(edges), strict=True):
                begins, ends = max(start, midnight(day_one)), min(end, midnight(day_last))
                used = [quantity for time, quantity in account.events.values() if begins <= time < ends]
                owed += rounded(cost(prices, before + sum(used)) - cost(prices, before))
                before += sum(used)
                if start <= midnight(day_one) < end:
                    owed += rounded(prices.fee * (day_last - day_one).days / (following - first).days)
    return owed


class Company(RuleBasedStateMachine):
    """A legal entity, three customers, and everything that people and senders can do to its bills."""

    @initialize(
        currency=st.sampled_from(["EUR", "JPY", "KWD"]),
        fee=st.sampled_from(["0", "9.99"]),
        tax=st.sampled_from(["0", "19"]),
    )
    def opens(self, currency: str, fee: str, tax: str) -> None:
        self.now = datetime(2026, 9, 1, tzinfo=UTC)
        self.places = minor_unit_exponent(currency)
        self.shop = make.shop(approved=False, tax_rate=tax, currency=currency)
        self.fee = make_pricing.product(name="Platform", group="Fees")
        self.versions: list[Prices] = []
        self.approves_prices(make.LONG_AGO, Decimal("0.333"), Decimal("0.3"), Decimal(fee))
        self.accounts = [self.joins() for _ in range(3)]
        for account in self.accounts[:2]:
            self.signs(account, date(2026, 1, 1), None)
        self.sent = 0
        self.month = 0
        self.run: BillRun | None = None
        self.runs: dict[int, BillRun] = {}

    def tick(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now

    def joins(self) -> Account:
        customer = make_accounts.customer(entity=self.shop.entity)
        attribution.assign_subject(
            name=make.subject_of(customer),
            customer_id=customer.pk,
            starts_at=make.LONG_AGO,
            actor=make_pricing.SYSTEM,
            at=make.LONG_AGO,
        )
        return Account(customer)

    def signs(self, account: Account, starts_on: date, ends_on: date | None) -> None:
        contract = contracts.sign_contract(
            customer_id=account.customer.pk,
            price_book_id=self.shop.book.pk,
            starts_on=starts_on,
            ends_on=ends_on,
            actor=make_pricing.SYSTEM,
            at=self.tick(),
        )
        account.contracts.append(Terms(contract.pk, starts_on, ends_on))

    def approves_prices(self, valid_from: datetime, first: Decimal, above: Decimal, fee: Decimal) -> None:
        at = self.tick()
        make_pricing.approved_version(
            book=self.shop.book,
            prices={
                self.shop.product: {
                    "model": "graduated",
                    "tiers": [
                        {"up_to": "100", "unit_price": str(first)},
                        {"up_to": None, "unit_price": str(above)},
                    ],
                },
                self.fee: {"model": "flat", "amount": str(fee)},
            },
            effective_from=valid_from,
            at=at,
        )
        self.versions.append(Prices(valid_from, at, first, above, fee))

    @rule(who=st.integers(0, 2), when=MOMENTS, quantity=QUANTITIES)
    def sends_usage(self, who: int, when: tuple[int, int, int], quantity: Decimal) -> None:
        number, day, hour = when
        time = midnight(MONTHS[min(number, self.month)]) + timedelta(days=day, hours=hour)
        self.uses(self.accounts[who], time, quantity)

    def uses(self, account: Account, time: datetime, quantity: Decimal) -> None:
        self.sent += 1
        event_id = f"{account.customer.pk}-{self.sent}"
        assert make.use(self.shop, account.customer, str(quantity), on=time, event_id=event_id).accepted == 1
        account.events[event_id] = (time, quantity)

    @rule(which=st.integers(0, 50))
    def takes_usage_back(self, which: int) -> None:
        """Only of the customer whose contract never ends: a bill below zero waits for more to be billed."""
        account = self.accounts[0]
        if account.events:
            time, quantity = account.events[sorted(account.events)[which % len(account.events)]]
            self.uses(account, time, -quantity)

    @rule(which=st.integers(0, 50), when=MOMENTS, quantity=st.one_of(st.none(), QUANTITIES))
    def corrects_usage(self, which: int, when: tuple[int, int, int], quantity: Decimal | None) -> None:
        """Void an event, or replace it by one of another quantity and time; of the same customer, as above."""
        account = self.accounts[0]
        if not account.events:
            return
        event_id = sorted(account.events)[which % len(account.events)]
        number, day, hour = when
        time = midnight(MONTHS[min(number, self.month)]) + timedelta(days=day, hours=hour)
        changes = {} if quantity is None else {"quantity": str(quantity), "time": time.isoformat()}
        named = make_corrections.named(event_id, source="tests", **changes)
        correction = make_corrections.applied(make_corrections.drafted(named, at=AFTERWARDS), at=AFTERWARDS)
        before, successor = account.events.pop(event_id), None
        if quantity is not None:
            successor = f"{event_id}#{correction.pk}"
            account.events[successor] = (time, quantity)
        account.corrected.append((correction, event_id, before, successor))

    @precondition(lambda self: self.accounts[0].corrected)
    @rule()
    def reverts_the_newest_correction(self) -> None:
        account = self.accounts[0]
        correction, event_id, before, successor = account.corrected.pop()
        make_corrections.reverted(correction, at=AFTERWARDS)
        account.events[event_id] = before
        if successor is not None:
            del account.events[successor]

    @rule()
    def folds(self) -> None:
        rollups.fold()

    @precondition(lambda self: self.run is None and self.month <= LAST)
    @rule()
    def starts_the_month(self) -> None:
        self.now = max(self.now, midnight(MONTHS[self.month + 1]) + timedelta(hours=1))
        self.begins(self.month)

    def begins(self, number: int) -> None:
        self.run = bill_runs.start_bill_run(
            legal_entity_id=self.shop.entity.pk, month=MONTHS[number], actor=self.shop.analyst, at=self.tick()
        )

    @precondition(lambda self: self.run is not None)
    @rule(limit=st.integers(1, 3))
    def drafts(self, limit: int) -> None:
        assert self.run is not None
        bill_runs.draft_chunk(run_id=self.run.pk, limit=limit, at=self.tick())

    @precondition(lambda self: self.run is not None)
    @rule()
    def redoes(self) -> None:
        assert self.run is not None
        bill_runs.redo_bill_run(run_id=self.run.pk, reason="Again", actor=self.shop.analyst, at=self.tick())

    @precondition(lambda self: self.run is not None)
    @rule(what=st.sampled_from(["approve", "approve", "approve", "reject", "withdraw", "cancel"]))
    def settles(self, what: str) -> None:
        """Draft the rest of the open run, submit it, and decide."""
        assert self.run is not None
        run_id, at = self.run.pk, self.tick()
        while bill_runs.draft_chunk(run_id=run_id, limit=2, at=at):
            pass
        if what == "cancel" or not bill_runs.progress(run_id).totals:
            self.cancels(self.run)
            self.run = None
            return
        run = bill_runs.submit_bill_run(run_id=run_id, actor=self.shop.analyst, at=self.tick())
        assert run.approval_id is not None
        if what == "withdraw":
            approvals.withdraw(request_id=run.approval_id, reason="Wait", actor=self.shop.analyst, at=self.tick())
            return
        approvals.decide(
            request_id=run.approval_id, outcome=what, comment="Seen", actor=self.shop.controller, at=self.tick()
        )
        if what == "approve":
            self.stands(run)

    def stands(self, run: BillRun) -> None:
        """Remember when each month of each contract was first drafted in a run that stands."""
        number = MONTHS.index(run.month)
        for account in self.accounts:
            for terms in account.contracts:
                item = BillRunItem.objects.filter(run=run, contract=terms.pk).exclude(state="parked").first()
                for month in [each for each in (*self.runs, number) if each <= number] if item else ():
                    assert item is not None
                    assert item.finished_at is not None
                    account.drafted.setdefault((terms.pk, month), (run.pk, item.finished_at))
        self.runs[number] = run
        self.month = max(self.month, number + 1)
        self.run = None

    def cancels(self, run: BillRun) -> None:
        bill_runs.cancel_bill_run(run_id=run.pk, reason="Wrong", actor=self.shop.analyst, at=self.tick())
        for account in self.accounts:
            account.drafted = {key: drafted for key, drafted in account.drafted.items() if drafted[0] != run.pk}

    @precondition(lambda self: self.run is None and self.runs)
    @rule(which=st.integers(0, LAST), limit=st.integers(1, 3))
    def issues(self, which: int, limit: int) -> None:
        run = self.runs[sorted(self.runs)[which % len(self.runs)]]
        self.issues_some(run, limit)

    def issues_some(self, run: BillRun, limit: int) -> int:
        issuing.start_issuing(run_id=run.pk, actor=self.shop.controller, at=self.tick())
        return issuing.issue_chunk(run_id=run.pk, limit=limit, actor=self.shop.controller, at=self.tick())

    @precondition(lambda self: self.run is None and self.runs)
    @rule()
    def cancels_the_newest_and_bills_it_anew(self) -> None:
        number = max(self.runs)
        if not Invoice.objects.filter(bill_run=self.runs[number], status="issued").exists():
            self.cancels(self.runs.pop(number))
            self.begins(number)

    @precondition(lambda self: self.run is None and len(self.runs) > 1)
    @rule()
    def cancels_the_first_and_bills_it_anew(self) -> None:
        """What later runs have caught up on stays with them, at the prices that they billed it at."""
        number = min(self.runs)
        if not Invoice.objects.filter(bill_run=self.runs[number], status="issued").exists():
            self.cancels(self.runs.pop(number))
            self.begins(number)

    @precondition(lambda self: self.run is None and len(self.versions) < 4)
    @rule(when=MOMENTS, first=QUANTITIES, above=QUANTITIES)
    def changes_prices(self, when: tuple[int, int, int], first: Decimal, above: Decimal) -> None:
        """From then on; that may be in a month that is billed, which changes nothing in it."""
        number, day, hour = when
        valid_from = midnight(MONTHS[number]) + timedelta(days=day, hours=hour)
        if valid_from > self.versions[-1].valid_from:
            self.approves_prices(valid_from, first, above, self.versions[0].fee)

    @rule(number=st.integers(0, LAST), day=st.integers(2, 28))
    def ends_the_contract_of_the_second(self, number: int, day: int) -> None:
        """Or goes on for longer; never before what was billed, for that takes a credit note."""
        terms = self.accounts[1].contracts[0]
        ends_on = MONTHS[number].replace(day=day)
        billed_until = MONTHS[self.month]
        if ends_on < billed_until and (terms.ends_on is None or terms.ends_on > ends_on):
            return
        if self.run is not None and terms.ends_on is not None:
            return
        contracts.end_contract(
            contract_id=terms.pk, ends_on=ends_on, reason="Agreed", actor=make_pricing.SYSTEM, at=self.tick()
        )
        terms.ends_on = ends_on

    @precondition(lambda self: not self.accounts[2].contracts)
    @rule(number=st.integers(0, LAST), day=st.integers(1, 28), days=st.sampled_from([20, None]))
    def signs_late(self, number: int, day: int, days: int | None) -> None:
        starts_on = MONTHS[number].replace(day=day)
        self.signs(self.accounts[2], starts_on, starts_on + timedelta(days=days) if days else None)

    def bills_everything(self) -> None:
        """Bill every month that no run stands for, and one more for what came late; then nothing is left."""
        for _ in range(MOST_ATTEMPTS):
            missing = [number for number in range(LAST + 2) if number not in self.runs]
            if not missing:
                break
            if self.run is None:
                self.now = max(self.now, midnight(MONTHS[missing[0] + 1]) + timedelta(hours=1))
                self.uses_much(missing[0])
                self.begins(missing[0])
            self.settles("approve")
        assert not missing, f"no run can stand for the months {missing}"
        for run in self.runs.values():
            while self.issues_some(run, 10):
                pass

    def uses_much(self, number: int) -> None:
        """Enough for a bill each month, and to lift each month that stands below zero because usage was taken back."""
        for month in MONTHS[: number + 1]:
            self.uses(self.accounts[0], midnight(month) + timedelta(days=1), Decimal(10000))

    def teardown(self) -> None:
        if not hasattr(self, "shop"):
            return
        self.bills_everything()
        for account in self.accounts:
            lines = InvoiceLine.objects.filter(invoice__customer=account.customer, invoice__status="issued")
            billed = lines.aggregate(amount=Sum("amount"), events=Sum("event_count"))
            owed = naive_total(account, self.versions, self.month, self.places)
            assert (billed["amount"] or 0) == owed, f"billed {billed['amount']}, owed {owed}"
        assert_every_event_is_billed_or_listed(self.shop)
        assert_all_rules_hold()


def assert_every_event_is_billed_or_listed(shop: make.Shop) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT event.customer_id, count(*) FROM usage_event event
            JOIN accounts_customer customer ON customer.id = event.customer_id
            WHERE customer.legal_entity_id = %s AND 1 = cardinality(event.series_ids) + coalesce((
                SELECT sum(sign) FROM usage_amendment amendment WHERE amendment.key = event.key
            ), 0)
            GROUP BY 1
            """,
            [shop.entity.pk],
        )
        accepted = dict(cursor.fetchall())
    for customer_id, events in accepted.items():
        lines = InvoiceLine.objects.filter(invoice__customer=customer_id, invoice__status="issued")
        listed = UnbilledUsage.objects.filter(customer=customer_id).exclude(run__status="cancelled")
        found = [each.aggregate(events=Sum("event_count"))["events"] or 0 for each in (lines, listed)]
        assert sum(found) == events, f"{events} events count; billed and listed are {found}"


def assert_all_rules_hold() -> None:
    with connection.cursor() as cursor:
        for each in RULES:
            cursor.execute(each.sql)
            assert cursor.fetchall() == [], each.name


def test_whatever_happens_everyone_pays_for_each_period_what_its_usage_costs() -> None:
    play: Callable[..., None] = run_state_machine_as_test
    play(
        Company,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
