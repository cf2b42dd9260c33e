"""A real mail server on loopback that tests can switch on and off."""
# ruff: noqa: ARG002 -- aiosmtpd hands over more than a mailbox needs

from __future__ import annotations

import socket
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailbox:
    """What a mail server on loopback got; `refuses` are addresses that it does not know."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.refuses: set[str] = set()
        self.busy = False

    async def handle_RCPT(  # noqa: N802 -- called so by aiosmtpd
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        if self.busy:
            return "451 Try again later"
        if address in self.refuses:
            return "550 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 -- called so by aiosmtpd
        self.envelopes.append(envelope)
        message = message_from_bytes(envelope.content or b"", policy=policy.default)  # type: ignore[arg-type]
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 OK"


class MailServer:
    """A mail server that can be switched on and off; its port stays the same."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self._controller: Controller | None = None
        self.port = _free_port()

    def start(self) -> None:
        self._controller = Controller(self.mailbox, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
