"""Saves what staff edit so that its history names the actor, the reason and the moment.

The actor of the verb is the truth, not whoever happens to be signed in on this thread; so a job, a command and a
page write the same history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from django.db import models
from simple_history.utils import bulk_create_with_history, bulk_update_with_history

from accounts.access import Actor
from accounts.models import User

AnyModel = TypeVar("AnyModel", bound=models.Model)


def save(
    instance: models.Model,
    *,
    update_fields: Iterable[str] | None = None,
    reason: str = "",
    actor: Actor,
    at: datetime,
) -> None:
    """Save one record and its history row; to be called inside the verb's transaction."""
    _stamp(instance, reason=reason, actor=actor, at=at)
    instance.save(update_fields=update_fields)


def delete(instance: models.Model, *, reason: str, actor: Actor, at: datetime) -> None:
    """Delete one record that is no fact of record; its history stays and says who removed it and why."""
    _stamp(instance, reason=reason, actor=actor, at=at)
    instance.delete()


def bulk_create(
    instances: Sequence[AnyModel],
    *,
    model: type[AnyModel],
    reason: str = "",
    actor: Actor,
    at: datetime,
) -> list[AnyModel]:
    """Create many records and their history rows with two statements for each thousand; answers with their keys."""
    created: list[AnyModel] = bulk_create_with_history(
        list(instances),
        model,
        batch_size=1000,
        default_user=_user(actor),
        default_change_reason=reason or None,
        default_date=at,
    )
    return created


def bulk_update(
    instances: Sequence[AnyModel],
    *,
    model: type[AnyModel],
    fields: Sequence[str],
    reason: str = "",
    actor: Actor,
    at: datetime,
) -> int:
    """Update these fields of many records and write their history rows; returns how many records were changed."""
    changed: int = bulk_update_with_history(
        list(instances),
        model,
        list(fields),
        batch_size=1000,
        default_user=_user(actor),
        default_change_reason=reason or None,
        default_date=at,
    )
    return changed


def _stamp(instance: models.Model, *, reason: str, actor: Actor, at: datetime) -> None:
    instance._history_user = _user(actor)  # type: ignore[attr-defined]  # noqa: SLF001 -- simple_history's own names
    instance._history_date = at  # type: ignore[attr-defined]  # noqa: SLF001
    instance._change_reason = reason or None  # type: ignore[attr-defined]  # noqa: SLF001


def _user(actor: Actor) -> User | None:
    # Only the key is written, so there is no need to read the user from the database.
    return None if actor.user_id is None else User(pk=actor.user_id, email=actor.label)
