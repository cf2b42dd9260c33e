import json
import pkgutil
from collections.abc import Iterator
from http import HTTPStatus
from importlib import import_module

import pytest
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import path
from rest_framework.decorators import api_view
from rest_framework.exceptions import NotAuthenticated, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.errors import CountinghouseError, DetailsInvalid, PermissionMissing
from config.error_table import STATUSES
from config.errors import ErrorAnswerMiddleware, status_of

APPS = ("accounts", "metering", "pricing", "billing", "config")
RAISED: dict[str, Exception] = {
    "permission": PermissionMissing("Issuing needs the permission to issue invoices."),
    "fields": DetailsInvalid({"email": ["Not an address."]}),
    "validation": ValidationError({"name": ["Too long."]}),
    "signed-out": NotAuthenticated(),
    "database": OperationalError("server closed the connection unexpectedly"),
    "bug": ZeroDivisionError("nobody should see this"),
}


@api_view(["GET"])
def _api(request: Request, name: str) -> Response:
    raise RAISED[name]


def _page(request: HttpRequest, name: str) -> HttpResponse:
    raise RAISED[name]


urlpatterns = [path("api/raise/<name>", _api), path("api/plain/<name>", _page), path("raise/<name>", _page)]
handler404 = "config.errors.not_found"
handler500 = "config.errors.server_error"


@pytest.fixture
def web(settings: pytest.FixtureRequest) -> Client:
    settings.ROOT_URLCONF = __name__  # type: ignore[attr-defined]
    return Client(raise_request_exception=False)


def _every_error() -> Iterator[type[CountinghouseError]]:
    for app in APPS:
        package = import_module(app)
        for module in pkgutil.walk_packages(package.__path__, f"{app}."):
            if ".migrations." not in module.name and ".settings." not in module.name:
                import_module(module.name)
    waiting = [CountinghouseError]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        waiting += kinds
        yield from (kind for kind in kinds if kind.__module__.partition(".")[0] in APPS)


def test_every_named_error_has_its_status() -> None:
    missing = sorted({f"{kind.__module__}.{kind.__name__}" for kind in _every_error() if kind not in STATUSES})

    assert missing == []


def test_every_named_error_has_a_code_of_its_own() -> None:
    codes: dict[str, set[str]] = {}
    for kind in _every_error():
        codes.setdefault(kind.code, set()).add(kind.__name__)

    shared = {code: names for code, names in codes.items() if len(names) > 1}
    assert shared == {}


def test_an_error_without_a_status_of_its_own_is_answered_like_its_nearest_ancestor() -> None:
    class PermissionMissingToday(PermissionMissing):
        pass

    assert status_of(PermissionMissingToday("Come back tomorrow.")) == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("address", ["/api/raise/permission", "/api/plain/permission"], ids=["rest view", "plain view"])
def test_a_program_gets_a_problem_with_a_code_and_the_request_id(web: Client, address: str) -> None:
    answer = web.get(address, headers={"X-Request-ID": "order-66"})

    assert answer.status_code == 403
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["X-Request-ID"] == "order-66"
    assert json.loads(answer.content) == {
        "type": "urn:countinghouse:problem:permission_missing",
        "title": "Forbidden",
        "status": 403,
        "detail": "Issuing needs the permission to issue invoices.",
        "code": "permission_missing",
        "request_id": "order-66",
    }


@pytest.mark.parametrize(
    ("name", "errors"),
    [("fields", {"email": ["Not an address."]}), ("validation", {"name": ["Too long."]})],
    ids=["named error", "serializer"],
)
def test_a_program_is_told_which_fields_are_wrong(web: Client, name: str, errors: dict[str, list[str]]) -> None:
    answer = web.get(f"/api/raise/{name}")

    assert answer.json()["errors"] == errors


def test_a_person_gets_a_page_with_the_reason_and_the_request_id(web: Client) -> None:
    answer = web.get("/raise/permission", headers={"X-Request-ID": "order-66"})

    assert answer.status_code == 403
    assert "Issuing needs the permission to issue invoices." in answer.content.decode()
    assert "order-66" in answer.content.decode()


@pytest.mark.parametrize("address", ["/raise/bug", "/api/plain/bug"], ids=["page", "api"])
def test_a_bug_is_answered_without_its_text(web: Client, address: str) -> None:
    answer = web.get(address)

    assert answer.status_code == 500
    assert b"nobody should see this" not in answer.content


def test_a_database_that_went_away_asks_to_try_again(web: Client) -> None:
    answer = web.get("/api/plain/database")

    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert answer.json()["code"] == "database_unavailable"


def test_an_unknown_address_is_answered_in_the_shape_of_its_door(web: Client) -> None:
    api, page = web.get("/api/nowhere"), web.get("/nowhere")

    assert (api.status_code, api["Content-Type"]) == (404, "application/problem+json")
    assert (page.status_code, page["Content-Type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "<script>"], ids=["none", "spaces", "too long", "markup"])
def test_a_request_id_that_could_do_harm_is_replaced(web: Client, given: str) -> None:
    answer = web.get("/nowhere", headers={"X-Request-ID": given})

    assert answer["X-Request-ID"] != given
    assert len(answer["X-Request-ID"]) == 32


def test_other_errors_are_left_to_django() -> None:
    middleware = ErrorAnswerMiddleware(lambda _request: HttpResponse())

    assert middleware.process_exception(RequestFactory().get("/"), KeyError("x")) is None
