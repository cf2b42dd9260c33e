"""Django's Postgres backend; every new connection to a server that is too old is refused."""

from django.db.backends.postgresql import base, features

from config.postgres.version import OLDEST_VERSION


class DatabaseFeatures(features.DatabaseFeatures):
    minimum_database_version = (OLDEST_VERSION,)


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
