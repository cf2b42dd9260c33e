"""The whole site on one machine: web server, worker and beat on one database, until told to stop.

`python -m config.supervisor PORT`. If one of them ends by itself, the others are stopped and the exit code is 1.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from config.database import DATA_FOLDER, DatabaseUnusable, database
from config.embedded_postgres import EmbeddedPostgresFailed
from config.ports import PortTaken, refuse_taken

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
# A task in progress may finish; one that takes longer is done again after the next start.
GRACE_SECONDS = 15
CHECK_INTERVAL_SECONDS = 0.5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopAsked(Exception):
    """Ctrl-C, or the machine's own way of asking a program to end."""


class ChildFailed(Exception):
    """A command or one of the site's processes ended though nobody had asked for it."""


def commands(port: int) -> dict[str, list[str]]:
    """Return the processes of the site, by the name that messages call them."""
    # A machine of one's own may well be a container where everybody is root.
    calm = ["-W", "ignore:You're running the worker with superuser privileges"]
    celery = [sys.executable, *calm, "-m", "celery", "-A", "config"]
    quiet = ["--loglevel", "WARNING"]
    web = ["config.wsgi:application", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--threads", "4"]
    worker = ["--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return {
        "web": [sys.executable, "-m", "gunicorn", *web, "--timeout", "120", "--log-level", "warning"],
        "worker": [*celery, "--quiet", "worker", *worker, *quiet],
        "beat": [*celery, "--quiet", "beat", "--pidfile", "", *quiet],
    }


def run_site(port: int) -> None:
    """Bring the database up to date, fill an empty one with the demo, and serve until told to stop.

    Raises: StopAsked, ChildFailed, PortTaken, DatabaseUnusable, EmbeddedPostgresFailed.
    """
    refuse_taken(port)
    with database():
        _manage("prepare", "--verbosity", "0")
        _manage("demo", "--if-empty")
        with _running(commands(port)) as processes:
            _wait_until_served(port, processes)
            print(f"\nCountinghouse is at http://127.0.0.1:{port}  (Ctrl-C stops it)\n", flush=True)
            _manage("demo", "--sign-ins")
            while True:
                _refuse_ended(processes)
                time.sleep(CHECK_INTERVAL_SECONDS)


def _manage(*arguments: str) -> None:
    with _running({arguments[0]: [sys.executable, "manage.py", *arguments]}) as processes:
        for name, process in processes.items():
            if code := process.wait():
                message = f"manage.py {name} ended with code {code}."
                raise ChildFailed(message)


@contextlib.contextmanager
def _running(to_start: dict[str, list[str]]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start the processes and, whatever happens, leave none of them or of their children behind."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in to_start.items():
            # A group of its own: Ctrl-C reaches this program alone, which ends the others in good order.
            processes[name] = subprocess.Popen(  # noqa: S603 -- our own commands, no shell
                command, cwd=PROJECT_FOLDER, stdin=subprocess.DEVNULL, start_new_session=True
            )
        yield processes
    except StopAsked:
        print("Stopping; a job in progress gets a few seconds to finish.", flush=True)
        raise
    finally:
        _stop(processes)


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(subprocess.TimeoutExpired, StopAsked):
        for process in processes.values():
            process.wait(timeout=max(deadline - time.monotonic(), 0.1))
    for process in processes.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_served(port: int, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        _refuse_ended(processes)
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.1)


def _refuse_ended(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            message = f"The {name} process ended by itself with code {process.returncode}; stopping the rest."
            raise ChildFailed(message)


def _ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C would break off the very stopping that the first one asked for.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise StopAsked


def main(arguments: list[str]) -> int:
    """Run the site on the port that is the only argument; return the exit code."""
    for number in STOP_SIGNALS:
        signal.signal(number, _ask_to_stop)
    DATA_FOLDER.mkdir(exist_ok=True)
    try:
        run_site(int(arguments[0]))
    except StopAsked:
        print("Stopped.", flush=True)
    except (ChildFailed, PortTaken, DatabaseUnusable, EmbeddedPostgresFailed) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
