"""From what went wrong to what is answered: one table from errors to statuses, and two shapes of answer.

Programs get `application/problem+json` (RFC 9457) with the stable code of the error; people get a page. Both carry
the request id, under which the audit log and the history keep what the request had done.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.shortcuts import render
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response
from rest_framework.views import exception_handler

from accounts.errors import CountinghouseError
from config.error_table import STATUSES

API_PREFIX = "/api/"
PROBLEM_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,64}")
_DATABASE_AWAY = "The database does not answer at the moment. Nothing was changed; try again shortly."
_RETRY_AFTER_SECONDS = 5
# RFC 9110, 11.6.1: an answer of 401 says how to come in.
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="countinghouse"'}

Answer = Callable[[HttpRequest], HttpResponse]


def status_of(error: CountinghouseError) -> HTTPStatus:
    """Return the status for an error: its own, or that of the nearest class it derives from."""
    for kind in type(error).__mro__:
        if status := STATUSES.get(kind):
            return status
    return HTTPStatus.BAD_REQUEST


class RequestIdMiddleware:
    """Gives each request an id: the sender's own when it is a harmless word, else a new one. Answers repeat it."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.request_id = request_id  # type: ignore[attr-defined] # Django's way of handing things on
        response = self.get_response(request)
        response[REQUEST_ID_HEADER] = request_id
        return response


class ErrorAnswerMiddleware:
    """Answers named errors that a view let through, methods that are not taken, and a database that went away."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        # What Django's own decorators answer is an empty page.
        if isinstance(response, HttpResponseNotAllowed) and request.path.startswith(API_PREFIX):
            allowed = response["Allow"]
            detail = f"This address does not take {request.method}, only {allowed}."
            response = _answer(request, HTTPStatus.METHOD_NOT_ALLOWED, code="method_not_allowed", detail=detail)
            response["Allow"] = allowed
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, CountinghouseError):
            fields = _fields_of(error)
            response = _answer(request, status_of(error), code=error.code, detail=str(error), fields=fields)
            for name, value in _when_to_come_again(error).items():
                response[name] = value
            return response
        if isinstance(error, OperationalError | InterfaceError):
            return _database_away(request)
        return None


def problem_response(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Answer an error of an API view; REST framework's EXCEPTION_HANDLER."""
    request: HttpRequest = context["request"]._request  # noqa: SLF001 -- the only way to Django's own request
    if isinstance(error, CountinghouseError):
        status = status_of(error)
        body = _problem(request, status, code=error.code, detail=str(error), fields=_fields_of(error))
        return Response(
            body,
            status=status,
            content_type=PROBLEM_TYPE,
            headers={**_headers_for(status), **_when_to_come_again(error)},
        )
    response = exception_handler(error, dict(context))
    if response is None:
        return None

    status = HTTPStatus(response.status_code)
    if isinstance(error, ValidationError):
        fields = error.detail if isinstance(error.detail, dict) else {"": error.detail}
        response.data = _problem(request, status, code="invalid", detail="Some values are not valid.", fields=fields)
    else:
        code = error.default_code if isinstance(error, APIException) else status.name.lower()
        response.data = _problem(request, status, code=code, detail=_detail_of(error, status))
    response.content_type = PROBLEM_TYPE
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 -- Django's signature
    return _answer(request, HTTPStatus.BAD_REQUEST, code="bad_request", detail="The request could not be understood.")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = str(exception) or "You do not have the permission for this."
    return _answer(request, HTTPStatus.FORBIDDEN, code="permission_denied", detail=detail)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 -- Django's signature
    return _answer(request, HTTPStatus.NOT_FOUND, code="not_found", detail="There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    detail = "This is our mistake. It was recorded under the number below."
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, code="internal_error", detail=detail)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:  # noqa: ARG001 -- Django's signature
    detail = "The form was open for too long, or cookies are off. Go back, load the page again and repeat."
    return _answer(request, HTTPStatus.FORBIDDEN, code="csrf_failed", detail=detail)


def _database_away(request: HttpRequest) -> HttpResponse:
    response = _answer(request, HTTPStatus.SERVICE_UNAVAILABLE, code="database_unavailable", detail=_DATABASE_AWAY)
    response["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


def _answer(
    request: HttpRequest,
    status: HTTPStatus,
    *,
    code: str,
    detail: str,
    fields: Mapping[str, Any] | None = None,
) -> HttpResponse:
    body = _problem(request, status, code=code, detail=detail, fields=fields)
    if request.path.startswith(API_PREFIX):
        return JsonResponse(body, status=status, content_type=PROBLEM_TYPE, headers=_headers_for(status))
    return render(request, "config/error.html", {"problem": body}, status=status)


def _headers_for(status: HTTPStatus) -> Mapping[str, str]:
    return _CHALLENGE if status == HTTPStatus.UNAUTHORIZED else {}


def _when_to_come_again(error: CountinghouseError) -> Mapping[str, str]:
    seconds = getattr(error, "retry_after_seconds", 0)
    return {"Retry-After": str(seconds)} if seconds else {}


def _problem(
    request: HttpRequest,
    status: HTTPStatus,
    *,
    code: str,
    detail: str,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    problem = {
        "type": f"urn:countinghouse:problem:{code}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        "request_id": getattr(request, "request_id", ""),
    }
    return {**problem, "errors": dict(fields)} if fields else problem


def _fields_of(error: CountinghouseError) -> Mapping[str, Any] | None:
    fields = getattr(error, "fields", None)
    return fields if isinstance(fields, Mapping) else None


def _detail_of(error: Exception, status: HTTPStatus) -> str:
    if isinstance(error, APIException):
        return str(error.detail)
    if isinstance(error, Http404 | PermissionDenied) and str(error):
        return str(error)
    return status.description
