"""How the reading of usage from Kafka goes: how far behind each partition is, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Self

from django.db.models import QuerySet

from metering.models import KafkaPartition

# A reader speaks every few seconds. One that left in good order may be a job that runs now and then.
SILENT_AFTER = timedelta(minutes=1)
LEFT_AFTER = timedelta(days=1)
STALLED_AFTER = timedelta(minutes=1)
# Below it, more waits than a minute ago by chance.
LAG_WORTH_A_WORD = 10_000


class StreamState(StrEnum):
    """How the reading of a partition goes, the worst first."""

    STUCK = "stuck", "Stuck"
    SILENT = "silent", "Silent"
    STALLED = "stalled", "Stands still"
    GROWING = "growing", "Falls behind"
    STOPPED = "stopped", "Stopped"
    READING = "reading", "Reads"
    RETIRED = "retired", "Retired"

    label: str

    def __new__(cls, value: str, label: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label = label
        return member

    @property
    def is_warning(self) -> bool:
        """Whether somebody should look."""
        return self not in {StreamState.STOPPED, StreamState.READING, StreamState.RETIRED}


def lag_of(row: KafkaPartition) -> int | None:
    """Return how many offsets lie between what is taken in and the end as last seen; None where no end was seen."""
    return None if row.end_offset is None else max(row.end_offset - row.next_offset, 0)


def state_of(row: KafkaPartition, *, at: datetime) -> StreamState:
    """Return how the reading of a partition goes."""
    if row.retired_at is not None:
        return StreamState.RETIRED
    if row.problem:
        return StreamState.STUCK
    if at - row.seen_at > (SILENT_AFTER if row.reader else LEFT_AFTER):
        return StreamState.SILENT
    return _pace_of(row, at=at) if row.reader else StreamState.STOPPED


def _pace_of(row: KafkaPartition, *, at: datetime) -> StreamState:
    if lag_of(row) and row.earlier_lag and at - row.advanced_at > STALLED_AFTER:
        return StreamState.STALLED
    if row.lag is not None and row.earlier_lag is not None and row.lag > max(row.earlier_lag, LAG_WORTH_A_WORD):
        return StreamState.GROWING
    return StreamState.READING


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A topic as one group reads it: its partitions, what waits in all of them, and the worst of their states."""

    consumer_group: str
    topic: str
    partitions: int
    lag: int
    readers: int
    seen_at: datetime
    advanced_at: datetime
    state: StreamState
    problem: str


def streams(*, at: datetime) -> list[Stream]:
    """Return every topic that is read, by group, and none that was retired; one query."""
    rows = KafkaPartition.objects.filter(retired_at=None).order_by("consumer_group", "topic", "partition")
    return [_stream(list(found), at=at) for _, found in groupby(rows, key=lambda row: (row.consumer_group, row.topic))]


def _stream(rows: Sequence[KafkaPartition], *, at: datetime) -> Stream:
    return Stream(
        consumer_group=rows[0].consumer_group,
        topic=rows[0].topic,
        partitions=len(rows),
        lag=sum(lag_of(row) or 0 for row in rows),
        readers=len({row.reader for row in rows if row.reader}),
        seen_at=max(row.seen_at for row in rows),
        advanced_at=max(row.advanced_at for row in rows),
        state=_worst(state_of(row, at=at) for row in rows),
        problem=next((row.problem for row in rows if row.problem), ""),
    )


def _worst(states: Iterable[StreamState]) -> StreamState:
    order = list(StreamState)
    return min(states, key=order.index)


def partitions(*, consumer_group: str = "", topic: str = "") -> QuerySet[KafkaPartition]:
    """Return the partitions that are read, narrowed to groups and topics that hold these words."""
    rows = KafkaPartition.objects.order_by("consumer_group", "topic", "partition")
    if consumer_group:
        rows = rows.filter(consumer_group__icontains=consumer_group)
    return rows.filter(topic__icontains=topic) if topic else rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One partition with what follows from its row."""

    row: KafkaPartition
    lag: int | None
    state: StreamState


def readings(rows: Iterable[KafkaPartition], *, at: datetime) -> list[Reading]:
    """Say how the reading of each of these partitions goes."""
    return [Reading(row=row, lag=lag_of(row), state=state_of(row, at=at)) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All that is read from Kafka, in two figures: messages that wait, and partitions that somebody should look at."""

    lag: int
    in_trouble: int


def summary(*, at: datetime) -> Summary:
    """Return the figures for an alarm; one query."""
    rows = list(KafkaPartition.objects.filter(retired_at=None))
    return Summary(
        lag=sum(lag_of(row) or 0 for row in rows),
        in_trouble=sum(state_of(row, at=at).is_warning for row in rows),
    )
