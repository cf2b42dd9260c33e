"""Who: legal entities, customers, staff and their rights, API keys, approvals and the audit trail."""
