"""Offsets beside the events: both or neither, never back, whoever reads."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections

from accounts.access import Actor
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry, Customer
from metering.errors import KafkaOffsetInvalid, KafkaOffsetMovedBack, KafkaPartitionUnknown
from metering.events import Unreadable
from metering.models import KafkaPartition, RefusedEvent, UsageBatch, UsageEvent
from metering.sources import kafka_offsets
from metering.sources.kafka_offsets import Place, Sighting, Standing, Stretch
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db

GROUP = "billing"
PLACE = Place("usage", 3)


@pytest.fixture
def shop() -> Customer:
    customer = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=customer)
    return customer


def begun(start: int = 0, *places: Place) -> None:
    starts = dict.fromkeys(places or [PLACE], start)
    kafka_offsets.begin(group=GROUP, starts=starts, actor=make.SYSTEM, at=make.NOON)


def stretch(start: int, end: int) -> Stretch:
    """Return what was read from one offset to another: at each offset an event of that many seconds."""
    offsets = list(range(start, end))
    events = [make.event(f"event-{offset}", seconds=str(offset)) for offset in offsets]
    return Stretch(place=PLACE, start=start, end=end, events=events, offsets=offsets)


def take_in(read: Stretch) -> Standing:
    return kafka_offsets.take_in(group=GROUP, stretch=read, actor=make.SYSTEM, at=make.NOON)


def next_offset() -> int:
    return KafkaPartition.objects.get().next_offset


def counted(customer: Customer) -> tuple[Decimal, int]:
    (total,) = make.totals(customer)
    return total.sum, total.count


def test_events_are_taken_in_and_the_offset_moves_with_them(shop: Customer) -> None:
    begun()

    standing = take_in(stretch(0, 10))

    assert standing == (10, 0)
    assert next_offset() == 10
    assert counted(shop) == (Decimal(45), 10)
    batch = UsageBatch.objects.get()
    assert (batch.door, batch.origin, batch.accepted) == ("kafka", "usage[3]@0-9", 10)


def test_a_reader_that_lost_its_partition_skips_what_its_successor_has_taken_in(shop: Customer) -> None:
    begun()
    take_in(stretch(0, 10))

    within = take_in(stretch(2, 8))
    across = take_in(stretch(5, 12))

    assert (within.next_offset, across.next_offset) == (10, 12)
    assert counted(shop) == (Decimal(66), 12)
    assert sorted(UsageBatch.objects.values_list("origin", "duplicates")) == [
        ("usage[3]@0-9", 0),
        ("usage[3]@10-11", 0),
    ]


def test_a_stretch_beyond_the_offset_is_refused_for_it_would_leave_a_hole(shop: Customer) -> None:
    begun()
    take_in(stretch(0, 3))

    with pytest.raises(KafkaOffsetMovedBack):
        take_in(stretch(5, 8))

    assert next_offset() == 3
    assert UsageEvent.objects.count() == 3


def test_messages_that_are_not_there_any_more_leave_no_hole(shop: Customer) -> None:
    begun(100)
    events = [make.event(seconds="1"), make.event(seconds="2")]

    take_in(Stretch(place=PLACE, start=100, end=120, events=events, offsets=[104, 117]))

    assert next_offset() == 120
    assert counted(shop) == (Decimal(3), 2)


def test_a_message_with_more_events_than_a_batch_holds_is_taken_in_as_a_whole(shop: Customer) -> None:
    begun()
    events = [make.event(f"event-{number}", seconds="1") for number in range(10_001)]

    take_in(Stretch(place=PLACE, start=0, end=1, events=events, offsets=[0] * len(events)))

    assert counted(shop) == (Decimal(10_001), 10_001)
    assert next_offset() == 1


def test_what_is_no_event_is_listed_with_its_offset_and_holds_up_nothing(shop: Customer) -> None:
    begun(3_000_000_000)
    poison = Unreadable(b"junk", "usage[3]@3000000000: not JSON")
    events = [poison, make.event(seconds="7"), make.event(subject="nobody"), {"id": "no event"}]

    take_in(
        Stretch(place=PLACE, start=3_000_000_000, end=3_000_000_004, events=events, offsets=offsets_from(3 * 10**9))
    )

    batch = UsageBatch.objects.get()
    assert (batch.accepted, batch.quarantined, batch.rejected) == (1, 1, 2)
    assert list(RefusedEvent.objects.order_by("position").values_list("position", "payload", "detail")) == [
        (3_000_000_000, "junk", "usage[3]@3000000000: not JSON"),
        (3_000_000_003, '{"id":"no event"}', "Object missing required field `source`"),
    ]
    assert next_offset() == 3_000_000_004


def offsets_from(start: int) -> list[int]:
    return list(range(start, start + 4))


@pytest.mark.django_db(transaction=True)
def test_readers_of_one_partition_at_the_same_moment_count_each_event_once(shop: Customer) -> None:
    begun()
    start = threading.Barrier(4)
    standings: list[Standing] = []

    def read() -> None:
        try:
            start.wait(timeout=PATIENCE_SECONDS)
            standings.extend([take_in(stretch(first, first + 20)) for first in range(0, 200, 20)])
        finally:
            connections.close_all()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()

    assert len(standings) == 40
    assert counted(shop) == (Decimal(19_900), 200)
    assert next_offset() == 200
    assert sum(UsageBatch.objects.values_list("duplicates", flat=True)) == 0


def test_a_group_knows_only_its_own_partitions(shop: Customer) -> None:
    begun(5, PLACE, Place("usage", 4))

    mine = kafka_offsets.standings(group=GROUP, places=[PLACE, Place("usage", 9)])
    theirs = kafka_offsets.standings(group="other", places=[PLACE])

    assert mine == {PLACE: Standing(5, 0)}
    assert theirs == {}


def test_a_partition_that_another_reader_has_begun_stays_where_it_is(shop: Customer) -> None:
    begun()
    take_in(stretch(0, 10))

    begun(0)

    assert next_offset() == 10


def test_events_of_a_partition_that_was_never_begun_are_refused(shop: Customer) -> None:
    with pytest.raises(KafkaPartitionUnknown):
        take_in(stretch(0, 1))


def test_moved_back_on_purpose_events_are_read_again_and_counted_once(shop: Customer) -> None:
    begun()
    take_in(stretch(0, 10))

    row = kafka_offsets.move_offset(
        group=GROUP, place=PLACE, next_offset=4, reason="look again", actor=make.SYSTEM, at=make.NOON
    )
    again = take_in(stretch(4, 10))

    assert (row.next_offset, row.moves) == (4, 1)
    assert again == (10, 1)
    assert counted(shop) == (Decimal(45), 10)
    assert UsageBatch.objects.latest("pk").duplicates == 6
    entry = AuditEntry.objects.get(verb="kafka_offset.moved")
    assert (entry.reason, entry.data) == ("look again", {"from": 10, "to": 4})


def test_moving_to_where_it_is_changes_nothing(shop: Customer) -> None:
    begun(7)

    kafka_offsets.move_offset(group=GROUP, place=PLACE, next_offset=7, reason="x", actor=make.SYSTEM, at=make.NOON)

    assert KafkaPartition.objects.get().moves == 0
    assert not AuditEntry.objects.filter(verb="kafka_offset.moved").exists()


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"reason": "  "}, ReasonMissing),
        ({"next_offset": -1}, KafkaOffsetInvalid),
        ({"place": Place("usage", 9)}, KafkaPartitionUnknown),
        ({"group": "other"}, KafkaPartitionUnknown),
        ({"actor": Actor(label="nobody")}, PermissionMissing),
    ],
)
def test_an_offset_is_not_moved(change: dict[str, object], refusal: type[Exception]) -> None:
    begun(5)
    asked = {"group": GROUP, "place": PLACE, "next_offset": 1, "reason": "x", "actor": make.SYSTEM, "at": make.NOON}

    with pytest.raises(refusal):
        kafka_offsets.move_offset(**{**asked, **change})  # type: ignore[arg-type]

    assert next_offset() == 5


def test_nobody_reads_without_permission() -> None:
    nobody = Actor(label="nobody")

    with pytest.raises(PermissionMissing):
        kafka_offsets.begin(group=GROUP, starts={PLACE: 0}, actor=nobody, at=make.NOON)
    with pytest.raises(PermissionMissing):
        kafka_offsets.take_in(group=GROUP, stretch=stretch(0, 1), actor=nobody, at=make.NOON)
    with pytest.raises(PermissionMissing):
        kafka_offsets.note(group=GROUP, reader="r", sightings=[], actor=nobody, at=make.NOON)
    with pytest.raises(PermissionMissing):
        kafka_offsets.leave(group=GROUP, reader="r", actor=nobody, at=make.NOON)


def test_a_reader_notes_what_it_sees_and_that_it_leaves() -> None:
    begun(5)

    told = kafka_offsets.note(
        group=GROUP,
        reader="host:1",
        sightings=[Sighting(place=PLACE, end_offset=25, problem="odd"), Sighting(place=Place("no", 1), end_offset=1)],
        actor=make.SYSTEM,
        at=make.NOON + timedelta(seconds=5),
    )
    row = KafkaPartition.objects.get()
    kafka_offsets.leave(group=GROUP, reader="host:1", actor=make.SYSTEM, at=make.NOON + timedelta(seconds=9))

    assert told == {PLACE: Standing(5, 0)}
    assert (row.reader, row.end_offset, row.problem) == ("host:1", 25, "odd")
    assert row.seen_at == make.NOON + timedelta(seconds=5)
    left = KafkaPartition.objects.get()
    assert (left.reader, left.next_offset) == ("", 5)
    assert left.seen_at == make.NOON + timedelta(seconds=9)


def test_an_end_that_is_not_known_leaves_the_one_before() -> None:
    begun(5)
    for end in (25, None):
        kafka_offsets.note(
            group=GROUP,
            reader="host:1",
            sightings=[Sighting(place=PLACE, end_offset=end)],
            actor=make.SYSTEM,
            at=make.NOON,
        )

    assert KafkaPartition.objects.get().end_offset == 25


def test_the_database_refuses_to_move_an_offset_back_unless_it_says_that_it_was_moved() -> None:
    begun(5)

    with refused("kafka_offset_never_goes_back"):
        KafkaPartition.objects.update(next_offset=4)
    KafkaPartition.objects.update(next_offset=4, moves=1)

    assert next_offset() == 4


def test_the_database_refuses_to_rename_a_partition_or_to_forget_its_moves() -> None:
    begun(5)
    KafkaPartition.objects.update(moves=2)

    for change in ({"topic": "other"}, {"partition": 9}, {"consumer_group": "other"}, {"moves": 1}):
        with refused("kafka_partition_keeps_its_name"):
            KafkaPartition.objects.update(**change)


def test_the_database_refuses_to_forget_where_reading_stands() -> None:
    begun(5)

    with refused("kafka_partition_is_never_deleted"):
        KafkaPartition.objects.all().delete()
    with refused("kafka_partitions_are_never_emptied"):
        execute("TRUNCATE metering_kafkapartition")


def test_the_database_refuses_a_partition_twice_and_an_offset_below_nothing() -> None:
    begun(5)
    fields = {"consumer_group": GROUP, "topic": "usage", "seen_at": make.NOON, "advanced_at": make.NOON}

    with refused("kafka_partition_is_read_once_a_group"):
        KafkaPartition.objects.create(**fields, partition=3, next_offset=1)
    with refused("kafka_offset_is_not_negative"):
        KafkaPartition.objects.create(**fields, partition=4, next_offset=-1)
