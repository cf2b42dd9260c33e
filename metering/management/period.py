"""What commands over a period of usage take: months of UTC, and a customer by number."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from accounts.models import Customer
from accounts.periods import Period, month_period, parse_month
from metering.verification import months_kept


def add_arguments(parser: ArgumentParser, *, period_required: bool) -> None:
    """Take `--period`, `--customer` and `--json`."""
    parser.add_argument("--period", required=period_required, metavar="YYYY-MM", help="one month (of UTC)")
    parser.add_argument("--customer", metavar="NUMBER", help="only the customer of this number")
    parser.add_argument("--json", action="store_true", help="print one line of JSON a month")


def customer_id_of(options: dict[str, Any]) -> int | None:
    """Return the id of the customer asked for, None for all. Raises: CommandError."""
    if not options["customer"]:
        return None
    customer_id = Customer.objects.filter(code=options["customer"]).values_list("pk", flat=True).first()
    if customer_id is None:
        msg = f"No customer has the number {options['customer']!r}."
        raise CommandError(msg)
    return customer_id


def months_of(options: dict[str, Any]) -> list[tuple[str, Period]]:
    """Return the month asked for, or all months that hold usage. Raises: MonthInvalid."""
    months = [parse_month(options["period"])] if options["period"] else months_kept()
    return [(str(month), month_period(month.year, month.month, "UTC")) for month in months]
