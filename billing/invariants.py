"""What must hold of bills and of the ledger at every moment, as queries that return nothing."""

from __future__ import annotations

from accounts.invariants import Rule
from billing.usage_invariants import RULES as USAGE_RULES

RULES: tuple[Rule, ...] = (
    Rule(
        name="billing.entries_balance",
        statement="Every journal entry has two lines or more, and its debits equal its credits in each currency.",
        sql="""
            SELECT entry.id FROM billing_journalentry entry
            LEFT JOIN billing_journalline line ON line.entry_id = entry.id
            GROUP BY entry.id, line.currency
            HAVING count(line.id) < 2
                OR sum(CASE line.side WHEN 'debit' THEN line.amount ELSE -line.amount END) <> 0
        """,
    ),
    Rule(
        name="billing.ledger_adds_up_to_nothing",
        statement="All accounts of a legal entity add up to zero in each currency.",
        sql="""
            SELECT legal_entity_id, currency FROM billing_journalline
            GROUP BY legal_entity_id, currency
            HAVING sum(CASE side WHEN 'debit' THEN amount ELSE -amount END) <> 0
        """,
    ),
    Rule(
        name="billing.reversals_mirror_their_entries",
        statement="A reversal takes back exactly the lines of its entry, and no entry is reversed twice.",
        sql="""
            SELECT reversal_id FROM (
                SELECT reversal.id AS reversal_id, line.account_id, line.customer_id, line.currency, line.amount,
                       (line.side = 'debit') = (line.entry_id = reversal.id) AS is_debit,
                       CASE WHEN line.entry_id = reversal.id THEN 1 ELSE -1 END AS weight
                FROM billing_journalentry reversal
                JOIN billing_journalline line ON line.entry_id IN (reversal.id, reversal.reversal_of_id)
                WHERE reversal.kind = 'reversal'
            ) line
            GROUP BY reversal_id, account_id, customer_id, currency, amount, is_debit
            HAVING sum(weight) <> 0
            UNION ALL
            SELECT reversal_of_id FROM billing_journalentry
            WHERE reversal_of_id IS NOT NULL GROUP BY reversal_of_id HAVING count(*) > 1
        """,
    ),
    Rule(
        name="billing.journal_lines_keep_to_their_books",
        statement="An entry, its lines, accounts and customers are of one legal entity, in the account's currency.",
        sql="""
            SELECT line.id FROM billing_journalline line
            JOIN billing_journalentry entry ON entry.id = line.entry_id
            JOIN billing_ledgeraccount account ON account.id = line.account_id
            LEFT JOIN accounts_customer customer ON customer.id = line.customer_id
            WHERE line.legal_entity_id <> entry.legal_entity_id
               OR line.legal_entity_id <> account.legal_entity_id
               OR line.legal_entity_id <> customer.legal_entity_id
               OR line.currency <> account.currency
        """,
    ),
    Rule(
        name="billing.receivables_are_the_open_documents",
        statement="What a customer owes by the ledger is what its issued invoices add up to, less those reversed.",
        sql="""
            SELECT customer_id, currency, sum(amount) AS difference FROM (
                SELECT line.customer_id, line.currency,
                       CASE line.side WHEN 'debit' THEN line.amount ELSE -line.amount END AS amount
                FROM billing_journalline line
                JOIN billing_ledgeraccount account ON account.id = line.account_id AND account.code = 'receivable'
                UNION ALL
                SELECT invoice.customer_id, invoice.currency, -invoice.total_amount
                FROM billing_invoice invoice
                WHERE invoice.status = 'issued' AND NOT EXISTS (
                    SELECT FROM billing_journalentry entry
                    JOIN billing_journalentry reversal ON reversal.reversal_of_id = entry.id
                    WHERE entry.invoice_id = invoice.id
                )
            ) part
            GROUP BY customer_id, currency
            HAVING sum(amount) <> 0
        """,
    ),
    Rule(
        name="billing.issued_invoices_are_posted",
        statement="Every issued invoice is posted once: its total receivable, its net revenue, its tax payable.",
        sql="""
            SELECT invoice.id FROM billing_invoice invoice
            LEFT JOIN billing_journalentry entry ON entry.invoice_id = invoice.id AND entry.kind = 'invoice'
            LEFT JOIN billing_journalline line ON line.entry_id = entry.id
            LEFT JOIN billing_ledgeraccount account ON account.id = line.account_id
            WHERE invoice.status = 'issued' OR entry.id IS NOT NULL
            GROUP BY invoice.id
            HAVING invoice.status <> 'issued'
                OR count(DISTINCT entry.id) <> (invoice.total_amount <> 0)::int
                OR invoice.total_amount <> 0 AND (invoice.total_amount, invoice.net_amount, invoice.tax_amount)
                    IS DISTINCT FROM (
                        coalesce(sum(CASE line.side WHEN 'debit' THEN line.amount ELSE -line.amount END)
                            FILTER (WHERE account.code = 'receivable'), 0),
                        coalesce(sum(CASE line.side WHEN 'credit' THEN line.amount ELSE -line.amount END)
                            FILTER (WHERE account.code = 'revenue'), 0),
                        coalesce(sum(CASE line.side WHEN 'credit' THEN line.amount ELSE -line.amount END)
                            FILTER (WHERE account.code = 'tax_payable'), 0)
                    )
        """,
    ),
    Rule(
        name="billing.totals_are_the_sums_of_lines",
        statement="An invoice's net amount is the sum of its rounded lines, and its total is that and the tax on it.",
        sql="""
            SELECT invoice.id FROM billing_invoice invoice
            LEFT JOIN billing_invoiceline line ON line.invoice_id = invoice.id
            GROUP BY invoice.id
            HAVING invoice.net_amount <> coalesce(sum(line.amount), 0)
                OR invoice.total_amount <> invoice.net_amount + invoice.tax_amount
                OR invoice.tax_amount
                    <> round(invoice.net_amount * invoice.tax_rate / 100, currency_exponent(invoice.currency))
                OR bool_or(line.amount <> round(line.exact_amount, currency_exponent(line.currency)))
                OR bool_or(line.currency <> invoice.currency)
        """,
    ),
    Rule(
        name="billing.steps_add_up_to_the_exact_amount",
        statement="The steps of a line add up to its exact amount.",
        sql="""
            SELECT line.id FROM billing_invoiceline line
            WHERE line.exact_amount <> (
                SELECT coalesce(sum((step ->> 'amount')::numeric), 0) FROM jsonb_array_elements(line.steps) step
            )
        """,
    ),
    Rule(
        name="billing.numbers_have_no_gap",
        statement="The numbers of a series run from one to its counter, without a gap, in the order of issue dates.",
        sql="""
            SELECT series.id FROM billing_invoiceseries series
            LEFT JOIN (
                SELECT series_id, sequence, issued_on,
                       lag(issued_on) OVER (PARTITION BY series_id ORDER BY sequence) AS before
                FROM billing_invoice WHERE series_id IS NOT NULL
            ) invoice ON invoice.series_id = series.id
            GROUP BY series.id
            HAVING count(invoice.sequence) <> series.next_number - 1
                OR coalesce(max(invoice.sequence), 0) <> series.next_number - 1
                OR coalesce(min(invoice.sequence), 1) <> 1
                OR count(DISTINCT invoice.sequence) <> count(invoice.sequence)
                OR max(invoice.issued_on) IS DISTINCT FROM series.last_issued_on
                OR bool_or(invoice.before > invoice.issued_on)
        """,
    ),
    Rule(
        name="billing.only_issued_invoices_have_a_number",
        statement="An invoice has a number and a place in its legal entity's series exactly if it is issued.",
        sql="""
            SELECT invoice.id FROM billing_invoice invoice
            LEFT JOIN billing_invoiceseries series ON series.id = invoice.series_id
            WHERE (invoice.status = 'issued') <> (invoice.number IS NOT NULL AND invoice.sequence IS NOT NULL)
               OR series.legal_entity_id <> invoice.legal_entity_id
               OR invoice.number <> series.prefix || '-' || series.year || '-' || lpad(
                      invoice.sequence::text, greatest(6, length(invoice.sequence::text)), '0')
        """,
    ),
    Rule(
        name="billing.dates_are_local",
        statement="An invoice carries the date of its legal entity's time zone, and is due after the agreed terms.",
        sql="""
            SELECT id FROM billing_invoice
            WHERE status = 'issued' AND (
                issued_on <> (issued_at AT TIME ZONE time_zone)::date
                OR due_on <> issued_on + (buyer ->> 'payment_terms_days')::int
            )
        """,
    ),
    Rule(
        name="billing.one_currency",
        statement="A customer, its invoices and their lines have one currency and one legal entity.",
        sql="""
            SELECT invoice.id FROM billing_invoice invoice
            JOIN accounts_customer customer ON customer.id = invoice.customer_id
            JOIN pricing_contract contract ON contract.id = invoice.contract_id
            WHERE invoice.currency <> customer.currency OR invoice.legal_entity_id <> customer.legal_entity_id
               OR contract.customer_id <> invoice.customer_id
        """,
    ),
    Rule(
        name="billing.runs_are_as_their_invoices",
        statement="A run and its live invoices are in the same stage; an issued run has none left to issue.",
        sql="""
            SELECT run.id FROM billing_billrun run
            JOIN billing_invoice invoice ON invoice.bill_run_id = run.id
            WHERE (run.status, invoice.status) NOT IN (
                ('draft', 'draft'), ('in_review', 'in_review'), ('approved', 'approved'), ('approved', 'issued'),
                ('issued', 'issued'), ('cancelled', 'void')
            )
            UNION ALL
            SELECT item.run_id FROM billing_billrunitem item
            JOIN billing_billrun run ON run.id = item.run_id AND run.status <> 'cancelled'
            LEFT JOIN billing_invoice invoice ON invoice.bill_run_id = run.id
                AND invoice.contract_id = item.contract_id AND invoice.status <> 'void'
            WHERE (item.state = 'done') <> (invoice.id IS NOT NULL)
               OR item.state = 'pending' AND run.status <> 'draft'
        """,
    ),
    Rule(
        name="billing.approved_runs_hold_what_was_approved",
        statement="Every approved run names the approved request that covers it, and still holds what was approved.",
        # billing.bill_runs.run_content, in SQL.
        sql="""
            SELECT run.id FROM billing_billrun run
            JOIN accounts_legalentity entity ON entity.id = run.legal_entity_id
            LEFT JOIN accounts_approvalrequest request ON request.id = run.approval_id
            WHERE run.status IN ('approved', 'issued') AND (
                (request.kind, request.subject_id, request.status) IS DISTINCT FROM ('bill_run', run.id, 'approved')
                OR request.content_hash IS DISTINCT FROM sha256(convert_to(canonical_json(jsonb_build_object(
                    'legal_entity', entity.code,
                    'month', run.month,
                    'kind', run.kind,
                    'invoices', (
                        SELECT coalesce(jsonb_agg(content ORDER BY id), '[]') FROM (
                            SELECT invoice.id, jsonb_build_object(
                                'id', invoice.id,
                                'customer', invoice.customer_id,
                                'currency', invoice.currency,
                                'net', trim_scale(invoice.net_amount)::text,
                                'tax', trim_scale(invoice.tax_amount)::text,
                                'total', trim_scale(invoice.total_amount)::text,
                                'lines_sha256', encode(sha256(convert_to(string_agg(concat_ws('|',
                                    line.position, line.kind, line.product_id, line.price_id,
                                    extract(epoch FROM lower(line.service_period)),
                                    extract(epoch FROM upper(line.service_period)),
                                    line.quantity, line.exact_amount, line.amount, encode(line.usage_digest, 'hex')
                                ), E'\\n' ORDER BY line.position), 'UTF8')), 'hex')
                            ) AS content
                            FROM billing_invoice invoice
                            JOIN billing_invoiceline line ON line.invoice_id = invoice.id
                            WHERE invoice.bill_run_id = run.id AND invoice.status <> 'void'
                            GROUP BY invoice.id
                        ) of_invoice
                    )
                )), 'UTF8'))
            )
        """,
    ),
    Rule(
        name="billing.runs_in_review_wait_for_a_decision",
        statement="A run is in review exactly as long as a request about it is pending.",
        sql="""
            SELECT run.id FROM billing_billrun run
            LEFT JOIN accounts_approvalrequest request
                ON request.kind = 'bill_run' AND request.subject_id = run.id AND request.status = 'pending'
            WHERE (run.status = 'in_review') <> (request.id IS NOT NULL)
        """,
    ),
    Rule(
        name="billing.lines_name_approved_prices",
        statement="Every line names the price that rated it: of its product, approved, in its contract's price book.",
        sql="""
            SELECT line.id FROM billing_invoiceline line
            JOIN billing_invoice invoice ON invoice.id = line.invoice_id
            JOIN pricing_contract contract ON contract.id = invoice.contract_id
            JOIN pricing_price price ON price.id = line.price_id
            JOIN pricing_pricebookversion version ON version.id = price.version_id
            WHERE version.status NOT IN ('approved', 'live', 'superseded')
               OR price.product_id <> line.product_id OR version.book_id <> contract.price_book_id
        """,
    ),
    Rule(
        name="billing.issued_invoices_have_their_papers",
        statement="Every issued invoice has a document, whose hash is that of its content, and a delivery.",
        sql="""
            SELECT invoice.id FROM billing_invoice invoice
            LEFT JOIN billing_invoicedocument document ON document.invoice_id = invoice.id
            WHERE invoice.status = 'issued' AND (
                document.id IS NULL
                OR document.state = 'made' AND document.sha256 IS DISTINCT FROM sha256(document.content)
                OR NOT EXISTS (SELECT FROM billing_invoicedelivery delivery WHERE delivery.invoice_id = invoice.id)
            )
        """,
    ),
    Rule(
        name="billing.acts_are_audited",
        statement="The audit log tells of every issued invoice, every approved and cancelled run, every mail sent.",
        sql="""
            SELECT act.verb, act.id FROM (
                SELECT 'invoice.issued' AS verb, 'billing.invoice' AS type, id FROM billing_invoice
                WHERE status = 'issued'
                UNION ALL
                SELECT 'invoice.sent', 'billing.invoice', invoice_id FROM billing_invoicedelivery WHERE state = 'sent'
                UNION ALL
                SELECT 'bill_run.' || status, 'billing.billrun', id FROM billing_billrun
                WHERE status IN ('approved', 'issued', 'cancelled')
            ) act
            WHERE NOT EXISTS (
                SELECT FROM accounts_auditentry entry
                WHERE entry.subject_type = act.type AND entry.subject_id = act.id::text AND entry.verb = act.verb
            )
        """,
    ),
    *USAGE_RULES,
)
