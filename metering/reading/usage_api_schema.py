"""Describes the doors for reading usage in the API's own description; they are plain views."""

from __future__ import annotations

from typing import Any

from metering.reading.event_list import MAX_EVENTS_A_PAGE
from metering.reading.usage_questions import ABSENT, MAX_ROWS, MAX_WINDOWS

_MOMENT = {"type": "string", "format": "date-time"}
_PROBLEM = {"application/problem+json": {"schema": {"type": "object"}}}
_REFUSALS = {
    "401": "The API key is missing, unknown, expired or revoked.",
    "403": "The API key lacks the scope usage:read, or its customer is deactivated.",
    "404": "There is no such customer, or not for this key, or no such meter.",
    "422": "What is asked contradicts itself, lies within an hour of UTC, or is too much at once.",
}
_ROW = {
    "type": "object",
    "required": ["start", "end", "group", "quantity", "events"],
    "properties": {
        "start": _MOMENT,
        "end": _MOMENT,
        "group": {"type": "object", "additionalProperties": {"type": "string", "nullable": True}},
        "quantity": {"type": "string", "format": "decimal", "description": "By the meter's aggregation; exact."},
        "events": {"type": "integer", "description": "Events of the window itself; none, where a level holds."},
    },
}
_USAGE = {
    "type": "object",
    "required": ["customer", "meter", "aggregation", "unit", "start", "end", "window", "rows", "data_as_of"],
    "properties": {
        "customer": {"type": "string"},
        "meter": {"type": "string"},
        "aggregation": {"type": "string"},
        "unit": {"type": "string"},
        "start": _MOMENT,
        "end": _MOMENT,
        "window": {"type": "string"},
        "time_zone": {"type": "string"},
        "group_by": {"type": "array", "items": {"type": "string"}},
        "rows": {
            "type": "array",
            "items": _ROW,
            "maxItems": MAX_ROWS,
            "description": "A window without usage has none. Months whose events are archived keep their figures.",
        },
        "data_as_of": {**_MOMENT, "description": "All usage acknowledged until then is in the figures."},
    },
}
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "source": {"type": "string"},
        "type": {"type": "string"},
        "subject": {"type": "string"},
        "time": _MOMENT,
        "data": {"type": "object"},
        "batch": {"type": "integer", "description": "The batch that it came with."},
        "received_at": {**_MOMENT, "nullable": True},
        "state": {"type": "string", "enum": ["counted", "voided", "replaced"]},
        "series": {"type": "array", "items": {"type": "object"}, "description": "What it counts in by now."},
        "amended_by": {"type": "array", "items": {"type": "integer"}, "description": "Batches of corrections."},
        "late": {"type": "boolean", "description": "It came in, or was back-filled, after its period had been billed."},
        "correction": {"type": "integer", "nullable": True, "description": "The newest correction of it."},
        "stands_in_by": {
            "type": "integer",
            "nullable": True,
            "description": "The correction that put it in the place of another event.",
        },
    },
}
_ARCHIVED = {
    "type": "object",
    "required": ["month", "start", "end", "archived_at"],
    "properties": {
        "month": {"type": "string", "description": "Such as 2024-08."},
        "start": _MOMENT,
        "end": {**_MOMENT, "description": "The first moment that is not of it."},
        "archived_at": _MOMENT,
    },
}
_EVENTS = {
    "type": "object",
    "required": ["events", "next", "archived"],
    "properties": {
        "events": {"type": "array", "items": _EVENT},
        "next": {"type": "string", "nullable": True, "description": "The `cursor` of the next page; null: the last."},
        "archived": {
            "type": "array",
            "items": _ARCHIVED,
            "description": "Months (UTC) of the period whose events were moved to the archive and are not listed; what "
            "they add up to stays. Empty: nothing is left out.",
        },
    },
}


def _parameter(name: str, text: str, *, is_required: bool = False, **schema: object) -> dict[str, object]:
    return {
        "name": name,
        "in": "query",
        "required": is_required,
        "description": text,
        "schema": {"type": "string", **schema},
    }


_PERIOD = [
    _parameter("customer", "Code or id. A key of one customer asks for its own, and may leave it out."),
    _parameter("month", "Such as 2026-10, in the time zone. Either this or `start` and `end`."),
    _parameter("start", "A local date, or an instant with its offset."),
    _parameter("end", "A local date, or an instant with its offset; it is the first that is left out."),
    _parameter("time_zone", "An IANA name; the one in which the customer is billed unless given."),
]
_FREE = {"style": "deepObject", "explode": True}
_FILTER = _parameter("filter", f"`filter[name]=value`, several times for any of them; {ABSENT}: no such dimension.")
_DATA = _parameter("data", "`data[name]=value`: what the event's data holds under the name, as text.")
_OF_USAGE = [
    _parameter("meter", "The code of a meter.", is_required=True),
    *_PERIOD,
    _parameter("window", f"At most {MAX_WINDOWS:,} windows.", enum=["hour", "day", "month", "none"], default="none"),
    _parameter("group_by", "Dimensions of the meter, with commas between."),
    {**_FILTER, **_FREE, "schema": {"type": "object"}},
]
_OF_EVENTS = [
    *_PERIOD,
    *[_parameter(name, f"The event's {name}.") for name in ("type", "source", "id", "subject")],
    _parameter("meter", "The code of a meter that counts, or counted, the events."),
    {**_FILTER, **_FREE, "schema": {"type": "object"}},
    {**_DATA, **_FREE, "schema": {"type": "object"}},
    _parameter("limit", "Events a page.", type="integer", minimum=1, maximum=MAX_EVENTS_A_PAGE, default=100),
    _parameter("cursor", "Where to go on: `next` of the page before. Events that come in later move no page."),
]


def describe_reads(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add `GET /api/v1/usage` and `GET /api/v1/events`; a postprocessing hook of drf-spectacular."""
    refusals = {status: {"description": text, "content": _PROBLEM} for status, text in _REFUSALS.items()}
    unchanged = {"304": {"description": "The figures are those of the ETag in If-None-Match."}}
    doors = {
        "/api/v1/usage": ("usage_read", "Read usage", _OF_USAGE, _USAGE, unchanged),
        "/api/v1/events": ("events_list", "Read usage events", _OF_EVENTS, _EVENTS, {}),
    }
    for address, (name, summary, parameters, schema, more) in doors.items():
        found = {"description": "As of now.", "content": {"application/json": {"schema": schema}}}
        result["paths"].setdefault(address, {})["get"] = {
            "operationId": name,
            "summary": summary,
            "tags": ["usage"],
            "security": [{"apiKey": []}],
            "parameters": parameters,
            "responses": {"200": found, **more, **refusals},
        }
    return result
