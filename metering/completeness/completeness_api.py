"""The API's door for what sources say that they sent, and its description."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from accounts.access import Actor
from accounts.api_keys import authenticate_api_key
from accounts.api_schema import KEY_REFUSED, component, json_of, refusals
from accounts.models import ApiKey
from accounts.request_context import current_request_id
from metering.completeness.control_totals import MAX_STATEMENTS, read_statements, state_control_totals
from metering.errors import BodyTooLarge
from metering.events import MAX_NAME_LENGTH


@csrf_exempt
@require_POST
def post_control_totals(request: HttpRequest) -> HttpResponse:
    """Take an array of statements, all or none; answers 200 with how many of them were new."""
    at = timezone.now()
    key = authenticate_api_key(
        authorization_header=request.headers.get("Authorization"),
        scope=ApiKey.Scope.EVENTS_WRITE,
        at=at,
    )
    result = state_control_totals(
        statements=read_statements(_body(request)),
        api_key_id=key.pk,
        customer_id=key.customer_id,
        source=key.source,
        actor=Actor.of_key(key, request_id=current_request_id()),
        at=at,
    )
    return HttpResponse(msgspec.json.encode(result), content_type="application/json")


def _body(request: HttpRequest) -> bytes:
    try:
        return request.body
    except RequestDataTooBig as error:
        msg = f"The body is too large; send at most {MAX_STATEMENTS:,} statements at once."
        raise BodyTooLarge(msg) from error


_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_COUNT = {"type": "integer", "minimum": 0}
_STATEMENT = {
    "type": "object",
    "description": "What a source sent of one hour: of one meter, or of all events of a type.",
    "required": ["source", "hour", "count"],
    "additionalProperties": False,
    "properties": {
        "source": {**_NAME, "description": "As the events name it."},
        "hour": {"type": "string", "format": "date-time", "description": "The beginning of a full hour of UTC."},
        "meter": {**_NAME, "description": "The code of a meter. Either this or `type`."},
        "type": {**_NAME, "description": "The type of the events. Either this or `meter`."},
        "count": {**_COUNT, "description": "How many different events; one that was sent twice is one."},
        "sum": {
            "type": "string",
            "format": "decimal",
            "description": "What they sum up to in the meter, before its divisor. Only with `meter`.",
        },
    },
    "example": {
        "source": "cluster-7",
        "hour": "2026-10-01T10:00:00Z",
        "meter": "gpu-hours",
        "count": 1200,
        "sum": "9600",
    },
}
_OUTCOME = {
    "type": "object",
    "description": "What was new of the statements of a request.",
    "required": ["stated", "superseded", "unchanged"],
    "properties": {
        "stated": {**_COUNT, "description": "The first statements of their hours."},
        "superseded": {**_COUNT, "description": "Statements that take the place of an earlier one, which is kept."},
        "unchanged": {**_COUNT, "description": "Statements that say what was known."},
    },
    "example": {"stated": 24, "superseded": 0, "unchanged": 0},
}
_REFUSALS = {
    "400": "The body is not JSON.",
    "401": KEY_REFUSED,
    "403": "The API key lacks the scope events:write, is one customer's, or is tied to another source.",
    "413": "The body is too large; send fewer statements at once.",
    "422": "A statement contradicts itself or names what is not there. None was kept.",
    "503": "The database does not answer; nothing was kept. Send the same request again after Retry-After.",
}


def describe_control_totals(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add `POST /api/v1/control-totals` to the description; a postprocessing hook of drf-spectacular."""
    statement = component(result, "ControlTotal", _STATEMENT)
    body = {"type": "array", "items": statement, "maxItems": MAX_STATEMENTS}
    accepted = {
        "description": "How many statements were new. Sending the same request again changes nothing.",
        "content": json_of(component(result, "ControlTotalsOutcome", _OUTCOME)),
    }
    result["paths"]["/api/v1/control-totals"] = {
        "post": {
            "operationId": "control_totals_create",
            "summary": "State how much usage was sent",
            "description": "A source's own word on what it sent of an hour; where other usage came in, it is shown. All"
            " statements of a request are kept, or none.",
            "tags": ["usage"],
            "security": [{"apiKey": []}],
            "requestBody": {"required": True, "content": json_of(body)},
            "responses": {"200": accepted, **refusals(result, _REFUSALS)},
        },
    }
    return result
