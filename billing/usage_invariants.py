"""What must hold between usage and bills: counted once, billed once, or on the list of what was not billed."""

from __future__ import annotations

from accounts.invariants import Rule

# Each contract and billing period that a live run has considered in full, with the snapshot of the run that looked at
# it last. One whose end was moved since, within the period, is left out: it is the next run that looks at it again.
_CONSIDERED = """
    considered AS (
        SELECT item.contract_id, contract.customer_id, item.period,
               tstzrange(
                   greatest(lower(item.period), contract.starts_on::timestamp AT TIME ZONE entity.time_zone),
                   -- Nothing of the period is left of a contract that ended before it: an empty range, not a wrong one.
                   greatest(
                       lower(item.period), contract.starts_on::timestamp AT TIME ZONE entity.time_zone,
                       least(upper(item.period), contract.ends_on::timestamp AT TIME ZONE entity.time_zone)
                   )
               ) AS service,
               last.snapshot
        FROM billing_billrunitem item
        JOIN billing_billrun run ON run.id = item.run_id AND run.status <> 'cancelled'
        JOIN pricing_contract contract ON contract.id = item.contract_id
        JOIN accounts_legalentity entity ON entity.id = run.legal_entity_id
        CROSS JOIN LATERAL (
            SELECT last.usage_watermark::pg_snapshot AS snapshot, last.contract_ends_on
            FROM billing_billrunitem last
            JOIN billing_billrun last_run ON last_run.id = last.run_id
            WHERE last.contract_id = item.contract_id AND last.state IN ('done', 'empty')
              AND last_run.status <> 'cancelled'
              AND last_run.id >= run.id AND last_run.month >= run.month
            ORDER BY last_run.id DESC LIMIT 1
        ) last
        WHERE item.state IN ('done', 'empty')
          AND least(upper(item.period), contract.ends_on::timestamp AT TIME ZONE entity.time_zone)
            = least(upper(item.period), last.contract_ends_on::timestamp AT TIME ZONE entity.time_zone)
    )
"""

# Every figure by contract, period and meter, so that quantities of one unit are added up.
_ACCOUNTED = """
    accounted AS (
        SELECT considered.contract_id, considered.period, product.meter_id, sum(line.quantity) AS quantity,
               sum(line.event_count) AS events, count(*) AS pieces
        FROM considered
        JOIN billing_invoice invoice ON invoice.contract_id = considered.contract_id AND invoice.status <> 'void'
        JOIN billing_invoiceline line ON line.invoice_id = invoice.id AND line.usage_digest IS NOT NULL
         AND line.service_period && considered.service
        JOIN pricing_product product ON product.id = line.product_id
        JOIN pricing_price price ON price.id = line.price_id
        GROUP BY 1, 2, 3
        UNION ALL
        SELECT considered.contract_id, considered.period, series.meter_id, sum(listed.quantity),
               sum(listed.event_count), count(*)
        FROM considered
        JOIN billing_unbilledusage listed ON listed.customer_id = considered.customer_id
         AND listed.reason NOT IN ('no_contract', 'under_contract') AND listed.period && considered.service
        JOIN billing_billrun run ON run.id = listed.run_id AND run.status <> 'cancelled'
        JOIN usage_series series ON series.customer_id = listed.customer_id AND series.id = listed.series_id
        GROUP BY 1, 2, 3
    )
"""

_COUNTED = """
    counted AS (
        SELECT considered.contract_id, considered.period, series.meter_id, sum(part.count)::bigint AS events,
               sum(CASE meter.aggregation WHEN 'count' THEN part.count WHEN 'sum' THEN part.sum END) AS quantity
        FROM considered
        CROSS JOIN LATERAL (
            SELECT series_id, sum, count FROM usage_hour
            WHERE customer_id = considered.customer_id AND count > 0
              AND hour >= lower(considered.service) AND hour < upper(considered.service)
            UNION ALL
            SELECT series_id, sum, count FROM usage_delta
            WHERE customer_id = considered.customer_id
              AND hour >= lower(considered.service) AND hour < upper(considered.service)
        ) part
        JOIN usage_series series ON series.customer_id = considered.customer_id AND series.id = part.series_id
        JOIN metering_meter meter ON meter.id = series.meter_id
        GROUP BY 1, 2, 3
    ), unseen AS (
        SELECT considered.contract_id, considered.period, series.meter_id,
               count(*) FILTER (WHERE fact.sign > 0) AS events, count(*) FILTER (WHERE fact.sign < 0) AS taken_back
        FROM considered
        JOIN metering_usagebatch batch
          ON batch.transaction_id >= pg_snapshot_xmin(considered.snapshot)::text::bigint
         AND batch.earliest_at < upper(considered.service)
         AND NOT pg_visible_in_snapshot(batch.transaction_id::text::xid8, considered.snapshot)
        CROSS JOIN LATERAL (
            SELECT unnest(series_ids) AS series_id, 1 AS sign FROM usage_event
            WHERE batch_id = batch.id AND customer_id = considered.customer_id
              AND time >= lower(considered.service) AND time < upper(considered.service)
            UNION ALL
            SELECT unnest(series_ids), sign FROM usage_amendment
            WHERE batch_id = batch.id AND customer_id = considered.customer_id
              AND time >= lower(considered.service) AND time < upper(considered.service)
        ) fact
        JOIN usage_series series ON series.customer_id = considered.customer_id AND series.id = fact.series_id
        GROUP BY 1, 2, 3
    )
"""

RULES: tuple[Rule, ...] = (
    Rule(
        name="billing.usage_is_billed_once_or_listed",
        statement="Every event of a billed period is on exactly one live line, or on the list of unbilled usage, or"
        " came later and waits for the next run.",
        sql=f"""
            WITH {_CONSIDERED}, {_ACCOUNTED}, {_COUNTED}
            SELECT contract_id, period, meter_id, counted.events AS counted, billed.events AS billed,
                   unseen.events AS unseen
            FROM counted
            FULL JOIN (
                SELECT contract_id, period, meter_id, sum(events) AS events FROM accounted
                WHERE meter_id IS NOT NULL GROUP BY 1, 2, 3
            ) billed USING (contract_id, period, meter_id)
            LEFT JOIN unseen USING (contract_id, period, meter_id)
            WHERE coalesce(billed.events, 0) > coalesce(counted.events, 0) + coalesce(unseen.taken_back, 0)
               OR coalesce(billed.events, 0) < coalesce(counted.events, 0) - coalesce(unseen.events, 0)
        """,  # noqa: S608 -- built from constants
    ),
    Rule(
        name="billing.quantities_are_those_of_the_usage",
        statement="The quantities on live lines of a contract, period and meter, and on the unbilled list, add up to"
        " its usage, where nothing came later and the meter adds up values or counts events; where it divides what"
        " never ends, but for the rounding of each.",
        sql=f"""
            WITH {_CONSIDERED}, {_ACCOUNTED}, {_COUNTED}
            SELECT contract_id, period, meter_id, counted.quantity AS counted, billed.quantity AS billed
            FROM counted
            FULL JOIN (
                SELECT contract_id, period, meter_id, sum(quantity) AS quantity, sum(pieces) AS pieces FROM accounted
                WHERE meter_id IS NOT NULL GROUP BY 1, 2, 3
            ) billed USING (contract_id, period, meter_id)
            LEFT JOIN unseen USING (contract_id, period, meter_id)
            JOIN metering_meter meter ON meter.id = meter_id AND meter.aggregation IN ('sum', 'count')
            WHERE unseen.events IS NULL
              AND abs(coalesce(billed.quantity, 0) * meter.divisor - coalesce(counted.quantity, 0))
                > CASE meter.divisor WHEN 1 THEN 0 ELSE meter.divisor * coalesce(billed.pieces, 0) * 1e-15 END
        """,  # noqa: S608 -- built from constants
    ),
    Rule(
        name="billing.no_period_is_billed_twice",
        statement="A contract has one live invoice a billing period, and its regular lines of one product never cover"
        " the same instant.",
        sql="""
            SELECT contract_id, period FROM billing_invoice WHERE status <> 'void'
            GROUP BY contract_id, period, kind HAVING count(*) > 1
            UNION ALL
            SELECT one_invoice.contract_id, one.service_period FROM billing_invoiceline one
            JOIN billing_invoice one_invoice ON one_invoice.id = one.invoice_id AND one_invoice.status <> 'void'
            JOIN billing_invoice other_invoice ON other_invoice.contract_id = one_invoice.contract_id
             AND other_invoice.status <> 'void'
            JOIN billing_invoiceline other ON other.invoice_id = other_invoice.id AND other.id > one.id
             AND other.product_id = one.product_id AND other.service_period && one.service_period
            WHERE one.kind <> 'late_usage' AND other.kind <> 'late_usage'
              AND NOT EXISTS (
                  SELECT FROM jsonb_array_elements(one.steps || other.steps) step
                  WHERE step ->> 'kind' = 'billed_before'
              )
        """,
    ),
    Rule(
        name="billing.usage_without_contract_is_listed",
        statement="What a submitted run lists as usage without a contract lies outside of every contract of the"
        " customer that was signed before.",
        sql="""
            SELECT listed.id FROM billing_unbilledusage listed
            JOIN billing_billrun run ON run.id = listed.run_id AND run.status IN ('in_review', 'approved', 'issued')
            JOIN accounts_approvalrequest request ON request.id = run.approval_id
            JOIN accounts_legalentity entity ON entity.id = run.legal_entity_id
            JOIN pricing_contract contract ON contract.customer_id = listed.customer_id
             AND contract.created_at < request.requested_at
            WHERE listed.reason = 'no_contract'
              AND NOT EXISTS (
                  SELECT FROM pricing_historicalcontract change
                  WHERE change.id = contract.id AND change.history_type = '~'
                    AND change.history_date >= request.requested_at
              )
              AND listed.period && tstzrange(
                  contract.starts_on::timestamp AT TIME ZONE entity.time_zone,
                  contract.ends_on::timestamp AT TIME ZONE entity.time_zone
              )
        """,
    ),
)
