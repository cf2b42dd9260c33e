"""Where the tests' database is, for programs that a test starts."""

from urllib.parse import quote

from django.db import connection


def url_of_the_test_database() -> str:
    """Return the address of the database that the tests run on, as DATABASE_URL takes it."""
    kept = {name.lower(): str(value) for name, value in connection.settings_dict.items()}
    options = "&".join(
        f"{name}={quote(kept[name], safe='/')}" for name in ("host", "port", "password") if kept.get(name)
    )
    return f"postgresql://{quote(kept['user'])}@/{kept['name']}?{options}"
