"""Keeps what was refused for good, so that it can be listed and its sender told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Final

from django.db import connection

from metering.events import payload_text, storable_text
from metering.models import RefusedEvent


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused event or row: its position (from 0 in a request, a file's line, a message's offset), and why."""

    position: int
    reason: str
    detail: str
    payload: str
    source: str = ""
    event_id: str = ""

    @property
    def fingerprint(self) -> str:
        """The hash of what was refused and why, as 32 hexadecimal digits."""
        content = f"{self.reason}\0{self.detail}\0{self.source}\0{self.event_id}\0{self.payload}"
        return blake2b(content.encode(errors="replace"), digest_size=16).hexdigest()


OUT_OF_SCOPE: Final = "out_of_scope"


def words_of(reason: str) -> str:
    """Return in words why an event was refused; out of scope is only what was to be filled into a backfill."""
    return "Not of the backfill" if reason == OUT_OF_SCOPE else str(RefusedEvent.Reason(reason).label)


def record(*, batch_id: int, refused: Sequence[Refusal], at: datetime) -> int:
    """Keep each refusal once, whoever repeats it; returns how many were new.

    To be called in the transaction of the batch that brought them.
    """
    if not refused:
        return 0
    # In the order of the unique key, so that two senders of the same refusals wait for each other and never in a ring.
    rows = sorted({refusal.fingerprint: refusal for refusal in refused}.items())
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO metering_refusedevent
                (batch_id, position, source, event_id, reason, detail, payload, fingerprint, refused_at)
            SELECT %s, position, source, event_id, reason, detail, payload, fingerprint, %s
            FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::uuid[])
                AS refused(position, source, event_id, reason, detail, payload, fingerprint)
            ON CONFLICT (fingerprint) DO NOTHING
            """,
            [
                batch_id,
                at,
                [refusal.position for _, refusal in rows],
                [storable_text(refusal.source) for _, refusal in rows],
                [storable_text(refusal.event_id) for _, refusal in rows],
                [refusal.reason for _, refusal in rows],
                [storable_text(refusal.detail) for _, refusal in rows],
                [payload_text(refusal.payload.encode(errors="replace")) for _, refusal in rows],
                [fingerprint for fingerprint, _ in rows],
            ],
        )
        return int(cursor.rowcount)
