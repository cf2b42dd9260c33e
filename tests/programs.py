"""Programs that a test starts on its database, lets do so much and no more, and kills where it hurts.

Two things make a test of a killed program fail on a busy machine, and both are kept away here. The program may be done
before the test comes to kill it: so it works by steps that the test allows (`killed_in_a_step`), or is held in the
middle of a transaction (`held_up`, `held_in_its_second_write`). And the server may still be busy with what the dead
program asked for last: so a program is gone only when its sessions are.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import Any

import psycopg
from django.conf import settings

from tests.database_address import url_of_the_test_database
from tests.patience import PATIENCE_SECONDS, wait_until

_STEPS = """
import sys
import django
django.setup()
def step_by_step(step):
    while sys.stdin.readline() and step():
        print("done", flush=True)
"""


class Program:
    """A program with its children, under a name by which the database knows their sessions."""

    def __init__(self, *command: str, database: str, environment: Mapping[str, str]) -> None:
        self._database = database
        self._name = f"test-{uuid.uuid4()}"
        # A file, for a pipe that nobody reads would hold it up.
        self._errors = TemporaryFile("w+")  # noqa: SIM115 -- closed by the end of the program
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            cwd=settings.PROJECT_FOLDER,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "config.settings.local",
                "C_FORCE_ROOT": "1",  # Celery would rather not be root, as tests in a container are
                **environment,
                "DATABASE_URL": database,
                "PGAPPNAME": self._name,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )

    def allow(self, steps: int) -> None:
        """Let it do so many steps more."""
        assert self.process.stdin
        self.process.stdin.write("\n" * steps)
        self.process.stdin.flush()

    def wait_for(self, steps: int) -> None:
        """Wait until it has said "done" so many times more."""
        assert self.process.stdout
        for _ in range(steps):
            assert self.process.stdout.readline() == "done\n", self.errors()

    def output(self) -> str:
        """Wait until it ends well by itself, and return what it wrote."""
        written, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, self.errors()
        return written

    def errors(self) -> str:
        """Return what it has written to stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def end(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def strike(self) -> None:
        """Kill it and its children without warning; the server may yet be busy with what they asked for last."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_SECONDS)
        self._errors.close()

    def kill(self) -> None:
        """Kill it and its children without warning, and wait until the server is done with them."""
        self.strike()
        wait_until(lambda: not self._sessions(), "The end of its sessions")

    def wait_until_held_up(self, blocker: psycopg.Connection[Any]) -> None:
        """Wait until it stands still in the middle of a transaction, for a lock that the blocker has or asked for."""
        pid = blocker.info.backend_pid
        wait_until(lambda: any(pid in blocking for blocking in self._sessions()), "Its standing still")

    def _sessions(self) -> list[list[int]]:
        """Return, for each of its sessions, the sessions that it waits for; where the server is down, there is none."""
        with suppress(psycopg.OperationalError), psycopg.connect(self._database) as beside:
            rows = beside.execute(
                "SELECT pg_blocking_pids(pid) FROM pg_stat_activity WHERE application_name = %s", [self._name]
            )
            return [blocking for (blocking,) in rows]
        return []


@contextmanager
def running(
    *command: str, database: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Have a program at work, by default on the database of the tests, and kill what is left of it at the end."""
    program = Program(*command, database=database or url_of_the_test_database(), environment=environment or {})
    try:
        yield program
    finally:
        program.kill()


def killed_in_a_step(work: str, *arguments: str, after: int) -> None:
    """Let a program do so many steps, and kill it some time in its next one, which may then have happened or not.

    The work is Python that runs once Django is set up, and calls `step_by_step` with a step that tells whether it did
    anything.
    """
    with running("-c", _STEPS + work, *arguments) as program:
        program.allow(after + 1)
        program.wait_for(after)
        # Somewhere in the step; the test holds wherever that is.
        time.sleep(after / 500)


@contextmanager
def held_up(
    blocking: str, *command: str, database: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Hold a program in the middle of the transaction in which the blocking statement stands in its way.

    At the end of the block it is killed there, so that nothing of this transaction has happened.
    """
    url = database or url_of_the_test_database()
    with psycopg.connect(url) as blocker:
        blocker.execute(blocking)
        with running(*command, database=url, environment=environment) as program:
            try:
                program.wait_until_held_up(blocker)
                yield program
            finally:
                program.strike()
                _let_go(blocker)


@contextmanager
def held_in_its_second_write(
    table: str, *command: str, database: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Let a program write to a table in one transaction, hold it in the middle of its second, and kill it there.

    Whoever asks for a lock gets it in turn: the test holds the table, the program asks, then the test asks once more.
    """
    url = database or url_of_the_test_database()
    lock = f"LOCK TABLE {table} IN SHARE MODE"
    with psycopg.connect(url) as first, psycopg.connect(url) as second, ThreadPoolExecutor(1) as beside:
        first.execute(lock)
        with running(*command, database=url, environment=environment) as program:
            try:
                program.wait_until_held_up(first)
                asked = beside.submit(second.execute, lock)
                wait_until(lambda: _waits(url, second.info.backend_pid), "The test's own second request")
                first.rollback()
                asked.result(timeout=PATIENCE_SECONDS)
                program.wait_until_held_up(second)
                yield program
            finally:
                program.strike()
                _let_go(first, second)


def _let_go(*blockers: psycopg.Connection[Any]) -> None:
    for blocker in blockers:
        # It may be the server that was killed.
        with suppress(psycopg.OperationalError):
            blocker.rollback()


def _waits(url: str, pid: int) -> bool:
    with psycopg.connect(url) as beside:
        found = beside.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid]).fetchone()
    return bool(found and found[0])
