"""What the synthetic GPU cloud sells besides hours: transit by its 95th percentile, volumes by the hour, and users.

Invented like the rest of it. These are the kinds of usage that do not add up event by event: bursts that are left out,
a size that holds until it is changed, and people who count once a month however often they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Final

from billing.demo.gpu_cloud import REGIONS, SEED, SyntheticCustomer, SyntheticMeter, SyntheticProduct, customers, event

TRANSIT_TYPE: Final = "nimbus.network.transit"
VOLUME_TYPE: Final = "nimbus.volume.size"
SIGN_IN_TYPE: Final = "nimbus.console.sign_in"

METERS: Final = (
    SyntheticMeter("transit-p95", "IP transit, 95th percentile", TRANSIT_TYPE, "mbps", "Mbit/s", ("port",), "p95"),
    SyntheticMeter("volumes", "Provisioned volumes", VOLUME_TYPE, "gb", "GB", ("volume", "region"), "gauge"),
    SyntheticMeter("active-users", "Active console users", SIGN_IN_TYPE, "user", "user", (), "unique"),
)

PRODUCTS: Final = (
    SyntheticProduct(
        "transit-95th",
        "IP transit, 95th percentile of the month",
        "Network",
        "Mbit/s",
        "transit-p95",
        {},
        {
            "model": "graduated",
            "tiers": [{"up_to": "500", "unit_price": "0.42"}, {"up_to": None, "unit_price": "0.31"}],
        },
    ),
    SyntheticProduct(
        "volume",
        "Provisioned volumes",
        "Storage",
        "GB-h",
        "volumes",
        {},
        {"model": "per_unit", "unit_price": "0.000089"},
    ),
    SyntheticProduct(
        "console-user",
        "Active console users",
        "Fees",
        "user",
        "active-users",
        {},
        {
            "model": "graduated",
            "tiers": [{"up_to": "3", "unit_price": "0"}, {"up_to": None, "unit_price": "4.00"}],
        },
    ),
)

# Who has a port of its own, and how many Mbit/s it is good for.
PORTS: Final = {"N-1001": 1_000, "N-1004": 10_000}
# The port carries traffic for two hours a night, 20 to 22 o'clock UTC: some 720 of a month's 8,640 five-minute slots,
# of which the 432 highest are left out.
_NIGHT_BEGINS: Final = timedelta(hours=20)
_SLOTS_A_NIGHT: Final = 24
_SLOT: Final = timedelta(minutes=5)


def usage_events(month_index: int, start: datetime, end: datetime) -> Iterator[dict[str, object]]:
    """Yield the CloudEvents of one month `[start, end)` for all customers."""
    for customer in customers():
        for events in (_transit, _volume_sizes, _sign_ins):
            yield from events(customer, month_index, start, end)


def _transit(
    customer: SyntheticCustomer, month_index: int, start: datetime, end: datetime
) -> Iterator[dict[str, object]]:
    """The rate of a port in each five minutes that carry traffic, as its router reports it, once for each."""
    limit = PORTS.get(customer.code)
    if limit is None:
        return
    random = _random(customer, "transit", month_index)
    night = start.replace(hour=0, minute=0) + _NIGHT_BEGINS
    while night < end:
        for slot in range(_SLOTS_A_NIGHT):
            moment = night + slot * _SLOT
            percent = random.randint(70, 98) if random.randint(1, 10) == 1 else random.randint(12 + 4 * month_index, 45)
            if start <= moment < end:
                data = {"mbps": f"{Decimal(limit * percent) / 100:f}", "port": f"{customer.code.lower()}-a"}
                yield event(customer, TRANSIT_TYPE, f"transit-{moment:%d-%H%M}", moment, data)
        night += timedelta(days=1)


def _volume_sizes(
    customer: SyntheticCustomer, month_index: int, start: datetime, end: datetime
) -> Iterator[dict[str, object]]:
    """A volume says its size when it is made, grown or removed (0), and nothing in the months between."""
    sizes = _random(customer, "volumes", 0)
    random = _random(customer, "volume-changes", month_index)
    for number in range(1, 3 + customer.size // 32):
        first_gb = customer.size * sizes.randint(4, 20) * 10
        removed_in = sizes.choice((0, 0, 0, 1, 2))
        moment = start + timedelta(minutes=random.randrange(25 * 24 * 4) * 15)
        grows = random.randint(1, 5) <= 2  # noqa: PLR2004 - two of five
        if month_index == 0:
            gb = first_gb
        elif month_index == removed_in:
            gb = 0
        elif grows and not 0 < removed_in < month_index:
            gb = first_gb * (100 + 25 * month_index) // 100
        else:
            continue
        if moment < end:
            region = REGIONS[customer.size % len(REGIONS)]
            data = {"gb": str(gb), "volume": f"vol-{number}", "region": region}
            yield event(customer, VOLUME_TYPE, f"vol-{number}", moment, data)


def _sign_ins(
    customer: SyntheticCustomer, month_index: int, start: datetime, end: datetime
) -> Iterator[dict[str, object]]:
    """People sign in to the console, once or several times a month, or not at all."""
    random = _random(customer, "users", month_index)
    for user in range(1, 4 + customer.size // 8):
        for time in range(random.randint(0, 3)):
            moment = start + timedelta(days=random.randrange(28), minutes=random.randrange(6 * 60, 18 * 60))
            if moment < end:
                yield event(customer, SIGN_IN_TYPE, f"user-{user}-{time}", moment, {"user": f"user-{user:02}"})


def _random(customer: SyntheticCustomer, what: str, month_index: int) -> Random:
    # A generator of its own for each, so that what is added later changes nothing that was there.
    return Random(f"{SEED}/{customer.code}/{what}/{month_index}")  # noqa: S311 - invented usage, not a secret
