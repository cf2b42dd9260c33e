"""Each rule of check_invariants, broken on purpose behind the database's back; and all of them in quiet times."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts.invariants import Rule
from billing.invariants import RULES
from billing.management.commands.check_invariants import breaches
from tests import make_billing as make
from tests import make_pricing

pytestmark = pytest.mark.django_db

BREACHES = {
    "billing.entries_balance": "DELETE FROM billing_journalline WHERE side = 'debit'",
    "billing.ledger_adds_up_to_nothing": "UPDATE billing_journalline SET amount = amount + 1 WHERE side = 'debit'",
    "billing.reversals_mirror_their_entries": """
        INSERT INTO billing_journalentry
            (legal_entity_id, kind, posted_on, posted_at, description, invoice_id, reversal_of_id)
        SELECT legal_entity_id, 'reversal', posted_on, posted_at, 'Forged', NULL, id FROM billing_journalentry
    """,
    "billing.journal_lines_keep_to_their_books": "UPDATE billing_journalline SET currency = 'USD'",
    "billing.receivables_are_the_open_documents": "UPDATE billing_journalline SET amount = amount * 2",
    "billing.issued_invoices_are_posted": "UPDATE billing_journalentry SET invoice_id = NULL, kind = 'reversal', "
    "reversal_of_id = id",
    "billing.totals_are_the_sums_of_lines": "UPDATE billing_invoiceline SET amount = 1, exact_amount = 1",
    "billing.steps_add_up_to_the_exact_amount": "UPDATE billing_invoiceline SET steps = '[]'",
    "billing.numbers_have_no_gap": "UPDATE billing_invoice SET sequence = 7, number = 'X-7' WHERE sequence = 2",
    "billing.only_issued_invoices_have_a_number": "UPDATE billing_invoice SET number = 'X-1' WHERE sequence = 1",
    "billing.dates_are_local": "UPDATE billing_invoice SET issued_on = issued_on - 1",
    "billing.one_currency": "UPDATE accounts_customer SET currency = 'USD'",
    "billing.runs_are_as_their_invoices": "UPDATE billing_billrun SET status = 'in_review'",
    "billing.approved_runs_hold_what_was_approved": "UPDATE billing_invoiceline SET quantity = quantity + 1",
    "billing.runs_in_review_wait_for_a_decision": "UPDATE billing_billrun SET status = 'in_review'",
    "billing.lines_name_approved_prices": "UPDATE pricing_contract SET price_book_id = 0",
    "billing.issued_invoices_have_their_papers": "DELETE FROM billing_invoicedelivery",
    "billing.acts_are_audited": "DELETE FROM accounts_auditentry WHERE verb = 'invoice.issued'",
    "billing.usage_is_billed_once_or_listed": "UPDATE billing_invoiceline SET event_count = event_count + 1",
    "billing.quantities_are_those_of_the_usage": "UPDATE usage_delta SET sum = sum + 1",
    "billing.no_period_is_billed_twice": """
        INSERT INTO billing_invoiceline (invoice_id, currency, "position", kind, product_id, price_id, "group",
            description, unit, service_period, quantity, quantity_before, exact_amount, amount, steps, series_ids,
            event_count, usage_digest)
        SELECT invoice_id, currency, "position" + 10, kind, product_id, price_id, "group", description, unit,
            service_period, quantity, quantity_before, exact_amount, amount, steps, series_ids, event_count,
            usage_digest
        FROM billing_invoiceline
    """,
    "billing.usage_without_contract_is_listed": """
        INSERT INTO billing_unbilledusage (run_id, customer_id, series_id, period, quantity, event_count, reason)
        SELECT bill_run_id, customer_id, -id, period, 1, 1, 'no_contract' FROM billing_invoice
    """,
}


def a_billed_month() -> None:
    shop = make.shop()
    for name in ("Acme Ltd", "Borealis GmbH"):
        make.use(shop, make.subscriber(shop, name=name), "150.5", on=make.OCT_10)
    stray = make_pricing.meter()
    make.use(shop, make.subscriber(shop), "3", on=make.OCT_10, event_type=stray.event_type)
    make.issued_run(shop)


def test_every_rule_is_broken_below() -> None:
    assert BREACHES.keys() == {rule.name for rule in RULES}


def test_every_rule_holds_of_a_billed_month() -> None:
    a_billed_month()

    assert {rule.name: rows for rule in RULES if (rows := breaches(rule))} == {}


def break_it(name: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(BREACHES[name])
        cursor.execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_breach_is_found(rule: Rule) -> None:
    a_billed_month()

    break_it(rule.name)

    # What came late is told by the transaction that brought it, and here there is but one.
    if rule.name != "billing.quantities_are_those_of_the_usage":
        assert breaches(rule)


@pytest.mark.django_db(transaction=True)
def test_a_quantity_that_is_not_that_of_the_usage_is_found() -> None:
    [rule] = [rule for rule in RULES if rule.name == "billing.quantities_are_those_of_the_usage"]
    a_billed_month()
    assert not breaches(rule)

    break_it(rule.name)

    assert breaches(rule)


def test_the_command_tells_each_rule_and_fails_on_a_breach() -> None:
    a_billed_month()
    quiet, loud = StringIO(), StringIO()
    call_command("check_invariants", "--json", stdout=quiet)
    break_it("billing.entries_balance")

    with pytest.raises(CommandError, match="rules are broken"):
        call_command("check_invariants", "--json", stdout=loud)

    results = [json.loads(line) for line in loud.getvalue().splitlines()]
    assert all(json.loads(line)["ok"] for line in quiet.getvalue().splitlines())
    assert {"accounts", "metering", "pricing", "billing"} == {result["rule"].partition(".")[0] for result in results}
    assert "billing.entries_balance" in {result["rule"] for result in results if not result["ok"]}


def test_the_command_knows_its_rules() -> None:
    with pytest.raises(CommandError, match="No rule"):
        call_command("check_invariants", "--only", "nothing.")
