"""The Celery application: `celery -A config worker` and `celery -A config beat`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")

app = Celery("countinghouse")
app.config_from_object("config.jobs")
app.autodiscover_tasks(["accounts", "metering", "pricing", "billing"])
