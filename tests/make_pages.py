"""What tests of pages share: signing in, the words on a page, and counting queries."""

from __future__ import annotations

import re
from html import unescape
from typing import Protocol

from django.contrib.messages import get_messages
from django.db import connection
from django.http import HttpRequest
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.access import Actor, Role
from accounts.models import User
from tests import make_accounts


class Answer(Protocol):
    """What Django's test client hands back."""

    @property
    def content(self) -> bytes: ...

    @property
    def wsgi_request(self) -> HttpRequest: ...


def signed_in(*roles: Role, actor: Actor | None = None) -> Client:
    """Return a browser in which somebody with these roles, or this very person, has signed in."""
    client = Client()
    if actor is None:
        client.force_login(make_accounts.staff(*roles))
    else:
        assert actor.user_id is not None
        client.force_login(User.objects.get(pk=actor.user_id))
    return client


def words(response: Answer) -> str:
    """Return what a person reads on a page, with single blanks between words."""
    text = re.sub(r"<(script|style).*?</\1>", " ", response.content.decode().replace("<wbr>", ""), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def said(response: Answer) -> str:
    """Return the messages that a form's answer leaves for the next page."""
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def queries(client: Client, address: str) -> int:
    """Return how many queries a page takes."""
    with CaptureQueriesContext(connection) as captured:
        response = client.get(address)
    assert response.status_code == 200, address
    return len(captured)
