"""Periods in templates, as the local days that they cover."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString
from psycopg.types.range import TimestamptzRange

from accounts.periods import local_date

register = template.Library()
_LAST_INSTANT = timedelta(microseconds=1)


@register.filter
def local_days(period: TimestamptzRange | None, zone: str) -> SafeString | str:
    """Show a period `[start, end)` as its first and last local day, with the instants in UTC on hover."""
    if period is None or period.lower is None:
        return "–"
    first = local_date(period.lower, zone).strftime("%-d %b %Y")
    if period.upper is None:
        return _marked(f"from {first}", period.lower, None)
    last = local_date(period.upper - _LAST_INSTANT, zone).strftime("%-d %b %Y")
    return _marked(first if first == last else f"{first} – {last}", period.lower, period.upper)


def _marked(words: str, start: datetime, end: datetime | None) -> SafeString:
    until = f"{end.astimezone(UTC):%Y-%m-%d %H:%M}" if end else "further notice"
    return format_html(
        '<span class="ch-time" title="{} until before {}, UTC">{}</span>',
        f"{start.astimezone(UTC):%Y-%m-%d %H:%M}",
        until,
        words,
    )
