"""Reads usage from Kafka as one of a consumer group, and keeps the offsets in our own database.

Whatever goes wrong (a database that went away, an offset moved on purpose, a new assignment) is answered alike: what is
buffered is dropped, and reading begins anew at the offsets that the database holds. So nothing here has to be right for
each event to count once; `kafka_offsets.take_in` alone decides.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from accounts.access import Actor
from metering.errors import KafkaFailed, KafkaOffsetMovedBack
from metering.sources import kafka_offsets
from metering.sources.kafka_clients import KafkaAddress, open_consumer
from metering.sources.kafka_messages import events_of
from metering.sources.kafka_offsets import Place, Sighting, Standing, Stretch

T = TypeVar("T")

DEFAULT_BATCH = 2_000
# However few events there are, they are counted this long after they were read.
LONGEST_WAIT_SECONDS = 1.0
# Read and not yet stored, over all partitions; a message may be a megabyte.
BUFFERED_BYTES = 32 * 1024 * 1024
BUFFERED_BATCHES = 4
NOTE_EVERY_SECONDS = 2.0
TRY_AGAIN_SECONDS = 30.0
LONGEST_PROBLEM = 1_000
_POLL_SECONDS = 0.2
_BROKER_TIMEOUT_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
# A reader that hangs in the middle of a transaction must not hold the partition's row against its successor.
_SESSION = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '30s'"

_log = logging.getLogger("metering.kafka")


@dataclass
class _Reading:
    """One partition as this reader holds it: what is buffered runs from `start` to `end`."""

    place: Place
    start: int
    moves: int
    end: int
    events: list[object] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    size: int = 0
    waiting_since: float = 0.0
    is_at_end: bool = False
    problem: str = ""
    try_again_at: float = 0.0

    def add(self, offset: int, events: Sequence[object], size: int) -> None:
        """Buffer what one message brought."""
        if self.end == self.start:
            self.waiting_since = monotonic()
        self.events.extend(events)
        self.offsets.extend([offset] * len(events))
        self.size += size
        self.end = offset + 1
        self.is_at_end = False

    def reach_end(self, offset: int) -> None:
        """Note that there is nothing more; beyond the last message may be marks of transactions, which are none."""
        self.is_at_end = True
        self.end = max(self.end, offset)
        if not self.events:
            self.problem = ""

    @property
    def is_done(self) -> bool:
        """Whether all that there was is stored."""
        return self.is_at_end and self.end == self.start

    def clear(self, standing: Standing) -> None:
        """Forget what is buffered: the group stands here now, which may be beyond it."""
        self.start, self.moves = standing.next_offset, standing.moves
        self.end = max(self.end, self.start)
        self.events, self.offsets, self.size, self.problem = [], [], 0, ""

    @property
    def stretch(self) -> Stretch:
        """What is buffered."""
        return Stretch(place=self.place, start=self.start, end=self.end, events=self.events, offsets=self.offsets)


class UsageReader:
    """One member of the group: reads the partitions that the group gives it, until it is told to stop.

    `max_batch` events at most make one transaction, unless one message brings more. With `until_end` it ends by itself
    once it has reached the end of each of its partitions.
    """

    def __init__(
        self, address: KafkaAddress, *, max_batch: int = DEFAULT_BATCH, until_end: bool = False, actor: Actor
    ) -> None:
        self.address = address
        self.name = f"{socket.gethostname()[:100]}:{os.getpid()}"
        self.events_read = 0
        self._actor = actor
        self._max_batch = max_batch
        self._until_end = until_end
        self._is_stopping = False
        self._readings: dict[Place, _Reading] = {}
        # What the group gave and is not read yet, for want of the offsets; None: everything is settled.
        self._unsettled: list[Place] | None = None
        self._was_assigned = False
        self._settle_at = 0.0
        self._note_at = 0.0
        self._pause_seconds = 0.0
        self._database_at = 0.0
        self._has_lost_brokers = False
        self._told_again_at: dict[int, float] = {}
        self._fatal: KafkaError | None = None
        # What is buffered over all partitions, and whether that is enough.
        self._events, self._bytes, self._is_full = 0, 0, False
        self._client: Consumer = open_consumer(address, on_error=self._hear)

    def stop(self) -> None:
        """Ask the reader to end; it leaves the group in good order. May be called from a signal handler."""
        self._is_stopping = True

    def run(self) -> None:
        """Read until told to stop, or to the end. Raises: KafkaFailed where the client cannot go on."""
        _log.info("%s reads %s as %s", self.name, ", ".join(self.address.topics), self.address.group)
        self._client.subscribe(
            list(self.address.topics), on_assign=self._given, on_revoke=self._taken_away, on_lost=self._taken_away
        )
        try:
            while not (self._is_stopping or (self._until_end and self._is_drained())):
                self._settle()
                self._read()
                self._store_due()
                self._note()
            self._note()
            self._refuse_to_leave_usage_behind()
        except KafkaException as error:
            raise KafkaFailed(f"The Kafka client cannot go on: {error}") from error
        finally:
            self._client.close()
            self._leave()

    # What the group says. These are called from within poll() and close(), on this same thread.

    def _given(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        self._was_assigned = True
        self._start_over([Place(given.topic, given.partition) for given in partitions], client)

    def _taken_away(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        _log.info("%s gives up %s", self.name, _names(Place(lost.topic, lost.partition) for lost in partitions))
        self._readings.clear()
        self._count_buffered()
        self._unsettled = None

    def _start_over(self, places: list[Place], client: Consumer | None = None) -> None:
        """Drop what is buffered and stop fetching; `_settle` goes on from the database's offsets."""
        self._readings.clear()
        self._count_buffered()
        self._unsettled = places
        self._settle_at = 0.0
        (client or self._client).assign([])

    # From the database's offsets on.

    def _settle(self) -> None:
        """Begin to fetch what the group gave, each partition at the offset that the database holds."""
        places = self._unsettled
        if places is None or monotonic() < self._settle_at:
            return
        try:
            standings = self._in_database(lambda: self._standings(places))
        except KafkaException as error:
            _log.warning("%s: the brokers do not say where partitions begin, trying again: %s", self.name, error)
            self._settle_at = monotonic() + _SHORTEST_PAUSE_SECONDS
            return
        if standings is None:
            return
        self._unsettled = None
        self._readings = {
            place: _Reading(place=place, start=offset, end=offset, moves=moves)
            for place, (offset, moves) in standings.items()
        }
        self._client.assign([TopicPartition(*place, offset) for place, (offset, _) in standings.items()])
        self._note_at = 0.0
        _log.info("%s goes on with %s", self.name, _names(f"{place}@{standings[place][0]}" for place in standings))

    def _standings(self, places: Sequence[Place]) -> dict[Place, Standing]:
        standings = kafka_offsets.standings(group=self.address.group, places=places)
        unread = [place for place in places if place not in standings]
        if unread:
            starts = {place: self._first_offset(place) for place in unread}
            kafka_offsets.begin(group=self.address.group, starts=starts, actor=self._actor, at=timezone.now())
            standings |= kafka_offsets.standings(group=self.address.group, places=unread)
        return standings

    def _first_offset(self, place: Place) -> int:
        first, _ = self._client.get_watermark_offsets(TopicPartition(*place), timeout=_BROKER_TIMEOUT_SECONDS)
        return first

    # From the brokers into the buffers.

    def _read(self) -> None:
        """Take messages until there are none at the moment or a batch is full; one at a time, so that none is stale."""
        message = self._client.poll(0.0 if self._due() else _POLL_SECONDS)
        if self._fatal is not None:
            raise KafkaFailed(f"The Kafka client cannot go on: {self._fatal.str()}")
        while message is not None:
            self._take(message)
            if self._is_full:
                return
            message = self._client.poll(0.0)

    def _take(self, message: Message) -> None:
        self._hear_from_brokers()
        error, partition, offset = message.error(), message.partition(), message.offset()
        place = Place(message.topic() or "", -1 if partition is None else partition)
        reading = self._readings.get(place)
        if error is not None:
            self._hear_of(reading, place, offset, error)
        elif reading is not None and offset is not None and offset >= reading.end:
            size = len(message)
            events = events_of(value=message.value(), headers=message.headers() or (), label=f"{place}@{offset}")
            reading.add(offset, events, size)
            self._events += len(events)
            self._bytes += size
            self._is_full = (
                len(reading.events) >= self._max_batch
                or self._events >= BUFFERED_BATCHES * self._max_batch
                or self._bytes >= BUFFERED_BYTES
            )

    def _hear_of(self, reading: _Reading | None, place: Place, offset: int | None, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- named so in the library's documentation
            if reading is not None:
                reading.reach_end(offset or 0)
        elif error.fatal():
            self._fatal = error
        else:
            _log.warning("%s: %s: %s", self.name, place if place.partition >= 0 else "Kafka", error.str())
            if reading is not None:
                reading.problem = _explained(error, reading)
                self._note_at = 0.0

    def _hear(self, error: KafkaError) -> None:
        """Say what the client says of the whole; it connects again by itself, many times a second at first."""
        if error.fatal():
            self._fatal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 -- named so in the library's documentation
            self._has_lost_brokers = True
        now = monotonic()
        if now >= self._told_again_at.get(error.code(), 0.0):
            self._told_again_at[error.code()] = now + TRY_AGAIN_SECONDS
            _log.warning("%s: trying again: %s", self.name, error.str())

    def _hear_from_brokers(self) -> None:
        if self._has_lost_brokers:
            _log.warning("%s: the brokers answer again", self.name)
        self._has_lost_brokers = False
        self._told_again_at.clear()

    # From the buffers into the database.

    def _due(self) -> _Reading | None:
        """Return the partition to store next: the fullest where there is much, else one that has waited long enough."""
        now = monotonic()
        waiting = [
            reading
            for reading in self._readings.values()
            if reading.end > reading.start and now >= reading.try_again_at
        ]
        if not waiting:
            return None
        if self._is_full:
            return max(waiting, key=lambda reading: reading.size)
        longest = min(waiting, key=lambda reading: reading.waiting_since)
        is_due = now - longest.waiting_since >= LONGEST_WAIT_SECONDS or (self._until_end and longest.is_at_end)
        return longest if is_due else None

    def _store_due(self) -> None:
        while not self._is_stopping and (reading := self._due()) and self._store(reading):
            self._count_buffered()

    def _count_buffered(self) -> None:
        """Work out anew what is buffered."""
        self._events = sum(len(reading.events) for reading in self._readings.values())
        self._bytes = sum(reading.size for reading in self._readings.values())
        self._is_full = False

    def _store(self, reading: _Reading) -> bool:
        """Store what is buffered of a partition; False where it did not come to that."""
        try:
            standing = self._in_database(
                lambda: kafka_offsets.take_in(
                    group=self.address.group, stretch=reading.stretch, actor=self._actor, at=timezone.now()
                )
            )
        except KafkaOffsetMovedBack as error:
            _log.warning("%s: %s", self.name, error)
            self._start_over(list(self._readings))
            return False
        except Exception as error:  # noqa: BLE001 -- whatever it is
            # A fault of ours: the events stay in Kafka, and the other partitions go on.
            _log.exception("%s: %s could not be taken in", self.name, reading.place)
            reading.problem = f"Not taken in from offset {reading.start} on: {error}"[:LONGEST_PROBLEM]
            reading.try_again_at = monotonic() + TRY_AGAIN_SECONDS
            self._note_at = 0.0
            return True
        if standing is None:
            return False
        self.events_read += len(reading.events)
        if standing.next_offset > reading.end:
            _log.info("%s: others have taken in %s up to %s", self.name, reading.place, standing.next_offset)
            self._start_over(list(self._readings))
            return False
        reading.clear(standing)
        return True

    # What others see of it.

    def _note(self) -> None:
        if not self._readings or monotonic() < self._note_at:
            return
        self._note_at = monotonic() + NOTE_EVERY_SECONDS
        sightings = [
            Sighting(place=place, end_offset=self._end_offset(place), problem=reading.problem)
            for place, reading in self._readings.items()
        ]
        standings = self._in_database(
            lambda: kafka_offsets.note(
                group=self.address.group, reader=self.name, sightings=sightings, actor=self._actor, at=timezone.now()
            )
        )
        moved = [
            place
            for place, standing in (standings or {}).items()
            if place in self._readings and standing.moves != self._readings[place].moves
        ]
        if moved:
            _log.warning("%s: the offset of %s was moved on purpose", self.name, _names(moved))
            self._start_over(list(self._readings))

    def _end_offset(self, place: Place) -> int | None:
        _, end = self._client.get_watermark_offsets(TopicPartition(*place), cached=True)
        return end if end >= 0 else None

    def _is_drained(self) -> bool:
        return (
            self._was_assigned
            and self._unsettled is None
            and all(reading.is_done or reading.problem for reading in self._readings.values())
        )

    def _refuse_to_leave_usage_behind(self) -> None:
        """Raise KafkaFailed where a partition could not be read to its end."""
        stuck = [reading for reading in self._readings.values() if reading.problem]
        if self._until_end and stuck and not self._is_stopping:
            raise KafkaFailed("; ".join(f"{reading.place}: {reading.problem}" for reading in stuck))

    def _leave(self) -> None:
        try:
            kafka_offsets.leave(group=self.address.group, reader=self.name, actor=self._actor, at=timezone.now())
        except (OperationalError, InterfaceError) as error:
            _log.warning("%s: the database does not answer: %s", self.name, error)
        finally:
            connection.close()

    # The database may go away for a while; the reader stays in its group.

    def _in_database(self, work: Callable[[], T]) -> T | None:
        """Do what asks the database; None where it does not answer, and then reading starts over once it does."""
        if monotonic() < self._database_at:
            return None
        try:
            if connection.connection is None:
                with connection.cursor() as cursor:
                    cursor.execute(_SESSION)
            result = work()
        except (OperationalError, InterfaceError) as error:
            self._lose_database(error)
            return None
        if self._pause_seconds:
            _log.warning("%s: the database answers again", self.name)
        self._pause_seconds = 0.0
        return result

    def _lose_database(self, error: Exception) -> None:
        self._pause_seconds = min(max(2 * self._pause_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._database_at = monotonic() + self._pause_seconds
        _log.warning(
            "%s: the database does not answer, trying again in %s s: %s", self.name, self._pause_seconds, error
        )
        connection.close()
        if self._unsettled is None and self._readings:
            self._start_over(list(self._readings))


def _explained(error: KafkaError, reading: _Reading) -> str:
    if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 -- named so in the library's documentation
        return (
            f"Offset {reading.end} is not there any more, or not yet: messages were removed before they were read, or"
            " the topic was made anew. Move the offset with manage.py move_usage_offsets."
        )
    return error.str()


def _names(things: Iterable[object]) -> str:
    return ", ".join(map(str, things)) or "nothing"
