"""The real web server on the database of the tests, for tests that speak to it over a socket."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
from django.conf import settings

from tests.database_address import url_of_the_test_database
from tests.patience import PATIENCE_SECONDS

EVENTS = "/api/v1/events"
_GUNICORN = (sys.executable, "-m", "gunicorn", "--no-control-socket", "config.wsgi")


@dataclass(frozen=True)
class WebServer:
    """A gunicorn that serves."""

    host: str
    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def resident_bytes(self) -> int:
        """Return what its largest worker holds in memory."""
        return max(int(worker.memory_info().rss) for worker in self.workers())

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve."""
        return list(psutil.Process(self.process.pid).children())

    def post(self, body: bytes, *, secret: str, **headers: str) -> Answer:
        """Send a body to the door for events on a connection of its own."""
        line = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            sent = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", **given}
            with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has heard all
                line.request("POST", EVENTS, body, sent)
            response = line.getresponse()
            return Answer(response.status, json.loads(response.read()), dict(response.getheaders()))
        finally:
            line.close()


@dataclass(frozen=True)
class Answer:
    """What the door said."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@contextmanager
def web_server(*, threads: int = 2, port: int = 0, **environment: str) -> Iterator[WebServer]:
    """Serve with one worker, on a free port unless one is given, until the end of the block."""
    process = subprocess.Popen(
        [*_GUNICORN, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", str(threads)],
        cwd=settings.PROJECT_FOLDER,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings.local",
            "DATABASE_URL": url_of_the_test_database(),
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        bound = next(int(found[1]) for line in process.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        yield WebServer("127.0.0.1", bound, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
