"""Usage: batches, identities, series, deltas, hours and events.

Usage tables carry `customer_id` in front and no foreign keys, so that the same SQL runs on a distributed Postgres.
"""

from __future__ import annotations

import pgtrigger
from django.contrib.postgres.fields import (
    ArrayField,
)
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.db.models.expressions import RawSQL

from accounts.triggers import append_only, refusal, refuse, refuse_truncate

_EVENT_IS_A_FACT = "An accepted event is a fact: it never changes."


class UsageBatch(models.Model):
    """One accepted call of the ingestion function: who sent it, through which door, and what became of it.

    `transaction_id` is the writing transaction (xid8 as bigint), so that a bill can say with a snapshot exactly which
    batches it saw, whatever order they committed in.
    """

    class Door(models.TextChoices):
        API = "api", "API"
        FILE = "file", "File"
        KAFKA = "kafka", "Kafka"
        QUARANTINE = "quarantine", "Released from quarantine"
        CORRECTION = "correction", "Correction"
        BACKFILL = "backfill", "Back-fill"

    door = models.CharField(max_length=20, choices=Door)
    origin = models.CharField("file name or request id", max_length=254, blank=True)
    api_key_id = models.BigIntegerField(null=True)
    actor_label = models.CharField(max_length=254)
    received_at = models.DateTimeField(db_index=True)
    transaction_id = models.BigIntegerField(db_default=RawSQL("(pg_current_xact_id()::text)::bigint", ()))
    accepted = models.PositiveIntegerField()
    duplicates = models.PositiveIntegerField()
    quarantined = models.PositiveIntegerField()
    rejected = models.PositiveIntegerField()
    amended = models.PositiveIntegerField("earlier events that it counts otherwise", db_default=0)
    earliest_at = models.DateTimeField("earliest event accepted or amended", null=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "usage batches"
        indexes = (models.Index(fields=["transaction_id"], name="usage_batch_by_transaction"),)
        constraints = (
            models.CheckConstraint(
                condition=Q(door__in=["api", "file", "kafka", "quarantine", "correction", "backfill"]),
                name="usage_door_is_known",
            ),
            models.CheckConstraint(
                condition=Q(accepted=0, amended=0, earliest_at__isnull=True)
                | Q(Q(accepted__gt=0) | Q(amended__gt=0), earliest_at__isnull=False),
                name="usage_batch_knows_its_earliest_event",
            ),
        )
        triggers = append_only("usage_batch", sentence="A usage batch is a fact: it never changes.")

    def __str__(self) -> str:
        return f"batch {self.pk} ({self.accepted} accepted)"


class UsageIdentity(models.Model):
    """An event's identity, taken once for ever: 128-bit BLAKE2b of source and id, with that of the content.

    A quarantined event holds its identity too, so that one unique key decides between parallel senders whether an
    event is new, a duplicate or a conflict.
    """

    key = models.UUIDField(primary_key=True)
    content_hash = models.UUIDField()
    # With which batch it came, so that an event is found by its name: events are in no order of identity. None of those
    # that were taken before this was kept.
    batch_id = models.BigIntegerField(null=True)

    class Meta:
        db_table = "usage_identity"
        verbose_name_plural = "usage identities"
        triggers = append_only("usage_identity", sentence="An event's identity is taken for ever.")

    def __str__(self) -> str:
        return str(self.key)


class UsageSeries(models.Model):
    """One meter of one customer with one set of dimension values."""

    customer_id = models.BigIntegerField()
    meter_id = models.BigIntegerField()
    dimensions = models.JSONField(default=dict)
    dimensions_key = models.UUIDField()

    class Meta:
        db_table = "usage_series"
        verbose_name_plural = "usage series"
        constraints = (
            models.UniqueConstraint(
                fields=["customer_id", "meter_id", "dimensions_key"],
                name="usage_series_is_unique",
            ),
        )
        triggers = append_only(
            "usage_series",
            sentence="Events and invoice lines name a series: it never changes.",
        )

    def __str__(self) -> str:
        return f"series {self.pk}"


class UsageDelta(models.Model):
    """What one batch adds to one hour of one series; append-only until the fold merges it into the hour."""

    customer_id = models.BigIntegerField()
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()
    sum = models.DecimalField()
    count = models.BigIntegerField()
    min = models.DecimalField()
    max = models.DecimalField()
    last = models.DecimalField()
    last_at = models.DateTimeField()
    batch_id = models.BigIntegerField()

    class Meta:
        db_table = "usage_delta"
        indexes = (models.Index(fields=["customer_id", "series_id", "hour"], name="usage_delta_by_series"),)
        triggers = (
            refuse(
                "usage_delta_never_changes",
                operation=pgtrigger.Update,
                sentence="A delta is folded into its hour or stays as it is.",
            ),
            refuse_truncate(
                "usage_delta_is_never_emptied",
                sentence="Deltas are folded, never thrown away.",
            ),
        )

    def __str__(self) -> str:
        return f"delta {self.pk}"


class UsageHour(models.Model):
    """The folded total of one hour of one series; a read adds the deltas that are not folded yet."""

    pk = models.CompositePrimaryKey("customer_id", "series_id", "hour")
    customer_id = models.BigIntegerField()
    hour = models.DateTimeField()
    series_id = models.BigIntegerField()
    sum = models.DecimalField()
    count = models.BigIntegerField()
    min = models.DecimalField()
    max = models.DecimalField()
    last = models.DecimalField()
    last_at = models.DateTimeField()

    class Meta:
        db_table = "usage_hour"
        indexes = (BrinIndex(fields=["hour"], name="usage_hour_by_time"),)
        triggers = (
            refuse(
                "usage_hour_is_never_deleted",
                operation=pgtrigger.Delete,
                sentence="A folded hour is never thrown away.",
            ),
            refuse_truncate("usage_hour_is_never_emptied", sentence="Folded hours are never thrown away."),
        )

    def __str__(self) -> str:
        return f"series {self.series_id} at {self.hour:%Y-%m-%d %H:00}"


class PartKind(models.TextChoices):
    """What a part of an hour is: see `UsagePart`."""

    VALUE = "v", "A value that was seen"
    SLOT = "s", "Five minutes"
    READING = "r", "A reading of a level"


class UsagePartDelta(models.Model):
    """What one batch adds to one part of an hour; append-only until the fold merges it into the part."""

    customer_id = models.BigIntegerField()
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()
    kind = models.CharField(max_length=1, choices=PartKind)
    part = models.TextField(db_collation="C")
    sum = models.DecimalField()
    count = models.BigIntegerField()
    batch_id = models.BigIntegerField()

    class Meta:
        db_table = "usage_part_delta"
        indexes = (models.Index(fields=["customer_id", "series_id", "hour"], name="usage_part_delta_by_series"),)
        triggers = (
            refuse(
                "usage_part_delta_never_changes",
                operation=pgtrigger.Update,
                sentence="A delta is folded into its part or stays as it is.",
            ),
            refuse_truncate("usage_part_delta_is_never_emptied", sentence="Deltas are folded, never thrown away."),
        )

    def __str__(self) -> str:
        return f"part delta {self.pk}"


class UsagePart(models.Model):
    """What an aggregation that does not add up keeps of an hour, so that it stays exact without reading events.

    `part` is, by `kind`: a value that was seen, as text (unique); the minute in which five minutes begin, two digits
    (p95); a reading of a level as `offset in the hour in microseconds, ten digits`, a blank, and the level (gauge).
    `sum` and `count` are of the events in it; a part whose count came down to zero holds nothing.
    """

    pk = models.CompositePrimaryKey("customer_id", "series_id", "hour", "part")
    customer_id = models.BigIntegerField()
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()
    part = models.TextField(db_collation="C")
    kind = models.CharField(max_length=1, choices=PartKind)
    sum = models.DecimalField()
    count = models.BigIntegerField()

    class Meta:
        db_table = "usage_part"
        triggers = (refuse_truncate("usage_part_is_never_emptied", sentence="Parts are never thrown away."),)

    def __str__(self) -> str:
        return f"part {self.part} of series {self.series_id}"


class UsageLevel(models.Model):
    """An hour of a gauge's series that has readings, made from its parts by the fold.

    `area` is the level times microseconds from the first reading until the hour's end, and `last` the level there.
    """

    pk = models.CompositePrimaryKey("customer_id", "series_id", "hour")
    customer_id = models.BigIntegerField()
    series_id = models.BigIntegerField()
    hour = models.DateTimeField()
    first_at = models.DateTimeField()
    area = models.DecimalField()
    last = models.DecimalField()

    class Meta:
        db_table = "usage_level"
        triggers = (refuse_truncate("usage_level_is_never_emptied", sentence="Levels are never thrown away."),)

    def __str__(self) -> str:
        return f"level of series {self.series_id} at {self.hour:%Y-%m-%d %H:00}"


class UsageEvent(models.Model):
    """One accepted event as it came; append-only, partitioned by month of `time` (the table is made by SQL).

    `series_ids` are the series it was counted in, so that the events behind a total are never guessed. An erasure by
    law leaves an event without source, event id, subject and data; no event comes in without an id, so an empty one
    says it.
    """

    pk = models.CompositePrimaryKey("customer_id", "time", "key")
    customer_id = models.BigIntegerField()
    time = models.DateTimeField()
    key = models.UUIDField()
    batch_id = models.BigIntegerField()
    source = models.TextField()
    event_id = models.TextField()
    type = models.TextField()
    subject = models.TextField()
    data = models.JSONField()
    series_ids = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "usage_event"
        triggers = (
            refuse(
                "usage_event_never_changes",
                operation=pgtrigger.Update,
                condition=(
                    "NOT (usage_erasure_covers(OLD.customer_id, OLD.time)"
                    " AND NEW.source = '' AND NEW.event_id = '' AND NEW.subject = '' AND NEW.data = '{}'::jsonb"
                    " AND (OLD.customer_id, OLD.time, OLD.key, OLD.batch_id, OLD.type, OLD.series_ids)"
                    " = (NEW.customer_id, NEW.time, NEW.key, NEW.batch_id, NEW.type, NEW.series_ids))"
                ),
                sentence=_EVENT_IS_A_FACT,
            ),
            refuse("usage_event_is_never_deleted", operation=pgtrigger.Delete, sentence=_EVENT_IS_A_FACT),
            refuse_truncate("usage_event_is_never_emptied", sentence=_EVENT_IS_A_FACT),
        )

    def __str__(self) -> str:
        return f"{self.source} {self.event_id}"


# Planned anew for each statement (EXECUTE) and by index, see `storage.find_by_index`: else the plan of a session that
# began with an empty table would read all of the table for each event. The events are locked first, so that of two who
# amend one at once the second sees what the first did.
_COUNTS_ONCE_OR_NOT = f"""
    PERFORM set_config('enable_seqscan', 'off', true);
    EXECUTE $check$
        WITH amended AS MATERIALIZED (SELECT DISTINCT customer_id, time, key FROM added), event AS MATERIALIZED (
            SELECT customer_id, time, key FROM amended JOIN usage_event AS event USING (customer_id, time, key)
            ORDER BY customer_id, time, key FOR NO KEY UPDATE OF event
        )
        SELECT (SELECT count(*) FROM amended) - (SELECT count(*) FROM event)
    $check$ INTO wrong;
    IF wrong > 0 THEN
        {refusal("amendment_is_of_an_event", "Only an event that is here can be amended.")}
    END IF;
    EXECUTE $check$
        SELECT count(*) FROM (SELECT DISTINCT customer_id, time, key FROM added) AS amended
        JOIN usage_event AS event USING (customer_id, time, key)
        CROSS JOIN LATERAL (
            SELECT series_id FROM (
                SELECT unnest(event.series_ids) AS series_id, 1 AS sign
                UNION ALL
                SELECT unnest(fact.series_ids), fact.sign FROM usage_amendment AS fact
                WHERE fact.customer_id = event.customer_id AND fact.time = event.time AND fact.key = event.key
            ) AS named
            GROUP BY series_id HAVING sum(sign) NOT IN (0, 1)
        ) AS miscounted
    $check$ INTO wrong;
    PERFORM set_config('enable_seqscan', scans, true);
    IF wrong > 0 THEN
        {refusal("amended_event_counts_once_or_not", "An event counts in a series once or not at all.")}
    END IF;
    RETURN NULL;
"""  # noqa: S608 -- built from constants


class UsageAmendment(models.Model):
    """What was decided later about an accepted event: it counts in these series no more (-1), or in these too (+1).

    An event counts in a series when 1 (if its own `series_ids` name it) and the signs of its amendments add up to 1.
    """

    pk = models.CompositePrimaryKey("customer_id", "time", "key", "batch_id", "sign")
    customer_id = models.BigIntegerField()
    time = models.DateTimeField("the event's own time")
    key = models.UUIDField("the event's identity")
    batch_id = models.BigIntegerField()
    sign = models.SmallIntegerField()
    series_ids = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "usage_amendment"
        indexes = (BrinIndex(fields=["batch_id"], name="usage_amendment_by_batch"),)
        constraints = (
            models.CheckConstraint(condition=Q(sign__in=[-1, 1]), name="amendment_takes_away_or_adds"),
            models.CheckConstraint(condition=Q(series_ids__len__gt=0), name="amendment_names_its_series"),
        )
        triggers = (
            *append_only("usage_amendment", sentence="An amendment is a fact: it is amended, never changed."),
            pgtrigger.Trigger(
                name="amended_event_counts_once_or_not",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                declare=[("wrong", "bigint"), ("scans", "text := current_setting('enable_seqscan')")],
                func=_COUNTS_ONCE_OR_NOT,
            ),
            # Nobody can read any more what such an event adds to a total, so that none could follow.
            pgtrigger.Trigger(
                name="erased_event_is_not_amended",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                func="IF EXISTS (SELECT FROM added JOIN usage_event AS event"
                " USING (customer_id, time, key) WHERE event.event_id = '') THEN "
                + refusal("erased_event_is_not_amended", "What an erased event said is gone: it cannot be amended.")
                + " END IF; RETURN NULL;",
            ),
        )

    def __str__(self) -> str:
        return f"{self.sign:+d} {self.key}"
