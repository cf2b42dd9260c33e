"""What the database refuses of usage files, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from metering.models import UsageFile, UsageFileBatch, UsageFilePart, UsageFileRefusal
from metering.models.files import LARGEST_PART
from metering.sources import loading
from metering.sources.rows import UsageFileUnreadable
from tests import make_files as make
from tests import make_metering
from tests.make_metering import NOON

pytestmark = pytest.mark.django_db

State = UsageFile.State


@pytest.fixture(autouse=True)
def gpu_seconds() -> None:
    make_metering.meter()
    make_metering.subject("project-1")


def refuses(change: Callable[[], object], rule: str) -> bool:
    try:
        with transaction.atomic():
            change()
    except (IntegrityError, DatabaseError) as refusal:
        diagnostics = getattr(refusal.__cause__, "diag", None)
        return getattr(diagnostics, "constraint_name", None) == rule
    return False


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"state": "lost"}, "usage_file_state_follows_its_order"),
        ({"state": State.DONE}, "usage_file_state_follows_its_order"),
        ({"format": "xlsx"}, "usage_file_format_is_known"),
        ({"size": -1}, "usage_file_has_a_size"),
        ({"rows_done": 1}, "usage_file_counts_every_row_once"),
        ({"sha256": b"short"}, "usage_file_hash_is_a_sha256"),
        ({"state": State.LOADING}, "usage_file_is_known_before_it_is_loaded"),
        ({"finished_at": NOON}, "usage_file_ends_with_a_time"),
        ({"error": "none"}, "usage_file_fails_with_an_error"),
    ],
)
def test_the_database_refuses_a_file_that_contradicts_itself(changes: dict[str, object], rule: str) -> None:
    file = make.sent(b"a file")

    assert refuses(lambda: UsageFile.objects.filter(pk=file.pk).update(**changes), rule)


def test_the_database_refuses_a_state_that_it_does_not_know() -> None:
    made = partial(UsageFile.objects.create, name="x", size=1, actor_label="x", created_at=NOON)

    assert refuses(lambda: made(state="lost"), "usage_file_state_is_known")


def test_the_database_refuses_to_load_one_file_twice() -> None:
    make.loaded(make.many_readings(1))
    file = UsageFile.objects.get()
    file.pk = None

    assert refuses(lambda: file.save(force_insert=True), "usage_file_is_loaded_once")


def test_the_database_refuses_to_rewrite_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MOST_REFUSED", 1_500)
    with pytest.raises(UsageFileUnreadable):
        make.loaded(make.readings(*["torn"] * 2_500))
    cut = UsageFile.objects.filter(pk=UsageFile.objects.get().pk)
    make.loaded(make.many_readings(1))
    done = UsageFile.objects.filter(state=State.DONE)

    assert refuses(lambda: cut.update(rows_done=0, refused=0), "usage_file_never_goes_back")
    assert refuses(lambda: cut.update(name="another"), "usage_file_keeps_what_it_is")
    assert refuses(lambda: done.update(reasons={}), "loaded_usage_file_never_changes")
    waiting = UsageFile.objects.create(name="x", size=1, actor_label="x", created_at=NOON, state=State.WAITING)
    assert refuses(waiting.delete, "usage_file_is_never_deleted")
    assert refuses(lambda: UsageFileBatch.objects.update(rows=1), "usage_file_batch_never_changes")
    assert refuses(lambda: UsageFileRefusal.objects.update(detail=""), "usage_file_refusal_never_changes")


def test_the_database_refuses_a_row_in_two_batches_and_a_batch_of_two_files() -> None:
    make.loaded(make.many_readings(1))
    batch = UsageFileBatch.objects.get()
    again = partial(UsageFileBatch.objects.create, file=batch.file, rows=1)

    assert refuses(lambda: again(batch_id=batch.batch_id, first_row=7), "batch_is_of_one_file")
    assert refuses(lambda: again(batch_id=batch.batch_id + 1, first_row=0), "row_of_a_file_is_loaded_once")


def test_the_database_refuses_parts_that_change_or_are_no_size() -> None:
    file = make.sent(b"a file")
    part = partial(UsageFilePart.objects.create, file=file, number=1)

    assert refuses(lambda: UsageFilePart.objects.update(content=b"other"), "part_of_a_file_keeps_its_bytes")
    assert refuses(lambda: part(content=b""), "part_of_a_file_has_a_size")
    assert refuses(lambda: part(content=b"x" * (LARGEST_PART + 1)), "part_of_a_file_has_a_size")
    assert refuses(lambda: part(number=0, content=b"x"), "part_of_a_file_is_kept_once")


def test_the_database_refuses_a_mapping_without_a_name_and_to_lose_one() -> None:
    record = make.mapping_record()
    record.name = ""

    assert refuses(record.save, "file_mapping_has_a_name")
    assert refuses(record.delete, "file_mapping_is_never_deleted")
