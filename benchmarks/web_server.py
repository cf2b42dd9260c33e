"""The site as in production, for benchmarks that speak to it over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from time import sleep
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connection

WORKERS = 2
THREADS = 2
DESCRIPTION = f"gunicorn {WORKERS} workers x {THREADS} threads"


def serve(port: int, database: str) -> subprocess.Popen[bytes]:
    """Start the site as in production: gunicorn, settings and all, behind a proxy that speaks TLS."""
    command = [sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS), "--log-level", "warning", "--no-control-socket"]
    return subprocess.Popen(command, env=environment(database), cwd=settings.PROJECT_FOLDER)


def environment(database: str) -> dict[str, str]:
    """Return what a program needs to know to work as in production on one of the server's databases."""
    server = connection.settings_dict
    host = urlencode({"host": server["HOST"], "port": server["PORT"], "password": server["PASSWORD"]})
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings.production",
        "DATABASE_URL": f"postgresql://{quote(server['USER'])}@/{database}?{host}",
        "SECRET_KEY": "benchmark" * 8,
        "ALLOWED_HOSTS": "127.0.0.1",
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_PORT": "465",
        "EMAIL_HOST_USER": "nobody",
        "EMAIL_HOST_PASSWORD": "none",
        "DEFAULT_FROM_EMAIL": "billing@bench.example",
        "PYTHONWARNINGS": "ignore:No directory at",
    }


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.1)
        else:
            return
    msg = "The web server did not start."
    raise RuntimeError(msg)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
