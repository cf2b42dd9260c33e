#!/usr/bin/env python
"""Run one of the project's commands: `python manage.py help` lists them.

Without DATABASE_URL the embedded Postgres runs for as long as the command does.
"""

import os
import sys

from django.core.management import execute_from_command_line
from django.db import InterfaceError, OperationalError

from config.database import DatabaseUnusable, database
from config.embedded_postgres import EmbeddedPostgresFailed

_RUN_AGAIN = "What was done until then is kept. Run the command again; it goes on where this one stopped."


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
    try:
        _execute()
    except (OperationalError, InterfaceError) as error:
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"The database does not answer any more: {error}\n{_RUN_AGAIN}")


def _execute() -> None:
    if os.environ["DJANGO_SETTINGS_MODULE"] == "config.settings.production":
        execute_from_command_line(sys.argv)
        return
    try:
        with database():
            execute_from_command_line(sys.argv)
    except (DatabaseUnusable, EmbeddedPostgresFailed) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
