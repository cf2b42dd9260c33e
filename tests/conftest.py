"""What every test stands on: a real Postgres.

`make test` gives one through DATABASE_URL. Without it, as when pytest is called by hand or by an editor, the embedded
server of the tests runs for as long as pytest does; each xdist worker holds it, and the last one stops it.
"""

from contextlib import ExitStack

import pytest
from django.conf import settings

from config.database import DATA_FOLDER, database
from config.database_url import connection_settings

_server = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    url = _server.enter_context(database(folder=DATA_FOLDER / "postgres-test", durable=False))
    # Settings may have been read already, and name the database of `make run`.
    settings.DATABASES["default"].update(connection_settings(url))


def pytest_unconfigure(config: pytest.Config) -> None:
    _server.close()
