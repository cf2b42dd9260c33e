"""What must hold of prices and contracts at every moment, as queries that return nothing."""

from __future__ import annotations

from accounts.invariants import Rule, has_history

RULES: tuple[Rule, ...] = (
    Rule(
        name="pricing.approved_versions_never_overlap",
        statement="Two approved versions of one price book are never valid at the same instant.",
        sql="""
            SELECT one.id, other.id FROM pricing_pricebookversion one
            JOIN pricing_pricebookversion other ON other.book_id = one.book_id AND other.id > one.id
            WHERE one.status IN ('approved', 'live', 'superseded')
              AND other.status IN ('approved', 'live', 'superseded')
              AND one.valid_during && other.valid_during
        """,
    ),
    Rule(
        name="pricing.approved_versions_follow_without_a_gap",
        statement="A version is valid until the very moment at which the next one takes effect, and the last for ever.",
        sql="""
            SELECT id FROM (
                SELECT id, upper(valid_during) AS until,
                       lead(effective_from) OVER (PARTITION BY book_id ORDER BY effective_from) AS next_from
                FROM pricing_pricebookversion WHERE status IN ('approved', 'live', 'superseded')
            ) version
            WHERE until IS DISTINCT FROM next_from
        """,
    ),
    Rule(
        name="pricing.approved_versions_have_their_approval",
        statement="Every approved version names the approved request that covers it, with the same hash.",
        sql="""
            SELECT version.id FROM pricing_pricebookversion version
            LEFT JOIN accounts_approvalrequest request ON request.id = version.approval_id
            WHERE version.status IN ('approved', 'live', 'superseded')
              AND (request.kind, request.subject_id, request.status, request.content_hash)
                  IS DISTINCT FROM ('price_book_version', version.id, 'approved', version.content_hash)
        """,
    ),
    Rule(
        name="pricing.approved_versions_hold_what_was_approved",
        statement="The content of every approved version still has the hash that was approved.",
        # pricing.content.version_content, in SQL.
        sql="""
            SELECT version.id FROM pricing_pricebookversion version
            JOIN pricing_pricebook book ON book.id = version.book_id
            WHERE version.status IN ('approved', 'live', 'superseded')
              AND version.content_hash IS DISTINCT FROM sha256(convert_to(canonical_json(jsonb_build_object(
                  'price_book', book.code,
                  'currency', book.currency,
                  'number', version.number,
                  'effective_from',
                  to_char(version.effective_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
                  'prices', (
                      SELECT coalesce(jsonb_object_agg(product.code, jsonb_build_object(
                          'unit', product.unit,
                          'meter', meter.code,
                          'dimension_filter', product.dimension_filter,
                          'price', price.spec
                      )), '{}')
                      FROM pricing_price price
                      JOIN pricing_product product ON product.id = price.product_id
                      LEFT JOIN metering_meter meter ON meter.id = product.meter_id
                      WHERE price.version_id = version.id
                  )
              )), 'UTF8'))
        """,
    ),
    Rule(
        name="pricing.approved_versions_have_prices",
        statement="No version was approved without any price.",
        sql="""
            SELECT version.id FROM pricing_pricebookversion version
            WHERE version.status <> 'draft'
              AND NOT EXISTS (SELECT 1 FROM pricing_price price WHERE price.version_id = version.id)
        """,
    ),
    Rule(
        name="pricing.versions_in_review_wait_for_a_decision",
        statement="A version is in review exactly as long as a request about it is pending.",
        sql="""
            SELECT version.id FROM pricing_pricebookversion version
            LEFT JOIN accounts_approvalrequest request
                ON request.kind = 'price_book_version' AND request.subject_id = version.id
               AND request.status = 'pending'
            WHERE (version.status = 'in_review') <> (request.id IS NOT NULL)
        """,
    ),
    Rule(
        name="pricing.version_acts_are_audited",
        statement="The audit log tells of every approved version's submission and approval, and of its going live.",
        sql="""
            SELECT version.id, verb.name FROM pricing_pricebookversion version
            CROSS JOIN (VALUES ('submitted'), ('approved'), ('activated')) verb (name)
            WHERE version.status IN ('approved', 'live', 'superseded')
              AND NOT (version.status = 'approved' AND verb.name = 'activated')
              AND NOT EXISTS (
                  SELECT 1 FROM accounts_auditentry entry
                  WHERE entry.subject_type = 'pricing.pricebookversion' AND entry.subject_id = version.id::text
                    AND entry.verb = 'price_book_version.' || verb.name
              )
        """,
    ),
    Rule(
        name="pricing.contracts_have_one_currency",
        statement="A contract, its customer and its price book have the same currency.",
        sql="""
            SELECT contract.id FROM pricing_contract contract
            JOIN accounts_customer customer ON customer.id = contract.customer_id
            JOIN pricing_pricebook book ON book.id = contract.price_book_id
            WHERE contract.currency <> customer.currency OR contract.currency <> book.currency
        """,
    ),
    Rule(
        name="pricing.one_contract_at_a_time",
        statement="No two contracts of one customer cover the same day.",
        sql="""
            SELECT one.id, other.id FROM pricing_contract one
            JOIN pricing_contract other ON other.customer_id = one.customer_id AND other.id > one.id
            WHERE daterange(one.starts_on, one.ends_on) && daterange(other.starts_on, other.ends_on)
        """,
    ),
    Rule(
        name="pricing.contracts_are_audited",
        statement="Every contract has an audit entry of its signature.",
        sql="""
            SELECT contract.id FROM pricing_contract contract
            WHERE NOT EXISTS (
                SELECT 1 FROM accounts_auditentry entry
                WHERE entry.subject_type = 'pricing.contract' AND entry.subject_id = contract.id::text
                  AND entry.verb = 'contract.signed'
            )
        """,
    ),
    has_history("pricing", "product", "product"),
    has_history("pricing", "pricebook", "price book"),
    has_history("pricing", "pricebookversion", "version of a price book"),
    has_history("pricing", "contract", "contract"),
)
