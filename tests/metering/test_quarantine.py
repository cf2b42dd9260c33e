from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing
from accounts.models import AuditEntry, Customer
from metering.errors import DiscardNeedsReason
from metering.ingestion import ingest
from metering.models import Meter, QuarantinedEvent, QuarantineTally, UsageBatch, UsageEvent
from metering.quarantine import quarantine_overview, tallies
from metering.quarantine.quarantine import discard, release, summary
from tests import make_accounts
from tests import make_metering as make
from tests.make_metering import NOON

pytestmark = pytest.mark.django_db

LATER = NOON + timedelta(days=2)


@pytest.fixture
def acme() -> Customer:
    return make_accounts.customer()


@pytest.fixture(autouse=True)
def gpu_seconds() -> Meter:
    return make.meter()


@pytest.fixture
def analyst() -> Actor:
    return make_accounts.actor(Role.FINANCE_ANALYST)


def waiting_ids() -> list[int]:
    return list(QuarantinedEvent.objects.filter(status="open").values_list("pk", flat=True))


def test_a_released_event_counts_with_its_own_time(acme: Customer, analyst: Actor) -> None:
    number = Decimal("0.12345678901234567890123456789012345678")
    make.ingested(make.event("e1", subject="later", time="2026-10-03T10:00:00Z", seconds=number))
    make.subject("later", customer=acme)

    result = release(event_ids=waiting_ids(), actor=analyst, at=LATER)

    assert (result.released, result.still_quarantined) == (1, 0)
    event = UsageEvent.objects.get()
    assert (event.event_id, event.time.day) == ("e1", 3)
    assert make.totals(acme)[0].sum == number
    batch = UsageBatch.objects.get(pk=event.batch_id)
    assert (batch.door, batch.accepted, batch.actor_label) == ("quarantine", 1, analyst.label)
    released = QuarantinedEvent.objects.get()
    assert (released.status, released.closed_at, released.closed_by_id) == ("released", LATER, analyst.user_id)
    assert AuditEntry.objects.filter(verb="quarantined_event.released", subject_id=str(released.pk)).count() == 1


def test_releasing_again_and_sending_again_count_nothing_more(acme: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1", subject="later"))
    make.subject("later", customer=acme)
    ids = waiting_ids()
    release(event_ids=ids, actor=analyst, at=LATER)

    again = release(event_ids=ids, actor=analyst, at=LATER)
    sent_again = make.ingested(make.event("e1", subject="later"))

    assert (again.released, again.closed_before) == (0, 1)
    assert (sent_again.accepted, sent_again.duplicates) == (0, 1)
    assert make.totals(acme)[0].count == 1
    assert AuditEntry.objects.filter(verb="quarantined_event.released").count() == 1


def test_what_still_cannot_be_counted_waits_on_under_the_reason_of_now(acme: Customer, analyst: Actor) -> None:
    make.ingested(make.event(subject="later", seconds="twelve"), make.event(subject="never"))
    make.subject("later", customer=acme)

    result = release(event_ids=waiting_ids(), actor=analyst, at=LATER)

    assert (result.released, result.still_quarantined) == (0, 2)
    assert set(QuarantinedEvent.objects.values_list("subject", "status", "reason")) == {
        ("later", "open", "invalid_value"),
        ("never", "open", "unknown_subject"),
    }
    assert not AuditEntry.objects.filter(verb="quarantined_event.released").exists()


def test_releasing_a_contradiction_is_a_persons_word_that_it_counts_as_it_stands(
    acme: Customer,
    analyst: Actor,
) -> None:
    make.subject("project-1", customer=acme)
    ingest(
        events=[make.event(seconds="5")],
        contradictions={0: "2 x 3 is not 5"},
        door=UsageBatch.Door.FILE,
        actor=make.SYSTEM,
        at=NOON,
    )

    release(event_ids=waiting_ids(), actor=analyst, at=LATER)

    assert make.totals(acme)[0].sum == 5


def test_an_event_of_the_future_counts_once_its_time_has_come(acme: Customer, analyst: Actor) -> None:
    make.subject("project-1", customer=acme)
    make.ingested(make.event(time="2026-10-16T10:00:00Z"))

    assert release(event_ids=waiting_ids(), actor=analyst, at=NOON).released == 0
    assert release(event_ids=waiting_ids(), actor=analyst, at=LATER).released == 1


def test_a_discarded_event_is_kept_with_its_reason_and_never_counts(acme: Customer, analyst: Actor) -> None:
    make.ingested(make.event("e1", subject="later"))
    ids = waiting_ids()

    assert discard(event_ids=ids, reason="test traffic", actor=analyst, at=LATER) == 1
    assert discard(event_ids=ids, reason="again", actor=analyst, at=LATER) == 0
    make.subject("later", customer=acme)
    assert release(event_ids=ids, actor=analyst, at=LATER).released == 0
    assert make.ingested(make.event("e1", subject="later")).duplicates == 1

    discarded = QuarantinedEvent.objects.get()
    assert (discarded.status, discarded.closing_reason, discarded.closed_by_id) == (
        "discarded",
        "test traffic",
        analyst.user_id,
    )
    assert AuditEntry.objects.get(verb="quarantined_event.discarded").reason == "test traffic"
    assert make.totals(acme) == []


def test_discarding_takes_a_reason(analyst: Actor) -> None:
    make.ingested(make.event(subject="later"))

    with pytest.raises(DiscardNeedsReason):
        discard(event_ids=waiting_ids(), reason="  ", actor=analyst, at=LATER)

    assert len(waiting_ids()) == 1


def test_releasing_and_discarding_take_the_permission() -> None:
    support = make_accounts.actor(Role.SUPPORT)

    with pytest.raises(PermissionMissing):
        release(event_ids=[], actor=support, at=LATER)
    with pytest.raises(PermissionMissing):
        discard(event_ids=[], reason="because", actor=support, at=LATER)


def test_the_summary_groups_what_waits_by_reason() -> None:
    make.ingested(make.event(subject="a"), make.event(subject="b"), make.event("e1", event_type="x", subject="a"))
    make.ingested(make.event("e1", event_type="x", subject="a"), at=LATER)

    (group,) = summary()

    assert (group.reason, group.events, group.times_seen) == ("unknown_subject", 3, 4)
    assert (group.first_seen_at, group.last_seen_at) == (NOON, LATER)


def test_fifty_events_are_released_with_as_many_queries_as_one(acme: Customer, analyst: Actor) -> None:
    make.subject("known", customer=acme)
    counts = []
    for number in (1, 50):
        names = [f"later-{number}-{index}" for index in range(number)]
        make.ingested(*[make.event(subject=name) for name in names])
        for name in names:
            make.subject(name, customer=acme)
        ids = waiting_ids()
        with CaptureQueriesContext(connection) as queries:
            assert release(event_ids=ids, actor=analyst, at=LATER).released == number
        counts.append(len(queries))

    assert counts[0] == counts[1]


def rows_of(status: str) -> list[tuple[str, int, int]]:
    return [(row["subject"], row["number"], row["times"]) for row in quarantine_overview.groups(status=status)]


def test_the_tally_follows_what_comes_comes_again_is_released_and_is_discarded(acme: Customer, analyst: Actor) -> None:
    make.ingested(*[make.event(f"a-{number}", subject="a") for number in range(3)], make.event("b-1", subject="b"))
    make.ingested(make.event("a-0", subject="a"), at=LATER)
    before = rows_of("open")
    make.subject("a", customer=acme)
    ids = list(QuarantinedEvent.objects.filter(subject="a").values_list("pk", flat=True))
    release(event_ids=ids[:2], actor=analyst, at=LATER)
    discard(event_ids=ids[2:], reason="a test", actor=analyst, at=LATER)

    assert before == [("a", 3, 4), ("b", 1, 1)]
    assert rows_of("open") == [("b", 1, 1)]
    assert quarantine_overview.counts_by_status() == {"open": 1, "released": 2, "discarded": 1}


def test_folding_the_tally_changes_no_total_and_twice_is_once(acme: Customer, analyst: Actor) -> None:
    for number in range(3):
        make.ingested(make.event(f"a-{number}", subject="a"), make.event(f"b-{number}", subject="b"))
    discard(event_ids=waiting_ids()[:1], reason="a test", actor=analyst, at=LATER)
    before = (rows_of("open"), rows_of("discarded"), quarantine_overview.counts_by_status())

    folded = tallies.fold(), tallies.fold()

    assert folded[1] == 0 < folded[0]
    assert (rows_of("open"), rows_of("discarded"), quarantine_overview.counts_by_status()) == before
    assert QuarantineTally.objects.count() == 3


def test_a_group_that_is_empty_leaves_no_line_and_begins_afresh(acme: Customer, analyst: Actor) -> None:
    make.ingested(make.event("a-1", subject="a"))
    discard(event_ids=waiting_ids(), reason="a test", actor=analyst, at=LATER)
    tallies.fold()
    make.ingested(make.event("a-2", subject="a"), at=LATER)

    (group,) = quarantine_overview.groups(status="open")

    assert (group["number"], group["first"]) == (1, LATER)


def test_a_batch_of_one_cause_leaves_one_line() -> None:
    make.ingested(*[make.event(f"a-{number}", subject="a") for number in range(50)])

    assert QuarantineTally.objects.count() == 1


def test_the_database_refuses_to_change_or_empty_the_tally() -> None:
    make.ingested(make.event("a-1", subject="a"))

    with pytest.raises(IntegrityError, match="folded or stays"), transaction.atomic():
        QuarantineTally.objects.update(events=0)
    with pytest.raises(IntegrityError, match="never thrown away"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("TRUNCATE metering_quarantinetally")
