"""Django's Postgres backend, with two things of ours.

Every new connection to a server that is too old is refused. And a DecimalField without max_digits and decimal_places
is a plain `numeric`, exact to any number of digits, as Django 6 makes it.
"""

from collections.abc import Mapping
from typing import Any

from django.db.backends.postgresql import base, features

from config.postgres.version import OLDEST_VERSION


def _decimal_column(field: Mapping[str, Any]) -> str:
    if field["max_digits"] is None and field["decimal_places"] is None:
        return "numeric"
    return f"numeric({field['max_digits']}, {field['decimal_places']})"


class DatabaseFeatures(features.DatabaseFeatures):
    minimum_database_version = (OLDEST_VERSION,)


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
    data_types: dict[str, Any] = {**base.DatabaseWrapper.data_types, "DecimalField": _decimal_column}
