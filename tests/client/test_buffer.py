"""The client's buffer on disk: in order, whole after a crash, bounded, and never silent about damage."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from countinghouse.buffer import SEGMENT_BYTES, Buffer
from countinghouse.errors import BufferFull, BufferInUse, BufferUnwritable, EventInvalid
from countinghouse.segments import MARK, SUFFIX

MEBIBYTE = 1024 * 1024


def opened(folder: Path, *, max_bytes: int = 64 * MEBIBYTE) -> Buffer:
    return Buffer(folder, max_bytes=max_bytes, sync_each=False)


def fill(buffer: Buffer, record: bytes) -> int:
    taken = 0
    try:
        while True:
            buffer.append([record])
            taken += 1
    except BufferFull as full:
        assert "undelivered" in str(full)  # noqa: PT017 -- how many went in before is what is asked
    return taken


def everything(buffer: Buffer) -> list[bytes]:
    found: list[bytes] = []
    while (batch := buffer.read(max_records=100, max_bytes=MEBIBYTE)).records:
        found += batch.records
        buffer.advance(batch.end)
    return found


def abandoned(folder: Path, records: Sequence[bytes]) -> Path:
    """Leave a folder as a killed program does: nothing closed, nothing noted. Returns its segment."""
    child = os.fork()
    if child == 0:
        opened(folder).append(records)
        os._exit(0)
    os.waitpid(child, 0)
    (segment,) = folder.glob(f"*{SUFFIX}")
    return segment


def test_records_come_out_in_the_order_in_which_they_went_in(tmp_path: Path) -> None:
    buffer = opened(tmp_path)
    records = [b"%d" % number for number in range(1_000)]

    buffer.append(records[:3])
    buffer.append(records[3:])

    assert (buffer.waiting, everything(buffer), buffer.waiting) == (1_000, records, 0)


def test_what_is_not_delivered_is_there_for_the_next_program(tmp_path: Path) -> None:
    buffer = opened(tmp_path)
    buffer.append([b"1", b"2", b"3"])
    buffer.advance(buffer.read(max_records=1, max_bytes=MEBIBYTE).end)
    buffer.close()

    again = opened(tmp_path)
    again.append([b"4"])

    assert everything(again) == [b"2", b"3", b"4"]


def test_a_note_about_a_segment_that_is_gone_says_nothing_about_a_later_one(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.append([b"1"])
    everything(first)
    first.close()

    abandoned(tmp_path, [b"2"])

    assert everything(opened(tmp_path)) == [b"2"]


@pytest.mark.parametrize("note", [b"", b"{", b'{"segment": 1, "offset": 9}', b'{"segment": "x"}', b"[]"])
def test_a_note_that_makes_no_sense_only_delivers_again(tmp_path: Path, note: bytes) -> None:
    abandoned(tmp_path, [b"1", b"2"])
    (tmp_path / "position.json").write_bytes(note)

    assert everything(opened(tmp_path)) == [b"1", b"2"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=1, max_value=40), zeros=st.integers(min_value=0, max_value=30))
def test_a_torn_tail_costs_the_record_that_was_being_written_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int, zeros: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    segment = abandoned(folder, [b"first", b"second", b"x" * 32])
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-cut] + bytes(zeros))

    buffer = opened(folder)

    assert everything(buffer) == [b"first", b"second"]
    # With zeros beyond its own length it could be a record that was taken and damaged later, so it is kept aside.
    assert bool(list(folder.glob("*.damaged"))) == (cut <= 40 and zeros > cut)


def test_damage_in_the_middle_is_kept_aside_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment = abandoned(tmp_path, [b"first", b"second", b"third"])
    segment.write_bytes(segment.read_bytes().replace(b"second", b"SECOND"))

    found = everything(opened(tmp_path))

    assert found == [b"first"]
    (aside,) = tmp_path.glob("*.damaged")
    assert b"third" in aside.read_bytes()
    assert "is damaged" in caplog.text


def test_a_file_that_is_none_of_ours_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / f"000000000007{SUFFIX}").write_bytes(b"something else entirely")

    buffer = opened(tmp_path)
    buffer.append([b"1"])

    assert everything(buffer) == [b"1"]
    assert next(tmp_path.glob("*.damaged")).read_bytes() == b"something else entirely"


@pytest.mark.parametrize("content", [b"", MARK[:3], MARK, bytes(4_096)])
def test_a_segment_that_was_hardly_begun_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"000000000001{SUFFIX}").write_bytes(content)

    buffer = opened(tmp_path)
    buffer.append([b"1"])

    assert everything(buffer) == [b"1"]


def test_the_disk_is_used_up_to_the_limit_and_given_back_by_delivery(tmp_path: Path) -> None:
    buffer = opened(tmp_path, max_bytes=3 * SEGMENT_BYTES)
    record = b"x" * 100_000

    taken = fill(buffer, record)

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * SEGMENT_BYTES
    assert len(everything(buffer)) == taken > 100
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < SEGMENT_BYTES
    buffer.append([record])
    assert buffer.waiting == 1


def test_a_disk_that_is_full_refuses_a_record_and_loses_none(tmp_path: Path) -> None:
    buffer = opened(tmp_path)
    buffer.append([b"before"])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    asked = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, unlimited[1]))
    try:
        with pytest.raises(BufferUnwritable):
            buffer.append([b"x" * 3_000, b"y" * 3_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, asked)

    buffer.append([b"after"])

    assert everything(buffer) == [b"before", b"after"]
    assert everything(opened(tmp_path / "other")) == []


def test_records_that_a_full_disk_refuses_leave_no_files_behind(tmp_path: Path) -> None:
    buffer = opened(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    asked = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    buffer.append([b"before"])
    before = sorted(path.name for path in tmp_path.iterdir())

    for most in (4_096, 8, 4) * 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited[1]))
        try:
            with pytest.raises(BufferUnwritable):
                buffer.append([b"x" * 5_000])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    left = sorted(path.name for path in tmp_path.iterdir())
    signal.signal(signal.SIGXFSZ, asked)
    buffer.append([b"after"])

    assert left == before
    assert everything(buffer) == [b"before", b"after"]


def test_one_folder_belongs_to_one_buffer(tmp_path: Path) -> None:
    buffer = opened(tmp_path)

    with pytest.raises(BufferInUse, match="folder of its own"):
        opened(tmp_path)
    buffer.close()

    opened(tmp_path).close()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(BufferUnwritable):
        opened(tmp_path / "file")


def test_a_record_is_neither_empty_nor_without_bounds(tmp_path: Path) -> None:
    buffer = opened(tmp_path)

    for record in (b"", b"x" * (MEBIBYTE + 1)):
        with pytest.raises(EventInvalid):
            buffer.append([b"fine", record])

    assert buffer.waiting == 0
