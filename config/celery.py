"""The background jobs: which broker carries them, and what beat asks for and how often."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")

app = Celery("countinghouse")
app.autodiscover_tasks(["accounts", "metering", "pricing", "billing"])
