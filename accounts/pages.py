"""The frame of every page: who asks, whether they may, and how an answer, a refusal or a list is shown."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest
from django.core.paginator import Page
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from accounts.access import Actor, Permission
from accounts.errors import CountinghouseError, PermissionMissing
from accounts.paging import BoundedPaginator
from accounts.request_context import current_request_id

if TYPE_CHECKING:
    from accounts.models import User

P = ParamSpec("P")
T = TypeVar("T")
ROWS_PER_PAGE = 50
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class StaffRequest(HttpRequest):
    """A request of a member of staff who is signed in."""

    user: User


@dataclass(frozen=True, slots=True)
class Crumb:
    """One step of the way from home to a page."""

    title: str
    url: str = ""


def actor_of(request: HttpRequest) -> Actor:
    """Return the actor for the signed-in user of a request; worked out once a request."""
    known: Actor | None = getattr(request, "_actor", None)
    if known is None:
        known = Actor.of(request.user, request_id=current_request_id())  # type: ignore[arg-type]
        request._actor = known  # type: ignore[attr-defined]  # noqa: SLF001 -- a note on our own request
    return known


def staff_page(
    *permissions: Permission,
) -> Callable[[Callable[Concatenate[StaffRequest, P], HttpResponseBase]], Callable[P, HttpResponseBase]]:
    """Show a page only to staff who hold every one of the permissions.

    Who is not signed in is sent to sign in first; who lacks a permission is told which. Text that Postgres cannot hold
    is answered with 400.
    """

    def guard(view: Callable[Concatenate[StaffRequest, P], HttpResponseBase]) -> Callable[P, HttpResponseBase]:
        @wraps(view)
        def guarded(request: StaffRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not (request.user.is_staff and request.user.is_active):
                return redirect_to_login(_way_back(request), reverse("admin:login"))
            try:
                for permission in permissions:
                    actor_of(request).require(permission)
            except PermissionMissing as refusal:
                return refused(request, refusal)
            _require_text(request)
            return view(request, *args, **kwargs)

        return guarded  # type: ignore[return-value]

    return guard


def _require_text(request: HttpRequest) -> None:
    """Raise BadRequest for a NUL, which no browser sends and Postgres refuses wherever text is asked or stored."""
    sent = (request.GET, request.POST)
    if any("\0" in value for form in sent for _, values in form.lists() for value in values):
        raise BadRequest


def _way_back(request: HttpRequest) -> str:
    """Return where to go after signing in: the page asked for or, for a form, the page that it stood on."""
    if request.method == "GET":
        return request.get_full_path()
    page_of_form = request.headers.get("Referer", "")
    here = url_has_allowed_host_and_scheme(page_of_form, {request.get_host()}, require_https=request.is_secure())
    return page_of_form if here else reverse(settings.LOGIN_REDIRECT_URL)


def refused(request: HttpRequest, refusal: CountinghouseError) -> HttpResponse:
    """Answer that the page is not for this person, and say which permission it needs."""
    return page(request, "accounts/refused.html", title="Not for your role", refusal=str(refusal), http_status=403)


def page(
    request: HttpRequest,
    template: str,
    *,
    title: str,
    crumbs: Sequence[Crumb] = (),
    http_status: int = 200,
    **context: object,
) -> TemplateResponse:
    """Answer with a page inside the frame: sidebar, header with the way here, messages."""
    return TemplateResponse(
        request,
        template,
        {**admin.site.each_context(request), "title": title, "crumbs": crumbs, **_reader(request), **context},
        status=http_status,
    )


def fragment(request: HttpRequest, template: str, **context: object) -> TemplateResponse:
    """Answer with a part of a page, for HTMX."""
    return TemplateResponse(request, template, {**_reader(request), **context})


def _reader(request: HttpRequest) -> dict[str, object]:
    """Tell templates who reads, and what they may: `may.edit_prices` for Permission.EDIT_PRICES."""
    actor = actor_of(request)
    return {"actor": actor, "may": {permission.value: actor.may(permission) for permission in Permission}}


def attempt(request: HttpRequest, verb: Callable[[], T], done: str | Callable[[T], str]) -> T | None:
    """Run one verb and say as a message what came of it; a refusal changes nothing and is None."""
    try:
        result = verb()
    except CountinghouseError as refusal:
        messages.error(request, str(refusal))
        return None
    messages.success(request, done if isinstance(done, str) else done(result))
    return result


def back_to(request: HttpRequest, fallback: str) -> str:
    """Return where a form asked to go back to, if that is a page of this site."""
    wanted = request.POST.get("next", "")
    here = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    # Anything else redirect() would take for the name of a view.
    return wanted if here and wanted.startswith("/") else fallback


def page_of(request: HttpRequest, rows: Any, per_page: int = ROWS_PER_PAGE, *, named: str = "page") -> Page[Any]:
    """Return the rows of the page that the address asks for; a page that is not there is the nearest that is.

    A second list of one page has a name of its own in the address.

    Ten thousand rows are paged at most, for no page may take longer the longer the house is at work.
    """
    return BoundedPaginator(rows, per_page).get_page(request.GET.get(named))


def whole_number(text: str | None) -> int | None:
    """Read a whole number of an address or a form; anything else is None."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 19 else None  # noqa: PLR2004 -- bigint


def csv_answer(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> HttpResponse:
    """Answer with a CSV file; a cell that a spreadsheet would take for a formula is marked as text."""
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    writer = csv.writer(answer)
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return answer


def _cell(value: object) -> object:
    # Only text can carry somebody else's formula; a negative amount is a number and stays one.
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
