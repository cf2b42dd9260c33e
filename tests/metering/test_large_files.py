"""Usage files that are long, wide or change underfoot: memory stays bounded, loads get to their end."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.conf import settings
from django.utils import timezone

from accounts.access import Role
from metering.files import file_content, file_work, usage_files
from metering.models import RefusedEvent, UsageEvent, UsageFile, UsageFileBatch, UsageFileRefusal
from metering.sources import loading
from metering.sources.layouts import FileFormat, open_rows
from metering.sources.rows import UsageFileUnreadable
from tests import make_files, make_metering
from tests.make_metering import NOON, SYSTEM
from tests.make_pages import signed_in, words

pytestmark = pytest.mark.django_db

MEBIBYTE = 1024 * 1024
State = UsageFile.State


@pytest.fixture(autouse=True)
def gpu_seconds() -> None:
    make_metering.meter()
    make_metering.subject("project-1")


FOCUS_HEADER = (
    "BillingAccountId,ChargeCategory,ChargePeriodStart,Id,ListCost,ListUnitPrice,PricingQuantity,ProviderName,"
    "SkuPriceId,SubAccountId"
)


def _parquet() -> bytes:
    file = io.BytesIO()
    columns = {name: [f"{name}{row}" for row in range(7)] for name in ("record", "project", "at", "seconds", "region")}
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file_format", "content"),
    [
        (
            FileFormat.CSV,
            make_files.readings(make_files.reading(1), "", 'torn,"', *map(make_files.reading, range(2, 6))),
        ),
        (
            FileFormat.CLOUDEVENTS,
            b'\xef\xbb\xbf{"id":"1"}\r\n\r\n\n[]\n' + b"x" * (MEBIBYTE + 5) + b'\n{"id":"2"}\n{"id":"3"}',
        ),
        (
            FileFormat.FOCUS,
            f"{FOCUS_HEADER}\na,Usage,b,1,1,1,1,p,s,s\ntorn\n\na,Tax,b,2,1,1,1,p,s,s".encode(),
        ),
        (FileFormat.PARQUET, _parquet()),
    ],
    ids=["csv", "cloudevents", "focus", "parquet"],
)
def test_rows_that_are_left_out_are_the_first_ones_and_no_others(file_format: FileFormat, content: bytes) -> None:
    def rows(skip: int) -> list[object]:
        with open_rows(io.BytesIO(content), file_format, make_files.mapping(), skip=skip) as opened:
            return list(opened.rows)

    every = rows(0)

    assert len(every) >= 3
    for skip in range(len(every) + 2):
        assert rows(skip) == every[skip:]


def test_long_rows_make_small_batches() -> None:
    lines = [f'r{number},project-1,2026-10-15T10:30:00Z,1,"{"x" * 60_000}"' for number in range(300)]

    report = make_files.loaded(make_files.readings(*lines))

    sizes = list(UsageFileBatch.objects.order_by("id").values_list("rows", flat=True))
    assert (report.rows, report.accepted) == (300, 300)
    assert sum(sizes) == 300
    assert max(sizes) < 150


def test_a_text_of_megabytes_in_every_row_of_a_parquet_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    wide = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 8 * MEBIBYTE]))
    columns = {
        "record": [f"r{number}" for number in range(20_000)],
        "project": ["project-1"] * 20_000,
        "at": ["2026-10-15T10:30:00Z"] * 20_000,
        "seconds": ["1"] * 20_000,
        "region": wide,
    }
    pq.write_table(pa.table(columns), path)
    program = f"""
        import resource, sys
        import django
        django.setup()
        from itertools import islice
        from metering.sources.layouts import FileFormat, open_rows
        from tests import make_files
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open({str(path)!r}, "rb") as stream, open_rows(stream, FileFormat.PARQUET, make_files.mapping()) as opened:
            for row in islice(opened.rows, 50):
                pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=settings.PROJECT_FOLDER,
        env={"DJANGO_SETTINGS_MODULE": "config.settings.test", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )

    assert done.returncode == 0, done.stderr[-2_000:]
    assert int(done.stdout) < 300


def test_so_many_refused_rows_are_listed_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MOST_LISTED", 1_500)
    monkeypatch.setattr("metering.files.file_overview.MOST_LISTED", 1_500)
    torn = [f"torn {number}" for number in range(2_500)]

    report = make_files.loaded(make_files.readings(*torn, make_files.reading(1)))

    page = words(signed_in(Role.SUPPORT).get(f"/usage/files/{report.file_id}/"))
    assert (report.rows, report.refused, report.accepted) == (2_501, 2_500, 1)
    assert UsageFileRefusal.objects.count() == 1_500
    assert RefusedEvent.objects.count() == 1_500
    assert "The first 1,500 of 2,500 refused rows are listed" in page


def test_records_that_are_no_usage_do_not_stop_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_MOST_REFUSED", 1_500)
    taxes = [f"a,Tax,2026-10-15T10:30:00Z,{number},1,1,1,p,s,s" for number in range(3_000)]

    report = make_files.loaded("\n".join([FOCUS_HEADER, *taxes]).encode(), file_format=FileFormat.FOCUS)

    assert (report.state, report.refused) == (State.DONE, 3_000)


def test_a_file_that_is_written_to_while_it_is_loaded_is_not_taken_for_the_one_that_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(make_files.many_readings(3_000))

    def written_to(rows: int) -> None:
        if rows == loading.BATCH_SIZE:
            path.write_bytes(make_files.many_readings(3_000).replace(b"r2999,", b"other,"))

    with path.open("rb") as stream, pytest.raises(UsageFileUnreadable, match="written to"):
        loading.load_usage(
            stream=stream,
            file_format=FileFormat.CSV,
            origin=path.name,
            mapping=make_files.mapping(),
            on_progress=written_to,
            actor=SYSTEM,
            at=NOON,
        )
    again = make_files.loaded(path.read_bytes())

    first = UsageFile.objects.get(state=State.FAILED)
    assert first.rows_done == loading.BATCH_SIZE
    assert (again.rows, again.accepted, again.duplicates) == (3_000, 2_000, 1_000)
    assert UsageEvent.objects.filter(event_id="other").exists()
    assert not UsageEvent.objects.filter(event_id="r2999").exists()


def test_finding_the_place_again_keeps_others_away_and_leaves_time_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_content, "LARGEST_PART", 2_097_152)
    file = make_files.ready(make_files.many_readings(60_000))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)
    UsageFile.objects.filter(pk=file.pk).update(leased_until=timezone.now() + timedelta(seconds=5))
    claimed = UsageFile.objects.get(pk=file.pk)

    with file_content.open_content(claimed, on_part=lambda: file_work.stay_at(claimed)) as stream:
        stream.read(1)

    lease = UsageFile.objects.get(pk=file.pk).leased_until
    assert lease is not None
    assert lease > timezone.now() + timedelta(seconds=50)


def test_a_task_that_took_long_to_find_the_place_still_loads_from_there() -> None:
    file = make_files.ready(make_files.many_readings(3_000))
    usage_files.start_loading(file_id=file.pk, actor=SYSTEM, at=NOON)

    # The time is over before the first row was found.
    claimed = usage_files.claim_next(lease=loading.LEASE, at=timezone.now())
    assert claimed is not None
    file_work.load(claimed, ends_at=0.0)

    assert UsageFile.objects.get(pk=file.pk).state == State.DONE
