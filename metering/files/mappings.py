"""Mappings as records: named, edited by staff, offered when a file is loaded."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from accounts import audit, history
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.validation import require_reason
from metering.errors import MappingNameInvalid, MappingNameTaken, MappingUnknown
from metering.models import UsageFileMapping
from metering.sources.mapping import ColumnMapping

_LONGEST_NAME = 120


@transaction.atomic
def define_mapping(*, name: str, mapping: ColumnMapping, actor: Actor, at: datetime) -> UsageFileMapping:
    """Keep a mapping under a name; the same again returns the one that is there.

    Raises: PermissionMissing, MappingNameInvalid, MappingNameTaken.
    """
    actor.require(Permission.LOAD_USAGE)
    _require_name(name)
    known = UsageFileMapping.objects.filter(name=name).first()
    if known is not None and known.spec == mapping.as_json():
        return known
    record = UsageFileMapping(name=name, spec=mapping.as_json())
    with named("file_mapping_name_is_unique", MappingNameTaken):
        history.save(record, actor=actor, at=at)
    audit.record(actor=actor, verb="usage_file_mapping.defined", subject=record, at=at)
    return record


@transaction.atomic
def change_mapping(
    *,
    mapping_id: int,
    name: str,
    mapping: ColumnMapping,
    is_active: bool,
    reason: str,
    actor: Actor,
    at: datetime,
) -> UsageFileMapping:
    """Change a mapping; files that were loaded by it keep the mapping as it was.

    Raises: PermissionMissing, ReasonMissing, MappingUnknown, MappingNameInvalid, MappingNameTaken.
    """
    actor.require(Permission.LOAD_USAGE)
    require_reason(reason)
    _require_name(name)
    record = UsageFileMapping.objects.select_for_update(no_key=True).filter(pk=mapping_id).first()
    if record is None:
        raise MappingUnknown
    if (record.name, record.spec, record.is_active) == (name, mapping.as_json(), is_active):
        return record
    record.name, record.spec, record.is_active = name, mapping.as_json(), is_active
    with named("file_mapping_name_is_unique", MappingNameTaken):
        history.save(record, reason=reason, actor=actor, at=at)
    audit.record(actor=actor, verb="usage_file_mapping.changed", subject=record, at=at, reason=reason)
    return record


def _require_name(name: str) -> None:
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise MappingNameInvalid
