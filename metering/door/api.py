"""The API's door for events: reads the body, asks ingestion once, answers after the commit."""

from __future__ import annotations

from datetime import datetime

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from accounts.access import Actor
from accounts.api_keys import authenticate_api_key
from accounts.models import ApiKey
from accounts.pages import whole_number
from accounts.request_context import current_request_id
from metering.door.admission import admitted
from metering.door.bodies import decode_events, read_body
from metering.ingestion import Door, IngestResult, ingest
from metering.reading.words import Words
from metering.usage_backfills.staging import stage_events


@csrf_exempt
@require_POST
def post_events(request: HttpRequest) -> HttpResponse:
    """Take CloudEvents in any form that `metering.door.bodies` reads; answers 200 with what became of each event.

    A plain view and not one of REST framework's: at this rate each layer is felt. `config.errors` answers what is
    raised here.
    """
    at = timezone.now()
    key = authenticate_api_key(
        authorization_header=request.headers.get("Authorization"),
        scope=ApiKey.Scope.EVENTS_WRITE,
        at=at,
    )
    # A misspelt `backfill` would count for good what was only to be filled in.
    Words(dict(request.GET.lists())).require_only(["backfill"], in_brackets={})
    body = _body(request)
    if "backfill" in request.GET:
        return _fill_in(request, body, key, at=at)
    with admitted():
        result = ingest(
            events=decode_events(body, content_type=request.headers.get("Content-Type", ""), headers=request.headers),
            door=Door.API,
            origin=current_request_id(),
            api_key_id=key.pk,
            customer_id=key.customer_id,
            source=key.source,
            actor=Actor.of_key(key, request_id=current_request_id()),
            at=at,
        )
    return HttpResponse(_answer(result), content_type="application/json")


def _fill_in(request: HttpRequest, body: bytes, key: ApiKey, *, at: datetime) -> HttpResponse:
    """Fill the events into the backfill that the address names; they count when it is closed."""
    with admitted():
        result = stage_events(
            backfill_id=whole_number(request.GET["backfill"]) or 0,
            events=decode_events(body, content_type=request.headers.get("Content-Type", ""), headers=request.headers),
            customer_id=key.customer_id,
            source=key.source,
            actor=Actor.of_key(key, request_id=current_request_id()),
            at=at,
        )
    answer = {
        "backfill": result.backfill_id,
        "staged": result.staged,
        "duplicates": result.duplicates,
        "problems": result.problems,
        "rejected": result.rejected,
    }
    return HttpResponse(msgspec.json.encode(answer), content_type="application/json")


def _body(request: HttpRequest) -> bytes:
    # Read from the stream: Django's own limit on `request.body` is meant for forms, and answers with a page.
    stream = request.META["wsgi.input"] if _is_of_unstated_length(request) else request
    length = request.META.get("CONTENT_LENGTH") or ""
    return read_body(
        read=stream.read,
        stated_length=int(length) if length.isascii() and length.isdigit() else 0,
        encoding=request.headers.get("Content-Encoding", "").strip().lower(),
        limit=settings.INGEST_BODY_LIMIT_BYTES,
    )


def _is_of_unstated_length(request: HttpRequest) -> bool:
    """Whether the body comes as `Transfer-Encoding: chunked`, which Django takes for empty and the server ends."""
    return not request.META.get("CONTENT_LENGTH") and bool(request.META.get("wsgi.input_terminated"))


def _answer(result: IngestResult) -> bytes:
    return msgspec.json.encode(
        {
            "batch": result.batch_id,
            "accepted": result.accepted,
            "duplicates": result.duplicates,
            "quarantined": result.quarantined,
            "rejected": result.rejected,
        },
    )
