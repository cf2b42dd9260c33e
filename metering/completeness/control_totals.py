"""Takes a source's own word on what it sent: how many events of an hour, and what they sum up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import msgspec
from django.db import connection, transaction

from accounts import audit
from accounts.access import Actor, Permission
from metering.counting import MAX_VALUE_DIGITS
from metering.errors import BodyNotJson, ControlTotalsForeign, ControlTotalsInvalid
from metering.events import MAX_NAME_LENGTH
from metering.models import ControlTotal, Meter

MAX_STATEMENTS = 10_000
# A clock that is a little fast may speak of the hour that is about to begin.
_FUTURE_ALLOWANCE = timedelta(hours=1)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
_Key = tuple[datetime, str, str, int | None]


class Statement(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What a source says of one hour: of one meter, by its code, or of all events of a type.

    `sum` is what the meter makes of the events, before its divisor. `count` is the number of different events: one that
    was sent twice is one.
    """

    source: _Name
    hour: Annotated[datetime, msgspec.Meta(tz=True)]
    count: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    meter: _Name | None = None
    type: _Name | None = None
    sum: Decimal | None = None


@dataclass(frozen=True, slots=True)
class StatedTotals:
    """How many statements were the first of their hour, superseded an earlier one, or said the same again."""

    stated: int
    superseded: int
    unchanged: int


_decode = msgspec.json.Decoder(list[Statement]).decode


def read_statements(body: bytes) -> list[Statement]:
    """Read the statements of a JSON body, an array.

    Raises: BodyNotJson, ControlTotalsInvalid with the position of the first fault.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise ControlTotalsInvalid(str(error).replace("`", "")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"The body is not JSON: {error}."
        raise BodyNotJson(msg) from error


@transaction.atomic
def state_control_totals(
    *,
    statements: Sequence[Statement],
    api_key_id: int | None = None,
    customer_id: int | None = None,
    source: str = "",
    actor: Actor,
    at: datetime,
) -> StatedTotals:
    """Keep what sources say of their hours, all of it or nothing. The same again changes nothing.

    Another figure for an hour supersedes the one before, which is kept. `customer_id` and `source` are those that the
    sender's key is tied to: a key of one customer cannot speak for a source, one of a source for no other.

    Raises: PermissionMissing, ControlTotalsForeign, ControlTotalsInvalid.
    """
    actor.require(Permission.LOAD_USAGE)
    _require_own(statements, customer_id=customer_id, source=source)
    wanted = _by_key(statements, at=at)
    if not wanted:
        return StatedTotals(0, 0, 0)
    _lock({key[1] for key in wanted})
    known = _newest(wanted)
    changed = [
        ControlTotal(
            hour=key[0],
            source=key[1],
            type=key[2],
            meter_id=key[3],
            number=known[key].number + 1 if key in known else 1,
            count=statement.count,
            sum=statement.sum,
            stated_at=at,
            api_key_id=api_key_id,
            actor_label=actor.label,
        )
        for key, statement in wanted.items()
        if key not in known or (known[key].count, known[key].sum) != (statement.count, statement.sum)
    ]
    ControlTotal.objects.bulk_create(changed, batch_size=1000)
    superseding = [total for total in changed if total.number > 1]
    audit.record_many(actor=actor, verb="control_total.superseded", subjects=superseding, at=at)
    return StatedTotals(len(changed) - len(superseding), len(superseding), len(wanted) - len(changed))


def _require_own(statements: Sequence[Statement], *, customer_id: int | None, source: str) -> None:
    if customer_id is not None:
        raise ControlTotalsForeign
    for statement in statements:
        if source and statement.source != source:
            msg = f"This key speaks for the source {source!r} alone."
            raise ControlTotalsForeign(msg)


def _by_key(statements: Sequence[Statement], *, at: datetime) -> dict[_Key, Statement]:
    """Check each statement and return them by what they are about, in order."""
    if len(statements) > MAX_STATEMENTS:
        msg = f"{len(statements):,} statements at once; at most {MAX_STATEMENTS:,} are taken."
        raise ControlTotalsInvalid(msg)
    # No meter's code holds what cannot be printed, and a NUL could not even be asked for.
    codes = {statement.meter for statement in statements if statement.meter and statement.meter.isprintable()}
    meters = {meter.code: meter for meter in Meter.objects.filter(code__in=codes)}
    wanted: dict[_Key, Statement] = {}
    for position, statement in enumerate(statements):
        if fault := _fault(statement, meters, at=at):
            msg = f"Statement {position}: {fault}."
            raise ControlTotalsInvalid(msg)
        meter = meters.get(statement.meter or "")
        kind = meter.event_type if meter else statement.type or ""
        key = (statement.hour.astimezone(UTC), statement.source, kind, meter.pk if meter else None)
        first = wanted.setdefault(key, statement)
        if (first.count, first.sum) != (statement.count, statement.sum):
            msg = f"Statement {position}: says something else of an hour than one before it."
            raise ControlTotalsInvalid(msg)
    return dict(sorted(wanted.items(), key=lambda item: (*item[0][:3], item[0][3] or 0)))


def _fault(statement: Statement, meters: Mapping[str, Meter], *, at: datetime) -> str:
    hour = _in_utc(statement.hour)
    if hour is None:
        return "the hour is no moment of the calendar"
    faults = {
        "names either a meter or a type": (statement.meter is None) == (statement.type is None),
        f"no meter has the code {statement.meter!r}": statement.meter is not None and statement.meter not in meters,
        "a sum is that of a meter; name one": statement.sum is not None and statement.meter is None,
        f"a sum is a decimal of at most {MAX_VALUE_DIGITS} digits": not _is_plain(statement.sum),
        "a name is printable text": not f"{statement.source}{statement.type or ''}".isprintable(),
        "an hour begins at minute 0 of UTC": bool(hour.minute or hour.second or hour.microsecond),
        "the hour has not begun": hour > at + _FUTURE_ALLOWANCE,
    }
    return next((fault for fault, is_so in faults.items() if is_so), "")


def _in_utc(moment: datetime) -> datetime | None:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def _is_plain(number: Decimal | None) -> bool:
    if number is None:
        return True
    if not number.is_finite():
        return False
    _sign, digits, exponent = number.as_tuple()
    places = max(0, -int(exponent))
    return max(len(digits) + int(exponent), 0) + places <= MAX_VALUE_DIGITS


def _lock(sources: set[str]) -> None:
    """Let those who speak for the same source follow one another, in one order, so that nobody waits in a ring."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT pg_advisory_xact_lock(hashtext('metering.control_totals'), number)
            FROM (SELECT DISTINCT hashtext(source) AS number FROM unnest(%s::text[]) AS source ORDER BY 1) AS asked
            """,
            [sorted(sources)],
        )


_NEWEST = """
    SELECT DISTINCT ON (total.hour, total.source, total.type, total.meter_id) total.*
    FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::bigint[]) AS asked(hour, source, type, meter_id)
    JOIN metering_controltotal AS total
        ON total.hour = asked.hour AND total.source = asked.source AND total.type = asked.type
       AND total.meter_id IS NOT DISTINCT FROM asked.meter_id
    ORDER BY total.hour, total.source, total.type, total.meter_id, total.number DESC
"""


def _newest(keys: Mapping[_Key, object]) -> dict[_Key, ControlTotal]:
    columns = [list(column) for column in zip(*keys, strict=True)]
    found = ControlTotal.objects.raw(_NEWEST, columns)
    return {(total.hour, total.source, total.type, total.meter_id): total for total in found}
