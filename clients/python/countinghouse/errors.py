"""What the client raises."""

from __future__ import annotations


class CountinghouseClientError(Exception):
    """The root of all errors of this package."""


class EventInvalid(CountinghouseClientError, ValueError):
    """The server could only refuse this event, so it was not taken into the buffer."""


class BufferFull(CountinghouseClientError):
    """The buffer has reached its limit on disk; the event was not taken. Nothing that was taken is lost."""


class BufferUnwritable(CountinghouseClientError):
    """The disk did not take the event: it is full, read-only or broken. Nothing that was taken before is lost."""


class BufferInUse(CountinghouseClientError):
    """Another client, in this process or another one, holds this folder."""


class ClientClosed(CountinghouseClientError):
    """The client was closed, or was made before a fork and is used after it."""


class NotDelivered(CountinghouseClientError):
    """Not all events were counted in time; they stay in the buffer and are sent later."""
