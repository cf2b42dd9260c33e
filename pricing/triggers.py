"""The rules that Postgres itself keeps about products, versions, prices and contracts, as triggers.

Those that say no to a whole operation are declared by `accounts.triggers`; the others look at other rows first.
"""

from __future__ import annotations

import pgtrigger

from accounts.triggers import refusal, refuse

# The version is locked, for a price that is written while another session submits the version would otherwise slip in
# behind the approval.
PRICES_CHANGE_ONLY_IN_A_DRAFT = pgtrigger.Trigger(
    name="prices_change_only_in_a_draft",
    when=pgtrigger.Before,
    operation=pgtrigger.Insert | pgtrigger.Update | pgtrigger.Delete,
    declare=[("found", "record")],
    func=f"""
        FOR found IN
            SELECT status FROM pricing_pricebookversion
            WHERE id IN (
                CASE WHEN TG_OP <> 'INSERT' THEN OLD.version_id END,
                CASE WHEN TG_OP <> 'DELETE' THEN NEW.version_id END
            )
            ORDER BY id
            FOR SHARE
        LOOP
            IF found.status <> 'draft' THEN
                {refusal("prices_change_only_in_a_draft", "Prices change only while their version is a draft.")}
            END IF;
        END LOOP;
        IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
        RETURN NEW;
    """,  # noqa: S608 -- built from constants
)

VERSION_BEGINS_AS_DRAFT = refuse(
    "version_begins_as_draft",
    "A version begins as a draft.",
    operation=pgtrigger.Insert,
    condition="NEW.status <> 'draft'",
)

VERSION_STATUS_FOLLOWS_ITS_ORDER = refuse(
    "version_status_follows_its_order",
    "A version does not go from this status to that one.",
    operation=pgtrigger.Update,
    condition=(
        "OLD.status <> NEW.status AND (OLD.status, NEW.status) NOT IN ("
        "('draft', 'in_review'), ('in_review', 'draft'), ('in_review', 'approved'),"
        " ('approved', 'live'), ('live', 'superseded'))"
    ),
)

# Two things may still happen to a version after it was submitted: its status moves on, and a later version ends it.
SUBMITTED_VERSION_NEVER_CHANGES = pgtrigger.Trigger(
    name="submitted_version_never_changes",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    func=f"""
        IF (OLD.id, OLD.book_id, OLD.number, OLD.created_at, OLD.created_by_id)
            IS DISTINCT FROM (NEW.id, NEW.book_id, NEW.number, NEW.created_at, NEW.created_by_id)
            OR OLD.status <> 'draft' AND (
                (OLD.effective_from, OLD.notes) IS DISTINCT FROM (NEW.effective_from, NEW.notes)
            )
            OR OLD.status IN ('approved', 'live', 'superseded') AND (
                (OLD.content_hash, OLD.approval_id) IS DISTINCT FROM (NEW.content_hash, NEW.approval_id)
                OR OLD.valid_during IS DISTINCT FROM NEW.valid_during AND (
                    NEW.valid_during IS NULL OR isempty(NEW.valid_during)
                    OR NOT upper_inf(OLD.valid_during) OR upper_inf(NEW.valid_during)
                    OR lower(OLD.valid_during) IS DISTINCT FROM lower(NEW.valid_during)
                )
            )
            OR OLD.status = 'in_review' AND NEW.status = 'approved' AND NOT coalesce(upper_inf(NEW.valid_during), false)
        THEN
            {refusal("submitted_version_never_changes", "A submitted version does not change.")}
        END IF;
        RETURN NEW;
    """,
)

# The request is closed in the same transaction just before; what it covers is held equal here, not only in Python.
VERSION_NAMES_ITS_OWN_APPROVAL = pgtrigger.Trigger(
    name="version_names_its_own_approval",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status = 'in_review' AND NEW.status = 'approved')"),
    func=f"""
        IF NOT EXISTS (
            SELECT FROM accounts_approvalrequest request
            WHERE request.id = NEW.approval_id AND request.status = 'approved'
              AND request.kind = 'price_book_version' AND request.subject_id = NEW.id
              AND request.content_hash = NEW.content_hash
        ) THEN
            {refusal("version_names_its_own_approval", "A version is approved by a request of its own.")}
        END IF;
        RETURN NEW;
    """,
)

# Asked when the transaction ends: in it one version goes before the other comes, for never are two of a book live.
VERSION_IS_SUPERSEDED_BY_ITS_SUCCESSOR = pgtrigger.Trigger(
    name="version_is_superseded_by_its_successor",
    when=pgtrigger.After,
    timing=pgtrigger.Deferred,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition("(OLD.status = 'live' AND NEW.status = 'superseded')"),
    func=f"""
        IF NOT EXISTS (
            SELECT FROM pricing_pricebookversion successor
            WHERE successor.book_id = NEW.book_id AND successor.status IN ('live', 'superseded')
              AND lower(successor.valid_during) >= upper(NEW.valid_during)
        ) THEN
            {refusal("version_is_superseded_by_its_successor", "A version is superseded by a later one that is live.")}
        END IF;
        RETURN NULL;
    """,
)

ONLY_A_DRAFT_IS_DELETED = refuse(
    "only_a_draft_version_is_deleted",
    "Only a draft is deleted.",
    operation=pgtrigger.Delete,
    condition="OLD.status <> 'draft'",
)

# What was approved is a price for this usage: a product that took other usage afterwards would bill what nobody
# approved. The versions are locked for the same reason as above.
PRICED_PRODUCT_KEEPS_ITS_USAGE = pgtrigger.Trigger(
    name="priced_product_keeps_its_usage",
    when=pgtrigger.Before,
    operation=pgtrigger.Update,
    condition=pgtrigger.Condition(
        "((OLD.id, OLD.code, OLD.meter_id, OLD.dimension_filter, OLD.unit)"
        " IS DISTINCT FROM (NEW.id, NEW.code, NEW.meter_id, NEW.dimension_filter, NEW.unit))",
    ),
    declare=[("found", "record")],
    func=f"""
        FOR found IN
            SELECT version.status FROM pricing_pricebookversion version
            JOIN pricing_price price ON price.version_id = version.id
            WHERE price.product_id = OLD.id
            ORDER BY version.id
            FOR SHARE OF version
        LOOP
            IF found.status <> 'draft' THEN
                {refusal("priced_product_keeps_its_usage", "A product that has a submitted price keeps its usage.")}
            END IF;
        END LOOP;
        RETURN NEW;
    """,  # noqa: S608 -- built from constants
)

PRICE_BOOK_KEEPS_ITS_CODE_AND_CURRENCY = refuse(
    "price_book_keeps_its_code_and_currency",
    "A price book keeps its code and its currency.",
    operation=pgtrigger.Update,
    condition="(OLD.id, OLD.code, OLD.currency) IS DISTINCT FROM (NEW.id, NEW.code, NEW.currency)",
)

# Other terms are another contract: end this one and sign the next, so that each bill can name what was agreed.
CONTRACT_TERMS_NEVER_CHANGE = refuse(
    "contract_terms_never_change",
    "A contract can be ended, not rewritten.",
    operation=pgtrigger.Update,
    condition=(
        "(OLD.id, OLD.customer_id, OLD.price_book_id, OLD.currency, OLD.starts_on, OLD.anchor_day)"
        " IS DISTINCT FROM"
        " (NEW.id, NEW.customer_id, NEW.price_book_id, NEW.currency, NEW.starts_on, NEW.anchor_day)"
    ),
)
