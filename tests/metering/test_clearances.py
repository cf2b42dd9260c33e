"""The quarantine by rule: what fits is counted first, decided once, and carried out in chunks that may be cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.db import IntegrityError, connections, transaction

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry, Customer
from metering.errors import ClearanceNotRunning, ClearanceUnknown, DiscardNeedsReason, NothingToClear
from metering.models import QuarantineClearance, QuarantinedEvent, UsageEvent
from metering.quarantine import clearances
from metering.quarantine.clearances import Rule, decide_clearance, outlook
from tests import make_accounts, make_files
from tests import make_metering as make
from tests.make_metering import NOON

Act = QuarantineClearance.Act
State = QuarantineClearance.State
LATER = NOON + timedelta(days=2)

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme() -> Customer:
    return make_accounts.customer()


@pytest.fixture(autouse=True)
def gpu_seconds() -> None:
    make.meter()


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def quarantined(number: int, *, subject: str = "later") -> None:
    make.ingested(*(make.event(subject=subject) for _ in range(number)))


def work() -> None:
    clearances.work(is_time_up=lambda: False, clock=lambda: LATER)


def states() -> dict[str, int]:
    found = list(QuarantinedEvent.objects.values_list("status", flat=True))
    return {state: found.count(state) for state in set(found)}


def test_a_rule_counts_what_it_is_about() -> None:
    make.ingested(
        make.event(subject="a", time="2026-10-03T10:00:00Z"),
        make.event(subject="b", time="2026-10-04T10:00:00Z", source="other"),
        make.event(subject="b", event_type="unknown"),
    )

    def counted(**parts: object) -> int:
        return outlook(Rule(**parts)).events  # type: ignore[arg-type]

    everything = outlook(Rule())
    assert (everything.events, everything.subjects, everything.types) == (3, 2, 2)
    assert everything.earliest == datetime(2026, 10, 3, 10, tzinfo=UTC)
    assert counted(subject="b") == 2
    assert counted(subject="b", type="unknown") == 1
    assert counted(source="other") == 1
    assert counted(reason="in_future") == 0
    assert counted(time_from=datetime(2026, 10, 4, 10, tzinfo=UTC)) == 2
    assert counted(time_until=datetime(2026, 10, 4, 10, tzinfo=UTC)) == 1


def test_a_rule_may_be_about_one_file() -> None:
    quarantined(2)
    report = make_files.loaded(make_files.readings(make_files.reading(1), make_files.reading(2)))

    assert outlook(Rule(file_id=report.file_id)).events == 2
    assert outlook(Rule()).events == 4


def test_releasing_by_rule_counts_what_can_be_counted_and_leaves_the_rest(acme: Customer, analyst: Actor) -> None:
    quarantined(5)
    quarantined(2, subject="stranger")
    make.subject("later", customer=acme)

    clearance = decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)
    work()

    clearance.refresh_from_db()
    assert (clearance.events, clearance.closed, clearance.still_waiting, clearance.state) == (7, 5, 2, State.DONE)
    assert states() == {"released": 5, "open": 2}
    assert UsageEvent.objects.count() == 5
    released = QuarantinedEvent.objects.filter(status="released")
    assert set(released.values_list("closed_by_id", flat=True)) == {analyst.user_id}
    verbs = AuditEntry.objects.filter(subject_type="metering.quarantineclearance").values_list("verb", flat=True)
    assert sorted(verbs) == ["quarantine_clearance.done", "quarantine_clearance.release"]


def test_discarding_by_rule_needs_a_reason_and_keeps_it(analyst: Actor) -> None:
    quarantined(3)

    with pytest.raises(DiscardNeedsReason):
        decide_clearance(act=Act.DISCARD, rule=Rule(subject="later"), explanation=" ", actor=analyst, at=LATER)
    decide_clearance(act=Act.DISCARD, rule=Rule(subject="later"), explanation="A test device", actor=analyst, at=LATER)
    work()

    assert states() == {"discarded": 3}
    assert set(QuarantinedEvent.objects.values_list("closing_reason", flat=True)) == {"A test device"}


def test_deciding_the_same_again_is_the_one_that_is_under_way(acme: Customer, analyst: Actor) -> None:
    quarantined(3)
    decide = partial(decide_clearance, act=Act.RELEASE, rule=Rule(subject="later"), actor=analyst, at=LATER)

    assert decide() == decide()
    make.subject("later", customer=acme)
    work()
    with pytest.raises(NothingToClear):
        decide()
    assert QuarantineClearance.objects.count() == 1


def test_events_that_come_after_the_decision_are_not_meant(acme: Customer, analyst: Actor) -> None:
    quarantined(2)
    decide_clearance(act=Act.DISCARD, rule=Rule(), explanation="Old ones", actor=analyst, at=LATER)
    quarantined(3)

    work()

    assert states() == {"discarded": 2, "open": 3}


def test_chunks_that_are_cut_off_go_on_where_they_were(acme: Customer, analyst: Actor) -> None:
    quarantined(25)
    make.subject("later", customer=acme)
    clearance = decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)

    looked_at = [clearances.clear_chunk(clearance_id=clearance.pk, limit=10, at=LATER) for _ in range(4)]

    clearance.refresh_from_db()
    assert looked_at == [10, 10, 5, 0]
    assert (clearance.closed, clearance.state) == (25, State.DONE)
    with pytest.raises(ClearanceNotRunning):
        clearances.clear_chunk(clearance_id=clearance.pk, at=LATER)


def test_a_clearance_that_is_stopped_leaves_the_rest_waiting(acme: Customer, analyst: Actor) -> None:
    quarantined(20)
    make.subject("later", customer=acme)
    clearance = decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)
    clearances.clear_chunk(clearance_id=clearance.pk, limit=5, at=LATER)

    clearances.stop_clearance(clearance_id=clearance.pk, actor=analyst, at=LATER)
    clearances.stop_clearance(clearance_id=clearance.pk, actor=analyst, at=LATER)
    work()

    assert states() == {"released": 5, "open": 15}


def test_a_claimed_clearance_is_nobody_elses_for_a_minute(analyst: Actor) -> None:
    quarantined(1)
    clearance = decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)

    claims = [clearances.claim_next(at=LATER + timedelta(seconds=seconds)) for seconds in (0, 59, 61)]

    assert claims == [clearance.pk, None, clearance.pk]


def test_who_may_not_release_decides_nothing(acme: Customer) -> None:
    quarantined(1)
    auditor = make_accounts.actor(Role.AUDITOR)

    with pytest.raises(PermissionMissing):
        decide_clearance(act=Act.RELEASE, rule=Rule(), actor=auditor, at=LATER)
    with pytest.raises(PermissionMissing):
        clearances.stop_clearance(clearance_id=1, actor=auditor, at=LATER)


def test_a_clearance_that_is_not_there_is_unknown(analyst: Actor) -> None:
    with pytest.raises(ClearanceUnknown):
        clearances.stop_clearance(clearance_id=make_accounts.UNKNOWN_ID, actor=analyst, at=LATER)


@pytest.mark.django_db(transaction=True)
def test_two_workers_and_two_rules_at_once_count_each_event_once(acme: Customer, analyst: Actor) -> None:
    quarantined(60)
    make.subject("later", customer=acme)
    for rule in (Rule(), Rule(subject="later")):
        decide_clearance(act=Act.RELEASE, rule=rule, actor=analyst, at=LATER)
    ids = list(QuarantineClearance.objects.values_list("pk", flat=True))

    def clear(clearance_id: int) -> None:
        try:
            while clearances.clear_chunk(clearance_id=clearance_id, limit=7, at=LATER):
                pass
        except ClearanceNotRunning:
            pass
        finally:
            connections.close_all()

    workers = [threading.Thread(target=clear, args=[clearance_id]) for clearance_id in [*ids, *ids]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert states() == {"released": 60}
    assert make.totals(acme)[0].count == 60
    assert sum(QuarantineClearance.objects.values_list("closed", flat=True)) == 60


def refuses(change: Callable[[], object], rule: str) -> bool:
    try:
        with transaction.atomic():
            change()
    except IntegrityError as refusal:
        return getattr(getattr(refusal.__cause__, "diag", None), "constraint_name", None) == rule
    return False


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"act": "forget"}, "clearance_keeps_its_rule"),
        ({"last_event_id": 0}, "clearance_keeps_its_rule"),
        ({"state": "lost", "finished_at": NOON}, "clearance_state_is_known"),
        ({"state": "done"}, "clearance_ends_with_a_time"),
        ({"position": -1}, "clearance_ends_once"),
    ],
)
def test_the_database_refuses_to_rewrite_a_decision(changes: dict[str, object], rule: str, analyst: Actor) -> None:
    quarantined(1)
    decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)

    assert refuses(lambda: QuarantineClearance.objects.update(**changes), rule)


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"act": "forget"}, "clearance_act_is_known"),
        ({"act": "discard"}, "clearance_discards_for_a_reason"),
        ({"act": "release", "explanation": "why"}, "clearance_discards_for_a_reason"),
        ({"time_from": LATER, "time_until": LATER}, "clearance_covers_some_time"),
    ],
)
def test_the_database_refuses_a_decision_that_contradicts_itself(parts: dict[str, object], rule: str) -> None:
    made = {"act": "release", "events": 1, "last_event_id": 1, "actor_label": "x", "created_at": NOON, **parts}

    assert refuses(lambda: QuarantineClearance.objects.create(**made), rule)


def test_the_database_refuses_two_of_one_rule_at_once_and_to_lose_one(analyst: Actor) -> None:
    quarantined(1)
    clearance = decide_clearance(act=Act.RELEASE, rule=Rule(), actor=analyst, at=LATER)

    assert refuses(clearance.delete, "clearance_is_never_deleted")
    clearance.pk = None
    assert refuses(lambda: clearance.save(force_insert=True), "clearance_of_a_rule_runs_once")
