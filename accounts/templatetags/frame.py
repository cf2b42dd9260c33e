"""What every page's template needs: status pills, instants with their zone, counts in words, addresses with filters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django import template
from django.apps import apps
from django.db.models import Model
from django.http import QueryDict
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from accounts.models import AuditEntry

register = template.Library()

_TONES: Mapping[str, str] = {
    "draft": "plain",
    "pending": "wait",
    "in_review": "wait",
    "waiting": "wait",
    "open": "wait",
    "approved": "info",
    "live": "good",
    "issued": "good",
    "sent": "good",
    "made": "good",
    "done": "good",
    "released": "good",
    "reading": "good",
    "growing": "wait",
    "stalled": "bad",
    "silent": "bad",
    "stuck": "bad",
    "verified": "good",
    "restored": "good",
    "dropped": "info",
    "detached": "info",
    "planned": "wait",
    "scheduled": "info",
    "exported": "wait",
    "restoring": "wait",
    "accepted": "good",
    "applied": "good",
    "loading": "info",
    "closing": "info",
    "reverting": "info",
    "closed": "good",
    "revert_review": "wait",
    "left_out": "wait",
    "counted": "good",
    "replaced": "good",
    "brought_back": "good",
    "running": "info",
    "quarantined": "wait",
    "stopped": "wait",
    "refused": "bad",
    "rejected": "bad",
    "parked": "bad",
    "failed": "bad",
    "overdue": "bad",
    "voided": "bad",
    "complete": "good",
    "missing": "bad",
    "surplus": "bad",
    "sum_differs": "bad",
    "gap": "bad",
    "fall": "wait",
    "spike": "wait",
}


_AMOUNT = re.compile(r"-?\d+\.\d+")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d.*(?:Z|[+-]\d\d:\d\d)$")
_SEAMS = re.compile(r"(?<=[./:_-])(?=[^./:_-])")


@register.filter
def pill(state: str, label: str = "") -> SafeString:
    """Show a state as a small labelled shape; the words carry the meaning, the colour only helps."""
    words = label or str(state).replace("_", " ").capitalize()
    return format_html('<span class="ch-pill ch-pill-{}">{}</span>', _TONES.get(str(state), "plain"), words)


@register.simple_tag
def status_pill(thing: Model, field: str = "status") -> SafeString:
    """Show a model's state in the words of its choices."""
    display = getattr(thing, f"get_{field}_display")
    return pill(getattr(thing, field), str(display()))


@register.filter
def moment(instant: datetime | None, zone: str = "UTC") -> SafeString | str:
    """Show an instant in a time zone, with UTC on hover."""
    return _instant(instant, zone, "%-d %b %Y, %H:%M")


@register.filter
def moment_day(instant: datetime | None, zone: str = "UTC") -> SafeString | str:
    """Show the local day of an instant, with the instant in UTC on hover."""
    return _instant(instant, zone, "%-d %b %Y")


def _instant(instant: datetime | None, zone: str, pattern: str) -> SafeString | str:
    if instant is None:
        return "–"
    local = instant.astimezone(ZoneInfo(zone or "UTC"))
    utc = instant.astimezone(UTC)
    return format_html(
        '<time class="ch-time" datetime="{}" title="{}">{}</time>',
        utc.isoformat(),
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        local.strftime(pattern),
    )


@register.filter
def day(value: date | None) -> str:
    """Show a date, such as 30 Sep 2024."""
    return "–" if value is None else value.strftime("%-d %b %Y")


@register.filter
def month(value: date | None) -> str:
    """Show a month, such as September 2024."""
    return "–" if value is None else value.strftime("%B %Y")


@register.filter
def ago(instant: datetime | None) -> SafeString | str:
    """Show how long ago an instant was, with the instant in UTC on hover."""
    if instant is None:
        return "–"
    words = timesince(instant, depth=1)
    utc = instant.astimezone(UTC)
    return format_html(
        '<time class="ch-time" datetime="{}" title="{}">{}</time>',
        utc.isoformat(),
        f"{utc:%Y-%m-%d %H:%M:%S} UTC",
        "just now" if words.startswith("0") else f"{words} ago",
    )


@register.filter
def counted(count: int, noun: str) -> str:
    """Say a count with its noun: "1 invoice", "1,204 invoices"; "entry,entries" gives both forms."""
    one, _, many = noun.partition(",")
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@register.filter
def whole(count: int | None) -> str:
    """Write a count with separators."""
    return "–" if count is None else f"{count:,}"


@register.filter
def figure(value: Decimal | int | None) -> str:
    """Write a number with separators and, where it has more, three decimal places."""
    if value is None:
        return "–"
    number = Decimal(value)
    places = min(3, max(0, -int(number.normalize().as_tuple().exponent)))
    return f"{number:,.{places}f}"


@register.filter
def change(value: Decimal | int | None) -> str:
    """Write a difference like a figure, with its sign."""
    number = Decimal(value or 0)
    return f"{'+' if number > 0 else '−'}{figure(abs(number))}" if number else figure(value)


@register.simple_tag(takes_context=True)
def with_query(context: template.Context, **changes: object) -> str:
    """Return this page's query string with some parameters changed; an empty value removes one."""
    query: QueryDict = context["request"].GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            query.pop(name, None)
        else:
            query[name] = str(value)
    return f"?{query.urlencode()}"


@register.simple_tag(takes_context=True)
def with_page(context: template.Context, number: int, named: str = "") -> str:
    """Return this page's query string with another page of its list, or of the list with that name in the address."""
    return with_query(context, **{named or "page": number})


@register.filter
def pretty_json(value: object) -> str:
    """Write a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=True)


@register.filter
def data_words(content: str) -> str:
    """Write the JSON of an event's data in one line; a number stands as it was sent."""
    data = json.loads(content, parse_int=str, parse_float=str)
    if not isinstance(data, Mapping):
        return content
    return ", ".join(
        f"{name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in data.items()
    )


@register.filter
def hex_of(content: bytes | memoryview | None) -> str:
    """Write bytes, such as a hash, in hexadecimal digits."""
    return "" if content is None else bytes(content).hex()


@register.filter
def who(entry: AuditEntry) -> SafeString | str:
    """Name whose act an audit entry tells of: a person (with their e-mail on hover), a key, or a job of the house."""
    if entry.actor is not None:
        return format_html('<span title="{}">{}</span>', entry.actor.email, str(entry.actor))
    return label_words(entry.actor_label)


@register.filter
def label_words(label: str) -> str:
    """Write an actor's label as people read it: "system:issuing" becomes "Countinghouse (issuing)"."""
    kind, _, name = label.partition(":")
    if kind == "system" and name:
        return f"Countinghouse ({name.replace('_', ' ')})"
    return f"Key {name.partition(' ')[2] or name}" if kind == "api-key" and name else label


@register.filter
def breakable(name: str) -> SafeString:
    """Let a long technical name break after its dots, slashes, dashes and colons, and nowhere else."""
    return format_html_join(SafeString("<wbr>"), "{}", ((part,) for part in _SEAMS.split(name)))


@register.filter
def breakable_mail(address: str) -> SafeString:
    """Let an e-mail address break before its at sign alone."""
    local, at, domain = address.partition("@")
    return format_html("{}<wbr>{}{}", local, at, domain)


@register.filter
def verb_words(verb: str) -> str:
    """Write a verb of the audit log in words: "bill_run.submitted" becomes "Bill run submitted"."""
    return verb.replace(".", " ").replace("_", " ").capitalize()


@register.filter
def subject_words(label: str) -> str:
    """Write the type of an audit entry's subject in words: "billing.billrun" becomes "bill run"."""
    try:
        return str(apps.get_model(label)._meta.verbose_name)
    except (LookupError, ValueError):
        return label


@register.filter
def field_words(name: str) -> str:
    """Write a key in words: "effective_from" becomes "Effective from"; a currency code stays as it is."""
    return name if name.isupper() else str(name).replace("_", " ").capitalize()


@register.filter
def plain_words(value: object) -> object:
    """Write a value of a JSON summary as people read it: an instant with its zone, an amount with separators."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return f"{value:,}" if type(value) is int else value
    if _AMOUNT.fullmatch(value):
        return f"{Decimal(value):,f}"
    if _INSTANT.match(value):
        return format_html("{} UTC", moment(datetime.fromisoformat(value)))
    return value


@register.filter
def kind_of(value: object) -> str:
    """Tell templates how to lay a JSON value out: "mapping", "list" or "value"."""
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, list | tuple) else "value"
