"""A synthetic GPU cloud: three months of invented usage, so that pages and charts look like a working company.

Everything here is made up, says so wherever it is shown, and comes out the same from the same seed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

SEED = 20_240_901
SOURCE = "synthetic/nimbus/metering"
HOURS_BETWEEN_READINGS = 4
CUSTOMER_FILE = Path(__file__).parent / "data" / "gpu_customers.csv"

GPU_TYPE = "nimbus.gpu.usage"
STORAGE_TYPE = "nimbus.storage.usage"
EGRESS_TYPE = "nimbus.network.egress"

REGIONS = ("eu-north-1", "eu-central-1", "us-east-1")


@dataclass(frozen=True, slots=True)
class SyntheticMeter:
    """A meter of the synthetic cloud."""

    code: str
    name: str
    event_type: str
    value_path: str
    unit: str
    dimensions: tuple[str, ...]
    aggregation: str = "sum"


METERS = (
    SyntheticMeter("gpu-hours", "GPU hours", GPU_TYPE, "hours", "GPU-h", ("gpu", "region")),
    SyntheticMeter("storage", "Storage", STORAGE_TYPE, "gb_hours", "GB-h", ("class", "region")),
    SyntheticMeter("egress", "Network egress", EGRESS_TYPE, "gb", "GB", ("region",)),
)


@dataclass(frozen=True, slots=True)
class SyntheticProduct:
    """A product of the synthetic cloud with its price, as JSON."""

    sku: str
    name: str
    group: str
    unit: str
    meter: str
    filter: dict[str, str]
    price: dict[str, object]


PRODUCTS = (
    SyntheticProduct(
        "gpu-h200",
        "NVIDIA H200 141 GB",
        "GPU compute",
        "GPU-h",
        "gpu-hours",
        {"gpu": "h200"},
        {
            "model": "graduated",
            "tiers": [
                {"up_to": "2000", "unit_price": "3.79"},
                {"up_to": "10000", "unit_price": "3.49"},
                {"up_to": None, "unit_price": "3.19"},
            ],
        },
    ),
    SyntheticProduct(
        "gpu-h100",
        "NVIDIA H100 SXM 80 GB",
        "GPU compute",
        "GPU-h",
        "gpu-hours",
        {"gpu": "h100"},
        {
            "model": "graduated",
            "tiers": [
                {"up_to": "1000", "unit_price": "2.99"},
                {"up_to": "5000", "unit_price": "2.79"},
                {"up_to": None, "unit_price": "2.49"},
            ],
        },
    ),
    SyntheticProduct(
        "gpu-a100",
        "NVIDIA A100 80 GB",
        "GPU compute",
        "GPU-h",
        "gpu-hours",
        {"gpu": "a100"},
        {"model": "per_unit", "unit_price": "1.49"},
    ),
    SyntheticProduct(
        "gpu-l40s",
        "NVIDIA L40S 48 GB",
        "GPU compute",
        "GPU-h",
        "gpu-hours",
        {"gpu": "l40s"},
        {"model": "per_unit", "unit_price": "0.89"},
    ),
    SyntheticProduct(
        "storage-nvme",
        "Block storage, NVMe",
        "Storage",
        "GB-h",
        "storage",
        {"class": "nvme"},
        {"model": "per_unit", "unit_price": "0.000137"},
    ),
    SyntheticProduct(
        "storage-object",
        "Object storage",
        "Storage",
        "GB-h",
        "storage",
        {"class": "object"},
        {
            "model": "graduated",
            "tiers": [
                {"up_to": "1000000", "unit_price": "0.000029"},
                {"up_to": None, "unit_price": "0.000024"},
            ],
        },
    ),
    SyntheticProduct(
        "egress",
        "Network egress",
        "Network",
        "GB",
        "egress",
        {},
        {
            "model": "graduated",
            "tiers": [
                {"up_to": "1000", "unit_price": "0"},
                {"up_to": "50000", "unit_price": "0.049"},
                {"up_to": None, "unit_price": "0.029"},
            ],
        },
    ),
    SyntheticProduct(
        "platform-fee",
        "Platform and support",
        "Fees",
        "month",
        "",
        {},
        {"model": "flat", "amount": "99.00"},
    ),
)

# From the third month on: the H100 gets cheaper.
PRICE_CUT: dict[str, dict[str, object]] = {
    "gpu-h100": {
        "model": "graduated",
        "tiers": [
            {"up_to": "1000", "unit_price": "2.89"},
            {"up_to": "5000", "unit_price": "2.59"},
            {"up_to": None, "unit_price": "2.29"},
        ],
    },
}
# Submitted and waiting for its approver.
PROPOSED_CHANGE: dict[str, dict[str, object]] = {
    "gpu-a100": {"model": "per_unit", "unit_price": "1.39"},
    "storage-nvme": {"model": "per_unit", "unit_price": "0.000129"},
}


@dataclass(frozen=True, slots=True)
class SyntheticCustomer:
    """An invented customer; `size` is how many GPUs of its largest kind it runs."""

    code: str
    name: str
    street: str
    postal_code: str
    city: str
    country: str
    locale: str
    tax_id: str
    size: int
    gpus: tuple[str, ...]

    @property
    def tax_treatment(self) -> str:
        """Domestic customers pay German VAT, others in the EU owe it themselves, the rest is outside its scope."""
        if self.country == "DE":
            return "standard"
        return "reverse_charge" if self.tax_id else "exempt"


def customers() -> list[SyntheticCustomer]:
    """Return the invented customers, from the file beside the sample data."""
    with CUSTOMER_FILE.open(encoding="utf-8", newline="") as file:
        return [
            SyntheticCustomer(
                code=row["code"],
                name=row["name"],
                street=row["street"],
                postal_code=row["postal_code"],
                city=row["city"],
                country=row["country"],
                locale=row["locale"],
                tax_id=row["tax_id"],
                size=int(row["size"]),
                gpus=tuple(row["gpus"].split()),
            )
            for row in csv.DictReader(file)
        ]


def usage_events(month_index: int, start: datetime, end: datetime) -> Iterator[dict[str, object]]:
    """Yield the CloudEvents of one month `[start, end)` for all customers; usage grows a little month by month."""
    for customer in customers():
        yield from _customer_events(customer, month_index, start, end)


def _customer_events(
    customer: SyntheticCustomer,
    month_index: int,
    start: datetime,
    end: datetime,
) -> Iterator[dict[str, object]]:
    # A generator of its own for each customer and month, so that adding a customer changes nobody else's usage.
    random = Random(f"{SEED}/{customer.code}/{month_index}")  # noqa: S311 - invented usage, not a secret
    regions = {gpu: random.choice(REGIONS) for gpu in customer.gpus}
    growth = Decimal(100 + random.randint(-4, 14) * month_index) / 100
    stored_gb = customer.size * random.randint(300, 900)
    moment, reading = start, 0
    while moment < end:
        for position, gpu in enumerate(customer.gpus):
            share = Decimal(customer.size) / (position + 1)
            busy = _busy_percent(random, moment)
            hours = (share * growth * busy * HOURS_BETWEEN_READINGS / 100).quantize(Decimal("0.01"))
            data = {"hours": str(hours), "gpu": gpu, "region": regions[gpu]}
            yield event(customer, GPU_TYPE, f"{gpu}-{reading}", moment, data)
        if moment.hour < HOURS_BETWEEN_READINGS:
            yield from _daily_events(customer, random, moment, stored_gb)
        moment += timedelta(hours=HOURS_BETWEEN_READINGS)
        reading += 1


def _daily_events(
    customer: SyntheticCustomer,
    random: Random,
    moment: datetime,
    stored_gb: int,
) -> Iterator[dict[str, object]]:
    region = REGIONS[customer.size % len(REGIONS)]
    day = moment.date().isoformat()
    nvme = {"gb_hours": str(stored_gb * 24), "class": "nvme", "region": region}
    yield event(customer, STORAGE_TYPE, f"nvme-{day}", moment, nvme)
    objects = {"gb_hours": str(stored_gb * random.randint(60, 90)), "class": "object", "region": region}
    yield event(customer, STORAGE_TYPE, f"object-{day}", moment, objects)
    egress = {"gb": str(Decimal(random.randint(200, 9_000) * customer.size) / 100), "region": region}
    yield event(customer, EGRESS_TYPE, f"egress-{day}", moment, egress)


def _busy_percent(random: Random, moment: datetime) -> int:
    """How much of its GPUs a customer keeps busy: less at night, less at the weekend."""
    busy = random.randint(72, 100)
    if moment.weekday() >= 5:  # noqa: PLR2004 - Saturday and Sunday
        busy -= 14
    if moment.hour < 6 or moment.hour >= 20:  # noqa: PLR2004 - the night
        busy -= 18
    return busy


def event(
    customer: SyntheticCustomer,
    event_type: str,
    name: str,
    moment: datetime,
    data: dict[str, str],
) -> dict[str, object]:
    """Return one CloudEvent of a customer; `name` is unique within its month."""
    return {
        "specversion": "1.0",
        "id": f"{customer.code}/{moment:%Y-%m}/{name}",
        "source": SOURCE,
        "type": event_type,
        "subject": project_of(customer),
        "time": moment.isoformat(),
        "data": {**data, "synthetic": True},
    }


def project_of(customer: SyntheticCustomer) -> str:
    """Return the name under which a customer's usage arrives."""
    return f"nimbus-project-{customer.code.lower()}"


def first_months(latest: date, count: int = 3) -> list[date]:
    """Return the first days of `count` complete months, the last one before the month of `latest`."""
    months: list[date] = []
    day = latest.replace(day=1)
    for _ in range(count):
        day = (day - timedelta(days=1)).replace(day=1)
        months.append(day)
    return months[::-1]
