"""The site as people meet it: gunicorn, a Celery worker on the same Postgres, and a mail server, each its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

PROJECT_FOLDER = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120
GRACE_SECONDS = 30


class MailServer(Controller):
    """An SMTP server on a port of its own that keeps what it is given."""

    def __init__(self) -> None:
        # Bound here, so that nobody can take the port in between.
        self.door = socket.create_server(("127.0.0.1", 0))
        self.arrived: list[Message] = []
        self._arrival = threading.Condition()
        super().__init__(self, hostname="127.0.0.1", port=self.door.getsockname()[1])

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        return self.loop.create_server(self._factory_invoker, sock=self.door)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 -- aiosmtpd's
        content = envelope.content
        assert isinstance(content, bytes)
        await asyncio.to_thread(self._keep, content)
        return "250 OK"

    def _keep(self, content: bytes) -> None:
        with self._arrival:
            self.arrived.append(message_from_bytes(content))
            self._arrival.notify_all()

    def wait_for(self, number: int, *, seconds: float = 120) -> list[Message]:
        """Return the mails once so many have arrived; fewer are an error."""
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self.arrived) >= number, timeout=seconds), self.arrived
            return list(self.arrived)


@dataclass(frozen=True, slots=True)
class Site:
    """A running site: where it is, the mails that it sent, and its worker."""

    url: str
    mails: MailServer
    worker: subprocess.Popen[bytes]

    @contextmanager
    def worker_held(self) -> Iterator[None]:
        """Hold the worker's processes for as long as the block lasts, so that one can see what waits for it."""
        os.killpg(self.worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.worker.pid, signal.SIGCONT)


@contextmanager
def running_site(*, database: str, log_folder: Path) -> Iterator[Site]:
    """Serve the database for as long as the block lasts, and leave no process behind."""
    with ExitStack() as stack:
        mails = MailServer()
        mails.start()
        stack.callback(mails.stop)
        door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
            "SITE_DATABASE": database,
            "SITE_SMTP_PORT": str(mails.port),
        }
        web = stack.enter_context(_process(_web_command(door.fileno()), environment, log_folder / "web.log", door))
        worker = stack.enter_context(_process(_worker_command(), environment, log_folder / "worker.log"))
        url = f"http://127.0.0.1:{door.getsockname()[1]}"
        _wait_until_served(url, web, log_folder / "web.log")
        yield Site(url=url, mails=mails, worker=worker)


def _web_command(door: int) -> list[str]:
    gunicorn = [sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"fd://{door}"]
    return [*gunicorn, "--workers", "1", "--threads", "8", "--log-level", "warning", "--no-control-socket"]


def _worker_command() -> list[str]:
    celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "config", "--quiet", "worker"]
    return [*celery, "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"]


@contextmanager
def _process(
    command: Sequence[str],
    environment: dict[str, str],
    log: Path,
    door: socket.socket | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[door.fileno()] if door else [],
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # The web server would otherwise wait for browsers that keep their connections open.
        process.send_signal(signal.SIGQUIT if door else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_SECONDS)
        # Its children, should it have left any.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_served(url: str, web: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and web.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=START_SECONDS):  # noqa: S310 -- ours
            return
    raise AssertionError(f"The site did not start: {log.read_text()}")
