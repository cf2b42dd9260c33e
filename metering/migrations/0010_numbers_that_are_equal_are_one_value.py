from decimal import Decimal

from django.db import migrations, models

# The view of 0007 but for the text of a value that is told apart: numbers that are equal are one value, however many
# zeros they end in.
WITH_EQUAL_NUMBERS = """
    CREATE OR REPLACE VIEW usage_contribution AS
    WITH named AS (
        SELECT customer_id, time, key, unnest(series_ids) AS series_id, 1 AS sign FROM usage_event
        UNION ALL
        SELECT customer_id, time, key, unnest(series_ids), sign FROM usage_amendment
    ), counts AS (
        SELECT customer_id, time, key, series_id FROM named
        GROUP BY customer_id, time, key, series_id HAVING sum(sign) = 1
    ), read AS (
        SELECT counts.*, meter.aggregation, version.conversion,
               coalesce(
                   nullif(event.data -> version.value_path, 'null'),
                   event.data #> string_to_array(version.value_path, '.')
               ) AS found
        FROM counts
        JOIN usage_event AS event USING (customer_id, time, key)
        JOIN usage_series AS series ON series.customer_id = counts.customer_id AND series.id = counts.series_id
        JOIN metering_meter AS meter ON meter.id = series.meter_id
        CROSS JOIN LATERAL (
            SELECT value_path, conversion FROM metering_meterversion
            WHERE meter_id = meter.id
            ORDER BY valid_from <= counts.time DESC, CASE WHEN valid_from <= counts.time THEN valid_from END DESC,
                     valid_from
            LIMIT 1
        ) AS version
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


class Migration(migrations.Migration):

    dependencies = [("metering", "0009_retention")]

    operations = [
        migrations.RunSQL(sql=WITH_EQUAL_NUMBERS, reverse_sql=migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="meterversion", name="meter_conversion_is_positive"),
        migrations.AddConstraint(
            model_name="meterversion",
            constraint=models.CheckConstraint(
                condition=models.Q(("conversion__gt", 0), ("conversion__lt", Decimal(10) ** 38)),
                name="meter_conversion_is_positive",
            ),
        ),
    ]
