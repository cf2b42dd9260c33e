"""Usage files: sent in parts, loaded once, resumed where they were, and every row accounted for."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from accounts.access import Actor, Role
from accounts.errors import PermissionMissing, ReasonMissing
from accounts.models import AuditEntry
from metering.errors import (
    MappingMissing,
    MappingNameInvalid,
    MappingNameTaken,
    MappingUnknown,
    UsageFileIncomplete,
    UsageFileNameInvalid,
    UsageFileNotHere,
    UsageFileStateOther,
    UsageFileTooLarge,
    UsageFileUnknown,
)
from metering.files import file_content, file_work, usage_files
from metering.files.mappings import change_mapping, define_mapping
from metering.models import UsageBatch, UsageEvent, UsageFile, UsageFileBatch, UsageFilePart, UsageFileRefusal
from metering.models.files import LARGEST_PART
from metering.sources import loading
from metering.sources.layouts import FileFormat
from tests import make_accounts, make_metering
from tests import make_files as make
from tests.make_metering import NOON, SYSTEM

pytestmark = pytest.mark.django_db

State = UsageFile.State
Settings = Any


@pytest.fixture(autouse=True)
def gpu_seconds() -> None:
    make_metering.meter()
    make_metering.subject("project-1")


def work() -> None:
    """Do what a worker does when it is asked to."""
    file_work.load_waiting()


class Cut(Exception):
    """The moment at which a load is cut off."""


def cut_off_after(batches: int) -> Callable[[int], None]:
    left = batches + 1  # the first word is that of the beginning

    def told(_rows: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Cut

    return told


def load(content: bytes, **more: Any) -> loading.LoadReport:
    return loading.load_usage(
        stream=io.BytesIO(content),
        file_format=FileFormat.CSV,
        origin="readings.csv",
        mapping=make.mapping(),
        actor=SYSTEM,
        at=NOON,
        **more,
    )


def test_a_load_that_was_cut_off_goes_on_where_it_was_and_counts_each_row_once() -> None:
    content = make.many_readings(3_500)
    with pytest.raises(Cut):
        load(content, on_progress=cut_off_after(2))
    assert UsageFile.objects.get().rows_done == 2_000

    report = load(content)

    assert (report.rows, report.accepted, report.duplicates) == (3_500, 3_500, 0)
    assert UsageEvent.objects.count() == 3_500
    assert [batch.first_row for batch in UsageFileBatch.objects.all()] == [0, 1_000, 2_000, 3_000]


def test_the_same_file_again_is_answered_with_the_report_of_the_first() -> None:
    content = make.readings(make.reading(1), make.reading(1, seconds="2"), make.reading(3, project="nobody"), "torn")
    first = load(content)
    batches = UsageBatch.objects.count()

    again = load(content)

    assert not first.loaded_before
    assert again.loaded_before
    assert (again.rows, again.accepted, again.quarantined, again.refused) == (4, 1, 1, 2)
    assert again.reasons == {"conflict": 1, "malformed": 1}
    assert UsageBatch.objects.count() == batches


def test_the_same_bytes_by_another_mapping_are_another_load() -> None:
    content = make.readings(make.reading(1))
    load(content)

    other = make.loaded(content, by=make.mapping(source={"constant": "meters/bonn"}))

    assert (other.loaded_before, other.accepted) == (False, 1)


def test_every_refused_row_is_listed_with_its_line_even_if_it_was_refused_before() -> None:
    make.loaded(make.readings("torn", make.reading(1)))

    make.loaded(make.readings("torn", make.reading(1, seconds="2"), make.reading(2)))

    listed = UsageFileRefusal.objects.filter(file=UsageFile.objects.latest("pk"))
    assert [(row.position, row.reason, row.event_id) for row in listed] == [(2, "malformed", ""), (3, "conflict", "r1")]
    assert listed[0].payload == '["torn"]'


def test_two_loaders_of_one_file_share_the_work() -> None:
    file = make.ready(make.many_readings(5_000))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    behind: list[int] = []

    def also(_rows: int) -> None:
        if not behind:
            behind.append(1)
            # While the first one holds the next rows in its hands, the other loads the file to its end.
            with file_content.open_content(file) as stream:
                loading.load_file(file_id=file.pk, stream=stream, clock=lambda: NOON, actor=SYSTEM)

    with file_content.open_content(file) as stream:
        loading.load_file(file_id=file.pk, stream=stream, on_progress=also, clock=lambda: NOON, actor=SYSTEM)

    file.refresh_from_db()
    assert (file.state, file.rows_done, file.accepted) == (State.DONE, 5_000, 5_000)


def test_a_file_is_sent_in_parts_and_comes_out_as_it_was() -> None:
    content = b"a" * LARGEST_PART + b"b" * LARGEST_PART + b"the end"

    file = make.sent(content)

    assert (file.state, file.format, UsageFilePart.objects.count()) == (State.WAITING, "csv", 3)
    with file_content.open_content(file) as stream:
        assert stream.read() == content
        stream.seek(LARGEST_PART - 1)
        assert stream.read(2) == b"ab"
        stream.seek(-3, io.SEEK_END)
        assert (stream.read(10), stream.read(1)) == (b"end", b"")
    assert file.sha256 == file_content.sha256_of(io.BytesIO(content))[0]


def test_a_part_that_comes_twice_is_kept_once_and_one_that_lacks_is_named() -> None:
    content = b"a" * LARGEST_PART + b"rest"
    file = usage_files.receive_file(name="x", size=len(content), actor=SYSTEM, at=NOON)
    receive = partial(usage_files.receive_part, file_id=file.pk, actor=SYSTEM)
    receive(number=1, content=b"rest")
    receive(number=1, content=b"rest")

    with pytest.raises(UsageFileIncomplete, match="4 of 2,097,156 bytes"):
        usage_files.finish_receiving(file_id=file.pk, actor=SYSTEM, at=NOON)
    with pytest.raises(UsageFileIncomplete, match="should have 2,097,152 bytes, not 3"):
        receive(number=0, content=b"abc")
    with pytest.raises(UsageFileIncomplete):
        receive(number=2, content=b"x")
    receive(number=0, content=content[:LARGEST_PART])
    assert usage_files.finish_receiving(file_id=file.pk, actor=SYSTEM, at=NOON).state == State.WAITING
    assert usage_files.finish_receiving(file_id=file.pk, actor=SYSTEM, at=NOON).state == State.WAITING
    with pytest.raises(UsageFileStateOther):
        receive(number=0, content=content[:LARGEST_PART])


def test_a_file_that_is_too_large_or_has_no_name_is_not_taken(settings: Settings) -> None:
    settings.USAGE_FILE_LIMIT_BYTES = 3 * 1_048_576

    with pytest.raises(UsageFileTooLarge, match="at most 3 MiB"):
        usage_files.receive_file(name="x", size=3 * 1_048_576 + 1, actor=SYSTEM, at=NOON)
    with pytest.raises(UsageFileIncomplete, match="empty"):
        usage_files.receive_file(name="x", size=0, actor=SYSTEM, at=NOON)
    for name in ("", "x" * 255, "a\nb"):
        with pytest.raises(UsageFileNameInvalid):
            usage_files.receive_file(name=name, size=1, actor=SYSTEM, at=NOON)


def test_an_uploaded_file_is_loaded_by_a_worker_and_its_bytes_go() -> None:
    analyst = make_accounts.actor(Role.FINANCE_ANALYST)
    file = make.ready(make.many_readings(1_500), actor=analyst)

    usage_files.start_loading(file_id=file.pk, actor=analyst, at=NOON)
    usage_files.start_loading(file_id=file.pk, actor=analyst, at=NOON)
    work()
    work()

    file.refresh_from_db()
    assert (file.state, file.rows_done, file.accepted, file.bytes_done) == (State.DONE, 1_500, 1_500, file.size)
    assert not UsageFilePart.objects.exists()
    assert set(UsageBatch.objects.values_list("actor_label", flat=True)) == {analyst.label}
    assert usage_files.start_loading(file_id=file.pk, actor=analyst, at=NOON).pk == file.pk
    verbs = AuditEntry.objects.filter(subject_type="metering.usagefile").order_by("pk").values_list("verb", flat=True)
    assert list(verbs) == [f"usage_file.{done}" for done in ("received", "arrived", "started", "loaded")]


def test_a_file_with_columns_is_not_started_without_a_mapping() -> None:
    file = make.sent(make.many_readings(1))

    with pytest.raises(MappingMissing):
        usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    with pytest.raises(MappingMissing):
        loading.load_usage(stream=io.BytesIO(b"x"), file_format=FileFormat.CSV, origin="x", actor=SYSTEM, at=NOON)


def test_sending_a_loaded_file_again_leads_to_the_first_ones_report() -> None:
    content = make.many_readings(10)
    load(content)

    file = usage_files.start_loading(file_id=make.ready(content).pk, actor=SYSTEM, at=NOON)

    assert (file.state, file.rows_done, file.pk) == (State.DONE, 10, UsageFile.objects.earliest("pk").pk)
    assert UsageFile.objects.latest("pk").state == State.DISCARDED
    assert not UsageFilePart.objects.exists()


def test_a_load_that_was_cut_off_elsewhere_goes_on_with_the_bytes_that_are_sent() -> None:
    content = make.many_readings(2_500)
    with pytest.raises(Cut):
        load(content, on_progress=cut_off_after(1))

    file = usage_files.start_loading(file_id=make.ready(content).pk, actor=SYSTEM, at=NOON)
    work()

    file.refresh_from_db()
    assert (file.state, file.rows_done, file.accepted, file.duplicates) == (State.DONE, 2_500, 2_500, 0)


def test_a_load_is_stopped_and_resumed() -> None:
    file = make.ready(make.many_readings(2_500))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    def stop(_rows: int) -> None:
        usage_files.stop_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    with file_content.open_content(file) as stream:
        loading.load_file(file_id=file.pk, stream=stream, on_progress=stop, clock=lambda: NOON, actor=SYSTEM)
    work()
    stopped = UsageFile.objects.get(pk=file.pk)
    usage_files.stop_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    usage_files.resume_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    usage_files.resume_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    work()

    file.refresh_from_db()
    assert (stopped.state, stopped.rows_done) == (State.STOPPED, 1_000)
    assert (file.state, file.rows_done, file.duplicates) == (State.DONE, 2_500, 0)


def test_what_was_never_sent_cannot_be_resumed_here() -> None:
    with pytest.raises(Cut):
        load(make.many_readings(2_500), on_progress=cut_off_after(1))
    file = UsageFile.objects.get()
    usage_files.stop_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    with pytest.raises(UsageFileNotHere):
        usage_files.resume_loading(file_id=file.pk, actor=SYSTEM, at=NOON)


def test_a_file_that_cannot_be_read_fails_with_the_reason_and_may_be_tried_again() -> None:
    file = make.ready(b"record;project\nr1;p\n")
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    work()

    file.refresh_from_db()
    assert (file.state, file.error[:31]) == (State.FAILED, "The file lacks the columns reco")
    assert usage_files.resume_loading(file_id=file.pk, actor=SYSTEM, at=NOON).state == State.LOADING


def test_a_file_that_ends_its_workers_is_given_up() -> None:
    file = make.ready(make.many_readings(1))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    later = [NOON + timedelta(minutes=2 * number) for number in range(6)]

    claims = [usage_files.claim_next(lease=loading.LEASE, at=at) for at in later]

    assert [claim and claim.state for claim in claims] == [State.LOADING] * 5 + [State.FAILED]
    file.refresh_from_db()
    assert "5 workers have ended over it, at row 1" in file.error


def test_a_claimed_file_is_nobody_elses_until_the_lease_is_over() -> None:
    file = make.ready(make.many_readings(1))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    lease = timedelta(seconds=60)

    first = usage_files.claim_next(lease=lease, at=NOON)
    second = usage_files.claim_next(lease=lease, at=NOON + timedelta(seconds=59))
    third = usage_files.claim_next(lease=lease, at=NOON + timedelta(seconds=61))

    assert (first, second, third) == (file, None, file)


def test_a_file_most_of_which_is_refused_stops_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MOST_REFUSED", 1_500)
    file = make.ready(make.readings(*["torn"] * 5_000))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    work()

    file.refresh_from_db()
    assert (file.state, file.rows_done) == (State.FAILED, 1_000)
    assert "2,000 of 2,000 rows were refused" in file.error


def test_what_nobody_starts_is_swept_up() -> None:
    waiting = make.sent(b"a file")
    receiving = usage_files.receive_file(name="x", size=5, actor=SYSTEM, at=NOON)

    swept = [usage_files.sweep_abandoned(at=NOON + timedelta(days=days)) for days in (0, 2, 31, 32)]

    states = set(UsageFile.objects.filter(pk__in=[waiting.pk, receiving.pk]).values_list("state", flat=True))
    assert swept == [0, 1, 1, 0]
    assert states == {State.DISCARDED}
    assert not UsageFilePart.objects.exists()


def test_a_file_that_waits_is_discarded_and_one_that_was_begun_is_not() -> None:
    waiting, begun = make.sent(b"a file"), make.ready(make.many_readings(1))
    usage_files.start_loading(file_id=begun.pk, actor=SYSTEM, at=NOON)

    usage_files.discard_file(file_id=waiting.pk, actor=SYSTEM, at=NOON)

    assert usage_files.discard_file(file_id=waiting.pk, actor=SYSTEM, at=NOON).state == State.DISCARDED
    with pytest.raises(UsageFileStateOther):
        usage_files.discard_file(file_id=begun.pk, actor=SYSTEM, at=NOON)
    with pytest.raises(UsageFileUnknown):
        usage_files.discard_file(file_id=make_accounts.UNKNOWN_ID, actor=SYSTEM, at=NOON)


@pytest.mark.parametrize(
    "verb",
    [
        lambda by: usage_files.receive_file(name="x", size=1, actor=by, at=NOON),
        lambda by: usage_files.receive_part(file_id=1, number=0, content=b"x", actor=by),
        lambda by: usage_files.finish_receiving(file_id=1, actor=by, at=NOON),
        lambda by: usage_files.choose_layout(file_id=1, file_format=FileFormat.CSV, mapping_id=None, actor=by),
        lambda by: usage_files.start_loading(file_id=1, actor=by, at=NOON),
        lambda by: usage_files.stop_loading(file_id=1, actor=by, at=NOON),
        lambda by: usage_files.resume_loading(file_id=1, actor=by, at=NOON),
        lambda by: usage_files.discard_file(file_id=1, actor=by, at=NOON),
        lambda by: make.loaded(b"x", actor=by),
        lambda by: define_mapping(name="x", mapping=make.mapping(), actor=by, at=NOON),
        lambda by: change_mapping(
            mapping_id=1, name="x", mapping=make.mapping(), is_active=True, reason="r", actor=by, at=NOON
        ),
    ],
)
def test_without_the_permission_no_file_comes_in(verb: Callable[[Actor], object]) -> None:
    with pytest.raises(PermissionMissing):
        verb(make_accounts.actor(Role.AUDITOR))


def test_a_mapping_is_kept_with_its_history_and_files_keep_the_one_they_were_loaded_by() -> None:
    file = make.ready(make.many_readings(1))
    assert file.mapping is not None
    before = file.mapping_spec

    change_mapping(
        mapping_id=file.mapping.pk,
        name="Readings of Berlin",
        mapping=make.mapping(delimiter=";"),
        is_active=False,
        reason="They send semicolons now",
        actor=SYSTEM,
        at=NOON,
    )

    file.refresh_from_db()
    assert (file.mapping_spec, file.mapping.name) == (before, "Readings of Berlin")
    reasons = file.mapping.history.order_by("history_id").values_list("history_change_reason", flat=True)
    assert list(reasons) == [None, "They send semicolons now"]


def test_a_mapping_needs_a_name_of_its_own_and_a_change_of_it_a_reason() -> None:
    record = make.mapping_record("Readings")
    other = make.mapping_record("Others", delimiter=";")
    change = partial(change_mapping, mapping=make.mapping(), is_active=True, reason="mended", actor=SYSTEM, at=NOON)

    assert make.mapping_record("Readings") == record
    with pytest.raises(MappingNameTaken):
        make.mapping_record("Readings", delimiter=";")
    with pytest.raises(MappingNameTaken):
        change(mapping_id=other.pk, name="Readings")
    with pytest.raises(MappingNameInvalid):
        make.mapping_record("")
    with pytest.raises(ReasonMissing):
        change(mapping_id=other.pk, name="Others", reason=" ")
    with pytest.raises(MappingUnknown):
        change(mapping_id=make_accounts.UNKNOWN_ID, name="x")
