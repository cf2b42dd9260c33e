from django.db import migrations

# What each accepted event adds to each series that it counts in by now, as amended, by the version of the meter in
# force at its time: the view of 0013, and the same of one customer and some time. What bounds the events bounds their
# amendments, too, which no planner finds out by itself: a customer whose meter was back-filled has as many amendments
# as events, and an hour that is counted anew has to read its own alone.
CONTRIBUTION = """
    WITH amended AS NOT MATERIALIZED (
        SELECT customer_id, time, key, series_id, sum(sign) AS net
        FROM (
            SELECT customer_id, time, key, sign, unnest(series_ids) AS series_id
            FROM usage_amendment AS fact WHERE {{bounds}}
        ) AS each
        GROUP BY customer_id, time, key, series_id
    ), accepted AS NOT MATERIALIZED (
        SELECT customer_id, time, key, data, series_ids FROM usage_event AS fact WHERE {{bounds}}
    ), counts AS (
        SELECT event.customer_id, event.time, event.key, event.data, own.series_id
        FROM accepted AS event CROSS JOIN LATERAL unnest(event.series_ids) AS own(series_id)
        WHERE NOT EXISTS (
            SELECT FROM amended
            WHERE amended.customer_id = event.customer_id AND amended.time = event.time AND amended.key = event.key
              AND amended.series_id = own.series_id AND net <> 0
        )
        UNION ALL
        SELECT event.customer_id, event.time, event.key, event.data, amended.series_id
        FROM amended JOIN accepted AS event USING (customer_id, time, key)
        WHERE net = 1 AND NOT amended.series_id = ANY (event.series_ids)
    ), version AS (
        SELECT meter_id, value_path, conversion,
               CASE WHEN number = 1 THEN '-infinity' ELSE valid_from END AS starts_at,
               lead(valid_from, 1, 'infinity') OVER (PARTITION BY meter_id ORDER BY valid_from) AS ends_at
        FROM metering_meterversion
    ), read AS (
        SELECT counts.customer_id, counts.time, counts.key, counts.series_id, meter.aggregation, version.conversion,
               coalesce(
                   nullif(counts.data -> version.value_path, 'null'),
                   counts.data #> string_to_array(version.value_path, '.')
               ) AS found
        FROM counts
        JOIN usage_series AS series ON series.customer_id = counts.customer_id AND series.id = counts.series_id
        JOIN metering_meter AS meter ON meter.id = series.meter_id
        JOIN version ON version.meter_id = meter.id AND counts.time >= starts_at AND counts.time < ends_at
    ), valued AS (
        SELECT *, CASE WHEN aggregation IN ('count', 'unique') THEN 1
                       ELSE (found #>> '{}')::numeric * conversion END AS value
        FROM read
    )
    SELECT customer_id, series_id, date_trunc('hour', time, 'UTC') AS hour, time, key, value,
           CASE aggregation WHEN 'unique' THEN 'v' WHEN 'p95' THEN 's' WHEN 'gauge' THEN 'r' END AS kind,
           CASE aggregation
               WHEN 'unique' THEN CASE jsonb_typeof(found)
                   WHEN 'number' THEN trim_scale((found #>> '{}')::numeric)::text ELSE found #>> '{}' END
               WHEN 'p95' THEN to_char(date_bin('5 minutes', time, '2000-01-01 00:00:00+00') AT TIME ZONE 'UTC', 'MI')
               WHEN 'gauge' THEN lpad(
                   (extract(epoch FROM time - date_trunc('hour', time, 'UTC')) * 1000000)::bigint::text, 10, '0'
               ) || ' ' || trim_scale(value)
           END COLLATE "C" AS part
    FROM valued
"""
VIEW = "CREATE OR REPLACE VIEW usage_contribution AS " + CONTRIBUTION.replace("{{bounds}}", "true")
FUNCTION = (
    "CREATE FUNCTION usage_contribution_of(of_customer bigint, from_time timestamptz, until_time timestamptz)"
    ' RETURNS TABLE (customer_id bigint, series_id bigint, "hour" timestamptz, "time" timestamptz, key uuid, value numeric,'
    " kind text, part text) LANGUAGE sql STABLE AS $$"
    + CONTRIBUTION.replace(
        "{{bounds}}", "fact.customer_id = of_customer AND fact.time >= from_time AND fact.time < until_time"
    )
    + "$$"
)


class Migration(migrations.Migration):

    dependencies = [("metering", "0026_archived_months_of_several_files")]

    operations = [
        migrations.RunSQL(sql=VIEW, reverse_sql=migrations.RunSQL.noop),
        migrations.RunSQL(
            sql=FUNCTION, reverse_sql="DROP FUNCTION usage_contribution_of(bigint, timestamptz, timestamptz)"
        ),
    ]
