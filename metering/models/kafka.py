"""How far usage was read from Kafka: one row a consumer group and partition, written with the events themselves."""

from __future__ import annotations

import pgtrigger
from django.db import models
from django.db.models import Q

from accounts.triggers import refuse, refuse_truncate


class KafkaPartition(models.Model):
    """A partition of a topic as one consumer group reads it.

    `next_offset` is the first message that is not taken in yet; it moves in the transaction that stores the events
    before it, and back only on purpose (`moves` counts that). The rest tells how the reading goes: `end_offset` is
    where the partition ended when its reader last looked, `lag` how far behind it was then, `earlier_lag` up to a
    minute before (none where nobody read then); `seen_at` is when a reader last spoke, `advanced_at` when messages were
    last taken in. A reader that stopped in good order leaves `reader` empty. `retired_at` is when somebody said that
    nobody will read it any more; a reader that comes after all takes that back.
    """

    consumer_group = models.CharField(max_length=255)
    topic = models.CharField(max_length=249)
    partition = models.PositiveIntegerField()
    next_offset = models.BigIntegerField()
    moves = models.PositiveIntegerField("times moved on purpose", default=0)
    end_offset = models.BigIntegerField(null=True)
    lag = models.BigIntegerField(null=True)
    earlier_lag = models.BigIntegerField(null=True)
    earlier_lag_at = models.DateTimeField(null=True)
    reader = models.CharField(max_length=120, blank=True)
    seen_at = models.DateTimeField()
    advanced_at = models.DateTimeField()
    problem = models.TextField(blank=True)
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("consumer_group", "topic", "partition")
        constraints = (
            models.UniqueConstraint(
                fields=["consumer_group", "topic", "partition"],
                name="kafka_partition_is_read_once_a_group",
            ),
            models.CheckConstraint(condition=Q(next_offset__gte=0), name="kafka_offset_is_not_negative"),
        )
        triggers = (
            refuse(
                "kafka_offset_never_goes_back",
                operation=pgtrigger.Update,
                condition="NEW.next_offset < OLD.next_offset AND NEW.moves <= OLD.moves",
                sentence="What was taken in stays so: an offset goes back only where it is moved on purpose.",
            ),
            refuse(
                "kafka_partition_keeps_its_name",
                operation=pgtrigger.Update,
                condition=(
                    "(OLD.id, OLD.consumer_group, OLD.topic, OLD.partition)"
                    " IS DISTINCT FROM (NEW.id, NEW.consumer_group, NEW.topic, NEW.partition)"
                    " OR NEW.moves < OLD.moves"
                ),
                sentence="A partition's group, topic and number stay, and so does the number of its moves.",
            ),
            refuse(
                "kafka_partition_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="Where reading stands is never forgotten: move the offset instead.",
            ),
            refuse_truncate(
                "kafka_partitions_are_never_emptied",
                sentence="Where reading stands is never forgotten: move the offset instead.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}] of {self.consumer_group}"
