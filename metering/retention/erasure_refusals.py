"""Erases what was refused for good of a customer: events, and rows of files, that never counted but were kept."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence

from django.db import connection, transaction

from metering.events import event_key
from metering.models import RefusedEvent, UsageErasure, UsageFileRefusal
from metering.retention.erasure_guard import ERASED, add, name_erasure, subjects_of

_ROWS_AT_ONCE = 2_000
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_CELLS = re.compile(r'[,;|\t\r\n"]+')
_WORDS = re.compile(r"""[\s,;|:"'\[\]{}]+""")


def erase_refused(erasure: UsageErasure) -> None:
    """Empty what came with the customer's keys, names a subject of theirs, or contradicts an event of theirs.

    A refusal never counted, so that the erasure's moment does not matter: all that is there goes.

    Raises: UsageOnHold.
    """
    subjects = frozenset(subjects_of(erasure.customer_id))
    batches = frozenset(_batches_of_their_keys(erasure.customer_id))
    last = 0
    while page := list(RefusedEvent.objects.filter(pk__gt=last).exclude(payload="").order_by("id")[:_ROWS_AT_ONCE]):
        last = page[-1].pk
        _empty_refused(erasure, [each.pk for each in _theirs(page, erasure, subjects=subjects, batches=batches)])
    last = 0
    while rows := list(UsageFileRefusal.objects.filter(pk__gt=last).exclude(payload="").order_by("id")[:_ROWS_AT_ONCE]):
        last = rows[-1].pk
        theirs = [each.pk for each in rows if names_one_of(f"{each.payload}\n{each.detail}", subjects)]
        _empty_refused_rows(erasure, theirs)


def names_one_of(text: str, names: Collection[str]) -> bool:
    """Tell whether a text names one of these: as a text of JSON, cut off or not, as a cell, or as a word."""
    found = {*_WORDS.split(text), *(cell.strip() for cell in _CELLS.split(text))}
    found |= {_unquoted(quoted) for quoted in _QUOTED.findall(text)}
    return not found.isdisjoint(names)


def _unquoted(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]


def _theirs(
    page: Sequence[RefusedEvent],
    erasure: UsageErasure,
    *,
    subjects: Collection[str],
    batches: Collection[int],
) -> Iterator[RefusedEvent]:
    conflicts = [event_key(each.source, each.event_id) for each in page if each.reason == RefusedEvent.Reason.CONFLICT]
    identities = _identities_of(erasure.customer_id, conflicts) if conflicts else set()
    for each in page:
        names_them = names_one_of(f"{each.payload}\n{each.detail}", subjects)
        if names_them or each.batch_id in batches or event_key(each.source, each.event_id) in identities:
            yield each


@transaction.atomic
def _empty_refused(erasure: UsageErasure, ids: list[int]) -> None:
    if not ids:
        return
    name_erasure(erasure)
    emptied = RefusedEvent.objects.filter(pk__in=ids).update(source="", event_id="", payload="", detail=ERASED)
    add(erasure, refused_events=emptied)


@transaction.atomic
def _empty_refused_rows(erasure: UsageErasure, ids: list[int]) -> None:
    if not ids:
        return
    name_erasure(erasure)
    emptied = UsageFileRefusal.objects.filter(pk__in=ids).update(event_id="", payload="", detail=ERASED)
    add(erasure, refused_events=emptied)


def _batches_of_their_keys(customer_id: int) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT batch.id FROM metering_usagebatch AS batch JOIN accounts_apikey AS key ON key.id = batch.api_key_id
            WHERE key.customer_id = %s AND batch.rejected > 0
            """,
            [customer_id],
        )
        return [batch_id for (batch_id,) in cursor.fetchall()]


def _identities_of(customer_id: int, keys: list[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT key FROM usage_event WHERE customer_id = %s AND key = ANY(%s::uuid[])", [customer_id, keys]
        )
        return {key.hex for (key,) in cursor.fetchall()}
