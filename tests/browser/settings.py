"""What the site and its worker run with while a browser clicks: the tests' own settings, as separate processes."""

import os

from config.settings.test import *  # noqa: F403 -- how Django settings extend one another
from config.settings.test import DATABASES

# The database that pytest made, not the one that it was made beside.
DATABASES["default"]["NAME"] = os.environ["SITE_DATABASE"]
BROKER_URL = "pgmq://localhost"
EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = int(os.environ["SITE_SMTP_PORT"])
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
