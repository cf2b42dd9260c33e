"""The API's description is true: what doors answer is what it says, and it leaves nothing without a word."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from metering.models import UsageBatch
from tests import make_accounts
from tests import make_metering as make
from tests.make_corrections import replaced, voided

pytestmark = pytest.mark.django_db

OCTOBER = {"customer": "acme", "month": "2026-10"}


@pytest.fixture
def description(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/schema/", headers={"Accept": "application/json"}).json()
    return found


def test_the_description_is_valid_openapi_and_names_every_field(description: dict[str, Any]) -> None:
    validate_schema(description)  # type: ignore[no-untyped-call]

    for name, shape in description["components"]["schemas"].items():
        assert shape.get("description"), name
        assert [field for field, of in shape["properties"].items() if not of.get("description")] == [], name
    for path, doors in description["paths"].items():
        for method, door in doors.items():
            assert {"summary", "description"} <= door.keys(), (path, method)
            assert [each["name"] for each in door.get("parameters", ()) if not each["description"]] == []


def test_the_examples_of_the_description_are_what_it_says(description: dict[str, Any]) -> None:
    shapes = {name: shape for name, shape in description["components"]["schemas"].items() if "example" in shape}

    assert len(shapes) >= 6
    for shape in shapes.values():
        require_fits(description, shape, shape["example"])


def test_what_is_answered_is_what_the_description_says(client: Client, description: dict[str, Any]) -> None:
    for number, aggregation in enumerate(["sum", "gauge", "latest"]):
        make.meter(code=f"meter-{number}", aggregation=aggregation, dimensions=["region"])
    acme = make_accounts.customer(code="acme")
    make.subject("project-1", customer=acme)
    reader = make_accounts.api_key("usage:read").secret
    sender = make_accounts.api_key("events:write").secret
    sent = [
        make.event("one", seconds="1.50", region="eu"),
        make.event("two", seconds="2"),
        make.event("three", seconds="3"),
        make.event("one", seconds="4"),
        {"id": "no event"},
        make.event("four", subject="unknown"),
    ]

    outcome = client.post("/api/v1/events", sent, "application/json", headers=bearer(sender))
    statement = {"source": "cluster/1", "hour": "2026-10-15T10:00:00Z", "meter": "meter-0", "count": 2, "sum": "3.5"}
    stated = client.post("/api/v1/control-totals", [statement], "application/json", headers=bearer(sender))
    voided("two")
    replaced("three", seconds="5")
    answers = [
        ("/api/v1/events", "post", outcome),
        ("/api/v1/control-totals", "post", stated),
        ("/api/v1/events", "get", client.get("/api/v1/events", OCTOBER, headers=bearer(reader))),
        *(
            (
                "/api/v1/usage",
                "get",
                client.get(
                    "/api/v1/usage",
                    {**OCTOBER, "meter": f"meter-{number}", "window": "day", "group_by": "region"},
                    headers=bearer(reader),
                ),
            )
            for number in range(3)
        ),
    ]

    assert UsageBatch.objects.exists()
    for path, method, answer in answers:
        assert answer.status_code == 200, answer.content
        require_answers(description, path, method, answer)
    assert {each["state"] for each in answers[2][2].json()["events"]} == {"counted", "voided", "replaced"}
    assert len(outcome.json()["rejected"]) == 2
    require_fits(description, {"$ref": "#/components/schemas/Event"}, sent[0])
    require_fits(description, {"$ref": "#/components/schemas/ControlTotal"}, statement)


@pytest.mark.parametrize(
    ("method", "path", "words", "scope", "status"),
    [
        ("get", "/api/v1/usage", {}, "", 401),
        ("get", "/api/v1/usage", {}, "events:write", 403),
        ("get", "/api/v1/usage", {**OCTOBER, "meter": "no"}, "usage:read", 404),
        ("get", "/api/v1/usage", {"wrong": "x"}, "usage:read", 422),
        ("get", "/api/v1/events", {"month": "2026-10"}, "usage:read", 422),
        ("post", "/api/v1/events", "nonsense", "events:write", 400),
        ("post", "/api/v1/events", "[]", "usage:read", 403),
        ("post", "/api/v1/control-totals", "nonsense", "events:write", 400),
        ("post", "/api/v1/control-totals", "[1]", "events:write", 422),
    ],
)
def test_what_is_refused_is_refused_as_the_description_says(
    client: Client, description: dict[str, Any], method: str, path: str, words: Any, scope: str, status: int
) -> None:
    make_accounts.customer(code="acme")
    headers = bearer(make_accounts.api_key(scope).secret) if scope else {}

    if method == "get":
        answer = client.get(path, words, headers=headers)
    else:
        answer = client.post(path, words, "application/json", headers=headers)

    assert answer.status_code == status
    require_answers(description, path, method, answer)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def require_answers(description: dict[str, Any], path: str, method: str, answer: Any) -> None:
    said = description["paths"][path][method]["responses"][str(answer.status_code)]
    require_fits(description, said["content"][answer["Content-Type"]]["schema"], answer.json())
    assert [name for name in said.get("headers", {}) if name not in answer] == []


def require_fits(description: dict[str, Any], schema: dict[str, Any], found: object) -> None:
    whole = {"components": description["components"], **schema}
    faults = [f"{fault.json_path}: {fault.message}" for fault in Draft202012Validator(strict(whole)).iter_errors(found)]
    assert faults == []


def strict(schema: Any) -> Any:
    """Return an OpenAPI 3.0 schema as JSON Schema, in which a field that is not described is a fault."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if found.get("nullable"):
        found["type"] = [found["type"], "null"]
    if isinstance(found.get("properties"), dict) and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
