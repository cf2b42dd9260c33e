"""Writes the audit log: which verb who did to what, in the same transaction as the act itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Model

from accounts.access import Actor
from accounts.models import AuditEntry
from accounts.request_context import current_request_id

_LABEL_LENGTH = 254


def record(
    *,
    actor: Actor,
    verb: str,
    subject: Model,
    at: datetime,
    reason: str = "",
    data: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Add one entry; to be called inside the transaction of the act, as its last step.

    `verb` is the noun and what was done to it, such as `invoice.issued`. `data` may hold Decimals, dates and moments;
    they are kept as strings.
    """
    entry = _entry(actor=actor, verb=verb, subject=subject, at=at, reason=reason, data=data)
    entry.save(force_insert=True)
    return entry


def record_many(
    *,
    actor: Actor,
    verb: str,
    subjects: Iterable[Model],
    at: datetime,
    reason: str = "",
) -> int:
    """Add one entry for each subject with one statement for each thousand; returns how many were added."""
    entries = [_entry(actor=actor, verb=verb, subject=subject, at=at, reason=reason, data=None) for subject in subjects]
    AuditEntry.objects.bulk_create(entries, batch_size=1000)
    return len(entries)


def _entry(
    *,
    actor: Actor,
    verb: str,
    subject: Model,
    at: datetime,
    reason: str,
    data: Mapping[str, Any] | None,
) -> AuditEntry:
    return AuditEntry(
        at=at,
        actor_id=actor.user_id,
        api_key_id=actor.api_key_id,
        actor_label=actor.label[:_LABEL_LENGTH],
        verb=verb,
        subject_type=subject._meta.label_lower,
        subject_id="" if subject.pk is None else str(subject.pk),
        subject_label=str(subject)[:_LABEL_LENGTH],
        reason=reason,
        request_id=actor.request_id or current_request_id(),
        data=dict(data or {}),
    )
