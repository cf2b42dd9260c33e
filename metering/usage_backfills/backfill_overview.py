"""What the pages of backfills show: the list, one with what it would change, its problems, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from django.db.models import Q, QuerySet
from django.http import QueryDict

from accounts.models import Customer
from metering import refusals
from metering.corrections.correction_words import Change, changes_of
from metering.models import Meter, QuarantinedEvent, UsageBackfill, UsageBackfillItem
from metering.usage_backfills.errors import UsageBackfillInvalid
from metering.usage_backfills.records import Kind, State, Status
from metering.usage_backfills.work import RESULTS

CSV_HEADER: Final = ["id", "time", "type", "subject", "problem", "detail"]
_ROWS_SHOWN: Final = 200

_PROBLEMS: Final[Mapping[str, str]] = {
    "conflict": "Same identity, other content",
    "quarantined": "Waits in quarantine, or was discarded there",
    "voided": "Voided since",
    "gone": "Its raw data are gone",
}
_RESULT_WORDS: Final[Mapping[str, str]] = {
    "counted": "New, counted",
    "kept": "Counted before, nothing happens",
    "replaced": "Take the place of one that said something else",
    "brought_back": "Were taken out before, count again",
    "voided": "Counted before and not sent again, count no more",
    "left_out": "Left out, with the reason below",
}


def backfills(*, status: str, source: str) -> QuerySet[UsageBackfill]:
    """Return the backfills in a state and of sources whose name holds a text, or all; the newest first."""
    found = UsageBackfill.objects.defer("preview", "revert_preview").select_related("opened_by")
    if status in Status.values:
        found = found.filter(status=status)
    return found.filter(source__icontains=source) if source else found


@dataclass(frozen=True, slots=True)
class Found:
    """A preview as a page shows it; `results` are events by what becomes of them, in words."""

    taken_at: datetime | None
    results: Sequence[tuple[str, int]]
    reasons: Sequence[tuple[str, int]]
    rows: Sequence[Change]
    customers: int
    billed_rows: int
    is_cut: bool


def closing_of(backfill: UsageBackfill) -> Found | None:
    """Return what was previewed of the closing, if it was."""
    found = backfill.preview
    if found is None:
        return None
    # What is left out is told by its reasons.
    results = [(_RESULT_WORDS[name], int(found[name])) for name in RESULTS if found[name] and name != "left_out"]
    return _found(found, results, backfill.previewed_at)


def revert_of(backfill: UsageBackfill) -> Found | None:
    """Return what was previewed of the revert, if it was."""
    found = backfill.revert_preview
    if found is None:
        return None
    results = [
        ("Undone", int(found["undone"])),
        ("Left out, for they have changed since", int(found["left_out"])),
    ]
    return _found(found, [each for each in results if each[1]], backfill.revert_previewed_at)


def _found(found: Mapping[str, Any], results: Sequence[tuple[str, int]], taken_at: datetime | None) -> Found:
    rows = changes_of(found)
    return Found(
        taken_at=taken_at,
        results=results,
        reasons=[(problem_words(problem), count) for problem, count in found.get("reasons", {}).items()],
        rows=rows[:_ROWS_SHOWN],
        customers=found["customers"],
        billed_rows=found["billed_rows"],
        is_cut=found["is_cut"] or len(rows) > _ROWS_SHOWN,
    )


def results_of(backfill: UsageBackfill) -> list[tuple[str, int]]:
    """Return what became of the events of a backfill that was closed, in words."""
    return [(_RESULT_WORDS[name], number) for name in RESULTS if (number := getattr(backfill, name))]


def problem_words(problem: str) -> str:
    """Return in words why an event is left out."""
    return _PROBLEMS.get(problem) or str(QuarantinedEvent.Reason(problem).label)


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """An event that is left out, or was refused on the way in."""

    event_id: str
    time: datetime | None
    type: str
    subject: str
    problem: str
    detail: str


def problem_items(backfill: UsageBackfill) -> QuerySet[UsageBackfillItem]:
    """Return the events that were filled in, or counted before, and cannot be settled as they should."""
    wrong = Q(state=State.LEFT_OUT) | ~Q(problem="")
    return UsageBackfillItem.objects.filter(wrong, backfill=backfill).order_by("id")


def problem_row(item: UsageBackfillItem) -> ProblemRow:
    """Return what a page says of an event that is left out."""
    name = item.event_id or ("counted before" if item.kind == Kind.THERE else "erased by law")
    return ProblemRow(name, item.time, item.type, item.subject, problem_words(item.problem), item.detail)


def refused_rows(backfill: UsageBackfill, *, limit: int | None = None) -> Iterator[ProblemRow]:
    """Yield what was refused on the way in, in the order in which it came."""
    for each in backfill.refusals.order_by("id")[:limit].iterator(chunk_size=2_000):
        yield ProblemRow(each.event_id, None, "", "", refusals.words_of(each.reason), each.detail)


def problem_cells(backfill: UsageBackfill) -> Iterator[Sequence[object]]:
    """Yield the rows of the list of problems, for a file."""
    left_out = (problem_row(item) for item in problem_items(backfill).iterator(chunk_size=2_000))
    for row in chain(left_out, refused_rows(backfill)):
        time = row.time.astimezone(UTC).isoformat() if row.time else ""
        yield [row.event_id, time, row.type, row.subject, row.problem, row.detail]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the closing or the revert of a backfill is."""

    done: int
    of: int

    @property
    def percent(self) -> int:
        """How much of it is done."""
        return self.done * 100 // self.of if self.of else 100


def progress_of(backfill: UsageBackfill) -> Progress | None:
    """Return how far the work on a backfill is; None where nothing is being done."""
    if backfill.status == Status.CLOSING:
        return Progress(sum(getattr(backfill, name) for name in RESULTS), backfill.items)
    if backfill.status == Status.REVERTING:
        changed = backfill.counted + backfill.replaced + backfill.brought_back + backfill.voided
        return Progress(backfill.reverted + backfill.revert_left_out, changed)
    return None


def customers_of(backfill: UsageBackfill) -> list[Customer]:
    """Return the customers that a backfill is of; none where it is of all."""
    return list(Customer.objects.filter(pk__in=backfill.customer_ids).order_by("name"))


def event_types() -> list[str]:
    """Return the types of event that meters take, for a form to offer."""
    return list(Meter.objects.order_by("event_type").values_list("event_type", flat=True).distinct()[:500])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a form for a new backfill asks for."""

    source: str
    start: datetime
    end: datetime
    customer_ids: Sequence[int]
    event_types: Sequence[str]
    mode: str
    lifts_age: bool
    reason: str


def read_form(sent: QueryDict) -> Asked:
    """Read what a form asks for. Raises: UsageBackfillInvalid."""
    return Asked(
        source=sent.get("source", ""),
        start=_moment(sent.get("start", ""), "From"),
        end=_moment(sent.get("end", ""), "Before"),
        customer_ids=_customers(sent.get("customers", "")),
        event_types=[each for line in sent.get("types", "").splitlines() for each in [line.strip()] if each],
        mode=sent.get("mode", ""),
        lifts_age=sent.get("lifts_age") == "yes",
        reason=sent.get("reason", ""),
    )


def _moment(text: str, name: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        msg = f"{name}: {text[:20]!r} is not a moment such as 2026-10-31 14:00."
        raise UsageBackfillInvalid(msg) from None


def _customers(text: str) -> list[int]:
    codes = {code for code in text.replace(",", " ").split() if code}
    known = dict(Customer.objects.filter(code__in=codes).values_list("code", "pk"))
    if missing := sorted(codes - known.keys()):
        msg = f"No customer has the number {', '.join(missing)[:200]}."
        raise UsageBackfillInvalid(msg)
    return sorted(known.values())
