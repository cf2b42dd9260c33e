"""One machine, one person: readable errors, mails as files, the embedded database."""

import os

from config.database_url import connection_settings
from config.embedded_postgres import embedded_url
from config.log_lines import logging_settings
from config.settings.base import *  # noqa: F403 -- how Django settings extend one another
from config.settings.base import DATA_FOLDER

# Off by default, so that one sees what users would see, and bulk work does not keep every query in memory.
DEBUG = os.environ.get("DEBUG") == "1"
# Only ever used on a developer's own machine; production has no default and refuses to start without one.
SECRET_KEY = "local-only-not-a-secret"  # noqa: S105
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

DATABASES = {
    "default": connection_settings(os.environ.get("DATABASE_URL") or embedded_url(DATA_FOLDER / "postgres")),
}
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = DATA_FOLDER / "mail"
DEFAULT_FROM_EMAIL = "billing@countinghouse.example"
MEDIA_ROOT = DATA_FOLDER / "media"
LOGGING = logging_settings(level=os.environ.get("LOG_LEVEL") or "WARNING", stream="stderr")
# Files are served from where they lie, without collectstatic.
WHITENOISE_USE_FINDERS = True

DEMONSTRATION_ALLOWED = True
# The sample month is from 2024 and only gets older.
USAGE_ACCEPTANCE_MONTHS = int(os.environ.get("USAGE_ACCEPTANCE_MONTHS") or 1_200)
