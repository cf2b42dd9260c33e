"""Which database a program of ours works on, made ready before Django looks at it.

DATABASE_URL when it is set, otherwise the embedded server. Also a program:
`python -m config.database [--test] COMMAND ...` runs a command on that database and stops what it started.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

from config.embedded_postgres import EmbeddedPostgresFailed, embedded_postgres
from config.postgres.version import OLDEST_VERSION

DATA_FOLDER = Path(__file__).resolve().parent.parent / "var"
SERVER_FOLDER = DATA_FOLDER / "postgres"
CONNECT_TIMEOUT_SECONDS = 10


class DatabaseUnusable(Exception):
    """The database that DATABASE_URL names cannot be reached or is too old."""


@contextlib.contextmanager
def database(*, folder: Path = SERVER_FOLDER, durable: bool = True) -> Iterator[str]:
    """Give the address of a usable database for as long as the block lasts, in DATABASE_URL too.

    Raises: DatabaseUnusable, EmbeddedPostgresFailed.
    """
    if url := os.environ.get("DATABASE_URL"):
        refuse_unusable(url)
        yield url
        return
    with embedded_postgres(folder, durable=durable) as url:
        os.environ["DATABASE_URL"] = url
        try:
            yield url
        finally:
            del os.environ["DATABASE_URL"]


def refuse_unusable(url: str) -> None:
    """Return if a server of version 15 or newer answers there.

    Raises: DatabaseUnusable, with a sentence that says which and why.
    """
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        raise DatabaseUnusable(f"The database of DATABASE_URL cannot be reached: {error}") from error
    refuse_old(version)


def refuse_old(server_version: int) -> None:
    """Return if the version, as libpq numbers it (150004 is 15.4), is new enough.

    Raises: DatabaseUnusable.
    """
    if server_version < OLDEST_VERSION * 10_000:
        major, minor = divmod(server_version, 10_000)
        message = f"Countinghouse needs Postgres {OLDEST_VERSION} or newer; DATABASE_URL leads to {major}.{minor}."
        raise DatabaseUnusable(message)


def main(arguments: list[str]) -> int:
    """Run the command on the database and return its exit code; an interrupt is the command's to answer."""
    for_tests = arguments[:1] == ["--test"]
    command = arguments[1:] if for_tests else arguments
    folder = DATA_FOLDER / "postgres-test" if for_tests else SERVER_FOLDER
    try:
        with database(folder=folder, durable=not for_tests):
            process = subprocess.Popen(command)  # noqa: S603 -- the caller's own command
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    # The terminal told the command as well; it decides when it ends.
                    continue
    except (DatabaseUnusable, EmbeddedPostgresFailed) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
