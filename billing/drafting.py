"""Drafts the invoices of a run, a chunk of contracts at a time.

A chunk is one transaction and a fixed number of queries, however many contracts it holds. It claims its items with
SKIP LOCKED, so any number of workers may draft one run; a worker that dies leaves its items as they were.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from django.db import connection, transaction

from accounts.errors import CountinghouseError
from accounts.models import Customer
from accounts.periods import Period, billing_period, cut
from billing import draft_rows, late_usage
from billing.assessment import (
    NOTHING_LISTED,
    AssessedLine,
    Listed,
    PeriodFacts,
    PricedWindow,
    UnbilledSeries,
    WindowTotal,
    assess,
    park,
)
from billing.errors import InvoiceTotalAbsurd, InvoiceTotalNegative
from billing.late_usage import BilledContract, EarlierPeriod
from billing.models import BillRun
from billing.pdf_texts import texts_for
from metering.errors import WindowNotOnTheHour
from metering.reading import usage
from pricing.charges import Billed, ContractTerms, service_period
from pricing.models import PriceBookVersion
from pricing.money import add, tax_amount, total
from pricing.price_books import PricedVersion, prices_for

logger = logging.getLogger(__name__)

# One mistaken quantity parks its customer; without a limit its total would fit no approval, and hold up all others.
_ABSURD_TOTAL = Decimal(10) ** 15

# Held until the transaction ends, so that nobody submits or cancels the run under the hands of those who draft it.
_HOLD_RUN = """
    SELECT run.status, run.month, entity.id, entity.time_zone, entity.tax_name, entity.tax_rate
    FROM billing_billrun run
    JOIN accounts_legalentity entity ON entity.id = run.legal_entity_id
    WHERE run.id = %s
    FOR SHARE OF run
"""

_CLAIM = """
    SELECT item.id, contract.id, customer.id, contract.price_book_id, contract.currency, contract.starts_on,
           contract.ends_on, contract.anchor_day, customer.tax_treatment, customer.locale
    FROM billing_billrunitem item
    JOIN pricing_contract contract ON contract.id = item.contract_id
    JOIN accounts_customer customer ON customer.id = contract.customer_id
    WHERE item.run_id = %s AND item.state = 'pending'
    ORDER BY item.id
    LIMIT %s
    FOR NO KEY UPDATE OF item SKIP LOCKED
"""

# What live lines hold for a price, by the billing period that the line's service period begins in.
_BILLED = """
    SELECT asked.ordinal - 1, line.price_id, sum(line.quantity), sum(line.amount), sum(line.event_count)
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])
         WITH ORDINALITY AS asked (contract_id, starts_at, ends_at, ordinal)
    JOIN billing_invoice invoice ON invoice.contract_id = asked.contract_id AND invoice.status <> 'void'
    JOIN billing_invoiceline line ON line.invoice_id = invoice.id
     AND lower(line.service_period) >= asked.starts_at AND lower(line.service_period) < asked.ends_at
    GROUP BY asked.ordinal, line.price_id
"""

_LISTED = """
    SELECT asked.ordinal - 1, listed.series_id, sum(listed.quantity), sum(listed.event_count)
    FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])
         WITH ORDINALITY AS asked (customer_id, starts_at, ends_at, ordinal)
    JOIN billing_unbilledusage listed ON listed.customer_id = asked.customer_id
     AND listed.reason NOT IN ('no_contract', 'under_contract')
     AND lower(listed.period) >= asked.starts_at AND lower(listed.period) < asked.ends_at
    JOIN billing_billrun run ON run.id = listed.run_id AND run.status <> 'cancelled'
    GROUP BY asked.ordinal, listed.series_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRun:
    """A run that is being drafted, and what its legal entity puts on each invoice."""

    run_id: int
    month: date
    legal_entity_id: int
    time_zone: str
    tax_name: str
    tax_rate: Decimal


class ClaimedItem(NamedTuple):
    """One contract to be billed: a work item of the run, held by this transaction."""

    item_id: int
    contract_id: int
    customer_id: int
    price_book_id: int
    terms: ContractTerms
    period: Period
    tax_treatment: str
    locale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftInvoice:
    """An invoice to be stored; amounts in `item.terms.currency`."""

    item: ClaimedItem
    lines: Sequence[AssessedLine]
    net: Decimal
    tax_rate: Decimal
    tax_note: str
    tax: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """What became of one item: an invoice, nothing to bill, or parked with the reason."""

    item: ClaimedItem
    invoice: DraftInvoice | None
    unbilled: Sequence[UnbilledSeries]
    parked_because: str = ""


class _Cut(NamedTuple):
    """A service period cut where prices change, and why nothing can be billed by it, if so."""

    parts: tuple[PricedWindow, ...]
    fault: CountinghouseError | None


class _Asked(NamedTuple):
    """One contract and billing period that is read in this chunk."""

    item: ClaimedItem
    period: Period
    service: Period
    first_billed_at: datetime | None
    is_late: bool


@transaction.atomic
def draft_chunk(*, run_id: int, limit: int, at: datetime) -> int:
    """Draft up to `limit` contracts that wait in the run and return how many were settled; none: nothing waits.

    A contract that cannot be billed is parked with the reason and the others go on. Usage is billed as committed at
    the snapshot kept with item and invoice; a later one may be in too, and then is not billed again. A run that is
    not a draft (any more) is left alone.
    """
    run = _hold(run_id)
    items = [] if run is None else _claim(run, limit)
    if run is None or not items:
        return 0
    # Taken before anything is read: what commits from here on counts as unseen, and is looked at by the next run.
    watermark = usage.current_snapshot()
    asked = _asked(run, items)
    facts: defaultdict[int, list[PeriodFacts]] = defaultdict(list)
    for each, of_period in zip(asked, _read(run, asked), strict=True):
        facts[each.item.item_id].append(of_period)
    results = [_settle(run, item, facts[item.item_id]) for item in items]
    draft_rows.store(run=run, results=results, watermark=watermark, at=at)
    return len(items)


def _hold(run_id: int) -> HeldRun | None:
    with connection.cursor() as cursor:
        cursor.execute(_HOLD_RUN, [run_id])
        row = cursor.fetchone()
    if row is None or row[0] != BillRun.Status.DRAFT:
        return None
    _, month, entity_id, time_zone, tax_name, tax_rate = row
    return HeldRun(
        run_id=run_id,
        month=month,
        legal_entity_id=entity_id,
        time_zone=time_zone,
        tax_name=tax_name,
        tax_rate=tax_rate,
    )


def _claim(run: HeldRun, limit: int) -> list[ClaimedItem]:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [run.run_id, limit])
        rows = cursor.fetchall()
    items = []
    for item_id, contract_id, customer_id, book_id, currency, starts_on, ends_on, anchor_day, *tax_facts in rows:
        terms = ContractTerms(currency, starts_on, ends_on, anchor_day, run.time_zone)
        period = billing_period(anchor_day, run.month.year, run.month.month, run.time_zone)
        items.append(ClaimedItem(item_id, contract_id, customer_id, book_id, terms, period, *tax_facts))
    return items


def _asked(run: HeldRun, items: Sequence[ClaimedItem]) -> list[_Asked]:
    """The periods to read: the run's own of each contract, and the earlier ones that have to be looked at again."""
    earlier: defaultdict[int, list[EarlierPeriod]] = defaultdict(list)
    contracts = [BilledContract(item.contract_id, item.customer_id, item.terms) for item in items]
    for each in late_usage.periods_to_read_again(
        legal_entity_id=run.legal_entity_id, month=run.month, contracts=contracts
    ):
        earlier[each.contract_id].append(each)
    asked = []
    for item in items:
        service = service_period(item.terms, item.period)
        if service is not None:  # a contract may have been ended since the run began
            asked.append(_Asked(item, item.period, service, None, is_late=False))
        asked += [
            _Asked(item, each.period, each.service, each.first_billed_at, is_late=True)
            for each in sorted(earlier[item.contract_id], key=lambda each: each.period)
        ]
    return asked


def _read(run: HeldRun, asked: Sequence[_Asked]) -> list[PeriodFacts]:
    """Read prices, usage, and what is billed or listed already, for all periods at once."""
    windows = _priced_windows(asked)
    billed, listed = _billed_and_listed(run, asked)
    owners: list[tuple[int, PricedWindow]] = [
        (index, window) for index, of_period in enumerate(windows) for window in of_period.parts
    ]
    totals: list[list[WindowTotal]] = [[] for _ in asked]
    wanted = [
        usage.UsageWindow(customer_id=asked[index].item.customer_id, start=window.period.start, end=window.period.end)
        for index, window in owners
    ]
    for found in usage.series_totals(wanted):
        index, window = owners[found.window]
        totals[index].append(WindowTotal(window, found))
    return [
        PeriodFacts(
            terms=each.item.terms,
            period=each.period,
            service=each.service,
            is_late=each.is_late,
            windows=windows[index].parts,
            fault=windows[index].fault,
            totals=totals[index],
            billed=billed[index],
            listed=listed[index],
        )
        for index, each in enumerate(asked)
    ]


def _priced_windows(asked: Sequence[_Asked]) -> list[_Cut]:
    """Cut each service period where the versions of its price book begin and end."""
    if not asked:
        return []
    versions: defaultdict[int, list[PricedVersion]] = defaultdict(list)
    for version in prices_for(
        book_ids={each.item.price_book_id for each in asked},
        start=min(each.service.start for each in asked),
        end=max(each.service.end for each in asked),
    ):
        versions[version.book_id].append(version)
    approved_at = _approval_times(versions) if any(each.first_billed_at for each in asked) else {}
    known: dict[tuple[int, Period, datetime | None], _Cut] = {}
    result = []
    for each in asked:
        key = (each.item.price_book_id, each.service, each.first_billed_at)
        if key not in known:
            of_book = _as_first_billed(versions[each.item.price_book_id], each.first_billed_at, approved_at)
            known[key] = _cut_where_prices_change(each.service, of_book)
        result.append(known[key])
    return result


def _cut_where_prices_change(service: Period, versions: Sequence[PricedVersion]) -> _Cut:
    """The parts of a service period with the version of each; usage is kept by the hour, and cannot be cut finer."""
    edges = [version.valid_from for version in versions]
    edges += [version.valid_until for version in versions if version.valid_until is not None]
    parts = cut(service, edges)
    broken = next((each.end for each in parts if not _is_on_the_hour(each.end)), None)
    if broken is None and _is_on_the_hour(service.start):
        windows = [PricedWindow(each, next((one for one in versions if _covers(one, each)), None)) for each in parts]
        fault = next((each.version.fault for each in windows if each.version and each.version.fault), None)
        return _Cut(tuple(windows), fault)
    message = f"Usage is added up by the hour; {(broken or service.start).isoformat()} lies within one."
    readable = _is_on_the_hour(service.start) and _is_on_the_hour(service.end)
    return _Cut((PricedWindow(service, None),) if readable else (), WindowNotOnTheHour(message))


def _is_on_the_hour(instant: datetime) -> bool:
    return not (instant.minute or instant.second or instant.microsecond)


def _covers(version: PricedVersion, part: Period) -> bool:
    return version.valid_from <= part.start and (version.valid_until is None or version.valid_until >= part.end)


def _approval_times(versions: Mapping[int, Iterable[PricedVersion]]) -> dict[int, datetime]:
    ids = [version.version_id for of_book in versions.values() for version in of_book]
    found = PriceBookVersion.objects.filter(pk__in=ids).order_by().values_list("pk", "approval__closed_at")
    return {version_id: closed_at for version_id, closed_at in found if closed_at is not None}


def _as_first_billed(
    versions: Sequence[PricedVersion], first_billed_at: datetime | None, approved_at: Mapping[int, datetime]
) -> Sequence[PricedVersion]:
    """The versions as they stood when the period was first billed.

    A version may take effect in the past; what was billed before it was approved stays as it is, and usage that comes
    late for such a period is billed at the prices that the rest of the period was.
    """
    if first_billed_at is None or all(approved_at[each.version_id] <= first_billed_at for each in versions):
        return versions
    then = [each for each in versions if approved_at[each.version_id] <= first_billed_at]
    ends = [*(each.valid_from for each in then[1:]), None][: len(then)]
    later = {each.valid_from for each in versions} - {each.valid_from for each in then}
    return [
        replace(each, valid_until=until) if each.valid_until in later else each
        for each, until in zip(then, ends, strict=True)
    ]


def _billed_and_listed(
    run: HeldRun, asked: Sequence[_Asked]
) -> tuple[list[dict[int, Billed]], list[dict[int, Listed]]]:
    """What live lines and lists of other runs hold for each period; two queries, or none where nothing can be."""
    billed: list[dict[int, Billed]] = [{} for _ in asked]
    listed: list[dict[int, Listed]] = [{} for _ in asked]
    # A run of a later month may have caught up on this one's period while this one was cancelled.
    overtaken = BillRun.objects.filter(
        legal_entity_id=run.legal_entity_id, month__gt=run.month, status__in=["approved", "issued"]
    ).exists()
    indexes = [index for index, each in enumerate(asked) if overtaken or each.is_late]
    if not indexes:
        return billed, listed
    starts = [asked[index].service.start for index in indexes]
    ends = [asked[index].service.end for index in indexes]
    with connection.cursor() as cursor:
        cursor.execute(_BILLED, [[asked[index].item.contract_id for index in indexes], starts, ends])
        for position, price_id, quantity, amount, event_count in cursor.fetchall():
            billed[indexes[position]][price_id] = Billed(quantity, amount, int(event_count))
        cursor.execute(_LISTED, [[asked[index].item.customer_id for index in indexes], starts, ends])
        for position, series_id, quantity, event_count in cursor.fetchall():
            found = Listed(quantity, int(event_count))
            if found != NOTHING_LISTED:
                listed[indexes[position]][series_id] = found
    return billed, listed


def _settle(run: HeldRun, item: ClaimedItem, periods: Sequence[PeriodFacts]) -> ItemResult:
    """Work out one contract; whatever is wrong with it parks it alone."""
    try:
        return _assess_item(run, item, periods)
    except CountinghouseError as error:
        reason = f"{error} ({type(error).__name__})"
    except Exception as error:  # a fault of ours in one contract must not stop the bills of all others
        logger.exception("contract %s could not be billed", item.contract_id)
        reason = f"An unexpected fault, which is in the log: {error} ({type(error).__name__})"
    unbilled = [each for facts in periods if not facts.is_late for each in park(facts)]
    return ItemResult(item=item, invoice=None, unbilled=unbilled, parked_because=reason)


def _assess_item(run: HeldRun, item: ClaimedItem, periods: Sequence[PeriodFacts]) -> ItemResult:
    lines: list[AssessedLine] = []
    unbilled: list[UnbilledSeries] = []
    for facts in periods:
        assessed = assess(facts)
        lines += assessed.lines
        unbilled += assessed.unbilled
    invoice = _invoice(run, item, lines) if lines else None
    return ItemResult(item=item, invoice=invoice, unbilled=unbilled)


def _invoice(run: HeldRun, item: ClaimedItem, lines: Sequence[AssessedLine]) -> DraftInvoice:
    """Add the lines up and put the tax on their sum (one rate for the whole invoice, rounded once)."""
    currency = item.terms.currency
    net = total(line.charge.amount for line in lines)
    taxed = item.tax_treatment == Customer.TaxTreatment.STANDARD
    tax_rate = run.tax_rate if taxed else Decimal(0)
    tax = tax_amount(net, tax_rate, currency)
    if add(net, tax) < 0:
        message = f"The lines add up to {net} {currency}; an invoice cannot pay money out."
        raise InvoiceTotalNegative(message)
    if add(net, tax) >= _ABSURD_TOTAL:
        message = f"The lines add up to {net:f} {currency}; a quantity or a price has to be wrong."
        raise InvoiceTotalAbsurd(message)
    return DraftInvoice(
        item=item,
        lines=lines,
        net=net,
        tax_rate=tax_rate,
        tax_note=_tax_note(item),
        tax=tax,
    )


def _tax_note(item: ClaimedItem) -> str:
    """Say in the customer's language why there is no tax, if there is none."""
    texts = texts_for(item.locale)
    notes = {
        Customer.TaxTreatment.STANDARD.value: "",
        Customer.TaxTreatment.REVERSE_CHARGE.value: texts.reverse_charge,
        Customer.TaxTreatment.EXEMPT.value: texts.exempt,
    }
    return notes[item.tax_treatment]
