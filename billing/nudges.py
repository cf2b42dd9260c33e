"""The jobs of billing by name, for those who ask for them."""

from __future__ import annotations

from typing import Final

from accounts.nudges import nudge

__all__ = ["DELIVER_INVOICES", "DRAFT_RUN", "ISSUE_RUN", "MAKE_DOCUMENTS", "nudge"]

DRAFT_RUN: Final = "billing.tasks.draft_run"
ISSUE_RUN: Final = "billing.tasks.issue_run"
MAKE_DOCUMENTS: Final = "billing.tasks.make_documents"
DELIVER_INVOICES: Final = "billing.tasks.deliver_invoices"
