"""The list of usage that a run finds outside of any contract, so that nobody's usage is overlooked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date

from django.db import connection

from accounts.models import LegalEntity
from billing.draft_rows import as_range, copy_unbilled
from billing.models import UnbilledUsage
from metering import usage
from metering.models import Meter
from pricing.periods import Month, Period, month_period, start_of_day

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


def list_usage_without_contract(*, run_id: int, entity: LegalEntity, month: date) -> None:
    """Replace the run's list of usage in the calendar month (local time) of customers who had no contract then.

    To be called by a verb that holds the lock on the run, which is a draft.
    """
    reason = UnbilledUsage.Reason.NO_CONTRACT
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM billing_unbilledusage WHERE run_id = %s AND reason = %s", [run_id, reason.value])
    whole = month_period(month.year, month.month, entity.time_zone)
    windows = [
        usage.UsageWindow(customer_id=customer_id, start=gap.start, end=gap.end)
        for customer_id, terms in _contracts(entity, month).items()
        for gap in _gaps(whole, terms, entity.time_zone)
    ]
    if not windows:
        return
    counting = set(Meter.objects.filter(aggregation=Meter.Aggregation.COUNT).order_by().values_list("pk", flat=True))
    copy_unbilled(
        (
            run_id,
            found.customer_id,
            found.series_id,
            as_range(Period(windows[found.window].start, windows[found.window].end)),
            found.count if found.meter_id in counting else found.sum,
            found.count,
            reason.value,
        )
        for found in usage.series_totals(windows)
    )


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
