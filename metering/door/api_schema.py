"""Describes the door for events in the API's own description; it is a plain view, which drf-spectacular cannot read."""

from __future__ import annotations

from typing import Any

from accounts.api_schema import KEY_REFUSED, component, json_of, refusals
from metering.door.bodies import CONTENT_TYPES, MAX_VALUES
from metering.events import MAX_DATA_BYTES, MAX_NAME_LENGTH
from metering.ingestion import MAX_EVENTS
from metering.models import QuarantinedEvent
from metering.refusals import OUT_OF_SCOPE

_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_COUNT = {"type": "integer", "minimum": 0}

_EVENT = {
    "type": "object",
    "description": "A CloudEvents 1.0 object. `source` and `id` together are its identity, counted once for ever.",
    "required": ["id", "source", "type", "time"],
    "properties": {
        "specversion": {
            "type": "string",
            "enum": ["1.0"],
            "default": "1.0",
            "description": "The version of CloudEvents.",
        },
        "id": {**_NAME, "description": "The sender's own; sent again, the event is a duplicate."},
        "source": {**_NAME, "description": "Who sends: a cluster, a gateway. With `id` the event's identity."},
        "type": {**_NAME, "description": "What kind of usage it says; meters count events of a type."},
        "subject": {**_NAME, "minLength": 0, "description": "Whose usage it is: a project, an organisation, a device."},
        "time": {"type": "string", "format": "date-time", "description": "RFC 3339 with its offset from UTC."},
        "data": {
            "type": "object",
            "description": (
                f"At most {MAX_DATA_BYTES:,} bytes of JSON. Values are numbers or decimal strings of at most 38 digits,"
                " kept exactly as sent."
            ),
        },
    },
    "example": {
        "specversion": "1.0",
        "id": "1",
        "source": "cluster-7",
        "type": "nimbus.gpu.usage",
        "subject": "nimbus-project-n-1001",
        "time": "2026-10-01T10:00:00Z",
        "data": {"hours": "8", "gpu": "h100", "region": "eu-north-1"},
    },
}
_OUTCOME = {
    "type": "object",
    "description": "What became of the events of a request.",
    "required": ["batch", "accepted", "duplicates", "quarantined", "rejected"],
    "properties": {
        "batch": {"type": "integer", "description": "The number under which the request is kept."},
        "accepted": {**_COUNT, "description": "New events, counted as of this answer."},
        "duplicates": {**_COUNT, "description": "Events that were known with the same content."},
        "quarantined": {**_COUNT, "description": "Events that wait until they can be counted."},
        "rejected": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Rejection"},
            "description": "Events that can never be counted as they are; they are listed under Loads, too.",
        },
    },
    "example": {"batch": 41, "accepted": 1, "duplicates": 0, "quarantined": 0, "rejected": []},
}
_REJECTION: dict[str, Any] = {
    "type": "object",
    "description": "An event that was refused; all others of the request were taken.",
    "required": ["index", "id", "reason", "detail"],
    "properties": {
        "index": {**_COUNT, "description": "Position in the request, from 0."},
        "id": {"type": "string", "description": "The event's own, as far as it has one."},
        "reason": {
            "type": "string",
            "enum": ["malformed", "conflict", "foreign_subject", "foreign_source", OUT_OF_SCOPE],
            "description": "`conflict`: the same identity was sent with other content. `foreign_subject`,"
            " `foreign_source`: not for this key. `out_of_scope`: not of the backfill's source, period, types or"
            " customers.",
        },
        "detail": {"type": "string", "description": "For a person: what is wrong."},
    },
}
_PROBLEM = {
    **_REJECTION,
    "description": "An event that is filled in and could not be counted as things stand.",
    "properties": {
        **_REJECTION["properties"],
        "reason": {"type": "string", "enum": QuarantinedEvent.Reason.values, "description": "As in quarantine."},
    },
}
_STAGED = {
    "type": "object",
    "description": "What became of the events of a request that names a backfill.",
    "required": ["backfill", "staged", "duplicates", "problems", "rejected"],
    "properties": {
        "backfill": {"type": "integer", "description": "The backfill that they are filled into."},
        "staged": {**_COUNT, "description": "New events in it; they count once it is closed."},
        "duplicates": {**_COUNT, "description": "Events that were filled in before with the same content."},
        "problems": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/EventProblem"},
            "description": "Those of the staged events that could not be counted as things stand.",
        },
        "rejected": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Rejection"},
            "description": "Events that are not filled in; they are listed with the backfill, too.",
        },
    },
    "example": {"backfill": 7, "staged": 1, "duplicates": 0, "problems": [], "rejected": []},
}
_BACKFILL = {
    "name": "backfill",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1},
    "description": (
        "Fill the events into this open backfill instead: they are checked now, and count when it is closed."
    ),
}
_FORMS = (
    "One event, an array or JSON lines; plain JSON whose first line is a whole object, with more lines after it, is"
    " read as JSON lines. With the headers `ce-specversion`, `ce-id`, `ce-source`, `ce-type`, `ce-time`, `ce-subject`"
    " the request is one event in CloudEvents' binary mode, with the body as its data."
)
_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "schema": {"type": "string", "enum": ["gzip", "identity"], "default": "identity"},
    "description": "How the body is packed. The limit on its size holds for what is unpacked.",
}
_REFUSALS = {
    "400": "The body is not JSON, is no event and no array, or is not the gzip that it says it is.",
    "401": KEY_REFUSED,
    "403": "The API key lacks the scope events:write, or its customer is deactivated.",
    "404": "There is no such backfill, or none for this key.",
    "409": "The backfill is not open.",
    "413": f"The body is too large, or holds more than {MAX_EVENTS:,} events or {MAX_VALUES:,} JSON values.",
    "415": "The body is of a content type, a character set or an encoding that is not read.",
    "422": "The address holds a parameter that is not known; nothing was taken.",
    "429": "More comes in than is taken at once; nothing was taken. Send the same request again after Retry-After.",
    "503": "The database does not answer; nothing was taken. Send the same request again after Retry-After.",
}


def describe_events(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add `POST /api/v1/events` to the description; a postprocessing hook of drf-spectacular."""
    event, outcome = component(result, "Event", _EVENT), component(result, "Outcome", _OUTCOME)
    component(result, "Rejection", _REJECTION)
    component(result, "EventProblem", _PROBLEM)
    staged = component(result, "Staged", _STAGED)
    accepted = {
        "description": "What became of each event. Sending the same request again changes nothing.",
        "content": json_of({"oneOf": [outcome, staged]}),
    }
    array = {"type": "array", "items": event, "maxItems": MAX_EVENTS}
    lines = {"type": "string", "description": f"One event a line, at most {MAX_EVENTS:,}; blank lines are nothing."}
    bodies = dict.fromkeys(CONTENT_TYPES, lines) | {
        "application/json": {"oneOf": [event, array]},
        "application/cloudevents+json": event,
        "application/cloudevents-batch+json": array,
    }
    result["paths"].setdefault("/api/v1/events", {})["post"] = {
        "operationId": "events_create",
        "summary": "Send usage events",
        "description": _FORMS,
        "tags": ["usage"],
        "security": [{"apiKey": []}],
        "parameters": [_ENCODING, _BACKFILL],
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in bodies.items()},
        },
        "responses": {"200": accepted, **refusals(result, _REFUSALS)},
    }
    schemes = result.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes.setdefault("apiKey", {"type": "http", "scheme": "bearer", "bearerFormat": "ch_<prefix>_<random>"})
    return result
