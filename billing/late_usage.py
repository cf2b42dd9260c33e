"""Which earlier billing periods a run has to look at again, because usage came that no bill has seen.

A drafted item says which database snapshot's usage it has considered, for its own period and all before it, and until
when the contract ran. What was committed after that snapshot is late, and so is usage of days that the contract covers
only since. Reading a period again bills only the difference, so looking at one too many costs a query and never a cent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

from django.db import connection

from accounts.periods import Period, billing_period
from metering.reading import usage
from pricing.charges import ContractTerms, service_period

_EARLIER_RUNS = """
    SELECT id, month FROM billing_billrun
    WHERE legal_entity_id = %s AND kind = 'regular' AND month < %s AND status IN ('approved', 'issued')
"""

_SETTLED_ITEMS = """
    SELECT item.contract_id, run.id, run.month, item.usage_watermark, item.finished_at,
           item.contract_ends_on
    FROM billing_billrunitem item
    JOIN billing_billrun run ON run.id = item.run_id
    WHERE item.contract_id = ANY(%s) AND run.status IN ('approved', 'issued') AND item.state IN ('done', 'empty')
    ORDER BY run.id
"""


class BilledContract(NamedTuple):
    """A contract that a run works on."""

    contract_id: int
    customer_id: int
    terms: ContractTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierPeriod:
    """An earlier billing period to be read again.

    `first_billed_at` is when it was first drafted, None where no run has: prices that were approved later do not
    change what was billed.
    """

    contract_id: int
    period: Period
    service: Period
    first_billed_at: datetime | None


class _Settled(NamedTuple):
    run_id: int
    month: date
    watermark: str
    finished_at: datetime
    ends_on: date | None


def periods_to_read_again(
    *, legal_entity_id: int, month: date, contracts: Sequence[BilledContract]
) -> list[EarlierPeriod]:
    """The earlier periods of these contracts, in months whose run is past, that no run has considered in full.

    Three queries for any number of contracts. A period that was parked, or whose contract was signed or prolonged after
    its month's run, is among them until a run has billed it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_EARLIER_RUNS, [legal_entity_id, month])
        runs = cursor.fetchall()
        if not runs:
            return []
        cursor.execute(_SETTLED_ITEMS, [[each.contract_id for each in contracts]])
        settled: defaultdict[int, list[_Settled]] = defaultdict(list)
        for contract_id, *facts in cursor.fetchall():
            settled[contract_id].append(_Settled(*facts))

    anew: list[EarlierPeriod] = []
    by_watermark: defaultdict[tuple[int, str], list[EarlierPeriod]] = defaultdict(list)
    for contract in contracts:
        for run_id, earlier_month in runs:
            period = billing_period(
                contract.terms.anchor_day, earlier_month.year, earlier_month.month, contract.terms.time_zone
            )
            service = service_period(contract.terms, period)
            if service is None:
                continue
            considered = [
                each for each in settled[contract.contract_id] if each.run_id >= run_id and each.month >= earlier_month
            ]
            earlier = EarlierPeriod(
                contract_id=contract.contract_id,
                period=period,
                service=service,
                first_billed_at=considered[0].finished_at if considered else None,
            )
            if considered and service == service_period(
                contract.terms._replace(ends_on=considered[-1].ends_on), period
            ):
                by_watermark[contract.customer_id, considered[-1].watermark].append(earlier)
            else:
                anew.append(earlier)
    return anew + _with_unseen_usage(by_watermark)


def _with_unseen_usage(by_watermark: dict[tuple[int, str], list[EarlierPeriod]]) -> list[EarlierPeriod]:
    """Ask metering, for all at once, where usage was committed after the snapshot that was considered."""
    groups = list(by_watermark.items())
    windows = [
        usage.UnseenWindow(
            customer_id=customer_id,
            start=min(each.service.start for each in periods),
            end=max(each.service.end for each in periods),
            snapshot=watermark,
        )
        for (customer_id, watermark), periods in groups
    ]
    return [each for index in usage.windows_with_unseen_usage(windows) for each in groups[index][1]]
