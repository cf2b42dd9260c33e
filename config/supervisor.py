"""The whole site on one machine: web server, worker and beat on one database, until told to stop.

`python -m config.supervisor PORT`. If one of them ends by itself, the others are stopped and the exit code is 1.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from config.database import DATA_FOLDER, SERVER_FOLDER, DatabaseUnusable, database
from config.embedded_postgres import EmbeddedPostgresFailed, is_running
from config.ports import PortTaken, refuse_taken

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
# A task in progress may finish; one that takes longer is done again after the next start.
GRACE_SECONDS = 15
GRACE_WITHOUT_DATABASE_SECONDS = 1
CHECK_INTERVAL_SECONDS = 0.5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# PR_SET_PDEATHSIG of Linux' prctl.
SET_PARENT_DEATH_SIGNAL = 1


class StopAsked(Exception):
    """Ctrl-C, or the machine's own way of asking a program to end."""


class ChildFailed(Exception):
    """A command or one of the site's processes ended though nobody had asked for it."""


class ServerFailed(ChildFailed):
    """The embedded Postgres ended, so no job in progress can be finished any more."""


def commands(port: int) -> dict[str, list[str]]:
    """Return the processes of the site, by the name that messages call them."""
    # A machine of one's own may well be a container where everybody is root.
    calm = ["-W", "ignore:You're running the worker with superuser privileges"]
    celery = [sys.executable, *calm, "-m", "celery", "-A", "config"]
    quiet = ["--loglevel", "WARNING"]
    web = ["config.wsgi:application", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--threads", "4"]
    # Loaded once for both workers; the control socket would be left in the home folder.
    calm_web = ["--preload", "--no-control-socket", "--timeout", "120", "--log-level", "warning"]
    worker = ["--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return {
        "web": [sys.executable, "-m", "gunicorn", *web, *calm_web],
        "worker": [*celery, "--quiet", "worker", *worker, *quiet],
        "beat": [*celery, "--quiet", "beat", "--pidfile", "", *quiet],
    }


def run_site(port: int) -> None:
    """Bring the database up to date, fill an empty one with the demo, and serve until told to stop.

    Raises: StopAsked, ChildFailed, PortTaken, DatabaseUnusable, EmbeddedPostgresFailed.
    """
    refuse_taken(port)
    # A database of somebody else's may come and go; pages and jobs wait for it.
    own_server = None if os.environ.get("DATABASE_URL") else SERVER_FOLDER
    with database():
        _manage("prepare", "--verbosity", "0", "--demo")
        with _running(commands(port)) as processes:
            _wait_until_served(port, processes)
            _say(f"\nCountinghouse is at http://127.0.0.1:{port}  (Ctrl-C stops it)\n")
            _manage("demo", "--sign-ins")
            while True:
                _refuse_ended(processes)
                if own_server is not None:
                    _refuse_ended_server(own_server)
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
    grace_seconds = GRACE_SECONDS
    try:
        for name, command in to_start.items():
            # A group of its own: Ctrl-C reaches this program alone, which ends the others in good order.
            processes[name] = subprocess.Popen(  # noqa: S603 -- our own commands, no shell
                command,
                cwd=PROJECT_FOLDER,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 -- no threads here
            )
        yield processes
    except StopAsked:
        _say("Stopping; a job in progress gets a few seconds to finish.")
        raise
    except ChildFailed as failed:
        _say(str(failed), to=sys.stderr)
        if isinstance(failed, ServerFailed):
            grace_seconds = GRACE_WITHOUT_DATABASE_SECONDS
        raise
    finally:
        _stop(processes, grace_seconds=grace_seconds)


def _stop(processes: dict[str, subprocess.Popen[bytes]], *, grace_seconds: float) -> None:
    for process in processes.values():
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace_seconds
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


def _refuse_ended_server(folder: Path) -> None:
    if not is_running(folder):
        message = (
            f"The embedded Postgres ended by itself; stopping the rest. What it said is in {folder / 'server.log'}. "
            "Its data is safe: the next start recovers it."
        )
        raise ServerFailed(message)


def _end_with_parent() -> None:
    """Ask the kernel to end this child when the program that started it is killed and cannot do it any more."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _say(text: str, *, to: TextIO = sys.stdout) -> None:
    # A terminal that was closed takes no more words, and everything has to be stopped all the same.
    with contextlib.suppress(OSError):
        print(text, file=to, flush=True)


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
        _say("Stopped.")
    except ChildFailed:
        return 1
    except (PortTaken, DatabaseUnusable, EmbeddedPostgresFailed) as error:
        _say(str(error), to=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
