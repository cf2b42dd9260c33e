"""Sends usage events to Countinghouse: batched, retried, and kept on disk until they are counted."""

from countinghouse.client import Client
from countinghouse.delivery import Rejection, Stats
from countinghouse.errors import (
    BufferFull,
    BufferInUse,
    BufferUnwritable,
    ClientClosed,
    CountinghouseClientError,
    EventInvalid,
    NotDelivered,
)

__all__ = [
    "BufferFull",
    "BufferInUse",
    "BufferUnwritable",
    "Client",
    "ClientClosed",
    "CountinghouseClientError",
    "EventInvalid",
    "NotDelivered",
    "Rejection",
    "Stats",
]
