"""Opens the operator's companies that issue invoices, and keeps their details."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from decimal import Decimal

from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.errors import LegalEntityCodeTaken, LegalEntityUnknown
from accounts.models import LegalEntity
from accounts.postal import Address
from accounts.validation import change_fields, require_reason, require_valid


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalEntityDetails:
    """What staff may change about a legal entity. `tax_rate` is in percent; `email` is the sender of its invoices."""

    name: str
    email: str
    address: Address = field(default_factory=Address)
    registration: str = ""
    tax_id: str = ""
    bank_name: str = ""
    bank_account: str = ""
    bank_code: str = ""
    tax_name: str = "VAT"
    tax_rate: Decimal = Decimal(0)

    def values(self) -> dict[str, object]:
        """Return the details by the names of the model's fields."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "address"}
        return own | asdict(self.address)


@transaction.atomic
def open_legal_entity(
    *,
    code: str,
    currency: str,
    time_zone: str,
    details: LegalEntityDetails,
    is_synthetic: bool = False,
    actor: Actor,
    at: datetime,
) -> LegalEntity:
    """Open a company; `currency` (ISO 4217) and `time_zone` (IANA) are settled for good, for periods hang on them.

    The same code with the same name, currency and time zone again returns the company opened the first time.

    Raises: PermissionMissing, DetailsInvalid, LegalEntityCodeTaken.
    """
    actor.require(Permission.EDIT_LEGAL_ENTITIES)
    entity = LegalEntity(
        code=code,
        currency=currency,
        time_zone=time_zone,
        is_synthetic=is_synthetic,
        **details.values(),
    )
    require_valid(entity)
    existing = LegalEntity.objects.filter(code=code).first()
    if existing is not None:
        if (existing.name, existing.currency, existing.time_zone) == (entity.name, currency, time_zone):
            return existing
        msg = f"The code {code} already belongs to {existing.name}."
        raise LegalEntityCodeTaken(msg)

    with named("legal_entity_code_is_unique", LegalEntityCodeTaken):
        history.save(entity, actor=actor, at=at)
    audit.record(actor=actor, verb="legal_entity.opened", subject=entity, at=at)
    return entity


@transaction.atomic
def change_legal_entity(
    *,
    legal_entity_id: int,
    details: LegalEntityDetails,
    reason: str,
    actor: Actor,
    at: datetime,
) -> LegalEntity:
    """Replace a company's details; issued documents keep what they printed. Changing nothing writes nothing.

    Raises: PermissionMissing, ReasonMissing, LegalEntityUnknown, DetailsInvalid.
    """
    actor.require(Permission.EDIT_LEGAL_ENTITIES)
    require_reason(reason)
    entity = LegalEntity.objects.select_for_update(no_key=True).filter(pk=legal_entity_id).first()
    if entity is None:
        raise LegalEntityUnknown
    changes = change_fields(entity, details.values())
    if not changes:
        return entity

    history.save(entity, update_fields=list(changes), reason=reason, actor=actor, at=at)
    audit.record(
        actor=actor,
        verb="legal_entity.changed",
        subject=entity,
        at=at,
        reason=reason,
        data={"changes": changes},
    )
    return entity
