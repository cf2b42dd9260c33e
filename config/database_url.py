"""Reading a database address, `postgresql://user:password@host:port/name?option=value`."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


class DatabaseUrlInvalid(ValueError):
    """The address is not one of a Postgres database."""


def connection_settings(url: str) -> dict[str, Any]:
    """Return Django's DATABASES entry for a Postgres address.

    A unix socket is given as libpq wants it, `postgresql://user@/name?host=/folder`. Other
    options in the query string go to libpq as they are (`sslmode`, `connect_timeout`, ...).

    Raises: DatabaseUrlInvalid.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        message = f"DATABASE_URL has to begin with postgresql://, not {parts.scheme or 'nothing'}://."
        raise DatabaseUrlInvalid(message)
    name = unquote(parts.path.lstrip("/"))
    if not name:
        message = "DATABASE_URL names no database: postgresql://user:password@host/NAME."
        raise DatabaseUrlInvalid(message)

    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "config.postgres",
        "NAME": name,
        "USER": unquote(parts.username or options.pop("user", "")),
        "PASSWORD": unquote(parts.password or options.pop("password", "")),
        "HOST": options.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(parts.port or options.pop("port", "")),
        "OPTIONS": options,
    }
