import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from config.embedded_postgres import embedded_postgres, embedded_url, shared_buffers_megabytes

GIGABYTE = 1024**3
PROJECT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.xdist_group("embedded postgres")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not pytest's own folder: its path is long, and closed to the user that Postgres runs as.
    with TemporaryDirectory(prefix="ch-") as parent:
        yield Path(parent) / "postgres"


def _postmaster(folder: Path) -> int:
    return int((folder / "postmaster.pid").read_text().split("\n", 1)[0])


def _answer(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 40 + 2").fetchone()
    assert row is not None
    return int(row[0])


def test_the_server_lives_as_long_as_the_block_and_keeps_its_data(folder: Path) -> None:
    with embedded_postgres(folder, durable=False) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")

    stopped = not (folder / "postmaster.pid").exists()
    with embedded_postgres(folder, durable=False) as url, psycopg.connect(url) as connection:
        kept = connection.execute("SELECT count(*) FROM kept").fetchone()

    assert stopped
    assert kept == (0,)


def test_a_second_user_of_a_folder_gets_the_same_server_and_the_last_one_stops_it(folder: Path) -> None:
    holder = (
        "import sys\n"
        "from pathlib import Path\n"
        "from config.embedded_postgres import embedded_postgres\n"
        "with embedded_postgres(Path(sys.argv[1]), durable=False):\n"
        "    print('holds', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        theirs = _postmaster(folder)

        with embedded_postgres(folder, durable=False) as url:
            ours = _postmaster(folder)
            other.stdin.close()
            other.wait()
            answer_after_the_other_left = _answer(url)

    assert ours == theirs
    assert answer_after_the_other_left == 42
    assert not (folder / "postmaster.pid").exists()


def test_two_that_start_at_the_same_moment_share_one_server(folder: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from config.embedded_postgres import embedded_postgres\n"
        "with embedded_postgres(Path(sys.argv[1]), durable=False):\n"
        "    print((Path(sys.argv[1]) / 'postmaster.pid').read_text().split()[0], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]

    pids = [process.stdout.readline() for process in both if process.stdout]
    for process in both:
        process.communicate()

    assert pids[0] == pids[1]
    assert [process.returncode for process in both] == [0, 0]


def test_after_the_server_was_killed_the_next_start_recovers(folder: Path) -> None:
    with embedded_postgres(folder) as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS survived (n int)")
            connection.execute("INSERT INTO survived VALUES (1)")
        os.kill(_postmaster(folder), signal.SIGKILL)
        time.sleep(0.2)

    with embedded_postgres(folder) as url, psycopg.connect(url) as connection:
        survived = connection.execute("SELECT count(*) FROM survived").fetchone()

    assert survived == (1,)


def test_a_server_that_was_killed_and_that_nobody_reaps_counts_as_stopped(folder: Path) -> None:
    # The program adopts what it orphans (PR_SET_CHILD_SUBREAPER), and never asks for it: the server stays a zombie.
    program = (
        "import ctypes, os, signal, sys\n"
        "from pathlib import Path\n"
        "from config.embedded_postgres import embedded_postgres\n"
        "assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0\n"
        "folder = Path(sys.argv[1])\n"
        "with embedded_postgres(folder, durable=False):\n"
        "    pid = int((folder / 'postmaster.pid').read_text().split()[0])\n"
        "    os.kill(pid, signal.SIGKILL)\n"
        "os.kill(pid, 0)\n"
        "print('left behind', flush=True)\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    with embedded_postgres(folder, durable=False) as url:
        answer = _answer(url)

    assert (finished.returncode, finished.stdout) == (0, "left behind\n"), finished.stderr
    assert answer == 42


def test_a_pid_that_now_belongs_to_somebody_else_does_not_stop_the_start(folder: Path) -> None:
    (folder / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n")

    with embedded_postgres(folder, durable=False) as url:
        answer = _answer(url)

    assert answer == 42


def test_text_sorts_by_code_point_on_every_machine(folder: Path) -> None:
    with embedded_postgres(folder, durable=False) as url, psycopg.connect(url) as connection:
        rows = connection.execute("SELECT x FROM unnest(ARRAY['b', 'a', 'B', 'Z']) AS x ORDER BY x").fetchall()
        upper = connection.execute("SELECT upper('zürich')").fetchone()

    assert [row[0] for row in rows] == ["B", "Z", "a", "b"]
    assert upper == ("ZÜRICH",)


def test_a_folder_too_deep_for_a_socket_gets_a_short_socket_path(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 30) / "postgres"

    url = embedded_url(deep)

    assert len(url.rpartition("host=")[2]) < 90


@pytest.mark.parametrize(
    ("memory", "megabytes"), [(GIGABYTE // 2, 128), (4 * GIGABYTE, 512), (64 * GIGABYTE, 2048)], ids=str
)
def test_shared_buffers_are_an_eighth_of_the_memory_within_limits(memory: int, megabytes: int) -> None:
    assert shared_buffers_megabytes(memory) == megabytes
