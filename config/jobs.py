"""What Celery runs with: the broker, what beat asks for, and what happens to a task whose worker dies.

The database is the truth and a message only a nudge: a task finds its work in a table, so it is safe to run
twice, and beat's sweeps find what a lost message left behind.
"""

import os

from django.conf import settings
from psycopg.conninfo import make_conninfo

from config.broker import LONGEST_WAIT_SECONDS

# No task may run longer; a message that nobody has acknowledged by then goes to another worker.
LONGEST_TASK_SECONDS = 540
VISIBILITY_TIMEOUT_SECONDS = int(os.environ.get("CELERY_VISIBILITY_TIMEOUT_SECONDS", "600"))

broker_url = settings.BROKER_URL
broker_transport_options: dict[str, object] = {"visibility_timeout": VISIBILITY_TIMEOUT_SECONDS}
if broker_url.startswith("pgmq:"):
    broker_transport = "config.broker:Transport"
    _database = settings.DATABASES["default"]
    broker_transport_options |= {
        "conn_string": make_conninfo(
            "",
            dbname=_database["NAME"],
            user=_database["USER"] or None,
            password=_database["PASSWORD"] or None,
            host=_database["HOST"] or None,
            port=_database["PORT"] or None,
            **_database["OPTIONS"],
        ),
        # The functions come with our migrations; there is no extension to create.
        "init_extension": False,
        # Ask and sleep: a query that waits inside the server delays beat and holds a connection.
        "wait_time_seconds": 0,
        "polling_interval": LONGEST_WAIT_SECONDS,
        "pool_size": 3,
        "pool_timeout": 10,
    }
broker_connection_retry_on_startup = True
# A publisher gives up soon: whoever asked is waiting, and the sweep finds the work anyway.
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}

# Results are rows of ours, never Celery's.
task_ignore_result = True
task_acks_late = True
task_reject_on_worker_lost = True
task_time_limit = LONGEST_TASK_SECONDS
task_soft_time_limit = LONGEST_TASK_SECONDS - 40
task_serializer = "json"
accept_content = ["json"]
enable_utc = True
timezone = "UTC"

worker_prefetch_multiplier = 1
worker_max_tasks_per_child = 1000
# The remote control of the broker on Postgres fails on long queue names; nothing of ours needs it.
worker_enable_remote_control = False
worker_send_task_events = False
worker_hijack_root_logger = False

beat_schedule_filename = str(settings.DATA_FOLDER / "beat-schedule")
# A tick that no worker took before the next one is due is dropped, so that none pile up.
beat_schedule = {
    "fold usage into hours": {"task": "metering.tasks.fold_usage", "schedule": 10.0, "options": {"expires": 10}},
    "make tables for the usage of months ahead": {
        "task": "metering.tasks.make_partitions",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "archive, bring back and erase usage": {
        "task": "metering.tasks.keep_retention",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "apply corrections of usage": {
        "task": "metering.tasks.apply_corrections",
        "schedule": 20.0,
        "options": {"expires": 20},
    },
    "preview large corrections of usage": {
        "task": "metering.tasks.preview_corrections",
        "schedule": 20.0,
        "options": {"expires": 20},
    },
    "close and revert backfills of usage": {
        "task": "metering.tasks.work_on_usage_backfills",
        "schedule": 20.0,
        "options": {"expires": 20},
    },
    "sweep up usage files": {"task": "metering.tasks.sweep_files", "schedule": 20.0, "options": {"expires": 20}},
    "count earlier events in new meters": {
        "task": "metering.tasks.back_fill_meters",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "sweep up missed documents and mails": {
        "task": "billing.tasks.sweep",
        "schedule": 20.0,
        "options": {"expires": 20},
    },
    "activate approved price versions": {
        "task": "pricing.tasks.activate_versions",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
}
