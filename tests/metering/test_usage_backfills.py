"""Backfills of usage: filled, previewed, closed, reverted; what counts by them, and what is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest

from accounts import approvals
from accounts.access import Actor, Role
from accounts.errors import ApprovalSubjectChanged
from accounts.models import ApprovalRequest, Customer
from metering import rollups
from metering.models import UsageAmendment, UsageBackfill, UsageBackfillItem, UsageBatch, UsageEvent
from metering.usage_backfills import decisions, staging
from metering.usage_backfills.errors import (
    UsageBackfillChanged,
    UsageBackfillNotOpen,
    UsageBackfillNotPreviewed,
    UsageBackfillUnknown,
)
from tests import make_accounts, make_backfills, make_corrections, make_usage_backfills
from tests import make_metering as make
from tests.make_metering import NOON, total
from tests.make_usage_backfills import WITHIN, closed, event, opened, previewed, replacing, reverted, staged, states
from tests.ties import assert_everything_ties_and_recounts

pytestmark = pytest.mark.django_db

Status = UsageBackfill.Status


@pytest.fixture
def customer() -> Customer:
    found = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.subject("project-1", customer=found)
    return found


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def test_what_is_filled_in_counts_once_the_backfill_is_closed_and_not_before(customer: Customer) -> None:
    make.ingested(event("e1", seconds="2"))
    backfill = opened()

    result = staged(backfill, event("e1", seconds="2"), event("e2", seconds="3"), event("e3", seconds="4"))
    assert (result.staged, result.duplicates, result.problems, result.rejected) == (3, 0, [], [])
    assert total(customer) == (2, 1)
    done = closed(backfill)

    assert total(customer) == (9, 3)
    assert (done.status, done.items, done.counted, done.kept) == (Status.CLOSED, 3, 2, 1)
    batch = UsageBatch.objects.get(door="backfill")
    assert (batch.accepted, batch.amended, batch.origin) == (2, 0, f"usage backfill {backfill.pk}")
    assert not UsageBackfillItem.objects.exclude(data=None).exists()
    assert_everything_ties_and_recounts()


def test_the_same_event_filled_in_again_is_a_duplicate_and_other_content_is_refused(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, event("e1", seconds="2"))

    again = staged(
        backfill,
        event("e1", seconds="2"),
        event("e1", seconds="3"),
        event("e2"),
        event("e2"),
        event("e2", seconds="9"),
    )

    assert (again.staged, again.duplicates) == (1, 2)
    assert [(each.index, each.id, each.reason) for each in again.rejected] == [
        (1, "e1", "conflict"),
        (4, "e2", "conflict"),
    ]
    backfill.refresh_from_db()
    assert (backfill.staged, backfill.refused) == (2, 1 + 1)


def test_what_is_not_of_the_backfill_is_refused_with_the_reason(customer: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    backfill = opened(customer_ids=[customer.pk], event_types=[make.GPU_USED])

    result = staged(
        backfill,
        make.event("a", time=WITHIN, source="cluster/2"),
        make.event("b", time="2026-10-12T00:00:00Z"),
        make.event("c", time="2026-10-04T23:59:59Z"),
        make.event("d", time=WITHIN, event_type="disk.used"),
        make.event("e", time=WITHIN, subject="project-2"),
        {"id": "f"},
        make.event("g", time=WITHIN),
        make.event("h", time="2026-10-05T00:00:00Z"),
    )

    assert [each.id for each in result.rejected] == ["a", "b", "c", "d", "e", "f"]
    assert {each.reason for each in result.rejected[:5]} == {"out_of_scope"}
    assert "source 'cluster/2' is not the backfill's" in result.rejected[0].detail
    assert "not within 2026-10-05 00:00 and 2026-10-12 00:00" in result.rejected[1].detail
    assert "type 'disk.used'" in result.rejected[3].detail
    assert "'project-2' is of a customer" in result.rejected[4].detail
    assert result.rejected[5].reason == "malformed"
    assert result.staged == 2
    assert list(backfill.refusals.values_list("event_id", flat=True)) == ["a", "b", "c", "d", "e", "f"]


def test_refusals_are_listed_once_and_not_without_end(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST_REFUSALS_LISTED", 3)
    backfill = opened()
    wrong = [make.event(f"e{number}", source="cluster/2") for number in range(2)]

    for _ in range(3):
        staged(backfill, *wrong)
    assert backfill.refusals.count() == 2
    staged(backfill, *[make.event(f"f{number}", source="cluster/2") for number in range(5)])

    assert backfill.refusals.count() == 3


def test_keys_of_a_source_or_a_customer_fill_in_only_their_own(customer: Customer) -> None:
    other = make_accounts.customer()
    backfill = opened()

    foreign = staged(backfill, event("e1"), source="cluster/9")
    not_theirs = staged(backfill, event("e1"), customer_id=other.pk)
    theirs = staged(backfill, event("e1"), customer_id=customer.pk, source="cluster/1")

    assert [each.reason for each in foreign.rejected] == ["foreign_source"]
    assert [each.reason for each in not_theirs.rejected] == ["foreign_subject"]
    assert theirs.staged == 1
    narrow = opened(source="cluster/5", customer_ids=[customer.pk])
    with pytest.raises(UsageBackfillUnknown):
        staged(narrow, event("e1"), customer_id=other.pk)


def test_a_problem_is_told_at_once_and_mended_before_the_closing(customer: Customer) -> None:
    backfill = opened()
    result = staged(backfill, make.event("e1", time=WITHIN, subject="project-9"), event("e2"))
    assert [(each.id, each.reason) for each in result.problems] == [("e1", "unknown_subject")]

    first = previewed(backfill)
    assert first.preview is not None
    assert (first.preview["counted"], first.preview["reasons"]) == (1, {"unknown_subject": 1})
    make.subject("project-9", customer=customer)
    second = previewed(backfill)

    assert second.preview is not None
    assert (second.preview["counted"], second.preview["left_out"], second.problems) == (2, 0, 0)
    closed(backfill)
    assert total(customer) == (2, 2)
    assert_everything_ties_and_recounts()


def test_what_cannot_be_counted_is_left_out_with_the_reason_and_may_come_again(customer: Customer) -> None:
    make.ingested(event("e1", seconds="2"), make.event("q", time=WITHIN, subject="project-9"))
    backfill = opened()
    staged(
        backfill,
        event("e1", seconds="5"),
        make.event("q", time=WITHIN, subject="project-9"),
        make.event("u", time=WITHIN, subject="project-8"),
        make.event("v", time=WITHIN, seconds="many"),
        event("e2"),
    )

    done = closed(backfill)

    assert (done.counted, done.left_out) == (1, 4)
    problems = dict(UsageBackfillItem.objects.filter(state="left_out").values_list("event_id", "problem"))
    assert problems == {"e1": "conflict", "q": "quarantined", "u": "unknown_subject", "v": "invalid_value"}
    assert UsageBackfillItem.objects.get(event_id="e1").data == {"seconds": "5"}
    assert total(customer) == (3, 2)
    assert make.ingested(make.event("v", time=WITHIN, seconds="7")).accepted == 1
    assert_everything_ties_and_recounts()


def test_replacing_voids_what_is_not_sent_again_and_takes_the_place_of_what_was_wrong(customer: Customer) -> None:
    make.ingested(
        event("right", seconds="1"),
        event("wrong", seconds="20"),
        event("too much", seconds="300"),
        event("before", time="2026-10-04T23:59:59Z", seconds="4000"),
        make.event("other", time=WITHIN, source="cluster/2", seconds="50000"),
    )
    rollups.fold()
    backfill = replacing()
    staged(backfill, event("right", seconds="1"), event("wrong", seconds="2"), event("new", seconds="3"))

    done = closed(backfill)

    assert total(customer) == (1 + 2 + 3 + 4000 + 50000, 5)
    assert (done.counted, done.kept, done.replaced, done.voided, done.left_out) == (1, 1, 1, 1, 0)
    assert UsageEvent.objects.get(event_id=f"wrong#b{backfill.pk}").data == {"seconds": "2"}
    assert UsageEvent.objects.get(event_id="wrong").data == {"seconds": "20"}
    assert_everything_ties_and_recounts()


def test_replacing_is_narrowed_by_customer_and_type(customer: Customer) -> None:
    other = make_accounts.customer()
    make.subject("project-2", customer=other)
    make.meter(event_type="disk.used", value_path="gb")
    make.ingested(
        event("a", seconds="1"),
        make.event("b", time=WITHIN, subject="project-2", seconds="2"),
        make.event("c", time=WITHIN, event_type="disk.used", gb="4"),
    )
    backfill = replacing(customer_ids=[customer.pk], event_types=[make.GPU_USED])
    staged(backfill, event("d", seconds="8"))

    closed(backfill)

    assert total(customer) == (12, 2)
    assert total(other) == (2, 1)
    assert_everything_ties_and_recounts()


def test_what_a_person_voided_stays_so_unless_all_is_replaced(customer: Customer) -> None:
    make.ingested(event("e1", seconds="2"))
    make_corrections.voided("e1")
    adding = opened()
    staged(adding, event("e1", seconds="2"), event("e2", seconds="3"))

    done = closed(adding)
    assert (done.counted, done.kept, total(customer)) == (1, 1, (3, 1))
    everything = replacing()
    staged(everything, event("e1", seconds="2"), event("e2", seconds="3"))
    done = closed(everything)

    assert (done.brought_back, done.kept) == (1, 1)
    assert total(customer) == (5, 2)
    assert_everything_ties_and_recounts()


def test_a_revert_brings_the_totals_back_and_the_record_stays_readable(customer: Customer) -> None:
    make.ingested(event("kept", seconds="1"), event("wrong", seconds="20"), event("dropped", seconds="300"))
    make.ingested(event("gone", seconds="7"))
    make_corrections.voided("gone")
    before = make.totals(customer)
    backfill = replacing()
    staged(
        backfill,
        event("kept", seconds="1"),
        event("wrong", seconds="2"),
        event("new", seconds="3", region="eu"),
        event("gone", seconds="7"),
    )
    closed(backfill, limit=2)
    assert total(customer) == (13, 4)

    done = reverted(backfill, limit=2)

    assert [each for each in make.totals(customer) if each.count] == before
    assert (done.status, done.reverted, done.revert_left_out) == (Status.REVERTED, 4, 0)
    assert (done.counted, done.replaced, done.voided, done.brought_back) == (1, 1, 1, 1)
    assert UsageEvent.objects.count() == 4 + 2
    assert_everything_ties_and_recounts()


def test_what_a_revert_brings_back_counts_in_meters_that_were_back_filled_since(customer: Customer) -> None:
    make.ingested(event("wrong", seconds="20"), event("dropped", seconds="300"))
    backfill = replacing()
    staged(backfill, event("wrong", seconds="2"))
    closed(backfill)
    late = make.meter(aggregation="count")
    make_backfills.counted(make_backfills.asked(late))
    assert make_backfills.sum_of(late, customer)[1] == 1

    reverted(backfill)

    assert make_backfills.sum_of(late, customer)[1] == 2
    assert_everything_ties_and_recounts()


def test_what_a_reverted_backfill_took_out_is_missing_and_can_be_added_again(customer: Customer) -> None:
    first = opened()
    staged(first, event("e1", seconds="2"))
    reverted(closed(first))
    assert total(customer) == (0, 0)
    second = opened()
    staged(second, event("e1", seconds="2"))

    done = closed(second)

    assert (done.brought_back, total(customer)) == (1, (2, 1))
    reverted(second)
    assert total(customer) == (0, 0)
    assert_everything_ties_and_recounts()


def test_a_revert_leaves_out_what_a_correction_has_changed_since(customer: Customer) -> None:
    backfill = opened()
    staged(backfill, event("e1", seconds="2"), event("e2", seconds="3"))
    closed(backfill)
    make_corrections.voided("e1")

    done = reverted(backfill)

    assert (done.reverted, done.revert_left_out) == (1, 1)
    assert "revert that one first" in UsageBackfillItem.objects.exclude(revert_detail="").get().revert_detail
    assert total(customer) == (0, 0)
    assert_everything_ties_and_recounts()


def test_the_preview_says_what_changes_for_whom_and_is_what_happens(customer: Customer) -> None:
    make.ingested(event("wrong", seconds="20"), event("dropped", seconds="300"))
    backfill = replacing()
    staged(backfill, event("wrong", seconds="2"), event("new", seconds="3.5"))

    found = previewed(backfill)
    assert total(customer) == (320, 2)
    assert not UsageAmendment.objects.exists()
    assert states(backfill) == {"waiting": 2}

    assert found.preview is not None
    (row,) = found.preview["rows"]
    assert (row["customer"], row["month"], row["before"], row["after"], row["change"]) == (
        customer.name,
        "2026-10",
        "320",
        "5.5",
        "-314.5",
    )
    assert (row["events"], row["is_billed"], found.preview["billed_rows"]) == (3, False, 0)
    assert [found.preview[name] for name in ("counted", "replaced", "voided", "kept")] == [1, 1, 1, 0]
    closed(backfill)
    assert total(customer) == (Decimal("5.5"), 2)


def test_more_events_after_the_preview_need_another_one(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, event("e1"))
    previewed(backfill)
    staged(backfill, event("e2"))

    with pytest.raises(UsageBackfillNotPreviewed):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)


def test_an_ordinary_send_of_the_same_event_before_the_closing_counts_once(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, event("e1", seconds="2"), event("e2", seconds="3"))
    previewed(backfill)

    make.ingested(event("e1", seconds="2"))
    decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    make_usage_backfills.approved(backfill)
    make.ingested(event("e2", seconds="3"))
    done = make_usage_backfills.worked(backfill)

    assert (done.status, done.counted, done.kept) == (Status.CLOSED, 0, 2)
    assert total(customer) == (5, 2)
    assert_everything_ties_and_recounts()


def test_an_ordinary_send_that_would_be_voided_unseen_makes_the_preview_old(customer: Customer, analyst: Actor) -> None:
    backfill = replacing()
    staged(backfill, event("e1"))
    previewed(backfill)
    make.ingested(event("unseen", seconds="9"))

    with pytest.raises(UsageBackfillChanged):
        decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)


def test_what_comes_while_it_is_being_closed_stays(customer: Customer) -> None:
    make.ingested(event("old", seconds="100"))
    backfill = replacing()
    staged(backfill, event("e1"), event("e2"))
    make_usage_backfills.closing(backfill)

    make.ingested(event("late", seconds="9"), event("e1", seconds="40"))
    done = make_usage_backfills.worked(backfill, limit=1)

    assert (done.counted, done.voided, done.left_out) == (1, 1, 1)
    assert total(customer) == (9 + 40 + 1, 3)
    assert_everything_ties_and_recounts()


def test_what_changed_before_the_approval_voids_the_request(customer: Customer, analyst: Actor) -> None:
    backfill = opened()
    staged(backfill, *[event(f"e{number}") for number in range(20)])
    previewed(backfill)
    decisions.close_backfill(backfill_id=backfill.pk, actor=analyst, at=NOON)
    with pytest.raises(UsageBackfillNotOpen):
        staged(backfill, event("more"))
    make.ingested(event("e1", seconds="50"))

    with pytest.raises(ApprovalSubjectChanged):
        _decide(backfill)

    backfill.refresh_from_db()
    assert backfill.status == Status.OPEN
    closed(backfill)
    assert total(customer) == (19 + 50, 20)


def _decide(backfill: UsageBackfill, outcome: str = "approve") -> None:
    request = ApprovalRequest.objects.get(kind=decisions.APPROVAL_KIND, subject_id=backfill.pk, status="pending")
    controller = make_accounts.actor(Role.FINANCE_CONTROLLER)
    approvals.decide(request_id=request.pk, outcome=outcome, comment="why not", actor=controller, at=NOON)


@pytest.mark.parametrize("aggregation", ["max", "latest", "unique", "gauge", "p95", "count", "min"])
def test_every_aggregation_follows_and_comes_back(aggregation: str) -> None:
    customer = make_accounts.customer()
    make.subject("project-1", customer=customer)
    make.meter(aggregation=aggregation)
    make.ingested(*[event(f"e{number}", seconds=str(number)) for number in range(5)])
    before = [(each.sum, each.count, each.min, each.max, each.last) for each in make.totals(customer)]
    backfill = replacing()
    staged(backfill, event("e1", seconds="1"), event("e2", seconds="77"), event("e9", seconds="3"))

    closed(backfill, limit=2)

    assert_everything_ties_and_recounts()
    reverted(backfill, limit=2)
    assert [(each.sum, each.count, each.min, each.max, each.last) for each in make.totals(customer)] == before
    assert_everything_ties_and_recounts()
