"""The form of a new correction: events ticked in the explorer or all it found, that share something, or of a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import TooManyFieldsSent
from django.core.files.uploadedfile import UploadedFile
from django.http import QueryDict
from django.utils.dateparse import parse_date

from accounts.errors import CountinghouseError
from accounts.models import Customer
from accounts.periods import start_of_day
from metering.corrections.correction_selection import EventFilter, NamedEvent, count_by_filter, filter_of, read_file
from metering.corrections.correction_words import words_of
from metering.errors import CorrectionFileInvalid, CorrectionSelectionInvalid
from metering.models import Meter, UsageEvent
from metering.reading.event_list import read_cursor
from metering.reading.usage_questions import read_events_asked
from metering.reading.words import Words

# The ways to say which events are meant.
TICKED, ASKED, NAMED, SHARED, LISTED = "ticked", "asked", "named", "shared", "listed"
_FILE_BYTES = 20 * 1024 * 1024
_MOST_TICKED = 100
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an event that a meter reads: where it lies, what it is, and the field in which another is typed."""

    path: str
    now: str
    field: str
    typed: str


@dataclass(frozen=True, slots=True)
class TickedEvent:
    """An event that was ticked, with the values that count."""

    place: str
    event: UsageEvent
    values: list[Value]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a form asks for."""

    events: EventFilter | Sequence[NamedEvent]
    changes: Mapping[str, str]


def way_of(sent: QueryDict) -> str:
    """Return in which way a form says which events are meant; what was not said follows from what was filled in."""
    said = sent.get("way", "")
    if said in {TICKED, ASKED, NAMED, SHARED, LISTED}:
        return said
    if sent.getlist("event"):
        return TICKED
    return NAMED if sent.get("event_id", "").strip() else SHARED


def ticked_events(sent: QueryDict) -> list[TickedEvent]:
    """Return the events that were ticked, by time; what is not there (any more) is left out. Two queries."""
    customer = Customer.objects.filter(code=sent.get("customer", "").strip()).first()
    places = {}
    for text in sent.getlist("event")[:_MOST_TICKED]:
        try:
            places[read_cursor(text)] = text
        except CountinghouseError:
            continue
    if customer is None or not places:
        return []
    found = UsageEvent.objects.filter(
        customer_id=customer.pk,
        time__in={place.time for place in places},
        key__in={place.key for place in places},
    ).exclude(event_id="")
    events = [(places[place], event) for event in found if (place := (event.time, event.key)) in places]
    paths = _paths({event.type for _, event in events})
    return [
        TickedEvent(text, event, _values(event, paths[event.type], sent, number))
        for number, (text, event) in enumerate(sorted(events, key=lambda pair: (pair[1].time, pair[1].event_id)))
    ]


def _paths(types: set[str]) -> Mapping[str, list[str]]:
    """Return the places in the data that meters of each type read."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    read = Meter.objects.filter(event_type__in=types, is_active=True).exclude(versions__value_path="")
    for kind, path in read.order_by("event_type").values_list("event_type", "versions__value_path").distinct():
        found[kind].append(path)
    return found


def _values(event: UsageEvent, paths: Sequence[str], sent: QueryDict, number: int) -> list[Value]:
    values = []
    for position, path in enumerate(paths):
        field, now = f"new-{number}-{position}", _read(event.data, path)
        values.append(Value(path, now, field, sent.get(field, now).strip()))
    return values


def _read(data: Any, path: str) -> str:
    if isinstance(data, Mapping) and path in data:
        return str(data[path])
    for name in path.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    return "" if data is None else str(data)


def read_form(sent: QueryDict, upload: UploadedFile[bytes] | None) -> Asked:
    """Read what a form asks for.

    Raises: CorrectionSelectionInvalid, CorrectionFileInvalid.
    """
    voids = sent.get("effect") == "void"
    changes = {} if voids else _pairs(sent.get("changes", ""))
    if sent.get("effect") == "replace" and not changes and way_of(sent) in {ASKED, NAMED, SHARED}:
        message = "Say which values count instead, or choose that the events do not count."
        raise CorrectionSelectionInvalid(message)
    events = _chosen(sent, upload, voids=voids, changes=changes)
    # Ticked events have theirs each on its own.
    return Asked(events, {} if way_of(sent) == TICKED else changes)


def _chosen(
    sent: QueryDict, upload: UploadedFile[bytes] | None, *, voids: bool, changes: Mapping[str, str]
) -> EventFilter | Sequence[NamedEvent]:
    way = way_of(sent)
    if way == TICKED:
        return _ticked(sent, voids=voids, changes=changes)
    if way == ASKED:
        return _filter_asked(sent)
    if way == LISTED or upload is not None:
        return _of_file(upload)
    if way == NAMED:
        return [NamedEvent(source=sent.get("source", "").strip(), event_id=sent.get("event_id", "").strip())]
    return _filter(sent)


def _ticked(sent: QueryDict, *, voids: bool, changes: Mapping[str, str]) -> list[NamedEvent]:
    named = []
    for each in ticked_events(sent):
        typed = {} if voids else {value.path: value.typed for value in each.values if value.typed != value.now}
        new = {**changes, **typed}
        if sent.get("effect") == "replace" and not new:
            message = f"Nothing of the event {each.event.event_id} is changed: give it another value, or leave it out."
            raise CorrectionSelectionInvalid(message)
        named.append(NamedEvent(source=each.event.source, event_id=each.event.event_id, changes=new or None))
    return named


def _of_file(upload: UploadedFile[bytes] | None) -> list[NamedEvent]:
    if upload is None or upload.size is None or upload.size > _FILE_BYTES:
        raise CorrectionFileInvalid
    try:
        return read_file(upload.read().decode())
    except UnicodeDecodeError as error:
        raise CorrectionFileInvalid from error


@dataclass(frozen=True, slots=True)
class Matching:
    """All events that match what a list of events was asked: how many, what was asked in words, and as an address."""

    events: int
    words: list[tuple[str, str]]
    question: str


def matching_events(sent: QueryDict) -> Matching | None:
    """Return the events that match the list from which a form was opened; None where it was opened elsewhere.

    Raises: CorrectionSelectionInvalid, EventsSearchedTooLong.
    """
    if not sent.get("question"):
        return None
    chosen = _filter_asked(sent)
    return Matching(count_by_filter(chosen), words_of(chosen.described()), sent.get("question", ""))


def _filter_asked(sent: QueryDict) -> EventFilter:
    try:
        words = Words(dict(QueryDict(sent.get("question", "")).lists()))
        return filter_of(read_events_asked(words, own_customer_id=None).question)
    except (CountinghouseError, TooManyFieldsSent) as error:
        message = f"What the list of events was asked cannot be read. {error}"
        raise CorrectionSelectionInvalid(message) from error


def _filter(sent: QueryDict) -> EventFilter:
    customer = None
    if code := sent.get("customer", "").strip():
        customer = Customer.objects.select_related("legal_entity").filter(code=code).first()
        if customer is None:
            message = f"No customer has the number {code!r}."
            raise CorrectionSelectionInvalid(message)
    zone = customer.legal_entity.time_zone if customer else "UTC"
    return EventFilter(
        customer_id=customer.pk if customer else None,
        type=sent.get("type", "").strip(),
        source=sent.get("source", "").strip(),
        start=_midnight(sent.get("first_day", ""), zone),
        end=_midnight(sent.get("last_day", ""), zone, days_on=1),
        data=_pairs(sent.get("data", "")),
    )


def _midnight(text: str, zone: str, *, days_on: int = 0) -> datetime | None:
    if not text:
        return None
    try:
        day = parse_date(text)
        instant = start_of_day(day + days_on * _DAY, zone) if day else None
    except (ValueError, OverflowError):
        instant = None
    if instant is None:
        message = f"{text[:20]!r} is not a day such as 2026-10-31."
        raise CorrectionSelectionInvalid(message)
    return instant.astimezone(UTC)


def _pairs(text: str) -> Mapping[str, str]:
    """Read lines of `name=value`."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, sign, value = line.partition("=")
        if not sign or not name.strip():
            message = f"{line[:80]!r} is not written as name=value."
            raise CorrectionSelectionInvalid(message)
        found[name.strip()] = value.strip()
    return found
