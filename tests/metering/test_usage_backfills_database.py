"""What the database itself refuses of backfills, whoever asks."""

from __future__ import annotations

import pytest

from accounts.models import Customer
from metering.models import UsageBackfill
from metering.usage_backfills import decisions
from tests import make_accounts, make_usage_backfills
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_usage_backfills import WITHIN, closed, opened, staged

pytestmark = pytest.mark.django_db

COLUMNS = (
    "source, starts_at, ends_at, customer_ids, event_types, mode, lifts_age, reason, status, opened_by_label,"
    " opened_at, staged, problems, refused, fingerprint, items, counted, kept, replaced, brought_back, voided,"
    " left_out, revert_reason, revert_fingerprint, reverted, revert_left_out, last_error"
)
VALUES = (
    "'cluster/9', '2026-10-05 00:00Z', '2026-10-06 00:00Z', '{}', '{}', 'add', false, 'why', 'open', 'someone',"
    " now(), 0, 0, 0, '', 0, 0, 0, 0, 0, 0, 0, '', '', 0, 0, ''"
)


@pytest.fixture(autouse=True)
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter()
    make.subject("project-1", customer=found)
    return found


@pytest.mark.parametrize(
    ("written", "instead", "rule"),
    [
        ("'open'", "'ajar'", "usage_backfill_(status_is_known|is_closed_at_a_time)"),
        ("'add'", "'guess'", "usage_backfill_mode_is_known"),
        ("'cluster/9'", "''", "usage_backfill_names_a_source"),
        ("'why'", "''", "usage_backfill_has_a_reason"),
        ("'2026-10-06 00:00Z'", "'2026-10-05 00:00Z'", "usage_backfill_ends_after_it_starts"),
        ("'2026-10-06 00:00Z'", "'2026-10-06 00:30Z'", "usage_backfill_is_of_full_hours"),
        ("'open'", "'closed'", "usage_backfill_is_closed_at_a_time"),
        ("'open'", "'reverted'", "usage_backfill_is"),
        ("'cluster/9'", "'cluster/1'", "source_and_period_have_one_open_backfill"),
    ],
)
def test_the_database_refuses_a_backfill_that_is_none(written: str, instead: str, rule: str) -> None:
    opened()

    with refused(rule):
        execute(f"INSERT INTO metering_usagebackfill ({COLUMNS}) VALUES ({VALUES.replace(written, instead)})")  # noqa: S608 -- constants
    execute(f"INSERT INTO metering_usagebackfill ({COLUMNS}) VALUES ({VALUES})")  # noqa: S608 -- constants


@pytest.mark.parametrize("status", ["closed", "reverting", "reverted", "revert_review"])
def test_the_database_refuses_another_order_of_steps(status: str) -> None:
    opened()

    with refused("usage_backfill"):
        execute(f"UPDATE metering_usagebackfill SET status = '{status}', closing_at = now(), closed_at = now()")  # noqa: S608 -- constants


def test_the_database_refuses_to_change_what_a_backfill_is_of() -> None:
    opened()

    for change in ("source = 'x'", "ends_at = ends_at + interval '1 hour'", "mode = 'replace'", "lifts_age = true"):
        with refused("usage_backfill_keeps_what_it_is_of"):
            execute(f"UPDATE metering_usagebackfill SET {change}")  # noqa: S608 -- constants
    with refused("usage_backfill_is_never_deleted"):
        execute("DELETE FROM metering_usagebackfill")
    execute("SELECT 1")
    with refused("usage_backfills_are_never_emptied"):
        execute("TRUNCATE metering_usagebackfill CASCADE")


def test_the_database_refuses_to_change_what_a_closed_backfill_did() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    closed(backfill)

    for change in ("counted = 2, items = 2", "preview = NULL", "closed_at = now()", "staged = 9"):
        with refused("closed_usage_backfill_keeps_its_result"):
            execute(f"UPDATE metering_usagebackfill SET {change}")  # noqa: S608 -- constants
    with refused("closed_usage_backfill_settled_every_event|closed_usage_backfill_keeps_its_result"):
        execute("UPDATE metering_usagebackfill SET items = 5")
    with refused("usage_backfill_is_reverted_for_a_reason"):
        execute("UPDATE metering_usagebackfill SET status = 'reverting', reverting_at = now()")


def test_the_database_refuses_to_close_what_is_not_settled() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    make_usage_backfills.closing(backfill)

    with refused("closed_usage_backfill_settled_every_event"):
        execute("UPDATE metering_usagebackfill SET status = 'closed', closed_at = now()")


def test_the_database_refuses_a_revert_that_left_something_undone_unsaid() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    closed(backfill)
    make_usage_backfills.reverting(backfill)

    with refused("reverted_usage_backfill_undid_every_event"):
        execute("UPDATE metering_usagebackfill SET status = 'reverted', reverted_at = now()")


def test_the_database_refuses_to_change_an_abandoned_backfill() -> None:
    backfill = opened()
    decisions.abandon_backfill(backfill_id=backfill.pk, reason="wrong", actor=make.SYSTEM, at=make.NOON)

    with refused("settled_usage_backfill_never_changes"):
        execute("UPDATE metering_usagebackfill SET last_error = 'x'")


ITEM = (
    "INSERT INTO metering_usagebackfillitem (backfill_id, kind, key, time, event_id, type, subject, problem, detail,"
    " state, revert_detail) VALUES (%s, 'sent', gen_random_uuid(), now(), '', '', '', '', '', 'waiting', '')"
)


def test_the_database_refuses_to_fill_what_is_not_open_and_to_empty_what_was_not_abandoned() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    with refused("only_an_abandoned_backfill_is_emptied"):
        execute("DELETE FROM metering_usagebackfillitem")
    closed(backfill)

    with refused("only_an_open_backfill_is_filled"):
        execute(ITEM, backfill.pk)
    with refused("only_an_abandoned_backfill_is_emptied"):
        execute("DELETE FROM metering_usagebackfillitem")
    execute("SELECT 1")
    with refused("usage_backfill_items_are_never_emptied"):
        execute("TRUNCATE metering_usagebackfillitem")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("time = time + interval '1 hour'", "usage_backfill_item_keeps_what_was_sent"),
        ("event_id = 'other'", "usage_backfill_item_keeps_what_was_sent"),
        ("data = '{}'", "usage_backfill_item_keeps_what_was_sent"),
        ("kind = 'guess'", "usage_backfill_item_keeps_what_was_sent|usage_backfill_item_kind_is_known"),
        ("state = 'lost'", "usage_backfill_item_state_is_known"),
        ("state = 'counted'", "done_usage_backfill_item_names_its_batch"),
        ("state = 'replaced', batch_id = 1, customer_id = 1", "replaced_event_of_a_backfill_has_a_new_identity"),
        ("reverted_batch_id = 1", "only_what_a_backfill_did_is_undone"),
    ],
)
def test_the_database_refuses_an_item_that_says_what_was_not_done(change: str, rule: str) -> None:
    staged(opened(), make.event("e1", time=WITHIN))

    with refused(rule):
        execute(f"UPDATE metering_usagebackfillitem SET {change}")  # noqa: S608 -- constants


def test_the_database_refuses_to_settle_an_event_twice() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))
    closed(backfill)
    for change in ("state = 'kept', batch_id = NULL", "batch_id = 1", "customer_id = 7"):
        with refused("usage_backfill_item_is_settled_once"):
            execute(f"UPDATE metering_usagebackfillitem SET {change}")  # noqa: S608 -- constants
    make_usage_backfills.reverted(backfill)

    with refused("usage_backfill_item_is_settled_once"):
        execute("UPDATE metering_usagebackfillitem SET reverted_batch_id = NULL")


def test_the_database_refuses_the_same_event_twice_in_one_backfill() -> None:
    backfill = opened()
    staged(backfill, make.event("e1", time=WITHIN))

    with refused("usage_backfill_names_an_event_once"):
        execute(
            "INSERT INTO metering_usagebackfillitem (backfill_id, kind, key, time, event_id, type, subject, problem,"
            " detail, state, revert_detail) SELECT backfill_id, kind, key, time, event_id, type, subject, problem,"
            " detail, state, revert_detail FROM metering_usagebackfillitem"
        )


def test_the_database_refuses_to_change_a_refusal() -> None:
    staged(opened(), make.event("e1", source="cluster/2"))

    with refused("usage_backfill_refusal_never_changes"):
        execute("UPDATE metering_usagebackfillrefusal SET detail = 'erased by law', event_id = ''")
    execute("SELECT 1")
    with refused("usage_backfill_refusals_are_never_emptied"):
        execute("TRUNCATE metering_usagebackfillrefusal")
    assert UsageBackfill.objects.get().refused == 1
