"""What the pages of meters show: what is in use, how much room is left, what was seen last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.models import Q, QuerySet

from accounts.models import Customer
from metering.meters import meter_words
from metering.models import Meter, MeterBackfill, MeterVersion, QuarantinedEvent
from metering.reading import stored_events

CUSTOMERS_SHOWN: Final = 20
_EVENTS_LOOKED_AT: Final = 10


@dataclass(frozen=True, slots=True)
class MeterRow:
    """One meter of the list: what it counts by now, who uses it, and the hour of its last event."""

    meter: Meter
    words: str
    customers: int
    series: int
    last_hour: datetime | None
    next_version: MeterVersion | None
    backfill: MeterBackfill | None


class SeriesInUse(NamedTuple):
    """How many series a customer has in a meter, and how much of the room that is."""

    customer: Customer
    series: int
    percent: int


class NameSeen(NamedTuple):
    """A name in the data of events, with dots for what is nested, and a value that was seen under it."""

    name: str
    example: str
    is_number: bool


def search(*, text: str = "", aggregation: str = "", state: str = "") -> QuerySet[Meter]:
    """Return the meters that a text is found in, by name; `state` is "active" or "resting", or either if empty."""
    found = Meter.objects.order_by("name", "pk")
    if text:
        found = found.filter(Q(name__icontains=text) | Q(code__icontains=text) | Q(event_type__icontains=text))
    if aggregation in Meter.Aggregation.values:
        found = found.filter(aggregation=aggregation)
    return found.filter(is_active=state == "active") if state in {"active", "resting"} else found


def rows_of(meters: Sequence[Meter], *, at: datetime) -> list[MeterRow]:
    """Return what the list shows of these meters; as many queries for fifty as for one."""
    ids = [meter.pk for meter in meters]
    versions: dict[int, list[MeterVersion]] = {each: [] for each in ids}
    for version in MeterVersion.objects.filter(meter_id__in=ids).order_by("valid_from"):
        versions[version.meter_id].append(version)
    open_ones = {each.meter_id: each for each in MeterBackfill.objects.filter(meter_id__in=ids, done_at=None).exclude(
        status=MeterBackfill.Status.REFUSED
    )}  # fmt: skip
    in_use = _in_use(ids)
    last = _last_hours(ids)
    return [
        MeterRow(
            meter,
            meter_words.sentence(meter, current(versions[meter.pk], at=at)),
            *in_use.get(meter.pk, (0, 0)),
            last.get(meter.pk),
            next((each for each in versions[meter.pk] if each.valid_from > at), None),
            open_ones.get(meter.pk),
        )
        for meter in meters
    ]


def current(versions: Sequence[MeterVersion], *, at: datetime) -> MeterVersion:
    """Return the version in force, of versions in order of time; the first, before any is."""
    return next((each for each in reversed(versions) if each.valid_from <= at), versions[0])


def series_in_use(meter: Meter) -> list[SeriesInUse]:
    """Return the customers with the most series in a meter, at most twenty."""
    rows = _rows(
        "SELECT customer_id, count(*) FROM usage_series WHERE meter_id = %s"
        " GROUP BY customer_id ORDER BY count(*) DESC, customer_id LIMIT %s",
        [meter.pk, CUSTOMERS_SHOWN],
    )
    customers = Customer.objects.in_bulk([customer_id for customer_id, _ in rows])
    return [
        SeriesInUse(customers[customer_id], series, min(series * 100 // meter.series_limit, 100))
        for customer_id, series in rows
    ]


def event_types() -> list[str]:
    """Return the types of events that are known or wait for a meter, by name."""
    known = Meter.objects.order_by().values_list("event_type", flat=True).distinct()
    waiting = QuarantinedEvent.objects.filter(
        status=QuarantinedEvent.Status.OPEN, reason=QuarantinedEvent.Reason.UNKNOWN_TYPE
    )
    return sorted({*known, *waiting.order_by().values_list("type", flat=True).distinct()[:100]})


def names_in(event_type: str) -> list[NameSeen]:
    """Return the names in the data of some late events of a type, stored or in quarantine, by name."""
    data = [each.event.data for each in stored_events.latest_of_type(event_type=event_type, limit=_EVENTS_LOOKED_AT)]
    waiting = QuarantinedEvent.objects.filter(type=event_type, status=QuarantinedEvent.Status.OPEN)
    data += waiting.order_by("-last_seen_at").values_list("data", flat=True)[:_EVENTS_LOOKED_AT]
    found: dict[str, NameSeen] = {}
    for each in data:
        for name, value in _flat(each):
            found.setdefault(name, NameSeen(name, _text(value)[:60], _is_number(value)))
    return [found[name] for name in sorted(found)]


def _flat(data: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in data.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list) and value is not None:
            found.append((f"{prefix}{name}", value))
    return found


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return not isinstance(value, str) or value.removeprefix("-").replace(".", "", 1).isdecimal()


def _in_use(meter_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    rows = _rows(
        "SELECT meter_id, count(DISTINCT customer_id), count(*) FROM usage_series WHERE meter_id = ANY(%s)"
        " GROUP BY meter_id",
        [list(meter_ids)],
    )
    return {meter_id: (customers, series) for meter_id, customers, series in rows}


def _last_hours(meter_ids: Sequence[int]) -> dict[int, datetime]:
    return dict(
        _rows(
            """
            SELECT meter_id, max(hour) FROM (
                SELECT meter_id, hour FROM usage_receipt_hour WHERE meter_id = ANY(%s) AND count > 0
                UNION ALL
                SELECT meter_id, hour FROM usage_receipt WHERE meter_id = ANY(%s) AND count > 0
            ) AS each GROUP BY meter_id
            """,
            [list(meter_ids), list(meter_ids)],
        )
    )


def _rows(query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, list(parameters))
        return list(cursor.fetchall())
