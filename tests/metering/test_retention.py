"""Old months go into files and come back: nothing lost, nothing counted otherwise, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from accounts.models import AuditEntry
from metering import rollups
from metering.errors import (
    ArchiveFileDamaged,
    MonthChanged,
    MonthHasWaitingEvents,
    MonthNotArchivable,
    MonthNotInState,
    MonthOnHold,
)
from metering.models import ArchivedMonth, ArchivedPart, UsageEvent
from metering.retention import archive_files, archive_tables, legal_holds, partitions, retention
from metering.retention.retention_jobs import archive, work
from tests import make_accounts
from tests import make_metering as make
from tests.behind_the_back import execute, refused
from tests.make_metering import NOON, SYSTEM, broken_rules

pytestmark = pytest.mark.django_db

AUGUST = date(2024, 8, 1)
LATER = datetime(2026, 11, 20, 9, tzinfo=UTC)
IN_AUGUST = (datetime(2024, 8, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC))
Status = ArchivedMonth.Status


@pytest.fixture(autouse=True)
def _folder(settings: Settings, tmp_path: Path) -> None:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.USAGE_ACCEPTANCE_MONTHS = 25


@pytest.fixture
def august() -> int:
    """A customer with usage in a month that takes none any more, and in the one after it; returns their id."""
    customer = make_accounts.customer()
    make.meter(dimensions=["region"])
    make.meter(aggregation="count")
    make.subject("project-1", customer=customer)
    make.ingested(
        make.event("a1", time="2024-08-01T00:00:00Z", seconds="1.50", region="eu"),
        make.event("a2", time="2024-08-15T10:30:00.000001Z", seconds="12345678901234567168", region="us"),
        make.event("a3", time="2024-08-31T23:59:59.999999Z", seconds="0.000000000000000001", region="ü€"),
        make.event("s1", time="2024-09-01T00:00:00Z", seconds="7", region="eu"),
        at=datetime(2024, 9, 2, tzinfo=UTC),
    )
    rollups.fold()
    return customer.pk


def planned(month: date = AUGUST) -> ArchivedMonth:
    return retention.plan_archive(month=month, actor=SYSTEM, at=LATER)


def verified() -> ArchivedMonth:
    planned()
    return archive(month=AUGUST, actor=SYSTEM, at=LATER)


def detached() -> ArchivedMonth:
    verified()
    return retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)


def dropped() -> ArchivedMonth:
    detached()
    return retention.drop_month(month=AUGUST, actor=SYSTEM, at=LATER)


def brought_back() -> ArchivedMonth:
    return retention.bring_back(month=AUGUST, actor=SYSTEM, at=LATER)


def all_events() -> list[tuple[object, ...]]:
    """Every row as the database has it, to the last digit."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT event::text FROM usage_event AS event ORDER BY 1")
        return list(cursor.fetchall())


def recountable(*, customer_id: int, moment: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT usage_is_recountable(%s, %s)", [customer_id, moment])
        return bool(cursor.fetchone()[0])


def test_tables_are_made_ahead_once(settings: Settings) -> None:
    settings.USAGE_PARTITIONS_AHEAD = 2
    december = datetime(2031, 12, 31, 23, 59, tzinfo=UTC)

    missing = partitions.missing_months(at=december)
    made = partitions.make_ahead(at=december)
    again = partitions.make_ahead(at=december)

    assert missing == made == [date(2031, 12, 1), date(2032, 1, 1), date(2032, 2, 1)]
    assert again == partitions.missing_months(at=december) == []


def test_a_month_goes_into_a_file_and_comes_back_equal(august: int) -> None:
    before = all_events()
    totals = make.totals(august, start=IN_AUGUST[0], end=IN_AUGUST[1])

    row = dropped()
    while_away = UsageEvent.objects.count()
    totals_while_away = make.totals(august, start=IN_AUGUST[0], end=IN_AUGUST[1])
    rules_while_away = broken_rules()
    back = brought_back()

    assert (row.status, row.rows, while_away) == (Status.DROPPED, 3, 1)
    assert back.status == Status.RESTORED
    assert all_events() == before
    assert totals_while_away == make.totals(august, start=IN_AUGUST[0], end=IN_AUGUST[1]) == totals
    assert rules_while_away == broken_rules() == []


def test_the_manifest_says_what_the_file_holds(august: int) -> None:
    row = verified()

    manifest = retention.manifests_of(row)[0]
    file = Path(row.folder) / manifest.file

    assert manifest.month == "2024-08"
    assert manifest.file_sha256 == archive_files.sha256_of(file) == row.file_sha256
    assert manifest.contents.rows == 3
    assert sorted(each.sum for each in manifest.contents.series.values()) == [
        "0.000000000000000001",
        "1.50",
        "12345678901234567168",
        "3",
    ]
    assert sum(each.events for each in manifest.contents.series.values()) == 6
    assert archive_tables.moment_of(manifest.contents.last or 0) == datetime(2024, 8, 31, 23, 59, 59, 999999, UTC)


def test_every_step_repeated_finds_its_work_done(august: int) -> None:
    planned()
    planned()
    steps = [retention.export_month, retention.verify_month, retention.detach_month, retention.drop_month]

    twice = [(step(month=AUGUST, actor=SYSTEM, at=LATER), step(month=AUGUST, actor=SYSTEM, at=LATER)) for step in steps]
    back = (brought_back(), brought_back())

    assert all(first.status == second.status for first, second in [*twice, back])
    assert (
        list(AuditEntry.objects.filter(verb__startswith="archived_month").values_list("verb", flat=True)).count(
            "archived_month.dropped"
        )
        == 1
    )


def test_a_detached_month_is_attached_again_without_its_file(august: int) -> None:
    before = all_events()
    row = detached()
    (Path(row.folder) / archive_files.file_name(AUGUST, row.revision)).unlink()

    brought_back()

    assert all_events() == before
    assert broken_rules() == []


def test_a_month_that_came_back_can_go_again(august: int) -> None:
    dropped()
    brought_back()

    row = dropped()

    assert (row.status, row.revision) == (Status.DROPPED, 2)
    assert sorted(path.name for path in Path(row.folder).iterdir()) == [
        "usage-2024-08.r2.json",
        "usage-2024-08.r2.parquet",
    ]
    assert broken_rules() == []


def test_steps_are_taken_in_order(august: int) -> None:
    planned()

    with pytest.raises(MonthNotInState):
        retention.verify_month(month=AUGUST, actor=SYSTEM, at=LATER)
    with pytest.raises(MonthNotInState):
        retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)
    with pytest.raises(MonthNotInState):
        retention.drop_month(month=AUGUST, actor=SYSTEM, at=LATER)


def test_only_months_beyond_the_acceptance_age_go(august: int, settings: Settings) -> None:
    settings.USAGE_ACCEPTANCE_MONTHS = 27

    with pytest.raises(MonthNotArchivable, match="27 months"):
        planned()
    with pytest.raises(MonthNotArchivable, match="no events"):
        planned(date(2020, 1, 1))


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def changed_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [torn, changed_byte, gone])
@pytest.mark.parametrize("name", [archive_files.file_name, archive_files.manifest_name])
def test_a_damaged_file_stops_every_step(
    august: int, damage: Callable[[Path], None], name: Callable[[date, int], str]
) -> None:
    row = detached()
    before = all_events()

    damage(Path(row.folder) / name(AUGUST, row.revision))

    for step in (retention.drop_month, retention.check_archive):
        with pytest.raises(ArchiveFileDamaged):
            step(month=AUGUST, actor=SYSTEM, at=LATER)
    brought_back()
    assert len(all_events()) == len(before) + 3


def test_a_file_damaged_before_it_was_verified_is_not_verified(august: int) -> None:
    planned()
    row = retention.export_month(month=AUGUST, actor=SYSTEM, at=LATER)

    changed_byte(Path(row.folder) / archive_files.file_name(AUGUST, row.revision))

    with pytest.raises(ArchiveFileDamaged):
        retention.verify_month(month=AUGUST, actor=SYSTEM, at=LATER)


def test_a_manifest_that_lies_is_found_out(august: int) -> None:
    planned()
    row = retention.export_month(month=AUGUST, actor=SYSTEM, at=LATER)
    with archive_tables.events("usage_event_2024_09") as rows:
        manifest, sha256 = archive_files.write(
            rows, folder=Path(row.folder), month=AUGUST, revision=1, value_of=lambda _row, _series: None
        )
    ArchivedPart.objects.update(manifest_sha256=sha256, file_sha256=manifest.file_sha256)

    with pytest.raises(ArchiveFileDamaged, match="does not hold"):
        retention.verify_month(month=AUGUST, actor=SYSTEM, at=LATER)


@pytest.fixture
def one_more(settings: Settings) -> Callable[[], None]:
    """An event that still finds its way into the month, as when the acceptance age was raised for a day."""

    def add() -> None:
        settings.USAGE_ACCEPTANCE_MONTHS = 60
        make.ingested(make.event("a4", time="2024-08-20T00:00:00Z"), at=LATER)
        settings.USAGE_ACCEPTANCE_MONTHS = 25

    return add


def test_events_that_came_after_the_file_let_the_month_begin_anew(august: int, one_more: Callable[[], None]) -> None:
    planned()
    retention.export_month(month=AUGUST, actor=SYSTEM, at=LATER)
    one_more()

    with pytest.raises(MonthChanged):
        retention.verify_month(month=AUGUST, actor=SYSTEM, at=LATER)
    begun_anew = ArchivedMonth.objects.get().status
    verified()

    assert begun_anew == Status.PLANNED
    assert ArchivedMonth.objects.get().rows == 4


def test_events_that_came_after_the_verification_keep_the_month_here(august: int, one_more: Callable[[], None]) -> None:
    verified()
    one_more()

    with pytest.raises(MonthChanged):
        retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)

    assert ArchivedMonth.objects.get().status == Status.PLANNED
    assert UsageEvent.objects.count() == 5


def test_no_event_joins_an_archived_month(august: int, settings: Settings) -> None:
    dropped()
    settings.USAGE_ACCEPTANCE_MONTHS = 60

    result = make.ingested(
        make.event("late", time="2024-08-20T00:00:00Z"), make.event("a1", time="2024-08-01T00:00:00Z"), at=LATER
    )

    assert (result.accepted, result.quarantined, len(result.rejected)) == (0, 1, 1)
    with refused("bring them back first"):
        execute("SELECT make_usage_event_partition('2024-08-01')")


def test_an_archived_event_sent_again_is_a_duplicate(august: int) -> None:
    dropped()

    result = make.ingested(make.event("a1", time="2024-08-01T00:00:00Z", seconds="1.50", region="eu"), at=LATER)

    assert (result.accepted, result.duplicates, result.quarantined) == (0, 1, 0)


def test_a_hold_set_between_verifying_and_detaching_keeps_the_month(august: int) -> None:
    verified()
    hold = legal_holds.set_hold(customer_id=august, reason="Case 7", actor=SYSTEM, at=LATER)

    with pytest.raises(MonthOnHold, match="Case 7"):
        retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)
    legal_holds.lift_hold(hold_id=hold.pk, reason="Closed", actor=SYSTEM, at=LATER)
    after = retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)

    assert after.status == Status.DETACHED


def test_a_hold_on_a_detached_month_keeps_its_table(august: int) -> None:
    detached()
    legal_holds.set_hold(first_month=AUGUST, last_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)

    with pytest.raises(MonthOnHold):
        retention.drop_month(month=AUGUST, actor=SYSTEM, at=LATER)


def test_holds_on_other_months_and_customers_let_this_one_go(august: int) -> None:
    legal_holds.set_hold(first_month=date(2024, 9, 1), reason="Case 7", actor=SYSTEM, at=LATER)
    legal_holds.set_hold(last_month=date(2024, 7, 1), reason="Case 8", actor=SYSTEM, at=LATER)
    legal_holds.set_hold(customer_id=make_accounts.customer().pk, reason="Not theirs", actor=SYSTEM, at=LATER)

    row = detached()

    assert row.status == Status.DETACHED


def test_events_waiting_in_quarantine_keep_the_month(august: int) -> None:
    make.ingested(
        make.event("lost", time="2024-08-05T00:00:00Z", subject="nobody"), at=datetime(2024, 9, 2, tzinfo=UTC)
    )
    verified()

    with pytest.raises(MonthHasWaitingEvents):
        retention.detach_month(month=AUGUST, actor=SYSTEM, at=LATER)


def test_the_jobs_take_a_month_as_far_as_it_goes_by_itself(august: int) -> None:
    planned()

    done = work(at=LATER)
    again = work(at=LATER)

    assert (done, again) == (1, 0)
    assert ArchivedMonth.objects.get().status == Status.VERIFIED


def test_the_jobs_say_why_a_step_failed_and_bring_back_what_was_asked_for(august: int) -> None:
    row = dropped()
    file = Path(row.folder) / archive_files.file_name(AUGUST, row.revision)
    content = file.read_bytes()
    torn(file)
    retention.ask_back(month=AUGUST, actor=SYSTEM, at=LATER)

    failed = work(at=LATER)
    said = ArchivedMonth.objects.get().last_error
    file.write_bytes(content)
    mended = work(at=LATER)

    assert (failed, mended) == (0, 1)
    assert "SHA-256" in said
    assert ArchivedMonth.objects.get().status == Status.RESTORED
    assert broken_rules() == []


def test_whoever_asks_is_told_which_months_are_away(august: int) -> None:
    dropped()

    (month,) = retention.archived_months(datetime(2024, 8, 31, tzinfo=UTC), NOON)
    nothing = retention.archived_months(datetime(2024, 9, 1, tzinfo=UTC), NOON)
    until_its_start = retention.archived_months(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 8, 1, tzinfo=UTC))

    assert (month.month, month.events, month.archived_at) == (AUGUST, 3, LATER)
    assert nothing == until_its_start == []
    assert not recountable(customer_id=august, moment=datetime(2024, 8, 31, 23, tzinfo=UTC))
    assert recountable(customer_id=august, moment=datetime(2024, 9, 1, tzinfo=UTC))


def test_a_lost_identity_is_noticed_beside_archived_ones(august: int) -> None:
    dropped()

    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            "UPDATE usage_identity SET key = gen_random_uuid() WHERE key NOT IN (SELECT key FROM usage_event)"
        )
        cursor.execute("SET LOCAL session_replication_role = origin")

    assert "metering.identity_is_an_event_or_in_quarantine" in broken_rules()


def test_the_database_refuses_a_step_that_was_left_out(august: int) -> None:
    verified()

    with refused("archived_month_goes_step_by_step"):
        ArchivedMonth.objects.update(status=Status.DROPPED)
    with refused("Only a verified month"):
        execute("SELECT detach_usage_event_partition('2024-08-01')")
    with refused("archived_month_is_never_deleted"):
        ArchivedMonth.objects.all()._raw_delete(using="default")


def test_the_database_refuses_to_drop_what_was_not_verified_again(august: int) -> None:
    detached()

    with refused("Every file of a month is compared"):
        ArchivedMonth.objects.update(status=Status.DROPPED)
    ArchivedPart.objects.update(compared_at=LATER)
    with refused("month_is_dropped_once_verified_again"):
        ArchivedMonth.objects.update(status=Status.DROPPED)
    with refused("verified in the same transaction"):
        execute("SELECT drop_detached_usage_event_partition('2024-08-01')")


def test_the_database_refuses_to_move_a_month_on_hold(august: int) -> None:
    verified()
    legal_holds.set_hold(first_month=AUGUST, reason="Case 7", actor=SYSTEM, at=LATER)

    with refused("month_on_hold_stays"):
        ArchivedMonth.objects.update(status=Status.DETACHED)


def test_the_database_refuses_to_amend_what_is_archived(august: int) -> None:
    event = UsageEvent.objects.filter(customer_id=august).earliest("time")
    dropped()

    with refused("Only an event that is here"):
        execute(
            "INSERT INTO usage_amendment (customer_id, time, key, batch_id, sign, series_ids)"
            " VALUES (%s, %s, %s, 1, -1, ARRAY[%s::bigint])",
            august,
            event.time.isoformat(),
            str(event.key),
            event.series_ids[0],
        )


@pytest.mark.parametrize("statement", ["UPDATE {} SET subject = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
@pytest.mark.parametrize("table", ["detached_usage_event_2024_08", "usage_event_2024_08"])
def test_the_database_refuses_to_change_events_on_their_way(august: int, statement: str, table: str) -> None:
    if table.startswith("detached"):
        detached()
    else:
        dropped()
        brought_back()

    with refused("usage_event"):
        execute(statement.format(table))


INSERT_HOLD = "INSERT INTO metering_legalhold (customer_id, first_month, last_month, reason, set_by, set_at)"


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ("NULL, NULL, NULL, 'why'", "legal_hold_names_a_customer_or_months"),
        ("NULL, '2024-08-02', NULL, 'why'", "legal_hold_covers_whole_months"),
        ("NULL, '2024-09-01', '2024-08-01', 'why'", "legal_hold_ends_after_it_begins"),
        ("NULL, '2024-09-01', NULL, ''", "legal_hold_has_a_reason"),
    ],
)
def test_the_database_refuses_a_hold_that_says_too_little(columns: str, rule: str) -> None:
    with refused(rule):
        execute(f"{INSERT_HOLD} VALUES ({columns}, 'me', now())")
