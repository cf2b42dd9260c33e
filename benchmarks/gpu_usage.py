"""The usage of a GPU cloud, for benchmarks: 200 projects of 100 customers report seconds by region and GPU type.

The events lie in the last two hours; each has an identity that no other has.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

import msgspec
from django.utils import timezone

from accounts.access import Actor
from accounts.customers import CustomerDetails, open_customer
from accounts.legal_entities import LegalEntityDetails, open_legal_entity
from metering.attribution import NewAssignment, assign_subjects
from metering.meters.meters import define_meter
from metering.models import Meter

BATCH = 1_000
HOUSE = Actor.system("benchmark")

CUSTOMERS = 100
SUBJECTS = 200
REGIONS = ("us-east", "us-west", "eu-central", "ap-south")
GPUS = ("h100", "a100", "l40s")

_serial = count()


def bodies(batches: int) -> list[bytes]:
    now = timezone.now()
    return [msgspec.json.encode([event(next(_serial), now) for _ in range(BATCH)]) for _ in range(batches)]


def event(serial: int, now: datetime) -> dict[str, object]:
    project = serial * 7919 % SUBJECTS
    moment = now - timedelta(seconds=serial * 31 % 7_200, milliseconds=serial % 1_000)
    return {
        "specversion": "1.0",
        "id": f"bench-{serial:012}",
        "source": f"cluster/{project % 8}",
        "type": "gpu.used",
        "subject": f"project-{project:04}",
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {
            "region": REGIONS[project % len(REGIONS)],
            "gpu": GPUS[project % len(GPUS)],
            "seconds": f"{serial % 3_600}.{serial % 1_000:03}",
            "node": f"node-{serial % 512:03}",
        },
    }


def open_the_shop() -> None:
    at = timezone.now()
    entity = open_legal_entity(
        code="bench",
        currency="EUR",
        time_zone="UTC",
        details=LegalEntityDetails(name="Benchmark Cloud", email="billing@bench.example"),
        actor=HOUSE,
        at=at,
    )
    customers = [
        open_customer(
            legal_entity_id=entity.pk,
            code=f"bench-{number:03}",
            currency="EUR",
            details=CustomerDetails(name=f"Customer {number}"),
            actor=HOUSE,
            at=at,
        )
        for number in range(CUSTOMERS)
    ]
    define_meter(
        code="gpu-seconds",
        name="GPU seconds",
        event_type="gpu.used",
        aggregation=Meter.Aggregation.SUM,
        value_path="seconds",
        unit="s",
        dimensions=["region", "gpu"],
        actor=HOUSE,
        at=at,
    )
    assign_subjects(
        assignments=[
            NewAssignment(
                name=f"project-{number:04}",
                customer_id=customers[number % CUSTOMERS].pk,
                starts_at=at - timedelta(days=365),
            )
            for number in range(SUBJECTS)
        ],
        actor=HOUSE,
        at=at,
    )
