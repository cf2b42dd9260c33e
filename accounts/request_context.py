"""Which request we are in, so that every history row and audit entry can name it.

The history rows read the context through the default of their own field (see `accounts.models.RequestStamp`), not
through a signal: a default also holds for rows made in bulk, and there is nothing to connect or to forget.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponse

_REQUEST_ID_LENGTH = 64
_request_id: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """Return the id of the request or job at work in this thread; empty outside of any."""
    return _request_id.get()


@contextmanager
def request_context(request_id: str) -> Iterator[str]:
    """Name the request, job or command that everything inside belongs to."""
    token = _request_id.set(request_id[:_REQUEST_ID_LENGTH])
    try:
        yield _request_id.get()
    finally:
        _request_id.reset(token)


class RequestContextMiddleware:
    """Opens the context of a web request; stands in front of everything that may write.

    A request id given by whatever stands before us (`request.request_id`) is kept; otherwise a new one is made. The
    user of a history row comes from the actor of the verb (`accounts.history`), not from here.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = str(getattr(request, "request_id", "")) or uuid.uuid4().hex
        with request_context(request_id) as current:
            request.request_id = current  # type: ignore[attr-defined]  # Django's way of handing things on
            return self.get_response(request)
