"""Tests: local, with fast passwords, mails kept in memory and a database of one's own."""

import os

from config.settings.api import REST_FRAMEWORK
from config.settings.local import *  # noqa: F403 -- how Django settings extend one another
from config.settings.local import DATABASES, INSTALLED_APPS

DEBUG = False
INSTALLED_APPS = [*INSTALLED_APPS, "django_migration_linter"]
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
DATABASES["default"]["TEST"] = {"NAME": os.environ.get("COUNTINGHOUSE_TEST_DB", "test_countinghouse")}

# Messages stay in the process: a test runs a job by calling it, or names a broker of its own.
BROKER_URL = os.environ.get("CELERY_BROKER_URL") or "memory://"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
REST_FRAMEWORK = {**REST_FRAMEWORK, "TEST_REQUEST_DEFAULT_FORMAT": "json"}
# Every logger's records reach pytest; a program that a test starts says warnings on stderr.
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"django": {"handlers": [], "propagate": True}}}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
