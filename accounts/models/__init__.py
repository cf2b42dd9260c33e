"""Legal entities, customers, staff, API keys, approvals and the audit log."""

from accounts.models.api_keys import ApiKey
from accounts.models.approvals import ApprovalDecision, ApprovalPolicy, ApprovalRequest
from accounts.models.audit import AuditEntry
from accounts.models.columns import COUNTRY_CODE, CURRENCY_CODE, PostalAddress, RequestStamp, history
from accounts.models.parties import Contact, Customer, LegalEntity
from accounts.models.staff import User, UserManager

__all__ = [
    "COUNTRY_CODE",
    "CURRENCY_CODE",
    "ApiKey",
    "ApprovalDecision",
    "ApprovalPolicy",
    "ApprovalRequest",
    "AuditEntry",
    "Contact",
    "Customer",
    "LegalEntity",
    "PostalAddress",
    "RequestStamp",
    "User",
    "UserManager",
    "history",
]
