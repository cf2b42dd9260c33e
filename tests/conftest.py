"""What every test stands on: a real Postgres.

`make test` gives one through DATABASE_URL. Without it, as when pytest is called by hand or by an editor, the embedded
server of the tests runs for as long as pytest does; each xdist worker holds it, and the last one stops it.
"""

import os
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.db import connection

from config.database import DATA_FOLDER, database
from config.database_url import connection_settings

_server = ExitStack()

# The same code gives the same result. HYPOTHESIS_PROFILE=explore looks for examples that nobody has tried yet.
hypothesis.settings.register_profile("steady", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "steady")


def pytest_configure(config: pytest.Config) -> None:
    url = _server.enter_context(database(folder=DATA_FOLDER / "postgres-test", durable=False))
    # Settings may have been read already, and name the database of `make run`.
    settings.DATABASES["default"].update(connection_settings(url))


def pytest_unconfigure(config: pytest.Config) -> None:
    _server.close()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """Let the emptying of tables after a test that commits pass the triggers that refuse TRUNCATE.

    Only that emptying: the setting holds for its own transaction.
    """
    sql_flush = connection.ops.sql_flush

    def sql_flush_past_triggers(*args: Any, **kwargs: Any) -> list[str]:
        return ["SET LOCAL session_replication_role = replica", *sql_flush(*args, **kwargs)]

    connection.ops.sql_flush = sql_flush_past_triggers  # type: ignore[method-assign]
