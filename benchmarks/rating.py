"""rate_core: graduated prices of four tiers, rated one after the other on one core."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random
from statistics import median
from time import perf_counter

from pricing.rating import Usage, parse_price, rate

RUNS = 7
RATINGS = 50_000
BUDGET = 100_000

PRICE = {
    "model": "graduated",
    "tiers": [
        {"up_to": "100", "unit_price": "0.10", "flat_amount": "5"},
        {"up_to": "1000", "unit_price": "0.08"},
        {"up_to": "10000", "unit_price": "0.06"},
        {"up_to": None, "unit_price": "0.045"},
    ],
}


def run() -> Iterator[dict[str, object]]:
    """Measure ratings a second; quantities are spread over all four tiers."""
    price = parse_price(PRICE)
    random = Random(1)
    usages = [Usage(Decimal(random.randrange(1, 2_000_000)) / 100) for _ in range(RATINGS)]
    rates = []
    for _ in range(RUNS):
        start = perf_counter()
        for usage in usages:
            rate(price, usage, "EUR")
        rates.append(RATINGS / (perf_counter() - start))
    yield {
        "name": "rate_core",
        "value": round(median(rates)),
        "unit": "ratings/s",
        "budget": BUDGET,
        "runs": [round(value) for value in rates],
    }
