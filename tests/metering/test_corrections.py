"""Corrections: what counts no more, what counts instead, what counts again; and what is refused."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalOfOwnRequest, PermissionMissing
from accounts.models import ApprovalRequest, AuditEntry, Customer
from metering import rollups
from metering.corrections import correction_selection, corrections
from metering.corrections.correction_selection import EventFilter
from metering.corrections.correction_work import apply_some
from metering.errors import (
    CorrectionAlreadyReverted,
    CorrectionFileInvalid,
    CorrectionNeedsReason,
    CorrectionNotApplied,
    CorrectionNotCountable,
    CorrectionNotDraft,
    CorrectionNotPreviewed,
    CorrectionSelectionInvalid,
    CorrectionSelectsNothing,
    CorrectionUnknown,
)
from metering.events import event_key
from metering.models import (
    QuarantinedEvent,
    UsageAmendment,
    UsageBatch,
    UsageCorrection,
    UsageCorrectionItem,
    UsageEvent,
)
from metering.quarantine.quarantine import release
from tests import make_accounts, make_corrections
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_corrections import drafted, named, replaced, reverted, voided
from tests.make_metering import NOON, SYSTEM, total
from tests.ties import assert_everything_ties_and_recounts

pytestmark = pytest.mark.django_db

Status = UsageCorrection.Status


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def test_a_voided_event_counts_no_more_and_stays_readable(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))

    correction = voided("e1")

    assert total(customer) == (3, 1)
    assert (correction.status, correction.applied, correction.skipped) == (Status.APPLIED, 1, 0)
    assert UsageEvent.objects.count() == 2
    batch = UsageBatch.objects.get(door="correction")
    assert (batch.accepted, batch.amended, batch.origin) == (0, 1, f"correction {correction.pk}")
    assert_everything_ties_and_recounts()


@pytest.mark.parametrize("is_folded", [True, False])
def test_a_replaced_event_counts_with_its_new_value(customer: Customer, *, is_folded: bool) -> None:
    make.ingested(make.event("e1", seconds=Decimal("2.5"), region="eu"), make.event("e2", seconds="3", region="eu"))
    if is_folded:
        rollups.fold()

    correction = replaced("e1", seconds="10")

    assert total(customer) == (13, 2)
    new = UsageEvent.objects.get(event_id=f"e1#{correction.pk}")
    assert (new.source, new.data) == ("cluster/1", {"seconds": 10, "region": "eu"})
    assert UsageEvent.objects.get(event_id="e1").data["seconds"] == 2.5
    assert UsageBatch.objects.get(pk=new.batch_id).accepted == 1
    assert_everything_ties_and_recounts()


def test_a_replacement_may_move_an_event_to_another_time_and_customer(customer: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    make.ingested(make.event("e1", seconds="2"))

    replaced("e1", subject="project-2", time="2026-09-30T23:59:59Z", region="us")

    assert total(customer) == (0, 0)
    assert total(other) == (0, 0)
    (moved,) = make.totals(other, start=make.LONG_AGO)
    assert (int(moved.sum), moved.dimensions) == (2, {"region": "us"})
    assert_everything_ties_and_recounts()


def test_a_revert_lets_the_original_count_again(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))
    void, replacement = voided("e1"), replaced("e2", seconds="30")

    reverted(void)
    assert total(customer) == (32, 2)
    reverted(replacement)

    assert total(customer) == (5, 2)
    assert_everything_ties_and_recounts()


def test_what_was_reverted_can_be_voided_again(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"))
    reverted(voided("e1"))

    voided("e1")

    assert total(customer) == (0, 0)
    assert_everything_ties_and_recounts()


def test_a_replacement_can_be_corrected_in_turn_and_then_the_first_correction_stands(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"))
    first = replaced("e1", seconds="3")
    second = replaced(f"e1#{first.pk}", seconds="4")
    assert total(customer) == (4, 1)

    revert = reverted(first)

    assert (revert.applied, revert.skipped) == (0, 1)
    assert "revert that one first" in UsageCorrectionItem.objects.get(correction=revert).detail
    reverted(second)
    assert total(customer) == (3, 1)
    assert_everything_ties_and_recounts()


def test_a_filter_takes_what_fits_and_still_counts(customer: Customer) -> None:
    make.ingested(
        make.event("e1", seconds="1", region="eu"),
        make.event("e2", seconds="2", region="us"),
        make.event("e3", seconds="4", region="eu", source="other"),
        make.event("e4", seconds="8", region="eu", time="2026-10-15T11:00:00Z"),
        make.event("e5", seconds="16", region="eu"),
    )
    voided("e5")

    chosen = EventFilter(
        customer_id=customer.pk,
        type=make.GPU_USED,
        source="cluster/1",
        start=NOON - timedelta(hours=2),
        end=NOON - timedelta(hours=1),
        data={"region": "eu"},
    )
    make_corrections.applied(drafted(chosen, changes={"seconds": "100"}))

    assert total(customer) == (114, 4)
    assert_everything_ties_and_recounts()


def test_the_preview_is_the_real_run_rolled_back(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="6"))

    correction = drafted(named("e1", seconds="4"))

    assert total(customer) == (8, 2)
    assert not UsageAmendment.objects.exists()
    assert not UsageBatch.objects.filter(door="correction").exists()
    preview = correction.preview
    assert preview is not None
    assert preview["greatest_share"] == "0.2500"
    (row,) = preview["rows"]
    assert (row["customer_id"], row["month"], row["before"], row["after"]) == (customer.pk, "2026-10", "8", "10")
    assert_everything_ties_and_recounts()


def test_the_preview_shows_the_later_months_that_a_changed_level_holds_in(customer: Customer) -> None:
    make.meter(event_type="volume.size", aggregation="gauge", value_path="gib")
    sizes = (("v1", "2026-08-20", "1"), ("v2", "2026-08-25", "3"), ("v3", "2026-10-01", "7"))
    make.ingested(
        *(make.event(name, event_type="volume.size", time=f"{day}T00:00:00Z", gib=gib) for name, day, gib in sizes)
    )

    correction = drafted(named("v2"))

    assert correction.preview is not None
    rows = {
        row["month"]: (row["events"], Decimal(row["before"]), Decimal(row["after"]))
        for row in correction.preview["rows"]
    }
    assert rows["2026-08"][0] == 1
    events, before, after = rows["2026-09"]
    assert (events, before) == (0, 3 * after)
    assert "2026-11" not in rows
    assert {row["unit"] for row in correction.preview["rows"]} == {"s-hours"}


def test_a_small_correction_is_applied_without_a_second_person(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1", seconds="1"), make.event("e2", seconds="1000"))

    small = corrections.submit_correction(correction_id=drafted(named("e1")).pk, actor=analyst, at=NOON)
    large = corrections.submit_correction(correction_id=drafted(named("e2")).pk, actor=analyst, at=NOON)

    assert small.status == Status.APPROVED
    assert large.status == Status.IN_REVIEW
    assert apply_some(correction_id=large.pk, actor=SYSTEM, at=NOON) == 0


def test_who_asks_for_a_correction_does_not_decide_it(customer: Customer) -> None:
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    make.ingested(make.event("e1"))
    correction = drafted(named("e1"), actor=controller)
    corrections.submit_correction(correction_id=correction.pk, actor=controller, at=NOON)
    request = ApprovalRequest.objects.get(kind="usage_correction")

    with pytest.raises(ApprovalOfOwnRequest):
        approvals.decide(request_id=request.pk, outcome="approve", actor=controller, at=NOON)
    other = make_accounts.actor(Role.FINANCE_CONTROLLER)
    approvals.decide(request_id=request.pk, outcome="reject", comment="no", actor=other, at=NOON)

    correction.refresh_from_db()
    assert correction.status == Status.DRAFT
    corrections.drop_correction(correction_id=correction.pk, actor=controller, at=NOON)
    with pytest.raises(CorrectionNotDraft):
        corrections.submit_correction(correction_id=correction.pk, actor=controller, at=NOON)


def test_an_event_that_was_released_from_quarantine_is_found_by_its_name(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", subject="project-2", seconds="3"))
    make.subject("project-2", customer=customer)
    release(event_ids=[QuarantinedEvent.objects.get().pk], actor=analyst, at=NOON)

    voided("e2")

    assert total(customer) == (2, 1)
    assert_everything_ties_and_recounts()


def test_an_event_is_found_by_its_name_where_nobody_noted_its_batch(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))
    execute("SET LOCAL session_replication_role = replica")
    execute("UPDATE usage_identity SET batch_id = NULL WHERE key = %s", event_key("cluster/1", "e1"))
    execute("SET LOCAL session_replication_role = origin")

    voided("e1", "e2")

    assert total(customer) == (0, 0)


def test_each_fault_of_what_is_asked_for_has_a_name(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1"), make.event("waiting", subject="nobody"))
    voided("e1")

    with pytest.raises(CorrectionSelectionInvalid, match="e1 of cluster/1: it is voided already"):
        drafted(named("e1"))
    with pytest.raises(CorrectionSelectionInvalid, match="there is no such event"):
        drafted(named("e9"))
    with pytest.raises(CorrectionSelectionInvalid, match="in quarantine"):
        drafted(named("waiting"))
    with pytest.raises(CorrectionSelectionInvalid, match="more than once"):
        drafted(named("e1", "e1"))
    with pytest.raises(CorrectionSelectsNothing):
        drafted(EventFilter(source="nowhere", start=NOON - timedelta(days=1), end=NOON))
    with pytest.raises(CorrectionSelectsNothing):
        drafted(EventFilter())
    with pytest.raises(CorrectionSelectionInvalid, match="from when to when"):
        drafted(EventFilter(source="cluster/1", start=NOON))
    with pytest.raises(CorrectionSelectsNothing):
        drafted([])
    with pytest.raises(CorrectionNeedsReason):
        corrections.request_correction(events=named("e1"), reason=" ", actor=analyst, at=NOON)
    with pytest.raises(PermissionMissing):
        drafted(named("e1"), actor=make_accounts.actor(Role.SUPPORT))
    with pytest.raises(CorrectionUnknown):
        corrections.preview_correction(correction_id=0, actor=analyst, at=NOON)
    with pytest.raises(CorrectionUnknown):
        apply_some(correction_id=0, actor=SYSTEM, at=NOON)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seconds": "many"}, "not a decimal number"),
        ({"subject": "nobody"}, "subject 'nobody'"),
        ({"type": "unheard.of"}, "type 'unheard.of'"),
        ({"time": "yesterday"}, "is not RFC 3339"),
        ({"time": "2026-12-01T00:00:00Z"}, "later than"),
    ],
)
def test_a_replacement_that_cannot_be_counted_refuses_the_whole(
    customer: Customer, changes: dict[str, str], why: str
) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))

    with pytest.raises(CorrectionNotCountable, match=why):
        drafted([*named("e1", **changes), *named("e2")])

    assert total(customer) == (5, 2)
    assert_everything_ties_and_recounts()


def test_two_corrections_of_one_event_void_it_once(customer: Customer) -> None:
    make.ingested(make.event("e1", seconds="2"), make.event("e2", seconds="3"))
    first, second = drafted(named("e1")), drafted(named("e1", "e2"))
    make_corrections.submitted(first)
    make_corrections.submitted(second)

    make_corrections.applied(first)
    done = make_corrections.applied(second)

    assert (done.applied, done.skipped) == (1, 1)
    assert "voided by another correction" in UsageCorrectionItem.objects.get(correction=second, state="skipped").detail
    assert total(customer) == (0, 0)
    assert_everything_ties_and_recounts()


def test_a_correction_is_submitted_after_its_preview_and_applied_once(customer: Customer, analyst: Actor) -> None:
    make.ingested(*[make.event(f"e{number}", seconds="1") for number in range(25)])
    correction = corrections.request_correction(
        events=EventFilter(customer_id=customer.pk), reason="wrong", actor=analyst, at=NOON
    )
    with pytest.raises(CorrectionNotPreviewed):
        corrections.submit_correction(correction_id=correction.pk, actor=analyst, at=NOON)
    corrections.preview_correction(correction_id=correction.pk, actor=analyst, at=NOON)

    done = make_corrections.applied(correction, limit=7)
    again = corrections.submit_correction(correction_id=correction.pk, actor=analyst, at=NOON)

    assert (done.applied, again.status) == (25, Status.APPLIED)
    assert UsageBatch.objects.filter(door="correction").count() == 4
    assert AuditEntry.objects.filter(verb="usage_correction.applied").count() == 1
    assert total(customer) == (0, 0)
    assert_everything_ties_and_recounts()


def test_a_correction_is_reverted_once_and_only_when_it_was_applied(customer: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1"), make.event("e2"))
    correction, draft = voided("e1"), drafted(named("e2"))
    revert = reverted(correction)

    with pytest.raises(CorrectionAlreadyReverted):
        reverted(correction)
    with pytest.raises(CorrectionNotApplied):
        reverted(draft)
    with pytest.raises(CorrectionNotApplied):
        reverted(revert)


def test_a_file_names_events_with_values_of_their_own() -> None:
    events = correction_selection.read_file("source,id,seconds,region\ncluster/1,e1,2,\ncluster/1,e2,,eu\na,b,,\n")

    assert [each.changes for each in events] == [{"seconds": "2"}, {"region": "eu"}, None]


@pytest.mark.parametrize("content", ["", "id,seconds\n", "source,id\na\n", "source,id\na,\n", "source,id,id\na,b,c\n"])
def test_a_file_that_says_nothing_clear_is_refused(content: str) -> None:
    with pytest.raises(CorrectionFileInvalid):
        correction_selection.read_file(content)


def test_the_database_refuses_to_count_an_event_twice_or_less_than_not_at_all(customer: Customer) -> None:
    make.ingested(make.event("e1"))
    amend = """
        INSERT INTO usage_amendment (customer_id, time, key, batch_id, sign, series_ids)
        SELECT customer_id, time, key, {batch}, {sign}, {series} FROM usage_event
    """

    with refused("amended_event_counts_once_or_not"):
        execute(amend.format(batch=1, sign=1, series="series_ids"))
    with refused("amended_event_counts_once_or_not"):
        execute(amend.format(batch=1, sign=-1, series="series_ids || series_ids"))
    execute(amend.format(batch=1, sign=-1, series="series_ids"))
    with refused("amended_event_counts_once_or_not"):
        execute(amend.format(batch=2, sign=-1, series="series_ids"))
    with refused("Only an event that is here"):
        execute(amend.format(batch=3, sign=1, series="series_ids").replace("SELECT customer_id", "SELECT 0"))
    with refused("usage_amendment_never_changes"):
        execute("DELETE FROM usage_amendment")


def test_the_database_refuses_what_a_correction_never_does(customer: Customer) -> None:
    make.ingested(make.event("e1"))
    voided("e1")

    with refused("correction_goes_step_by_step"):
        execute("UPDATE metering_usagecorrection SET status = 'draft'")
    with refused("correction_stays_what_was_asked_for"):
        execute("UPDATE metering_usagecorrection SET reason = 'another'")
    with refused("correction_is_never_deleted"):
        execute("DELETE FROM metering_usagecorrection")
    with refused("correction_item_is_settled_once"):
        execute("UPDATE metering_usagecorrectionitem SET detail = 'x'")
    with refused("correction_item_is_never_deleted"):
        execute("DELETE FROM metering_usagecorrectionitem")
    with refused("correction_kind_is_known|correction_stays"):
        execute("UPDATE metering_usagecorrection SET kind = 'wish'")
