"""The list of usage that a run finds outside of any contract, so that nobody's usage is overlooked.

A run lists its own month, and for earlier months what makes their lists right again: usage that came late adds to them,
and usage that a contract covers by now comes off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from accounts.models import LegalEntity
from accounts.periods import Month, Period, month_period, start_of_day
from billing.draft_rows import as_range, copy_unbilled
from billing.models import BillRun, UnbilledUsage
from metering.reading import usage
from pricing.money import ZERO, subtract

# Only customers whose usage of the month no single contract covers; for nearly all one does.
_NOT_COVERED = """
    SELECT customer.id, contract.starts_on, contract.ends_on
    FROM accounts_customer customer
    LEFT JOIN pricing_contract contract ON contract.customer_id = customer.id
      AND contract.starts_on < %(until)s AND (contract.ends_on IS NULL OR contract.ends_on > %(month)s)
    WHERE customer.legal_entity_id = %(entity)s AND NOT EXISTS (
        SELECT FROM pricing_contract whole
        WHERE whole.customer_id = customer.id AND whole.starts_on <= %(month)s
          AND (whole.ends_on IS NULL OR whole.ends_on >= %(until)s)
    )
    ORDER BY customer.id, contract.starts_on
"""


# Each month before with the snapshot that the list of a run of it, or of a later one, has seen at least.
_LISTED_MONTHS = """
    SELECT run.month, (
        SELECT item.usage_watermark FROM billing_billrunitem item
        JOIN billing_billrun later ON later.id = item.run_id
        WHERE later.legal_entity_id = run.legal_entity_id AND later.status IN ('approved', 'issued')
          AND later.id >= run.id AND later.month >= run.month AND item.state IN ('done', 'empty')
        ORDER BY later.id DESC, item.finished_at LIMIT 1
    )
    FROM billing_billrun run
    WHERE run.legal_entity_id = %s AND run.month < %s AND run.status IN ('approved', 'issued')
    ORDER BY run.month
"""

_LISTED = """
    SELECT listed.customer_id, listed.series_id, lower(listed.period), upper(listed.period), sum(listed.quantity),
           sum(listed.event_count)::bigint
    FROM billing_unbilledusage listed
    JOIN billing_billrun run ON run.id = listed.run_id AND run.status <> 'cancelled'
    WHERE run.legal_entity_id = %s AND listed.reason IN ('no_contract', 'under_contract')
      AND lower(listed.period) < %s
    GROUP BY 1, 2, 3, 4
    HAVING sum(listed.event_count) <> 0 OR sum(listed.quantity) <> 0
"""

Reason = UnbilledUsage.Reason


class _Gap(NamedTuple):
    """A part of a month in which a customer had no contract."""

    customer_id: int
    period: Period


class _Listed(NamedTuple):
    """What the list holds of one series in one gap."""

    quantity: Decimal
    event_count: int


_List = dict[_Gap, dict[int, _Listed]]


def list_usage_without_contract(*, run: BillRun, entity: LegalEntity) -> None:
    """Replace the run's list of usage of customers who had no contract at its time; months are those of local time.

    To be called by a verb that holds the lock on the run, which is a draft.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM billing_unbilledusage WHERE run_id = %s AND reason IN ('no_contract', 'under_contract')",
            [run.pk],
        )
        cursor.execute(_LISTED_MONTHS, [entity.pk, run.month])
        earlier: list[tuple[date, str | None]] = cursor.fetchall()
    listed = _listed(entity, run.month)
    gaps, unseen = set(_month_gaps(entity, run.month)), []
    to_read = set(gaps)
    for month, snapshot in earlier:
        for gap in _month_gaps(entity, month):
            gaps.add(gap)
            if snapshot is None:
                to_read.add(gap)
            else:
                unseen.append((gap, snapshot))
    covered = listed.keys() - gaps
    whose = {gap.customer_id for gap in covered}
    to_read |= {gap for gap, _ in unseen if gap.customer_id in whose} | _with_unseen_usage(unseen)
    # Read in full before the first row is written, for a connection that copies can ask nothing.
    rows = [
        (run.pk, gap.customer_id, series_id, as_range(gap.period), found.quantity, found.event_count, reason.value)
        for gap, series_id, found, reason in _differences(sorted(to_read), sorted(covered), listed)
    ]
    if rows:
        copy_unbilled(rows)


def _listed(entity: LegalEntity, month: date) -> _List:
    """What live runs hold on the list, of months up to this one."""
    until = month_period(month.year, month.month, entity.time_zone).end
    found: defaultdict[_Gap, dict[int, _Listed]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_LISTED, [entity.pk, until])
        for customer_id, series_id, start, end, quantity, event_count in cursor.fetchall():
            found[_Gap(customer_id, Period(start, end))][series_id] = _Listed(quantity, event_count)
    return dict(found)


def _with_unseen_usage(gaps: Sequence[tuple[_Gap, str]]) -> set[_Gap]:
    windows = [
        usage.UnseenWindow(customer_id=gap.customer_id, start=gap.period.start, end=gap.period.end, snapshot=snapshot)
        for gap, snapshot in gaps
    ]
    return {gaps[index][0] for index in usage.windows_with_unseen_usage(windows)} if windows else set()


def _differences(
    gaps: Sequence[_Gap], covered: Iterable[_Gap], listed: _List
) -> Iterator[tuple[_Gap, int, _Listed, Reason]]:
    """What is to be added so that the list holds the usage of these gaps, and nothing of what is covered by now."""
    windows = [
        usage.UsageWindow(customer_id=gap.customer_id, start=gap.period.start, end=gap.period.end) for gap in gaps
    ]
    for found in usage.series_totals(windows) if windows else ():
        gap = gaps[found.window]
        before = listed.get(gap, {}).get(found.series_id, _Listed(ZERO, 0))
        more = _Listed(subtract(found.quantity, before.quantity), found.count - before.event_count)
        if more != _Listed(ZERO, 0):
            yield gap, found.series_id, more, Reason.NO_CONTRACT
    for gap in covered:
        for series_id, before in listed[gap].items():
            yield gap, series_id, _Listed(-before.quantity, -before.event_count), Reason.UNDER_CONTRACT


def _month_gaps(entity: LegalEntity, month: date) -> Iterator[_Gap]:
    """The parts of a month that no contract covers, of all customers."""
    whole = month_period(month.year, month.month, entity.time_zone)
    for customer_id, terms in _contracts(entity, month).items():
        for period in _gaps(whole, terms, entity.time_zone):
            yield _Gap(customer_id, period)


def _contracts(entity: LegalEntity, month: date) -> dict[int, list[tuple[date, date | None]]]:
    """The contracts in the month of each customer whom none of them covers all month long."""
    following = Month(month.year, month.month).next()
    until = date(following.year, following.month, 1)
    found: defaultdict[int, list[tuple[date, date | None]]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(_NOT_COVERED, {"entity": entity.pk, "month": month, "until": until})
        for customer_id, starts_on, ends_on in cursor.fetchall():
            if starts_on is None:
                found[customer_id] = []
            else:
                found[customer_id].append((starts_on, ends_on))
    return found


def _gaps(whole: Period, terms: Iterable[tuple[date, date | None]], time_zone: str) -> Iterator[Period]:
    """The parts of the month that none of the contracts, in order of time, covers."""
    uncovered_from = whole.start
    for starts_on, ends_on in terms:
        starts_at = start_of_day(starts_on, time_zone)
        if uncovered_from < starts_at:
            yield Period(uncovered_from, starts_at)
        if ends_on is None:
            return
        uncovered_from = max(uncovered_from, start_of_day(ends_on, time_zone))
    if uncovered_from < whole.end:
        yield Period(uncovered_from, whole.end)
