"""What every way of running shares. Values that differ come from the environment."""

import os
from pathlib import Path

from config.settings.api import REST_FRAMEWORK, SPECTACULAR_SETTINGS  # noqa: F401 -- settings
from config.settings.ingest import *  # noqa: F403 -- how Django settings extend one another
from config.settings.kafka import *  # noqa: F403 -- how Django settings extend one another
from config.settings.sign_in import *  # noqa: F403 -- how Django settings extend one another
from config.settings.unfold import UNFOLD  # noqa: F401 -- settings
from config.settings.unusual_usage import *  # noqa: F403 -- as above

PROJECT_FOLDER = Path(__file__).resolve().parent.parent.parent
# Everything the running project writes: the embedded database, mails, documents, schedules.
DATA_FOLDER = PROJECT_FOLDER / "var"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.simple_history",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "axes",
    "simple_history",
    "pgtrigger",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "metering",
    "pricing",
    "billing",
    "config",
]
MIDDLEWARE = [
    "config.errors.RequestIdMiddleware",
    "accounts.request_context.RequestContextMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "config.security_headers.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "config.errors.ErrorAnswerMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [PROJECT_FOLDER / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

CSRF_FAILURE_VIEW = "config.errors.csrf_failure"

LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = "UTC"
USE_TZ = True
# A decimal without a limit is meant so: quantities are plain `numeric` (config.postgres).
SILENCED_SYSTEM_CHECKS = ["fields.E130", "fields.E132"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Usage older than this goes to quarantine: identities beyond it may one day be archived without counting twice.
USAGE_ACCEPTANCE_MONTHS = int(os.environ.get("USAGE_ACCEPTANCE_MONTHS") or 25)
# Tables for the events of so many months after this one are made before the first event comes in.
USAGE_PARTITIONS_AHEAD = int(os.environ.get("USAGE_PARTITIONS_AHEAD") or 3)
# Where the files of archived months lie; on storage that is backed up, for the database may hold their events no more.
ARCHIVE_DIR = Path(os.environ.get("ARCHIVE_DIR") or DATA_FOLDER / "archive")
# The demonstration gives people sign-ins with a published password.
DEMONSTRATION_ALLOWED = False

# The message queue on our own Postgres, unless another is named: redis://..., amqp://...
BROKER_URL = os.environ.get("CELERY_BROKER_URL") or "pgmq://localhost"

STATIC_URL = "static/"
STATIC_ROOT = PROJECT_FOLDER / "staticfiles"
STATICFILES_DIRS = [PROJECT_FOLDER / "static"]
