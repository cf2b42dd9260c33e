from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from accounts.access import Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from metering.errors import MeterCodeTaken, MeterInvalid
from metering.meters.meters import change_meter, define_meter
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

GPU: dict[str, Any] = {
    "code": "gpu-hours",
    "name": "GPU hours",
    "event_type": "gpu.used",
    "aggregation": "sum",
    "value_path": "hours",
    "unit": "h",
    "dimensions": ["gpu"],
}


def test_defining_a_meter_writes_history_and_audit() -> None:
    manager = make_accounts.actor(Role.PRODUCT_MANAGER)

    meter = define_meter(**GPU, actor=manager, at=NOON)

    assert meter.is_active
    assert meter.history.get().history_user_id == manager.user_id
    assert AuditEntry.objects.get(verb="meter.defined").subject_id == str(meter.pk)


def test_defining_the_same_again_returns_the_first() -> None:
    first = define_meter(**GPU, event_filter={"spot": True}, actor=SYSTEM, at=NOON)

    second = define_meter(**GPU, event_filter={"spot": True}, actor=SYSTEM, at=NOON)

    assert second == first
    assert AuditEntry.objects.filter(verb="meter.defined").count() == 1


@pytest.mark.parametrize(
    "change", [{"name": "GPU time"}, {"unit": "s"}, {"divisor": Decimal(60)}, {"event_filter": {"spot": 1}}]
)
def test_a_code_is_taken_once(change: dict[str, Any]) -> None:
    define_meter(**{**GPU, "event_filter": {"spot": True}}, actor=SYSTEM, at=NOON)

    with pytest.raises(MeterCodeTaken):
        define_meter(**{**GPU, "event_filter": {"spot": True}, **change}, actor=SYSTEM, at=NOON)


@pytest.mark.parametrize(
    "change",
    [
        {"code": "no spaces"},
        {"name": ""},
        {"aggregation": "median"},
        {"aggregation": "count"},
        {"value_path": ""},
        {"dimensions": ["gpu", "gpu"]},
        {"dimensions": ["(customer)"]},
        {"divisor": Decimal(0)},
        {"divisor": Decimal("NaN")},
        {"divisor": Decimal("1e38")},
        {"aggregation": "unique", "divisor": Decimal(2)},
        {"aggregation": "unique", "conversion": Decimal(2)},
        {"event_filter": {"tier": ["spot"]}},
        {"event_filter": {"price": 1.5}},
    ],
)
def test_a_meter_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MeterInvalid):
        define_meter(**{**GPU, **change}, actor=SYSTEM, at=NOON)


RESTING: dict[str, Any] = {"name": "Seconds of GPU", "is_active": False, "series_limit": 10_000}


def test_a_meter_takes_another_name_and_rests_with_a_reason() -> None:
    meter = make.meter()

    for _ in range(2):
        change_meter(
            meter_id=meter.pk,
            name="Seconds of GPU",
            is_active=False,
            series_limit=10_000,
            reason="replaced",
            actor=SYSTEM,
            at=NOON,
        )

    meter.refresh_from_db()
    assert (meter.name, meter.is_active, meter.history.count()) == ("Seconds of GPU", False, 2)
    assert AuditEntry.objects.get(verb="meter.changed").reason == "replaced"


def test_meters_take_the_permission() -> None:
    support, meter = make_accounts.actor(Role.SUPPORT), make.meter()

    with pytest.raises(PermissionMissing):
        define_meter(**GPU, actor=support, at=NOON)
    with pytest.raises(PermissionMissing):
        change_meter(meter_id=meter.pk, **{**RESTING, "name": "x"}, reason="because", actor=support, at=NOON)


def test_changing_a_meter_takes_a_reason_and_a_name() -> None:
    meter = make.meter()

    with pytest.raises(ReasonMissing):
        change_meter(meter_id=meter.pk, **{**RESTING, "name": "x"}, reason=" ", actor=SYSTEM, at=NOON)
    with pytest.raises(MeterInvalid):
        change_meter(meter_id=meter.pk, **{**RESTING, "name": ""}, reason="because", actor=SYSTEM, at=NOON)
