"""Moves where a group goes on reading, on purpose: asks the brokers what there is, and leaves the rest to the verb."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition
from django.db import transaction

from accounts.access import Actor
from metering.errors import KafkaFailed, KafkaOffsetInvalid, KafkaPartitionUnknown
from metering.sources import kafka_offsets
from metering.sources.kafka_clients import KafkaAddress, open_consumer
from metering.sources.kafka_offsets import Place

_TIMEOUT_SECONDS = 10.0
EARLIEST, LATEST = "earliest", "latest"


class Move(NamedTuple):
    """One partition that was moved."""

    place: Place
    before: int
    after: int


class _Span(NamedTuple):
    """What a partition holds: from its first offset up to but not including its end."""

    first: int
    end: int


def move_offsets(
    *, address: KafkaAddress, partition: int | None, to: str, reason: str, actor: Actor, at: datetime
) -> list[Move]:
    """Let the group go on elsewhere in its topics: in all partitions or in one of that number, all or none.

    `to` is an offset, `earliest`, `latest`, or a moment (ISO 8601 with an offset from UTC) that stands for the first
    message sent then or later. Returns each partition with where it stood and where it goes on.

    Raises: PermissionMissing, ReasonMissing, KafkaNotConfigured, KafkaSettingsInvalid, KafkaFailed,
    KafkaPartitionUnknown, KafkaOffsetInvalid.
    """
    client = open_consumer(address, on_error=lambda _error: None)
    try:
        spans = {place: _span(client, place) for place in _places(client, address, partition)}
        choose = _chooser(client, to)
        goals = {place: choose(place, span) for place, span in spans.items()}
    except KafkaException as error:
        msg = f"The brokers do not answer: {error.args[0].str()}"
        raise KafkaFailed(msg) from error
    finally:
        client.close()
    starts = {place: span.first for place, span in spans.items()}
    with transaction.atomic():
        kafka_offsets.begin(group=address.group, starts=starts, actor=actor, at=at)
        before = kafka_offsets.standings(group=address.group, places=goals)
        for place, goal in sorted(goals.items()):
            kafka_offsets.move_offset(
                group=address.group, place=place, next_offset=goal, reason=reason, actor=actor, at=at
            )
    return [Move(place, before[place].next_offset, goal) for place, goal in sorted(goals.items())]


def _places(client: Consumer, address: KafkaAddress, partition: int | None) -> list[Place]:
    places = []
    for name in address.topics:
        topic = client.list_topics(name, timeout=_TIMEOUT_SECONDS).topics[name]
        numbers = [] if topic.error else [number for number in topic.partitions if partition in {None, number}]
        if not numbers:
            msg = f"There is no topic {name}." if partition is None else f"There is no {Place(name, partition)}."
            raise KafkaPartitionUnknown(msg)
        places += [Place(name, number) for number in numbers]
    return places


def _span(client: Consumer, place: Place) -> _Span:
    return _Span(*client.get_watermark_offsets(TopicPartition(*place), timeout=_TIMEOUT_SECONDS))


def _chooser(client: Consumer, to: str) -> Callable[[Place, _Span], int]:
    """Return what finds the offset in a partition that `to` stands for."""
    if to == EARLIEST:
        return lambda _place, span: span.first
    if to == LATEST:
        return lambda _place, span: span.end
    if to.isascii() and to.isdecimal():
        return lambda place, span: _within(int(to), place, span)
    moment = _moment(to)
    return lambda place, span: _first_since(client, moment, place, span)


def _within(offset: int, place: Place, span: _Span) -> int:
    if not span.first <= offset <= span.end:
        msg = f"{place} has offsets from {span.first} to {span.end}, where it ends; {offset} is outside."
        raise KafkaOffsetInvalid(msg)
    return offset


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        msg = f"{text!r} is no offset, earliest, latest, or moment such as 2026-10-31T00:00:00Z."
        raise KafkaOffsetInvalid(msg)
    return moment


def _first_since(client: Consumer, moment: datetime, place: Place, span: _Span) -> int:
    milliseconds = int(moment.timestamp() * 1_000)
    (found,) = client.offsets_for_times([TopicPartition(*place, milliseconds)], timeout=_TIMEOUT_SECONDS)
    return found.offset if found.offset >= 0 else span.end
