from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from accounts import legal_entities
from accounts.access import Actor
from accounts.errors import DetailsInvalid, LegalEntityCodeTaken, LegalEntityUnknown, PermissionMissing, ReasonMissing
from accounts.legal_entities import LegalEntityDetails
from accounts.models import AuditEntry, LegalEntity
from tests import make_accounts as make
from tests.accounts.conftest import NOON

pytestmark = pytest.mark.django_db

STRATUS = LegalEntityDetails(
    name="Stratus GmbH",
    email="billing@stratus.example",
    address=make.BERLIN,
    tax_rate=Decimal(19),
)
WHY = "The law changed."


def open_stratus(actor: Actor, **changes: Any) -> LegalEntity:
    arguments: dict[str, Any] = {
        "code": "stratus",
        "currency": "EUR",
        "time_zone": "Europe/Berlin",
        "details": STRATUS,
        "actor": actor,
        "at": NOON,
    }
    return legal_entities.open_legal_entity(**(arguments | changes))


def test_a_legal_entity_is_opened_once(controller: Actor) -> None:
    first = open_stratus(controller)

    second = open_stratus(controller)

    assert first == second
    assert (first.city, first.tax_rate, first.history.get().history_user_id) == (
        "Berlin",
        Decimal(19),
        controller.user_id,
    )
    assert AuditEntry.objects.filter(verb="legal_entity.opened").count() == 1


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("code", {"code": "with space"}),
        ("currency", {"currency": "EURO"}),
        ("time_zone", {"time_zone": "Berlin"}),
        ("time_zone", {"time_zone": "localtime"}),
        ("email", {"details": replace(STRATUS, email="")}),
        ("tax_rate", {"details": replace(STRATUS, tax_rate=Decimal(101))}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_details_are_named_by_field(controller: Actor, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(DetailsInvalid) as refusal:
        open_stratus(controller, **changes)

    assert list(refusal.value.fields) == [field]


def test_a_code_belongs_to_one_company_and_opening_needs_the_permission(controller: Actor, analyst: Actor) -> None:
    open_stratus(controller)

    with pytest.raises(LegalEntityCodeTaken, match="Stratus"):
        open_stratus(controller, currency="USD")
    with pytest.raises(PermissionMissing):
        open_stratus(analyst)


@pytest.mark.parametrize(
    "zone",
    [
        pytest.param("Asia/Kolkata", id="half an hour all year"),
        pytest.param("Asia/Kathmandu", id="a quarter of an hour"),
        pytest.param("Australia/Lord_Howe", id="half an hour in winter only"),
        pytest.param("America/St_Johns", id="behind UTC"),
    ],
)
def test_a_legal_entity_whose_days_begin_within_an_hour_is_refused(controller: Actor, zone: str) -> None:
    with pytest.raises(DetailsInvalid) as refusal:
        open_stratus(controller, time_zone=zone)

    assert "begin within an hour of UTC" in refusal.value.fields["time_zone"][0]
    assert not LegalEntity.objects.exists()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Auckland", "Asia/Tokyo", "Africa/Casablanca"])
def test_a_legal_entity_may_stand_wherever_days_begin_on_the_hour(controller: Actor, zone: str) -> None:
    entity = open_stratus(controller, time_zone=zone)

    assert entity.time_zone == zone


def test_a_change_keeps_before_and_after_and_why(controller: Actor) -> None:
    stratus = open_stratus(controller)
    details = replace(STRATUS, tax_rate=Decimal("16.5"))

    for _ in range(2):
        legal_entities.change_legal_entity(
            legal_entity_id=stratus.pk,
            details=details,
            reason=WHY,
            actor=controller,
            at=NOON,
        )

    stratus.refresh_from_db()
    assert stratus.tax_rate == Decimal("16.5")
    assert stratus.history.latest().history_change_reason == WHY
    entry = AuditEntry.objects.get(verb="legal_entity.changed")
    assert entry.data["changes"] == {"tax_rate": {"before": "19.0000", "after": "16.5"}}


def test_a_change_needs_a_reason_a_company_and_the_permission(controller: Actor, analyst: Actor) -> None:
    stratus = open_stratus(controller)

    def change(actor: Actor, *, entity_id: int = stratus.pk, reason: str = WHY) -> None:
        legal_entities.change_legal_entity(
            legal_entity_id=entity_id,
            details=STRATUS,
            reason=reason,
            actor=actor,
            at=NOON,
        )

    with pytest.raises(ReasonMissing):
        change(controller, reason="")
    with pytest.raises(LegalEntityUnknown):
        change(controller, entity_id=make.UNKNOWN_ID)
    with pytest.raises(PermissionMissing):
        change(analyst)
