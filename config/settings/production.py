"""Production: every value that matters comes from the environment, or nothing starts."""

import os
import sys
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from config.database_url import connection_settings
from config.log_lines import logging_settings
from config.settings.base import *  # noqa: F403 -- how Django settings extend one another

REQUIRED = (
    "SECRET_KEY",
    "DATABASE_URL",
    "ALLOWED_HOSTS",
    "EMAIL_HOST",
    "EMAIL_PORT",
    "EMAIL_HOST_USER",
    "EMAIL_HOST_PASSWORD",
    "DEFAULT_FROM_EMAIL",
)
if missing := [name for name in REQUIRED if not os.environ.get(name)]:
    message = f"Countinghouse does not start in production without: {', '.join(missing)}."
    raise ImproperlyConfigured(message)

DEBUG = False
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = [host.strip() for host in os.environ["ALLOWED_HOSTS"].split(",")]
# ".example.com" allows the domain and all below it; an origin with an asterisk means those below alone.
CSRF_TRUSTED_ORIGINS = [f"https://{host.removeprefix('.')}" for host in ALLOWED_HOSTS if host != "*"]
CSRF_TRUSTED_ORIGINS += [f"https://*{host}" for host in ALLOWED_HOSTS if host.startswith(".")]

DATABASES = {"default": connection_settings(os.environ["DATABASE_URL"])}
DATABASES["default"] |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}

EMAIL_BACKEND = "billing.smtp.EmailBackend"
EMAIL_HOST = os.environ["EMAIL_HOST"]
EMAIL_PORT = int(os.environ["EMAIL_PORT"])
EMAIL_HOST_USER = os.environ["EMAIL_HOST_USER"]
EMAIL_HOST_PASSWORD = os.environ["EMAIL_HOST_PASSWORD"]
SMTP_INSIDE_TLS_PORT = 465
# Every other port begins in clear text and is upgraded before anything is said.
EMAIL_USE_SSL = EMAIL_PORT == SMTP_INSIDE_TLS_PORT
EMAIL_USE_TLS = not EMAIL_USE_SSL
EMAIL_TIMEOUT = 30
DEFAULT_FROM_EMAIL = os.environ["DEFAULT_FROM_EMAIL"]

# Only the word of our own proxy is taken for who asks and how; without one anybody could write these headers.
TRUSTED_PROXIES = int(os.environ.get("TRUSTED_PROXIES") or 0)
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = True
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_HSTS_SECONDS = 31_536_000
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
# Preloading binds the whole domain, for years; that is not ours to decide.
SILENCED_SYSTEM_CHECKS = [*SILENCED_SYSTEM_CHECKS, "security.W021"]  # noqa: F405 -- from base
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True

MEDIA_ROOT = os.environ.get("MEDIA_ROOT", DATA_FOLDER / "media")  # noqa: F405 -- from base
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
# Lines of web and jobs go to stdout, for whatever collects them; what a command answers there may be read by a program.
LOGGING = logging_settings(
    level=os.environ.get("LOG_LEVEL") or "INFO",
    stream="stderr" if Path(sys.argv[0]).name == "manage.py" else "stdout",
)
