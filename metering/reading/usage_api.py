"""The API's doors for reading usage: quantities, and the events that they are made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from accounts.api_keys import authenticate_api_key
from accounts.errors import DetailsInvalid
from accounts.models import ApiKey
from accounts.pages import whole_number
from metering.aggregations import quantity_unit
from metering.counting import plain
from metering.door.api import post_events
from metering.reading.event_list import (
    MAX_EVENTS_A_PAGE,
    EventPage,
    ListedEvent,
    cursor_text,
    list_events,
    read_cursor,
)
from metering.reading.usage_questions import UsageAnswer, UsageQuestion, answer, read_events_asked, read_question
from metering.reading.words import Words
from metering.retention.retention import AwayMonth, archived_months

_EVENTS_A_PAGE = 100
_PERIOD = ("customer", "month", "start", "end", "time_zone")
_OF_USAGE = ("meter", "window")
_OF_EVENTS = ("type", "source", "id", "subject", "meter", "limit", "cursor")


@require_safe
def get_usage(request: HttpRequest) -> HttpResponse:
    """Answer one meter's usage of one customer; 304 where the caller has the same figures already.

    A plain view, for dashboards ask often and the answer is due in milliseconds. `config.errors` answers what is
    raised here.
    """
    at = timezone.now()
    key = _reader(request, at)
    words = _words(request, _OF_USAGE, more_than_once=["group_by"], in_brackets={"filter": True})
    question = read_question(words, own_customer_id=key.customer_id)
    body = _usage_body(question, answer(question, at=at))
    # When it was asked is no part of what is asked for: the same figures have the same tag.
    tag = f'"{blake2b(msgspec.json.encode(body), digest_size=16).hexdigest()}"'
    known = {each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")}
    if not known.isdisjoint({tag, "*"}):
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
    words = _words(request, _OF_EVENTS, in_brackets={"filter": True, "data": False})
    question = read_events_asked(words, own_customer_id=key.customer_id).question
    cursor = words.one("cursor")
    found = list_events(question, limit=_limit(words), after=read_cursor(cursor) if cursor else None)
    away = archived_months(question.period.start, question.period.end)
    return HttpResponse(msgspec.json.encode(_events_body(found, away)), content_type="application/json")


def _reader(request: HttpRequest, at: datetime) -> ApiKey:
    return authenticate_api_key(
        authorization_header=request.headers.get("Authorization"), scope=ApiKey.Scope.USAGE_READ, at=at
    )


def _words(request: HttpRequest, once: Collection[str], **known: Any) -> Words:
    words = Words(dict(request.GET.lists()))
    words.require_only([*_PERIOD, *once], **known)
    return words


def _limit(words: Words) -> int:
    number = whole_number(words.one("limit") or str(_EVENTS_A_PAGE))
    if number is None or not 1 <= number <= MAX_EVENTS_A_PAGE:
        raise DetailsInvalid({"limit": [f"A page has 1 to {MAX_EVENTS_A_PAGE:,} events."]})
    return number


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
