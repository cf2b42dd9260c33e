"""`manage.py bill`: a month drafted on the spot, told in words and as JSON."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing.models import Invoice
from tests import make_billing as make
from tests import make_pricing

pytestmark = pytest.mark.django_db


def bill(*arguments: str) -> str:
    out = StringIO()
    call_command("bill", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_a_month_is_billed_on_the_spot() -> None:
    shop = make.shop()
    parked = make.subscriber(shop, book=make_pricing.price_book())
    for customer in (make.subscriber(shop), parked):
        make.use(shop, customer, "100", on=make.OCT_10)

    [line] = bill("--period", "2026-10", "--json").splitlines()
    again = json.loads(bill("--period", "2026-10", "--entity", shop.entity.code, "--json"))

    result = json.loads(line)
    assert result == again
    assert (result["invoices"], result["parked"], result["totals"]) == (1, 1, {"EUR": "59.50"})
    assert result["parked_contracts"][0]["customer"] == parked.code
    assert Invoice.objects.count() == 1


def test_the_result_is_told_in_words() -> None:
    shop = make.shop()
    make.use(shop, make.subscriber(shop), "100", on=make.OCT_10)

    told = bill("--period", "2026-10")

    assert "1 invoices, 0 with nothing to bill, 0 parked" in told
    assert "59.50 EUR" in told


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--period", "October"], "not a month"),
        (["--period", "2026-10", "--entity", "nobody"], "no legal entity with the code 'nobody'"),
        (["--period", "2026-10"], "no legal entity"),
    ],
)
def test_what_cannot_be_billed_is_refused(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem):
        bill(*arguments)


def test_a_month_that_is_not_over_is_told_and_fails() -> None:
    shop = make.shop()
    make.subscriber(shop)

    with pytest.raises(CommandError, match="Nothing was billed"):
        bill("--period", "2099-10")
