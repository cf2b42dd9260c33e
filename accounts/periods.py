"""Time in billing: half-open periods of instants, and the local days and months that they come from.

Instants are aware and in UTC; dates are local dates in an IANA time zone. A period holds its start and not its end, so
adjacent periods tile time without a gap and without an overlap.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from accounts.errors import CountinghouseError

LAST_ANCHOR_DAY: Final = 31
_DECEMBER: Final = 12
# A year either side is kept free, so that the period around any month can be worked out.
_YEARS: Final = range(1970, 9999)
_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


class PeriodInvalid(CountinghouseError):
    """A period needs two instants with a time zone, and its start before its end."""

    code = "period_invalid"


class MonthInvalid(CountinghouseError):
    """The month is not written as year and month, such as 2026-10."""

    code = "month_invalid"


class AnchorDayInvalid(CountinghouseError):
    """A billing period is anchored at a day of the month from 1 to 31."""

    code = "anchor_day_invalid"


class TimeZoneUnknown(CountinghouseError):
    """The time zone is not a name of the IANA database, such as Europe/Berlin."""

    code = "time_zone_unknown"


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """The instants from `start` up to, and not including, `end`; both are kept in UTC.

    Raises: PeriodInvalid, where an instant has no time zone or the period would be empty.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.utcoffset() is None or self.end.utcoffset() is None:
            raise PeriodInvalid
        if self.start.tzinfo is not UTC:
            object.__setattr__(self, "start", self.start.astimezone(UTC))
        if self.end.tzinfo is not UTC:
            object.__setattr__(self, "end", self.end.astimezone(UTC))
        if self.start >= self.end:
            message = f"A period can not start at {self.start.isoformat()} and end at {self.end.isoformat()}."
            raise PeriodInvalid(message)

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    def overlap(self, start: datetime | None, end: datetime | None) -> Period | None:
        """The part of this period from `start` until `end` (None: without limit), or None if there is none."""
        latest_start = self.start if start is None or start <= self.start else start
        earliest_end = self.end if end is None or end >= self.end else end
        if latest_start is self.start and earliest_end is self.end:
            return self
        return Period(latest_start, earliest_end) if latest_start < earliest_end else None


class Month(NamedTuple):
    """A calendar month; which instants it holds depends on a time zone."""

    year: int
    month: int

    def next(self) -> Month:
        """The month after this one."""
        return Month(self.year + 1, 1) if self.month == _DECEMBER else Month(self.year, self.month + 1)

    def previous(self) -> Month:
        """The month before this one."""
        return Month(self.year - 1, _DECEMBER) if self.month == 1 else Month(self.year, self.month - 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"


def parse_month(text: str) -> Month:
    """Read a month written as "2026-10".

    Raises: MonthInvalid.
    """
    match = _MONTH.fullmatch(text)
    if match is None or int(match[1]) not in _YEARS:
        message = f"{text[:40]!r} is not a month; write year and month, such as 2026-10."
        raise MonthInvalid(message)
    return Month(int(match[1]), int(match[2]))


@lru_cache(maxsize=1024)
def time_zone_named(name: str) -> ZoneInfo:
    """The time zone of that IANA name.

    Raises: TimeZoneUnknown.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):
        # A folder of the database ("Europe") is an OSError, a name that leaves it ("../x") a ValueError.
        message = f"{str(name)[:60]!r} is not a time zone such as Europe/Berlin."
        raise TimeZoneUnknown(message) from None


@lru_cache(maxsize=16_384)
def start_of_day(day: date, time_zone: str) -> datetime:
    """The first instant, in UTC, of a local day.

    That is local midnight; the first of two where clocks are set back over midnight, and the moment of the change
    where they are set forward over it and there is none.

    Raises: TimeZoneUnknown.
    """
    return datetime.combine(day, time.min, tzinfo=time_zone_named(time_zone)).astimezone(UTC)


def instant_of(local: datetime, time_zone: str) -> datetime | None:
    """The instant, in UTC, at which clocks on the wall show `local`, which has no time zone itself.

    The first of two where clocks are set back; None beyond the years that a datetime can hold.

    Raises: TimeZoneUnknown.
    """
    try:
        return local.replace(tzinfo=time_zone_named(time_zone)).astimezone(UTC)
    except OverflowError:
        return None


def local_date(instant: datetime, time_zone: str) -> date:
    """The date that a calendar on the wall shows at the instant.

    Raises: PeriodInvalid, where the instant has no time zone; TimeZoneUnknown.
    """
    if instant.utcoffset() is None:
        message = "An instant without a time zone has no local date."
        raise PeriodInvalid(message)
    return instant.astimezone(time_zone_named(time_zone)).date()


def days_in(period: Period, time_zone: str) -> int:
    """How many local days the period spans, for periods that start and end at a local midnight.

    Raises: TimeZoneUnknown.
    """
    return (local_date(period.end, time_zone) - local_date(period.start, time_zone)).days


def date_period(starts_on: date, ends_on: date, time_zone: str) -> Period:
    """The instants of the local days from `starts_on` up to, and not including, `ends_on`.

    Raises: PeriodInvalid, TimeZoneUnknown.
    """
    return Period(start_of_day(starts_on, time_zone), start_of_day(ends_on, time_zone))


def month_period(year: int, month: int, time_zone: str) -> Period:
    """The instants of a calendar month in the time zone.

    Raises: MonthInvalid, TimeZoneUnknown.
    """
    return billing_period(1, year, month, time_zone)


def billing_period(anchor_day: int, year: int, month: int, time_zone: str) -> Period:
    """The billing period that starts in the given month.

    It runs from the local midnight of the anchor day to that of the next month. Where a month is shorter, the anchor
    is its last day; each period is worked out from the anchor itself, so after February the 31st is the 31st again.

    Raises: AnchorDayInvalid, MonthInvalid, TimeZoneUnknown.
    """
    starts = Month(year, month)
    return date_period(_anchored(anchor_day, starts), _anchored(anchor_day, starts.next()), time_zone)


def billing_period_at(anchor_day: int, instant: datetime, time_zone: str) -> Period:
    """The billing period that the instant lies in.

    Raises: AnchorDayInvalid, MonthInvalid, PeriodInvalid, TimeZoneUnknown.
    """
    day = local_date(instant, time_zone)
    month = Month(day.year, day.month)
    if day < _anchored(anchor_day, month):
        month = month.previous()
    return billing_period(anchor_day, month.year, month.month, time_zone)


class Grain(StrEnum):
    """How long the windows are that a period is cut into."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    NONE = "none"


def edges(period: Period, grain: str, time_zone: str) -> list[datetime]:
    """Cut a period into hours of UTC, local days or local months: its start, the instants between them, its end.

    The first and the last window are shorter where the period begins or ends within one. NONE leaves it whole.

    Raises: TimeZoneUnknown.
    """
    inner: list[datetime] = []
    moment = _next_edge(period.start, grain, time_zone)
    while moment is not None and moment < period.end:
        inner.append(moment)
        moment = _next_edge(moment, grain, time_zone)
    return [period.start, *inner, period.end]


def _next_edge(instant: datetime, grain: str, time_zone: str) -> datetime | None:
    """The next edge after the instant; None where there is none, or none that a datetime can hold."""
    try:
        if grain == Grain.HOUR:
            return instant.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        day = local_date(instant, time_zone)
        if grain == Grain.DAY:
            return start_of_day(day + timedelta(days=1), time_zone)
        if grain == Grain.MONTH:
            following = Month(day.year, day.month).next()
            return start_of_day(date(following.year, following.month, 1), time_zone)
    except (OverflowError, ValueError):
        return None
    return None


def _anchored(anchor_day: int, month: Month) -> date:
    if not 1 <= anchor_day <= LAST_ANCHOR_DAY:
        message = f"{anchor_day} is not a day of the month from 1 to 31."
        raise AnchorDayInvalid(message)
    if month.year not in _YEARS or not 1 <= month.month <= _DECEMBER:
        message = f"There is no month {month.month} of {month.year}."
        raise MonthInvalid(message)
    return date(month.year, month.month, min(anchor_day, monthrange(month.year, month.month)[1]))


def clip(period: Period, starts_on: date, ends_on: date | None, time_zone: str) -> Period | None:
    """The part of a period inside a contract that runs from `starts_on` up to, and not including, `ends_on`.

    Both are local dates; None as end: the contract runs on. None as result: the contract has no part in the period.

    Raises: TimeZoneUnknown.
    """
    end = None if ends_on is None else start_of_day(ends_on, time_zone)
    return period.overlap(start_of_day(starts_on, time_zone), end)


def cut(period: Period, instants: Iterable[datetime]) -> list[Period]:
    """Cut a period at those of the instants that lie inside it; the parts tile the period, in order."""
    inner = sorted({instant.astimezone(UTC) for instant in instants if period.start < instant < period.end})
    edges = [period.start, *inner, period.end]
    return [Period(start, end) for start, end in pairwise(edges)]


def instants_of(local: datetime, time_zone: str) -> list[datetime]:
    """The instants, in UTC, at which clocks on the wall show `local`, which has no time zone itself.

    Two where clocks are set back over it, the earlier one first; none where they are set forward over it, or where a
    datetime cannot hold it.

    Raises: TimeZoneUnknown.
    """
    zone = time_zone_named(time_zone)
    try:
        found = {local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
        return sorted(instant for instant in found if instant.astimezone(zone).replace(tzinfo=None, fold=0) == local)
    except OverflowError:
        return []
