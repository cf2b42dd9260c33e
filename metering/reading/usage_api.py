"""The API's doors for reading usage: quantities, and the events that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from http import HTTPStatus

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods

from accounts.api_keys import authenticate_api_key
from accounts.errors import DetailsInvalid
from accounts.models import ApiKey
from metering.aggregations import quantity_unit
from metering.counting import plain
from metering.door.api import post_events
from metering.errors import MeterUnknown
from metering.models import Meter
from metering.reading.event_list import (
    MAX_EVENTS_A_PAGE,
    EventPage,
    EventQuestion,
    ListedEvent,
    cursor_text,
    list_events,
    read_cursor,
)
from metering.reading.usage_questions import (
    UsageAnswer,
    UsageQuestion,
    answer,
    customer_asked,
    period_asked,
    read_question,
    zone_asked,
)
from metering.retention.retention import AwayMonth, archived_months

_EVENTS_A_PAGE = 100
_DATA = ("data[", "]")


@require_GET
def get_usage(request: HttpRequest) -> HttpResponse:
    """Answer one meter's usage of one customer; 304 where the caller has the same figures already.

    A plain view, for dashboards ask often and the answer is due in milliseconds. `config.errors` answers what is
    raised here.
    """
    at = timezone.now()
    key = _reader(request, at)
    question = read_question(_words(request), own_customer_id=key.customer_id)
    body = _usage_body(question, answer(question, at=at))
    # When it was asked is no part of what is asked for: the same figures have the same tag.
    tag = f'"{blake2b(msgspec.json.encode(body), digest_size=16).hexdigest()}"'
    if tag in [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]:
        response = HttpResponse(status=HTTPStatus.NOT_MODIFIED)
    else:
        body["data_as_of"] = _instant(at)
        response = HttpResponse(msgspec.json.encode(body), content_type="application/json")
    response["ETag"] = tag
    response["Cache-Control"] = "private, no-cache"
    return response


@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
def events(request: HttpRequest) -> HttpResponse:
    """Take events, or answer with those that were taken."""
    return post_events(request) if request.method == "POST" else _get_events(request)


def _get_events(request: HttpRequest) -> HttpResponse:
    key = _reader(request, timezone.now())
    words = _words(request)
    customer = customer_asked(_one(words, "customer"), own_customer_id=key.customer_id)
    question = EventQuestion(
        customer_id=customer.pk,
        period=period_asked(words, zone_asked(_one(words, "time_zone"), customer)),
        type=_one(words, "type"),
        source=_one(words, "source"),
        event_id=_one(words, "id"),
        subject=_one(words, "subject"),
        data={
            name[len(_DATA[0]) : -1]: values[-1]
            for name, values in words.items()
            if name.startswith(_DATA[0]) and name.endswith(_DATA[1])
        },
        meter_id=_meter_id(_one(words, "meter")),
    )
    cursor = _one(words, "cursor")
    found = list_events(question, limit=_limit(words), after=read_cursor(cursor) if cursor else None)
    away = archived_months(question.period.start, question.period.end)
    return HttpResponse(msgspec.json.encode(_events_body(found, away)), content_type="application/json")


def _reader(request: HttpRequest, at: datetime) -> ApiKey:
    return authenticate_api_key(
        authorization_header=request.headers.get("Authorization"), scope=ApiKey.Scope.USAGE_READ, at=at
    )


def _words(request: HttpRequest) -> Mapping[str, Sequence[str]]:
    words = {name: request.GET.getlist(name) for name in request.GET}
    if any("\0" in text for name, values in words.items() for text in (name, *values)):
        raise DetailsInvalid({"": ["No value holds a NUL."]})
    return words


def _one(words: Mapping[str, Sequence[str]], name: str) -> str:
    values = words.get(name, ())
    return values[-1] if values else ""


def _meter_id(code: str) -> int | None:
    if not code:
        return None
    found = Meter.objects.filter(code=code).values_list("pk", flat=True).first()
    if found is None:
        raise MeterUnknown
    return int(found)


def _limit(words: Mapping[str, Sequence[str]]) -> int:
    text = _one(words, "limit") or str(_EVENTS_A_PAGE)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_EVENTS_A_PAGE):
        raise DetailsInvalid({"limit": [f"A page has 1 to {MAX_EVENTS_A_PAGE:,} events."]})
    return int(text)


def _usage_body(question: UsageQuestion, found: UsageAnswer) -> dict[str, object]:
    return {
        "customer": question.customer_code,
        "meter": question.meter.code,
        "aggregation": question.meter.aggregation,
        "unit": quantity_unit(question.meter.aggregation, question.meter.unit),
        "start": _instant(question.period.start),
        "end": _instant(question.period.end),
        "window": str(question.grain),
        "time_zone": question.time_zone,
        "group_by": question.group_by,
        "rows": [
            {
                "start": _instant(row.start),
                "end": _instant(row.end),
                "group": row.group,
                "quantity": plain(row.quantity),
                "events": row.event_count,
            }
            for row in found.rows
        ],
    }


def _events_body(found: EventPage, away: Sequence[AwayMonth]) -> dict[str, object]:
    return {
        "events": [_event(each) for each in found.events],
        "next": cursor_text(found.following) if found.following else None,
        # How many events a month has is not for every key to know: they are those of all customers.
        "archived": [
            {
                "month": f"{each.month:%Y-%m}",
                "start": _instant(each.start),
                "end": _instant(each.end),
                "archived_at": _instant(each.archived_at),
            }
            for each in away
        ],
    }


def _event(each: ListedEvent) -> dict[str, object]:
    return {
        "id": each.id,
        "source": each.source,
        "type": each.type,
        "subject": each.subject,
        "time": _instant(each.time),
        # As it is stored: a number of 38 digits would not survive a float.
        "data": msgspec.Raw(each.data.encode()),
        "batch": each.batch,
        "received_at": _instant(each.received_at) if each.received_at else None,
        "state": each.state,
        "series": [{"id": of.id, "meter": of.meter, "dimensions": of.dimensions} for of in each.series],
        "amended_by": each.amended_by,
        "late": each.late,
        "correction": each.correction_id,
        "stands_in_by": each.stands_in_by,
    }


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
