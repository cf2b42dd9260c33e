"""How far each group has read each partition: the offset moves in the transaction that takes the events in.

The broker's own memory of offsets is never asked. A reader that lost its partition and does not know it yet finds,
under the row's lock, what the new reader has taken in, and skips it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from accounts.errors import ReasonMissing
from metering.errors import KafkaOffsetInvalid, KafkaOffsetMovedBack, KafkaPartitionUnknown
from metering.ingestion import MAX_EVENTS, ingest
from metering.models import KafkaPartition, UsageBatch

_LONGEST_TOPIC_SHOWN = 180


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Standing(NamedTuple):
    """Where a group stands in a partition: the next offset, and how often that was moved on purpose."""

    next_offset: int
    moves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What was read of a partition: everything from offset `start` up to but not including `end`.

    `events` are in the order of `offsets`, which names the message that brought each; one message may bring several,
    and an offset within the stretch none at all (a message that a topic's owner removed, a mark of a transaction).
    """

    place: Place
    start: int
    end: int
    events: Sequence[object]
    offsets: Sequence[int]


@transaction.atomic
def take_in(*, group: str, stretch: Stretch, actor: Actor, at: datetime) -> Standing:
    """Take the events of a stretch in and move the offset to its end, both or neither.

    What the group has taken in already, through whichever reader, is skipped. Returns where the group stands then.

    Raises: PermissionMissing, KafkaPartitionUnknown, KafkaOffsetMovedBack where the stretch begins beyond the offset.
    """
    actor.require(Permission.LOAD_USAGE)
    row = _locked(group, stretch.place)
    if row.next_offset < stretch.start:
        msg = f"{row} was moved back to {row.next_offset}; this reader was at {stretch.start}."
        raise KafkaOffsetMovedBack(msg)
    first = bisect_left(stretch.offsets, row.next_offset)
    for start in range(first, len(stretch.events), MAX_EVENTS):
        offsets = stretch.offsets[start : start + MAX_EVENTS]
        ingest(
            events=stretch.events[start : start + MAX_EVENTS],
            positions=offsets,
            door=UsageBatch.Door.KAFKA,
            origin=_origin(stretch.place, offsets[0], offsets[-1]),
            actor=actor,
            at=at,
        )
    if row.next_offset < stretch.end:
        row.next_offset, row.advanced_at, row.problem = stretch.end, at, ""
        row.save(update_fields=["next_offset", "advanced_at", "problem"])
    return Standing(row.next_offset, row.moves)


def _origin(place: Place, first: int, last: int) -> str:
    return f"{place.topic[:_LONGEST_TOPIC_SHOWN]}[{place.partition}]@{first}-{last}"


def _locked(group: str, place: Place) -> KafkaPartition:
    rows = KafkaPartition.objects.select_for_update(no_key=True)
    row = rows.filter(consumer_group=group, topic=place.topic, partition=place.partition).first()
    if row is None:
        msg = f"The group {group} has never read {place}."
        raise KafkaPartitionUnknown(msg)
    return row


def standings(*, group: str, places: Iterable[Place]) -> dict[Place, Standing]:
    """Return where the group stands in those of the partitions that it has read before."""
    wanted = set(places)
    rows = KafkaPartition.objects.filter(consumer_group=group, topic__in={place.topic for place in wanted})
    found = {
        Place(topic, partition): Standing(next_offset, moves)
        for topic, partition, next_offset, moves in rows.values_list("topic", "partition", "next_offset", "moves")
    }
    return {place: standing for place, standing in found.items() if place in wanted}


def begin(*, group: str, starts: Mapping[Place, int], actor: Actor, at: datetime) -> None:
    """Begin partitions that the group has never read, each at its offset; those that another reader has begun stay.

    Raises: PermissionMissing.
    """
    actor.require(Permission.LOAD_USAGE)
    KafkaPartition.objects.bulk_create(
        [
            KafkaPartition(
                consumer_group=group,
                topic=place.topic,
                partition=place.partition,
                next_offset=start,
                seen_at=at,
                advanced_at=at,
            )
            for place, start in sorted(starts.items())
        ],
        ignore_conflicts=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a reader has to say of a partition: where it ends, if it knows, and what stands in the way, if anything."""

    place: Place
    end_offset: int | None
    problem: str = ""


def note(
    *, group: str, reader: str, sightings: Sequence[Sighting], actor: Actor, at: datetime
) -> dict[Place, Standing]:
    """Note that a reader is at work on partitions and what it sees there; returns where the group stands in each.

    Once a minute the lag is kept, so that one can tell whether it grows. Raises: PermissionMissing.
    """
    actor.require(Permission.LOAD_USAGE)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE metering_kafkapartition AS kept
            SET reader = %(reader)s, seen_at = greatest(kept.seen_at, %(at)s), problem = seen.problem,
                end_offset = seen.end_offset, lag = seen.lag, retired_at = NULL,
                earlier_lag = CASE WHEN NOT is_due THEN kept.earlier_lag
                                   WHEN was_seen THEN kept.lag END,
                earlier_lag_at = CASE WHEN is_due THEN %(at)s ELSE kept.earlier_lag_at END
            FROM (
                SELECT row.id, told.problem, coalesce(told.end_offset, row.end_offset) AS end_offset,
                       greatest(coalesce(told.end_offset, row.end_offset) - row.next_offset, 0) AS lag,
                       coalesce(row.earlier_lag_at < %(at)s - interval '1 minute', true) AS is_due,
                       row.seen_at > %(at)s - interval '1 minute' AS was_seen
                FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(ends)s::bigint[], %(problems)s::text[])
                    AS told(topic, partition, end_offset, problem)
                JOIN metering_kafkapartition AS row
                  ON row.consumer_group = %(group)s AND row.topic = told.topic AND row.partition = told.partition
                ORDER BY row.id FOR NO KEY UPDATE OF row
            ) AS seen
            WHERE seen.id = kept.id
            RETURNING kept.topic, kept.partition, kept.next_offset, kept.moves
            """,
            {
                "group": group,
                "reader": reader,
                "at": at,
                "topics": [sighting.place.topic for sighting in sightings],
                "partitions": [sighting.place.partition for sighting in sightings],
                "ends": [sighting.end_offset for sighting in sightings],
                "problems": [sighting.problem for sighting in sightings],
            },
        )
        rows = cursor.fetchall()
    return {Place(topic, partition): Standing(next_offset, moves) for topic, partition, next_offset, moves in rows}


def leave(*, group: str, reader: str, actor: Actor, at: datetime) -> None:
    """Note that a reader has stopped in good order. Raises: PermissionMissing."""
    actor.require(Permission.LOAD_USAGE)
    KafkaPartition.objects.filter(consumer_group=group, reader=reader).update(reader="", seen_at=at)


@transaction.atomic
def move_offset(
    *, group: str, place: Place, next_offset: int, reason: str, actor: Actor, at: datetime
) -> KafkaPartition:
    """Let a group go on at another offset: back, to read messages again, or ahead, to leave some out.

    Going back is safe at any time, for an event is counted once. Going ahead leaves out usage for good, so it wants a
    reason that holds. A reader at work notices within seconds.

    Raises: PermissionMissing, ReasonMissing, KafkaPartitionUnknown, KafkaOffsetInvalid.
    """
    actor.require(Permission.LOAD_USAGE)
    if not reason.strip():
        raise ReasonMissing("Say why the offset is moved.")
    if next_offset < 0:
        msg = f"There is no offset {next_offset}."
        raise KafkaOffsetInvalid(msg)
    row = _locked(group, place)
    if row.next_offset == next_offset:
        return row
    before, row.next_offset, row.moves = row.next_offset, next_offset, row.moves + 1
    row.problem, row.lag, row.earlier_lag, row.earlier_lag_at = "", None, None, None
    row.save(update_fields=["next_offset", "moves", "problem", "lag", "earlier_lag", "earlier_lag_at"])
    audit.record(
        actor=actor,
        verb="kafka_offset.moved",
        subject=row,
        at=at,
        reason=reason.strip(),
        data={"from": before, "to": next_offset},
    )
    return row


@transaction.atomic
def retire_topic(*, group: str, topic: str, reason: str, actor: Actor, at: datetime) -> int:
    """Note that a group will not read a topic any more, so that its silence alarms nobody; returns how many partitions.

    The offsets stay: a reader that comes after all goes on where they stand.

    Raises: PermissionMissing, ReasonMissing, KafkaPartitionUnknown.
    """
    actor.require(Permission.LOAD_USAGE)
    if not reason.strip():
        raise ReasonMissing("Say why the topic is not read any more.")
    rows = KafkaPartition.objects.filter(consumer_group=group, topic=topic)
    found = list(rows.order_by("pk").select_for_update(no_key=True))
    if not found:
        msg = f"The group {group} has never read {topic}."
        raise KafkaPartitionUnknown(msg)
    retired = [row for row in found if row.retired_at is None]
    rows.filter(pk__in=[row.pk for row in retired]).update(retired_at=at)
    audit.record_many(actor=actor, verb="kafka_partition.retired", subjects=retired, at=at, reason=reason.strip())
    return len(retired)
