"""Django's own mail over SMTP, which also tells whom the server refused.

A server that takes a mail for some of its recipients and refuses others has taken it, and Django drops the list of the
others. Sending the mail again would reach the first ones twice; so it counts as sent, and whoever sent it asks here.
"""

from __future__ import annotations

import smtplib
from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp

Refusals = Mapping[str, tuple[int, bytes]]
_NOTE = "_refused_recipients"


class EmailBackend(smtp.EmailBackend):
    """Sends as Django does, and notes on each message which of its recipients were refused."""

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        """The kind of connection, inside TLS from the start or not."""
        return _NotingSMTPS if self.use_ssl else _NotingSMTP

    def _send(self, email_message: EmailMessage) -> bool:
        sent = bool(super()._send(email_message))  # type: ignore[misc]  # not in the stubs
        setattr(email_message, _NOTE, dict(getattr(self.connection, _NOTE, {})) if sent else {})
        return sent


def refused_recipients(message: EmailMessage) -> Refusals:
    """Return the recipients of a sent mail that the server refused, with its answers; none where nobody can tell."""
    refused: Refusals = getattr(message, _NOTE, {})
    return refused


class _Noting:
    """Keeps what `smtplib.SMTP.sendmail` returns: the recipients that were refused while others were not."""

    def sendmail(self, *arguments: Any, **options: Any) -> Refusals:
        refused: Refusals = super().sendmail(*arguments, **options)  # type: ignore[misc]  # mixed into SMTP below
        setattr(self, _NOTE, refused)
        return refused


class _NotingSMTP(_Noting, smtplib.SMTP):  # type: ignore[misc]  # passes on whatever it is given
    pass


class _NotingSMTPS(_Noting, smtplib.SMTP_SSL):  # type: ignore[misc]  # passes on whatever it is given
    pass
