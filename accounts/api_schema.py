"""How the API's own description says what every door has in common: named shapes, and answers that refuse.

The doors for usage are plain views, which drf-spectacular cannot read; each describes itself in a postprocessing hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROBLEM = {
    "type": "object",
    "description": "What was refused, and why: problem details as in RFC 9457.",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "`urn:countinghouse:problem:` and the code."},
        "title": {"type": "string", "description": "The name of the HTTP status."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "For a person: what was found and what to do about it."},
        "code": {"type": "string", "description": "For a program: the name of the error, which stays the same."},
        "request_id": {
            "type": "string",
            "description": "Names the request in the log, and in X-Request-ID of the answer; say it when you ask.",
        },
        "errors": {
            "type": "object",
            "description": "Where single values are refused: what is wrong with each, by name.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
    "example": {
        "type": "urn:countinghouse:problem:details_invalid",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "window: Choose among hour, day, month, none.",
        "code": "details_invalid",
        "request_id": "6f1d2c34a1b04d0f8b2f3c9f5f0f7a11",
        "errors": {"window": ["Choose among hour, day, month, none."]},
    },
}
_HEADERS: Mapping[str, Mapping[str, object]] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "How to come in: with a Bearer key."}},
    "429": {"Retry-After": {"schema": {"type": "integer"}, "description": "After how many seconds to come again."}},
    "503": {"Retry-After": {"schema": {"type": "integer"}, "description": "After how many seconds to come again."}},
}
KEY_REFUSED = "The API key is missing, unknown, expired or revoked."


def component(result: dict[str, Any], name: str, schema: Mapping[str, object]) -> dict[str, str]:
    """Give a shape its name in the description, and return what refers to it."""
    result.setdefault("components", {}).setdefault("schemas", {})[name] = dict(schema)
    return {"$ref": f"#/components/schemas/{name}"}


def refusals(result: dict[str, Any], texts: Mapping[str, str]) -> dict[str, object]:
    """Return the answers that refuse, by status, all in the one shape of a problem."""
    content = {"application/problem+json": {"schema": component(result, "Problem", _PROBLEM)}}
    return {
        status: {
            "description": text,
            "content": content,
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status, text in texts.items()
    }


def json_of(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the content of an answer, or of a body, in JSON."""
    return {"application/json": {"schema": schema}}
