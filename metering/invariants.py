"""What must hold of usage at every moment, as queries that return nothing; each row that comes back is a breach."""

from __future__ import annotations

from accounts.invariants import Rule

RULES: tuple[Rule, ...] = (
    Rule(
        name="metering.identity_is_an_event_or_in_quarantine",
        statement="Every identity taken is one accepted event, here or in an archived month, or one that is still in "
        "quarantine or was discarded.",
        sql="""
            WITH holder AS (
                SELECT key FROM usage_event
                UNION ALL
                SELECT key FROM metering_quarantinedevent WHERE status <> 'released'
            ), wrong AS (
                SELECT key, count(holder.key) AS holders, count(usage_identity.content_hash) AS identities
                FROM usage_identity FULL JOIN holder USING (key)
                GROUP BY key
                HAVING count(holder.key) <> 1 OR count(usage_identity.content_hash) <> 1
            ), lone AS (
                SELECT key, replace(key::text, '-', '') AS hex FROM wrong WHERE holders = 0 AND identities = 1
            ), away AS (
                SELECT count(*) AS events, coalesce(sum(('x' || left(hex, 16))::bit(64)::bigint), 0) AS key_high,
                       coalesce(sum(('x' || right(hex, 16))::bit(64)::bigint), 0) AS key_low
                FROM lone
            ), archived AS (
                SELECT coalesce(sum(rows), 0) AS events, coalesce(sum(key_high), 0) AS key_high,
                       coalesce(sum(key_low), 0) AS key_low
                FROM metering_archivedmonth WHERE usage_month_is_archived(month)
            ), differs AS (
                SELECT FROM away, archived
                WHERE (away.events, away.key_high, away.key_low)
                      <> (archived.events, archived.key_high, archived.key_low)
            )
            SELECT key, holders FROM wrong WHERE holders > 1 OR identities <> 1
            UNION ALL
            -- Identities without an event have to be those of the archived months, by number and by sum.
            SELECT lone.key, 0 FROM lone, differs
            UNION ALL
            SELECT NULL, 0 FROM differs WHERE NOT EXISTS (SELECT FROM lone)
        """,
    ),
    Rule(
        name="metering.released_event_counts",
        statement="An event that was released from quarantine is an accepted event.",
        sql="""
            SELECT record.id FROM metering_quarantinedevent AS record
            WHERE record.status = 'released' AND NOT usage_month_is_archived((record.time AT TIME ZONE 'UTC')::date)
              AND NOT EXISTS (
                SELECT 1 FROM usage_event AS event WHERE event.key = record.key AND event.time = record.time
            )
        """,
    ),
    Rule(
        name="metering.totals_are_those_of_the_events",
        statement="The hours and deltas of every series hold exactly what its accepted events, as amended, add up to.",
        sql="""
            WITH counted AS (
                SELECT customer_id, series_id, hour, count(*) AS count, sum(value) AS sum, min(value) AS min,
                       max(value) AS max, (array_agg(value ORDER BY time DESC, value DESC))[1] AS last,
                       max(time) AS last_at
                FROM usage_contribution GROUP BY customer_id, series_id, hour
            ), kept AS (
                SELECT customer_id, series_id, hour, sum(count)::bigint AS count, sum(sum) AS sum, min(min) AS min,
                       max(max) AS max, (array_agg(last ORDER BY last_at DESC, last DESC))[1] AS last,
                       max(last_at) AS last_at
                FROM (
                    SELECT customer_id, series_id, hour, count, sum, min, max, last, last_at FROM usage_hour
                    WHERE count <> 0 OR sum <> 0
                    UNION ALL
                    SELECT customer_id, series_id, hour, count, sum, min, max, last, last_at FROM usage_delta
                ) AS part
                GROUP BY customer_id, series_id, hour
            )
            SELECT customer_id, series_id, hour, counted.count, kept.count, counted.sum, kept.sum
            FROM counted FULL JOIN kept USING (customer_id, series_id, hour)
            WHERE (counted.count, counted.sum, counted.min, counted.max, counted.last, counted.last_at)
               IS DISTINCT FROM (kept.count, kept.sum, kept.min, kept.max, kept.last, kept.last_at)
              AND usage_is_recountable(customer_id, hour)
        """,
    ),
    Rule(
        name="metering.parts_are_those_of_the_events",
        statement="The parts of every hour and their deltas hold exactly what its events, as amended, add up to.",
        sql="""
            WITH counted AS (
                SELECT customer_id, series_id, hour, part, count(*) AS count, sum(value) AS sum
                FROM usage_contribution WHERE part IS NOT NULL GROUP BY customer_id, series_id, hour, part
            ), kept AS (
                SELECT customer_id, series_id, hour, part, sum(count)::bigint AS count, sum(sum) AS sum
                FROM (
                    SELECT customer_id, series_id, hour, part, count, sum FROM usage_part WHERE count <> 0 OR sum <> 0
                    UNION ALL
                    SELECT customer_id, series_id, hour, part, count, sum FROM usage_part_delta
                ) AS each
                GROUP BY customer_id, series_id, hour, part
            )
            SELECT customer_id, series_id, hour, part, counted.count, kept.count, counted.sum, kept.sum
            FROM counted FULL JOIN kept USING (customer_id, series_id, hour, part)
            WHERE (counted.count IS DISTINCT FROM kept.count OR counted.sum IS DISTINCT FROM kept.sum)
              AND usage_is_recountable(customer_id, hour)
        """,
    ),
    Rule(
        name="metering.levels_are_those_of_the_parts",
        statement="The level of every hour of a gauge is what its folded readings make it.",
        sql="""
            WITH reading AS (
                SELECT customer_id, series_id, hour, left(part, 10)::bigint AS after,
                       max(substr(part, 12)::numeric) AS level
                FROM usage_part WHERE kind = 'r' AND count > 0 GROUP BY customer_id, series_id, hour, after
            ), span AS (
                SELECT *, lead(after, 1, 3600000000) OVER (
                    PARTITION BY customer_id, series_id, hour ORDER BY after
                ) AS until FROM reading
            ), made AS (
                SELECT customer_id, series_id, hour, sum(level * (until - after)) AS area,
                       (array_agg(level ORDER BY after DESC))[1] AS last,
                       hour + min(after) * interval '1 microsecond' AS first_at
                FROM span GROUP BY customer_id, series_id, hour
            )
            SELECT customer_id, series_id, hour, made.area, kept.area
            FROM made FULL JOIN usage_level AS kept USING (customer_id, series_id, hour)
            WHERE (made.area, made.last, made.first_at) IS DISTINCT FROM (kept.area, kept.last, kept.first_at)
        """,
    ),
    Rule(
        name="metering.event_counts_in_a_series_of_its_customer",
        statement="Every accepted event is counted in at least one series, and only in series of its own customer.",
        sql="""
            SELECT event.customer_id, event.series_ids
            FROM (SELECT DISTINCT customer_id, series_ids FROM usage_event) AS event
            WHERE cardinality(event.series_ids) = 0 OR EXISTS (
                SELECT 1 FROM unnest(event.series_ids) AS series_id
                LEFT JOIN usage_series AS series ON series.id = series_id
                WHERE series.customer_id IS DISTINCT FROM event.customer_id
            )
        """,
    ),
    Rule(
        name="metering.batch_holds_the_events_it_accepted",
        statement="Every batch has as many events, and amends as many, as it says, the earliest at the time it says.",
        sql="""
            WITH fact AS (
                SELECT batch_id, time, 1 AS accepted, NULL::uuid AS amended FROM usage_event
                UNION ALL
                SELECT batch_id, time, 0, key FROM usage_amendment
                UNION ALL
                SELECT part.batch_id, part.earliest_at, part.events, NULL FROM metering_archivedbatch AS part
                JOIN metering_archivedmonth AS archived ON archived.id = part.month_id
                WHERE usage_month_is_archived(archived.month)
            ), made AS (
                SELECT batch_id, sum(accepted) AS accepted, count(DISTINCT amended) AS amended,
                       min(time) AS earliest_at FROM fact GROUP BY batch_id
            )
            SELECT coalesce(batch.id, made.batch_id), batch.accepted, made.accepted, batch.amended, made.amended
            FROM metering_usagebatch AS batch FULL JOIN made ON made.batch_id = batch.id
            WHERE coalesce(batch.accepted, -1) <> coalesce(made.accepted, 0)
               OR coalesce(batch.amended, -1) <> coalesce(made.amended, 0)
               OR batch.earliest_at IS DISTINCT FROM made.earliest_at
        """,
    ),
    Rule(
        name="metering.backfill_counted_what_it_says",
        statement="Every event that a backfill counted is one that was filled in and is marked so, and the other way "
        "round; what it voided or brought back was amended by its batch.",
        sql="""
            WITH done AS (
                SELECT item.id, item.state, item.batch_id, item.customer_id, item.time,
                       coalesce(item.new_key, item.key) AS key
                FROM metering_usagebackfillitem AS item WHERE item.batch_id IS NOT NULL
            ), counted AS (
                SELECT * FROM done WHERE state IN ('counted', 'replaced') AND usage_is_recountable(customer_id, time)
            ), batch AS (
                SELECT id FROM metering_usagebatch WHERE starts_with(origin, 'usage backfill ')
            ), event AS (
                SELECT event.batch_id, event.customer_id, event.time, event.key
                FROM usage_event AS event JOIN batch ON batch.id = event.batch_id
                WHERE usage_is_recountable(event.customer_id, event.time)
            )
            SELECT counted.id, event.key FROM counted
            FULL JOIN event USING (batch_id, customer_id, time, key) WHERE counted.id IS NULL OR event.key IS NULL
            UNION ALL
            SELECT done.id, done.key FROM done
            WHERE state IN ('voided', 'brought_back') AND NOT EXISTS (
                SELECT FROM usage_amendment AS amendment
                WHERE amendment.customer_id = done.customer_id AND amendment.time = done.time
                  AND amendment.key = done.key AND amendment.batch_id = done.batch_id
                  AND amendment.sign = CASE done.state WHEN 'voided' THEN -1 ELSE 1 END
            )
        """,
    ),
    Rule(
        name="metering.quarantine_is_tallied",
        statement="The quarantine's tally has as many events of each state, reason, type and subject as there are.",
        sql="""
            WITH tallied AS (
                SELECT status, reason, type, subject, sum(events) AS events, sum(seen) AS seen
                FROM metering_quarantinetally GROUP BY status, reason, type, subject
            ), present AS (
                SELECT status, reason, type, subject, count(*) AS events, sum(seen_count) AS seen
                FROM metering_quarantinedevent GROUP BY status, reason, type, subject
            )
            SELECT status, reason, type, subject, tallied.events, present.events
            FROM tallied FULL JOIN present USING (status, reason, type, subject)
            WHERE (coalesce(tallied.events, 0), coalesce(tallied.seen, 0))
                  <> (coalesce(present.events, 0), coalesce(present.seen, 0))
        """,
    ),
    Rule(
        name="metering.receipts_are_those_of_the_events",
        statement="The receipts of every source, type and hour are as many as its events that were accepted, wait in "
        "quarantine or were discarded, and those of a meter as many as it took.",
        sql="""
            WITH received AS (
                SELECT hour, source, type, meter_id, sum(count) AS count, sum(waiting) AS waiting,
                       sum(discarded) AS discarded
                FROM (
                    SELECT hour, source, type, meter_id, count, waiting, discarded FROM usage_receipt_hour
                    UNION ALL
                    SELECT hour, source, type, meter_id, count, waiting, discarded FROM usage_receipt
                ) AS part
                GROUP BY hour, source, type, meter_id
            ), sent AS (
                SELECT event.* FROM usage_event AS event
                LEFT JOIN metering_usagebatch AS batch ON batch.id = event.batch_id
                WHERE batch.door IS DISTINCT FROM 'correction'
            ), event AS (
                SELECT date_trunc('hour', time, 'UTC') AS hour, source, type, 0 AS meter_id, count(*) AS count,
                       0 AS waiting, 0 AS discarded
                FROM sent GROUP BY 1, 2, 3
                UNION ALL
                SELECT date_trunc('hour', event.time, 'UTC'), event.source, event.type, series.meter_id, count(*), 0, 0
                FROM sent AS event
                CROSS JOIN LATERAL unnest(event.series_ids) AS series_id
                JOIN usage_series AS series ON series.id = series_id AND series.customer_id = event.customer_id
                GROUP BY 1, 2, 3, 4
                UNION ALL
                SELECT date_trunc('hour', time, 'UTC'), source, type, 0, 0, count(*) FILTER (WHERE status = 'open'),
                       count(*) FILTER (WHERE status = 'discarded')
                FROM metering_quarantinedevent WHERE status <> 'released' GROUP BY 1, 2, 3
            ), wanted AS (
                SELECT hour, source, type, meter_id, sum(count) AS count, sum(waiting) AS waiting,
                       sum(discarded) AS discarded
                FROM event GROUP BY hour, source, type, meter_id
            )
            SELECT hour, source, type, meter_id, received.count, wanted.count, received.waiting, wanted.waiting
            FROM received FULL JOIN wanted USING (hour, source, type, meter_id)
            WHERE (coalesce(received.count, 0), coalesce(received.waiting, 0), coalesce(received.discarded, 0))
                  <> (coalesce(wanted.count, 0), coalesce(wanted.waiting, 0), coalesce(wanted.discarded, 0))
              AND NOT EXISTS (
                  SELECT FROM usage_unrecountable AS span WHERE hour >= span.starts_at AND hour < span.ends_at
              )
        """,
    ),
    Rule(
        name="metering.receipts_sum_up_to_the_totals",
        statement="What a meter's receipts of an hour sum up to is what its series hold of it, where nothing was "
        "corrected.",
        sql="""
            WITH kept AS (
                SELECT series.meter_id, part.hour, sum(part.sum) AS sum
                FROM (
                    SELECT customer_id, series_id, hour, sum FROM usage_hour
                    UNION ALL
                    SELECT customer_id, series_id, hour, sum FROM usage_delta
                ) AS part
                JOIN usage_series AS series ON series.customer_id = part.customer_id AND series.id = part.series_id
                GROUP BY series.meter_id, part.hour
            ), received AS (
                SELECT meter_id, hour, sum(sum) AS sum
                FROM (
                    SELECT meter_id, hour, sum FROM usage_receipt_hour
                    UNION ALL
                    SELECT meter_id, hour, sum FROM usage_receipt
                ) AS part
                WHERE meter_id <> 0 GROUP BY meter_id, hour
            ), corrected AS (
                SELECT DISTINCT series.meter_id, date_trunc('hour', fact.time, 'UTC') AS hour
                FROM (
                    SELECT customer_id, time, series_ids FROM usage_amendment
                    UNION ALL
                    SELECT customer_id, time, series_ids FROM usage_event AS event
                    JOIN metering_usagebatch AS batch ON batch.id = event.batch_id AND batch.door = 'correction'
                ) AS fact
                CROSS JOIN LATERAL unnest(fact.series_ids) AS series_id
                JOIN usage_series AS series ON series.id = series_id AND series.customer_id = fact.customer_id
            )
            SELECT meter_id, hour, received.sum, kept.sum FROM received FULL JOIN kept USING (meter_id, hour)
            WHERE received.sum IS DISTINCT FROM kept.sum
              AND NOT EXISTS (SELECT 1 FROM corrected AS c WHERE c.meter_id = coalesce(received.meter_id, kept.meter_id)
                              AND c.hour = coalesce(received.hour, kept.hour))
              AND NOT EXISTS (
                  SELECT FROM usage_unrecountable AS span WHERE hour >= span.starts_at AND hour < span.ends_at
              )
        """,
    ),
    Rule(
        name="metering.batches_were_written_in_this_cluster",
        statement="No batch names a transaction that this cluster has yet to begin: a dump brought in from another one "
        "would hide late usage from the bills.",
        sql="""
            SELECT id FROM metering_usagebatch
            WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
              AND transaction_id IS DISTINCT FROM pg_current_xact_id_if_assigned()::text::bigint
        """,
    ),
    Rule(
        name="metering.series_belongs_to_a_customer_and_a_meter",
        statement="Every series names a customer and a meter that exist.",
        sql="""
            SELECT series.id FROM usage_series AS series
            LEFT JOIN accounts_customer AS customer ON customer.id = series.customer_id
            LEFT JOIN metering_meter AS meter ON meter.id = series.meter_id
            WHERE customer.id IS NULL OR meter.id IS NULL
        """,
    ),
    Rule(
        name="metering.what_staff_edit_has_history",
        statement="Every meter and every assignment of a subject has a history row that says how it came to be.",
        sql="""
            SELECT 'meter' AS kind, record.id FROM metering_meter AS record
            WHERE NOT EXISTS (SELECT 1 FROM metering_historicalmeter AS kept WHERE kept.id = record.id)
            UNION ALL
            SELECT 'assignment', record.id FROM metering_subjectassignment AS record
            WHERE NOT EXISTS (SELECT 1 FROM metering_historicalsubjectassignment AS kept WHERE kept.id = record.id)
        """,
    ),
)
