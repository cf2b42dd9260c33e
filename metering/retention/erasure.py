"""Erases a customer's raw events by law; what they added up to stays.

An erasure is asked for by one person and approved by another. Then the jobs carry it out: live events, events in
quarantine, refused payloads, and the files of archived months. Each part is a row's own state, so that an erasure cut
off goes on where it was. What remains of an event is its identity (two hashes), time, type, batch and series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.urls import reverse

from accounts import approvals, audit
from accounts.access import Actor, Permission
from accounts.constraints import named
from accounts.models import ApprovalRequest, Customer
from metering.errors import ErasureInvalid, ErasureOpen, ErasureUnknown, UsageOnHold
from metering.models import ArchivedMonth, UsageErasure
from metering.quarantine import tallies
from metering.retention import archive_parts, archive_tables, erasure_refusals, erasure_traces, legal_holds, retention
from metering.retention.archive_files import EventRow
from metering.retention.erasure_guard import add, name_erasure

Status = UsageErasure.Status
APPROVAL_KIND = "usage_erasure"
_ROWS_AT_ONCE = 2_000
_BASIS_LENGTH = 254


@transaction.atomic
def erase_raw_events(
    *,
    customer_id: int,
    before: datetime | None = None,
    reason: str,
    legal_basis: str,
    actor: Actor,
    at: datetime,
) -> UsageErasure:
    """Ask that what a customer's events before a moment (a full hour, this one unless given) said be erased.

    Nothing is erased before a second person approves. Asking again for the same returns what was asked for.

    Raises: PermissionMissing, ErasureInvalid, ErasureOpen, UsageOnHold, ApprovalNeedsAPerson.
    """
    actor.require(Permission.MANAGE_RETENTION)
    before = (before or at.replace(minute=0, second=0, microsecond=0)).astimezone(UTC)
    customer = _validated(customer_id, before=before, reason=reason, legal_basis=legal_basis, at=at)
    if legal_holds.is_held(customer_id=customer_id, before=before):
        raise UsageOnHold
    wanted = {"before": before, "reason": reason.strip(), "legal_basis": legal_basis.strip()}
    open_one = UsageErasure.objects.filter(customer=customer, status__in=[Status.IN_REVIEW, Status.APPROVED]).first()
    if open_one is not None:
        if all(getattr(open_one, name) == value for name, value in wanted.items()):
            return open_one
        raise ErasureOpen
    with named("customer_has_one_open_erasure", ErasureOpen):
        erasure = UsageErasure.objects.create(customer=customer, requested_by=actor.label, requested_at=at, **wanted)
    approvals.request_approval(
        kind=APPROVAL_KIND,
        subject_id=erasure.pk,
        title=f"Erase the raw events of {customer.name}",
        summary=_summary(erasure),
        reason=erasure.reason,
        actor=actor,
        at=at,
    )
    audit.record(
        actor=actor,
        verb="usage_erasure.requested",
        subject=erasure,
        at=at,
        reason=erasure.reason,
        data={"customer_id": customer_id, "before": before, "legal_basis": erasure.legal_basis},
    )
    return erasure


def _validated(customer_id: int, *, before: datetime, reason: str, legal_basis: str, at: datetime) -> Customer:
    customer = Customer.objects.filter(pk=customer_id).first()
    problem = ""
    if customer is None:
        problem = "There is no such customer."
    elif not reason.strip() or not legal_basis.strip() or len(legal_basis.strip()) > _BASIS_LENGTH:
        problem = "Give the reason and the legal basis, such as the article of the law."
    elif before > at or before.minute or before.second or before.microsecond:
        problem = "The moment before which events are erased is a full hour that has passed."
    if problem or customer is None:
        raise ErasureInvalid(problem)
    return customer


def counts(*, customer_id: int, before: datetime) -> dict[str, int]:
    """Return how many events an erasure would empty: `live` in the tables, `archived` at most, in files."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM usage_event WHERE customer_id = %s AND time < %s AND event_id <> ''",
            [customer_id, before],
        )
        (live,) = cursor.fetchone()
    return {"live": int(live), "archived": sum(_archived_rows(customer_id, before=before))}


def _archived_rows(customer_id: int, *, before: datetime) -> Iterator[int]:
    for archived in _months_away(before):
        for manifest in retention.manifests_of(archived):
            yield manifest.contents.customers.get(str(customer_id), 0)


def _summary(erasure: UsageErasure) -> dict[str, Any]:
    found = counts(customer_id=erasure.customer_id, before=erasure.before)
    return {
        "customer": erasure.customer.name,
        "events before": erasure.before,
        "legal basis": erasure.legal_basis,
        "events in the database": found["live"],
        "events in the archive": found["archived"],
    }


def _content(erasure_id: int) -> Mapping[str, Any]:
    erasure = UsageErasure.objects.get(pk=erasure_id)
    return {
        "customer_id": erasure.customer_id,
        "before": erasure.before,
        "reason": erasure.reason,
        "legal_basis": erasure.legal_basis,
    }


def _lock(erasure_id: int) -> UsageErasure:
    return UsageErasure.objects.select_for_update(no_key=True).get(pk=erasure_id)


def _on_approved(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    erasure = _lock(subject_id)
    erasure.status = Status.APPROVED
    erasure.approved_at = at
    with named("usage_on_hold_is_not_erased", UsageOnHold):
        erasure.save(update_fields=["status", "approved_at"])
    audit.record(actor=actor, verb="usage_erasure.approved", subject=erasure, at=at, data={"approval": request.pk})


def _on_refused(*, subject_id: int, request: ApprovalRequest, actor: Actor, at: datetime) -> None:
    erasure = _lock(subject_id)
    if erasure.status != Status.IN_REVIEW:
        return
    erasure.status = Status.REFUSED
    erasure.save(update_fields=["status"])
    audit.record(actor=actor, verb="usage_erasure.refused", subject=erasure, at=at, data={"approval": request.pk})


def carry_out(*, erasure_id: int, actor: Actor, at: datetime) -> UsageErasure:
    """Erase what was approved; cut off, it goes on where it was, and once done it changes nothing.

    The moments of the archived months' files change, and with them their manifests: each new one names the one before.

    Raises: PermissionMissing, ErasureUnknown, UsageOnHold, MonthInProgress, ArchiveFileDamaged, ErasureWaitsForFiles.
    """
    actor.require(Permission.MANAGE_RETENTION)
    erasure = UsageErasure.objects.filter(pk=erasure_id).first()
    if erasure is None:
        raise ErasureUnknown
    if erasure.status != Status.APPROVED:
        return erasure
    _erase_events(erasure)
    _erase_quarantined(erasure, at=at)
    erasure_refusals.erase_refused(erasure)
    for archived in _months(erasure.before):
        _erase_archived(erasure, archived, actor=actor, at=at)
    erasure_traces.erase_traces(erasure)
    erasure_traces.require_no_files(erasure, at=at)
    return _finish(erasure_id, actor=actor, at=at)


def due() -> list[int]:
    """Return the erasures that wait to be carried out."""
    return list(UsageErasure.objects.filter(status=Status.APPROVED).order_by("id").values_list("pk", flat=True))


@transaction.atomic
def _finish(erasure_id: int, *, actor: Actor, at: datetime) -> UsageErasure:
    erasure = _lock(erasure_id)
    if erasure.status == Status.DONE:
        return erasure
    erasure.status = Status.DONE
    erasure.done_at = at
    erasure.last_error = ""
    with named("usage_on_hold_is_not_erased", UsageOnHold):
        erasure.save(update_fields=["status", "done_at", "last_error"])
    audit.record(
        actor=actor,
        verb="usage_erasure.done",
        subject=erasure,
        at=at,
        reason=erasure.reason,
        data={
            "events": erasure.events,
            "archived_events": erasure.archived_events,
            "quarantined_events": erasure.quarantined_events,
            "refused_events": erasure.refused_events,
            "unique_values": erasure.unique_values,
            "other_records": erasure.other_records,
        },
    )
    # What was updated stays on the pages of the tables, out of sight, until they are cleaned.
    transaction.on_commit(_clean_tables)
    return erasure


def _clean_tables() -> None:
    with connection.cursor() as cursor:
        if not connection.in_atomic_block:
            cursor.execute(
                "VACUUM usage_event, usage_part, metering_quarantinedevent, metering_quarantinetally,"
                " metering_refusedevent"
            )


_EVENTS = """
    WITH chosen AS (
        SELECT customer_id, time, key FROM {table}
        WHERE customer_id = %(customer_id)s AND time < %(before)s AND event_id <> ''
        ORDER BY customer_id, time, key LIMIT %(limit)s
    )
    UPDATE {table} AS event SET source = '', event_id = '', subject = '', data = '{{}}'
    FROM chosen
    WHERE event.customer_id = chosen.customer_id AND event.time = chosen.time AND event.key = chosen.key
"""


def _erase_events(erasure: UsageErasure) -> None:
    while _erase_from("usage_event", erasure):
        pass


@transaction.atomic
def _erase_from(table: str, erasure: UsageErasure, *, counts: bool = True) -> int:
    """Empty some of the customer's events in a table; returns how many."""
    name_erasure(erasure)
    with named("usage_event_never_changes", UsageOnHold), connection.cursor() as cursor:
        cursor.execute(
            _EVENTS.format(table=table),
            {"customer_id": erasure.customer_id, "before": erasure.before, "limit": _ROWS_AT_ONCE},
        )
        erased = int(cursor.rowcount)
    if counts:
        add(erasure, events=erased)
    return erased


# A record belongs to the customer whose subject it names at its time, or at any time if it was never anybody else's;
# whose key it came with; or whose accepted event it became.
_QUARANTINED = """
    WITH chosen AS (
        SELECT record.id, record.source, record.type, record.time, record.status
        FROM metering_quarantinedevent AS record
        WHERE record.time < %(before)s AND record.event_id <> '' AND (
            EXISTS (
                SELECT FROM metering_subject AS subject JOIN metering_subjectassignment AS assignment
                    ON assignment.subject_id = subject.id
                WHERE subject.name = record.subject AND assignment.customer_id = %(customer_id)s
                  AND (assignment.valid_during @> record.time OR NOT EXISTS (
                      SELECT FROM metering_subjectassignment AS other
                      WHERE other.subject_id = subject.id AND other.customer_id <> %(customer_id)s
                  ))
            ) OR EXISTS (
                SELECT FROM metering_usagebatch AS batch JOIN accounts_apikey AS key ON key.id = batch.api_key_id
                WHERE batch.id = record.batch_id AND key.customer_id = %(customer_id)s
            ) OR EXISTS (
                SELECT FROM usage_event AS event
                WHERE event.customer_id = %(customer_id)s AND event.time = record.time AND event.key = record.key
            )
        )
        ORDER BY record.key FOR UPDATE OF record
    ), told AS (
        INSERT INTO usage_receipt (source, type, meter_id, hour, count, sum, waiting, discarded, batch_id)
        SELECT source, type, 0, date_trunc('hour', time, 'UTC'), 0, 0, -count(*), count(*), 0
        FROM chosen WHERE status = 'open' GROUP BY source, type, date_trunc('hour', time, 'UTC')
    )
    UPDATE metering_quarantinedevent AS record SET
        source = '', event_id = '', subject = '', data = '{}', detail = '',
        status = CASE record.status WHEN 'open' THEN 'discarded' ELSE record.status END,
        closed_at = coalesce(record.closed_at, %(at)s),
        closing_reason = CASE record.status WHEN 'open' THEN 'Erased by law.' ELSE record.closing_reason END
    FROM chosen WHERE record.id = chosen.id
"""


@transaction.atomic
def _erase_quarantined(erasure: UsageErasure, *, at: datetime) -> None:
    name_erasure(erasure)
    with connection.cursor() as cursor:
        cursor.execute(_QUARANTINED, {"customer_id": erasure.customer_id, "before": erasure.before, "at": at})
        add(erasure, quarantined_events=int(cursor.rowcount))
    # The lines of its groups name their subjects.
    tallies.fold_everything()


def _months(before: datetime) -> list[ArchivedMonth]:
    """Return the months with events before a moment that have a file, or may have one that was cut off."""
    return [each for each in ArchivedMonth.objects.order_by("month") if retention.start_of(each.month) < before]


def _months_away(before: datetime) -> list[ArchivedMonth]:
    """Return the months that have a whole file with events before a moment."""
    return [each for each in _months(before) if each.status != ArchivedMonth.Status.PLANNED]


def _erase_archived(erasure: UsageErasure, archived: ArchivedMonth, *, actor: Actor, at: datetime) -> None:
    """Write a month's files anew without what the customer's events said, and take the old ones off the disk.

    Files that were not the only copy yet are simply given up: the month is exported again, from what is left.
    """
    is_more = True
    while is_more:
        emptying = _Emptying(erasure)
        with transaction.atomic():
            name_erasure(erasure)
            archived, is_more = retention.rewrite_file(
                month=archived.month,
                customer_id=erasure.customer_id,
                through=emptying.through,
                empty_table=lambda table: _empty_whole_table(table, erasure),
                erasure_id=erasure.pk,
                actor=actor,
                at=at,
            )
            add(erasure, archived_events=emptying.emptied)
        archive_parts.remove_superseded(archived)


def _empty_whole_table(table: str, erasure: UsageErasure) -> None:
    while _erase_from(table, erasure, counts=False):
        pass


class _Emptying:
    """Takes what the customer's events said out of a run of events, and counts how many it was."""

    def __init__(self, erasure: UsageErasure) -> None:
        self._customer_id = erasure.customer_id
        self._before = erasure.before
        self.emptied = 0

    def through(self, rows: Iterable[EventRow]) -> Iterator[EventRow]:
        """Yield the rows, those that are to be erased without what they said."""
        for row in rows:
            if row.customer_id == self._customer_id and not row.is_erased and self._is_before(row):
                self.emptied += 1
                yield row._replace(source="", event_id="", subject="", data="{}")
            else:
                yield row

    def _is_before(self, row: EventRow) -> bool:
        return archive_tables.moment_of(row.time) < self._before


approvals.register(
    approvals.ApprovalKind(
        key=APPROVAL_KIND,
        label="Erasure of usage",
        permission=Permission.APPROVE_ERASURES,
        content=_content,
        on_approved=_on_approved,
        on_refused=_on_refused,
        url=lambda _erasure_id: reverse("metering:retention"),
        lock=_lock,
    ),
)
