"""What must hold at every moment, as queries that return nothing; each row that comes back is a breach.

`Rule` is what the other apps state theirs with; `manage.py check_invariants` runs the rules of all apps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One invariant: a short name, the statement for people, and SQL that returns the rows that break it."""

    name: str
    statement: str
    sql: str


def has_history(app: str, model: str, noun: str) -> Rule:
    """Return the rule that every record of a model has history; both names as in the tables, in lower case."""
    return Rule(
        name=f"{app}.{model}_has_history",
        statement=f"Every {noun} has a history row that says how it came to be.",
        sql=f"""
            SELECT record.id FROM {app}_{model} record
            WHERE NOT EXISTS (SELECT 1 FROM {app}_historical{model} kept WHERE kept.id = record.id)
        """,  # noqa: S608 -- names of the house's own tables
    )


RULES: tuple[Rule, ...] = (
    Rule(
        name="accounts.requester_never_decides",
        statement="Nobody decides on what they asked for themselves.",
        sql="""
            SELECT decision.id FROM accounts_approvaldecision decision
            JOIN accounts_approvalrequest request ON request.id = decision.request_id
            WHERE decision.decided_by_id = request.requested_by_id
               OR decision.requested_by_id <> request.requested_by_id
        """,
    ),
    Rule(
        name="accounts.approved_with_enough_approvals",
        statement="An approved request has the approvals that its policy asked for, and no rejection.",
        sql="""
            SELECT request.id FROM accounts_approvalrequest request
            LEFT JOIN accounts_approvaldecision decision ON decision.request_id = request.id
            WHERE request.status = 'approved'
            GROUP BY request.id, request.approvals_required
            HAVING count(DISTINCT decision.decided_by_id) FILTER (WHERE decision.outcome = 'approve')
                       < request.approvals_required
                OR count(*) FILTER (WHERE decision.outcome = 'reject') > 0
        """,
    ),
    Rule(
        name="accounts.pending_until_decided",
        statement="A request that has been rejected, or approved often enough, is no longer pending.",
        sql="""
            SELECT request.id FROM accounts_approvalrequest request
            JOIN accounts_approvaldecision decision ON decision.request_id = request.id
            WHERE request.status = 'pending'
            GROUP BY request.id, request.approvals_required
            HAVING count(*) FILTER (WHERE decision.outcome = 'approve') >= request.approvals_required
                OR count(*) FILTER (WHERE decision.outcome = 'reject') > 0
        """,
    ),
    Rule(
        name="accounts.decisions_lie_within_the_request",
        statement="Every decision was made after the request was made and before it was closed.",
        sql="""
            SELECT decision.id FROM accounts_approvaldecision decision
            JOIN accounts_approvalrequest request ON request.id = decision.request_id
            WHERE decision.decided_at < request.requested_at OR decision.decided_at > request.closed_at
        """,
    ),
    Rule(
        name="accounts.closed_requests_are_audited",
        statement="Every closed request has an audit entry that says how it was closed.",
        sql="""
            SELECT request.id FROM accounts_approvalrequest request
            WHERE request.status <> 'pending'
              AND NOT EXISTS (
                  SELECT 1 FROM accounts_auditentry entry
                  WHERE entry.subject_type = 'accounts.approvalrequest' AND entry.subject_id = request.id::text
                    AND entry.verb = 'approval.' || request.status
              )
        """,
    ),
    Rule(
        name="accounts.api_keys_are_audited",
        statement="Every API key has an audit entry of its issue, and every revoked one of its revocation.",
        sql="""
            SELECT key.id FROM accounts_apikey key
            WHERE NOT EXISTS (
                SELECT 1 FROM accounts_auditentry entry
                WHERE entry.subject_type = 'accounts.apikey' AND entry.subject_id = key.id::text
                  AND entry.verb = CASE WHEN key.revoked_at IS NULL THEN 'api_key.issued' ELSE 'api_key.revoked' END
            )
        """,
    ),
    Rule(
        name="accounts.no_customer_above_itself",
        statement="No customer stands, over any number of steps, above itself.",
        sql="""
            WITH RECURSIVE above (id, parent_id, path) AS (
                SELECT id, parent_id, ARRAY[id] FROM accounts_customer WHERE parent_id IS NOT NULL
                UNION ALL
                SELECT above.id, customer.parent_id, above.path || customer.id
                FROM above JOIN accounts_customer customer ON customer.id = above.parent_id
                WHERE NOT customer.id = ANY (above.path)
            )
            SELECT DISTINCT id FROM above WHERE parent_id = id
        """,
    ),
    has_history("accounts", "user", "member of staff"),
    has_history("accounts", "legalentity", "legal entity"),
    has_history("accounts", "customer", "customer"),
    has_history("accounts", "contact", "contact"),
    has_history("accounts", "approvalpolicy", "approval policy"),
)
