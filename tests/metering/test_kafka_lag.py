"""How the reading of usage from Kafka goes, as the health page and an alarm see it."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.core.management import call_command
from django.test import Client

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from metering.errors import KafkaPartitionUnknown
from metering.models import KafkaPartition
from metering.sources import kafka_lag, kafka_offsets
from metering.sources.kafka_lag import StreamState
from metering.sources.kafka_offsets import Place, Sighting, Stretch
from tests import make_metering as make
from tests.make_pages import queries, signed_in, words

pytestmark = pytest.mark.django_db

GROUP = "billing"


def seen(*ends: int | None, seconds: int = 0, problem: str = "", topic: str = "usage", reader: str = "host:1") -> None:
    """Let a reader say where the first partitions of a topic end, so long after noon."""
    at = make.NOON + timedelta(seconds=seconds)
    places = [Place(topic, number) for number in range(len(ends))]
    kafka_offsets.begin(group=GROUP, starts=dict.fromkeys(places, 0), actor=make.SYSTEM, at=at)
    sightings = [
        Sighting(place=place, end_offset=end, problem=problem) for place, end in zip(places, ends, strict=True)
    ]
    kafka_offsets.note(group=GROUP, reader=reader, sightings=sightings, actor=make.SYSTEM, at=at)


def taken_in(end: int, *, seconds: int = 0, start: int = 0) -> None:
    stretch = Stretch(place=Place("usage", 0), start=start, end=end, events=[], offsets=[])
    at = make.NOON + timedelta(seconds=seconds)
    kafka_offsets.take_in(group=GROUP, stretch=stretch, actor=make.SYSTEM, at=at)


def state(seconds: int) -> StreamState:
    return kafka_lag.state_of(KafkaPartition.objects.get(), at=make.NOON + timedelta(seconds=seconds))


def test_a_partition_that_is_read_to_its_end_is_well() -> None:
    seen(100)
    taken_in(100)
    seen(100, seconds=300)

    assert state(300) == StreamState.READING
    assert not StreamState.READING.is_warning
    assert kafka_lag.lag_of(KafkaPartition.objects.get()) == 0


def test_a_reader_that_is_not_heard_for_a_minute_is_silent() -> None:
    seen(100)

    assert state(60) == StreamState.READING
    assert state(61) == StreamState.SILENT


def test_a_reader_that_left_in_good_order_may_be_away_for_a_day() -> None:
    seen(100)
    kafka_offsets.leave(group=GROUP, reader="host:1", actor=make.SYSTEM, at=make.NOON)

    assert state(24 * 3_600) == StreamState.STOPPED
    assert not StreamState.STOPPED.is_warning
    assert state(24 * 3_600 + 1) == StreamState.SILENT


def test_messages_that_wait_while_nothing_is_taken_in_stand_still() -> None:
    for seconds in range(0, 130, 5):
        seen(1, seconds=seconds)

    assert state(125) == StreamState.STALLED


def test_the_first_message_after_a_quiet_hour_is_no_standstill() -> None:
    seen(0)
    seen(0, seconds=3_600)
    seen(1, seconds=3_605)

    assert state(3_605) == StreamState.READING


def test_a_lag_that_grows_is_told_and_one_that_shrinks_is_not() -> None:
    seen(30_000)
    for tick in range(30):
        taken_in(100 * (tick + 1), start=100 * tick, seconds=5 * tick)
        seen(30_000 + 1_000 * tick, seconds=5 * tick)
    grown = state(145)
    taken_in(50_000, start=3_000, seconds=149)
    seen(60_000, seconds=150)
    caught_up = state(150)

    assert grown == StreamState.GROWING
    assert caught_up == StreamState.READING


def test_a_reader_that_comes_back_to_much_is_not_falling_behind() -> None:
    seen(0)
    kafka_offsets.leave(group=GROUP, reader="host:1", actor=make.SYSTEM, at=make.NOON)
    seen(1_000_000, seconds=3_600)
    taken_in(5_000, seconds=3_604)
    seen(1_000_500, seconds=3_605)

    assert state(3_605) == StreamState.READING


def test_a_partition_with_a_problem_is_stuck_until_the_reader_says_otherwise() -> None:
    seen(100, problem="Offset 7 is not there any more")
    stuck = state(0)
    taken_in(3)

    assert stuck == StreamState.STUCK
    assert state(0) == StreamState.READING


def test_a_retired_topic_alarms_nobody_until_somebody_reads_it_again() -> None:
    seen(100, 50)
    much_later = make.NOON + timedelta(days=30)

    call_command("retire_usage_topic", "--topic", "usage", "--group", GROUP, "--reason", "moved", stdout=StringIO())
    retired = kafka_lag.streams(at=much_later), kafka_lag.summary(at=much_later)
    states = {reading.state for reading in kafka_lag.readings(kafka_lag.partitions(), at=much_later)}
    seen(120, 50, seconds=30 * 86_400)

    assert retired == ([], kafka_lag.Summary(lag=0, in_trouble=0))
    assert states == {StreamState.RETIRED}
    assert AuditEntry.objects.filter(verb="kafka_partition.retired", reason="moved").count() == 2
    (stream,) = kafka_lag.streams(at=much_later)
    assert (stream.state, stream.lag) == (StreamState.READING, 170)


def test_retiring_twice_is_told_once_and_what_was_never_read_is_not_retired() -> None:
    seen(100)

    def retire(topic: str, *, reason: str = "moved", actor: Actor = make.SYSTEM) -> int:
        return kafka_offsets.retire_topic(group=GROUP, topic=topic, reason=reason, actor=actor, at=make.NOON)

    assert [retire("usage"), retire("usage")] == [1, 0]
    with pytest.raises(KafkaPartitionUnknown):
        retire("other")
    with pytest.raises(ReasonMissing):
        retire("usage", reason=" ")
    with pytest.raises(PermissionMissing):
        retire("usage", actor=Actor(label="nobody"))


def test_a_topic_is_as_well_as_its_worst_partition() -> None:
    seen(100, None, 50)
    seen(10, topic="other", problem="odd")

    other, usage = kafka_lag.streams(at=make.NOON)

    assert (other.topic, other.state, other.problem) == ("other", StreamState.STUCK, "odd")
    assert (usage.topic, usage.state, usage.partitions, usage.lag, usage.readers) == (
        "usage",
        StreamState.READING,
        3,
        150,
        1,
    )


def test_an_alarm_sees_what_waits_and_what_is_in_trouble() -> None:
    seen(100, 50)
    seen(7, topic="other", problem="odd")

    with time_machine.travel(make.NOON, tick=False):
        answer = Client().get("/healthz").json()

    assert (answer["kafka_lag_messages"], answer["kafka_partitions_in_trouble"]) == (157, 1)


def test_the_health_page_names_topics_only_where_there_are_any() -> None:
    client = signed_in(Role.SUPPORT)
    without = words(client.get("/health/"))
    seen(100, 50)
    seen(7, topic="other", problem="Offset 7 is not there any more")

    with time_machine.travel(make.NOON, tick=False):
        client = signed_in(Role.SUPPORT)
        page = words(client.get("/health/"))

    assert "Usage from Kafka" not in without
    assert "usage billing Reads 150 2 1" in page
    assert "other billing Offset 7 is not there any more Stuck 7 1 1" in page


def test_each_partition_is_shown_with_its_offsets() -> None:
    seen(100, 50)
    kafka_offsets.move_offset(
        group=GROUP, place=Place("usage", 1), next_offset=20, reason="skip", actor=make.SYSTEM, at=make.NOON
    )

    page = words(signed_in(Role.SUPPORT).get("/usage/kafka/", {"topic": "usage"}))

    assert "usage[0] billing next offset 0 Silent 100 0 100 host:1" in page
    assert "usage[1] billing, moved 1 time on purpose next offset 20 Silent 30 20 50 host:1" in page


def test_a_search_that_finds_no_partition_says_so() -> None:
    client = signed_in(Role.SUPPORT)
    empty = words(client.get("/usage/kafka/"))
    seen(100)

    nothing = words(client.get("/usage/kafka/", {"topic": "other"}))

    assert "No usage from Kafka" in empty
    assert "Nothing fits" in nothing


def test_who_may_not_see_usage_does_not_see_where_it_comes_from() -> None:
    assert signed_in().get("/usage/kafka/").status_code == 403


def test_the_pages_ask_the_database_as_often_for_fifty_partitions_as_for_one() -> None:
    client = signed_in(Role.SUPPORT)
    seen(1)
    one = [queries(client, address) for address in ("/health/", "/usage/kafka/")]
    seen(*range(50))

    fifty = [queries(client, address) for address in ("/health/", "/usage/kafka/")]

    assert one == fifty
