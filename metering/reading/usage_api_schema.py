"""Describes the doors for reading usage in the API's own description; they are plain views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accounts.api_schema import KEY_REFUSED, component, json_of, refusals
from accounts.periods import Grain
from metering.aggregations import Aggregation
from metering.reading.event_list import MAX_EVENTS_A_PAGE
from metering.reading.usage_questions import ABSENT, MAX_ROWS, MAX_WINDOWS

_MOMENT = {"type": "string", "format": "date-time"}
_REFUSALS = {
    "401": KEY_REFUSED,
    "403": "The API key lacks the scope usage:read, or its customer is deactivated.",
    "404": "There is no such customer, or not for this key, or no such meter.",
    "422": "What is asked is not known, contradicts itself, is too much at once, or takes too long.",
    "503": "The database does not answer. Ask again after Retry-After.",
}
_DIMENSIONS = {"type": "object", "additionalProperties": {"type": "string"}}
_ROW = {
    "type": "object",
    "description": "One window and group that saw usage.",
    "required": ["start", "end", "group", "quantity", "events"],
    "properties": {
        "start": {**_MOMENT, "description": "The first moment of the window."},
        "end": {**_MOMENT, "description": "The first moment after it."},
        "group": {
            "type": "object",
            "description": "The value of each dimension grouped by; null: the events did not have it.",
            "additionalProperties": {"type": "string", "nullable": True},
        },
        "quantity": {
            "type": "string",
            "format": "decimal",
            "description": (
                "By the meter's aggregation, in `unit`; exact, as a decimal of any length without exponent. A level"
                " over time, or a meter's division, that never ends is rounded half up at 18 places."
            ),
        },
        "events": {"type": "integer", "description": "Events of the window itself; none, where a level holds."},
    },
}
_USAGE = {
    "type": "object",
    "description": "One meter's usage of one customer.",
    "required": [
        *("customer", "meter", "aggregation", "unit", "start", "end"),
        *("window", "time_zone", "group_by", "rows", "data_as_of"),
    ],
    "properties": {
        "customer": {"type": "string", "description": "The customer's code."},
        "meter": {"type": "string", "description": "The meter's code."},
        "aggregation": {"type": "string", "enum": list(Aggregation), "description": "How events become a quantity."},
        "unit": {"type": "string", "description": "What quantities are in; of a level, its unit over time."},
        "start": {**_MOMENT, "description": "The first moment of the period."},
        "end": {**_MOMENT, "description": "The first moment after it."},
        "window": {"type": "string", "enum": list(Grain), "description": "What the period was cut into."},
        "time_zone": {"type": "string", "description": "In which days and months are meant: an IANA name."},
        "group_by": {"type": "array", "items": {"type": "string"}, "description": "The dimensions grouped by."},
        "rows": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/UsageRow"},
            "maxItems": MAX_ROWS,
            "description": "In order of time and group. A window without usage has none. Months whose events are "
            "archived keep their figures.",
        },
        "data_as_of": {**_MOMENT, "description": "All usage acknowledged until then is in the figures."},
    },
    "example": {
        "customer": "N-1001",
        "meter": "gpu-hours",
        "aggregation": "sum",
        "unit": "GPU hours",
        "start": "2026-10-01T00:00:00Z",
        "end": "2026-11-01T00:00:00Z",
        "window": "day",
        "time_zone": "Europe/Dublin",
        "group_by": ["gpu"],
        "rows": [
            {
                "start": "2026-10-01T00:00:00Z",
                "end": "2026-10-02T00:00:00Z",
                "group": {"gpu": "h100"},
                "quantity": "8",
                "events": 1,
            }
        ],
        "data_as_of": "2026-10-01T10:00:03.141592Z",
    },
}
_SERIES = {
    "type": "object",
    "description": "One meter of a customer with one set of dimension values.",
    "required": ["id", "meter", "dimensions"],
    "properties": {
        "id": {"type": "integer", "description": "Its number."},
        "meter": {"type": "string", "description": "The meter's code."},
        "dimensions": {**_DIMENSIONS, "description": "The values by which the meter keeps events apart."},
    },
}
_CORRECTION = {"type": "integer", "nullable": True}
_EVENT = {
    "type": "object",
    "description": "An event as it came, and what became of it.",
    "required": [
        *("id", "source", "type", "subject", "time", "data", "batch", "received_at"),
        *("state", "series", "amended_by", "late", "correction", "stands_in_by"),
    ],
    "properties": {
        "id": {"type": "string", "description": "As it was sent; empty where the event was erased by law."},
        "source": {"type": "string", "description": "Who sent it; with `id` its identity."},
        "type": {"type": "string", "description": "What kind of usage it says."},
        "subject": {"type": "string", "description": "Whose usage it is."},
        "time": {**_MOMENT, "description": "When it was used."},
        "data": {"type": "object", "description": "As it was sent, every digit of it."},
        "batch": {"type": "integer", "description": "The batch that it came with."},
        "received_at": {**_MOMENT, "nullable": True, "description": "When that batch came in."},
        "state": {
            "type": "string",
            "enum": ["counted", "voided", "replaced"],
            "description": "Whether it counts; `replaced`: another event counts in its place.",
        },
        "series": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/UsageSeries"},
            "description": "What it counts in by now.",
        },
        "amended_by": {"type": "array", "items": {"type": "integer"}, "description": "Batches of corrections."},
        "late": {"type": "boolean", "description": "It came in, or was back-filled, after its period had been billed."},
        "correction": {**_CORRECTION, "description": "The newest correction of it."},
        "stands_in_by": {**_CORRECTION, "description": "The correction that put it in the place of another event."},
    },
}
_ARCHIVED = {
    "type": "object",
    "description": "A month whose events lie in the archive.",
    "required": ["month", "start", "end", "archived_at"],
    "properties": {
        "month": {"type": "string", "description": "Such as 2024-08."},
        "start": {**_MOMENT, "description": "Its first moment, in UTC."},
        "end": {**_MOMENT, "description": "The first moment that is not of it."},
        "archived_at": {**_MOMENT, "description": "When its events were moved."},
    },
}
_EVENTS = {
    "type": "object",
    "description": "A page of events, by time.",
    "required": ["events", "next", "archived"],
    "properties": {
        "events": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/ListedEvent"},
            "maxItems": MAX_EVENTS_A_PAGE,
            "description": "By time; of one time in an order that stays the same.",
        },
        "next": {"type": "string", "nullable": True, "description": "The `cursor` of the next page; null: the last."},
        "archived": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/ArchivedMonth"},
            "description": "Months (UTC) of the period whose events were moved to the archive and are not listed; what "
            "they add up to stays. Empty: nothing is left out.",
        },
    },
    "example": {
        "events": [
            {
                "id": "1",
                "source": "cluster-7",
                "type": "nimbus.gpu.usage",
                "subject": "nimbus-project-n-1001",
                "time": "2026-10-01T10:00:00Z",
                "data": {"hours": "8", "gpu": "h100", "region": "eu-north-1"},
                "batch": 41,
                "received_at": "2026-10-01T10:00:02.718281Z",
                "state": "counted",
                "series": [{"id": 7, "meter": "gpu-hours", "dimensions": {"gpu": "h100", "region": "eu-north-1"}}],
                "amended_by": [],
                "late": False,
                "correction": None,
                "stands_in_by": None,
            }
        ],
        "next": None,
        "archived": [],
    },
}
_SHAPES: Mapping[str, Mapping[str, object]] = {
    "UsageRow": _ROW,
    "Usage": _USAGE,
    "UsageSeries": _SERIES,
    "ListedEvent": _EVENT,
    "ArchivedMonth": _ARCHIVED,
    "EventPage": _EVENTS,
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
_VALUES = {"type": "object", "additionalProperties": {"type": "string"}}
_FILTER = {
    **_parameter(
        "filter",
        f"`filter[name]=value` with a dimension of the meter, several times for any of them; {ABSENT}: none.",
    ),
    **_FREE,
    "schema": _VALUES,
}
_DATA = {
    **_parameter("data", "`data[name]=value`: what the event's data holds under the name, as text."),
    **_FREE,
    "schema": _VALUES,
}
_OF_USAGE = [
    _parameter("meter", "The code of a meter.", is_required=True),
    *_PERIOD,
    _parameter(
        "window",
        f"What the period is cut into, at most {MAX_WINDOWS:,} of them. They begin at full hours of UTC, so days and "
        "months of a time zone that is not whole hours from UTC are refused.",
        enum=list(Grain),
        default="none",
    ),
    _parameter("group_by", "Dimensions of the meter, with commas between."),
    _FILTER,
    {
        **_parameter("If-None-Match", "The ETag of the answer before: 304 where nothing has changed since."),
        "in": "header",
    },
]
_OF_EVENTS = [
    *_PERIOD,
    *[_parameter(name, f"The event's {name}.") for name in ("type", "source", "id", "subject")],
    _parameter("meter", "The code of a meter that counts, or counted, the events."),
    _FILTER,
    _DATA,
    _parameter("limit", "Events a page.", type="integer", minimum=1, maximum=MAX_EVENTS_A_PAGE, default=100),
    _parameter("cursor", "Where to go on: `next` of the page before. Events that come in later move no page."),
]
_TAG = {"ETag": {"schema": {"type": "string"}, "description": "Names these figures; the same as long as they are."}}


def describe_reads(result: dict[str, Any], **_: object) -> dict[str, Any]:
    """Add `GET /api/v1/usage` and `GET /api/v1/events`; a postprocessing hook of drf-spectacular."""
    shapes = {name: component(result, name, shape) for name, shape in _SHAPES.items()}
    unchanged = {"304": {"description": "The figures are those of the ETag in If-None-Match.", "headers": _TAG}}
    found: dict[str, dict[str, object]] = {
        "/api/v1/usage": {
            "operationId": "usage_read",
            "summary": "Read usage",
            "description": "What was acknowledged is in the next answer. Parameters that are not listed are refused.",
            "parameters": _OF_USAGE,
            "responses": {
                "200": {"description": "The figures.", "headers": _TAG, "content": json_of(shapes["Usage"])},
                **unchanged,
                **refusals(result, _REFUSALS),
            },
        },
        "/api/v1/events": {
            "operationId": "events_list",
            "summary": "Read usage events",
            "description": "The events of a period by time, page by page. Parameters that are not listed are refused.",
            "parameters": _OF_EVENTS,
            "responses": {
                "200": {"description": "A page of them.", "content": json_of(shapes["EventPage"])},
                **refusals(result, _REFUSALS),
            },
        },
    }
    for address, door in found.items():
        door |= {"tags": ["usage"], "security": [{"apiKey": []}]}
        result["paths"].setdefault(address, {})["get"] = door
    return result
