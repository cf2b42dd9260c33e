"""The key figures of the home page, each role's own, and the tables below them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet, Sum
from django.urls import reverse

from accounts import inbox
from accounts.access import Actor, Permission
from accounts.models import ApiKey, ApprovalRequest, AuditEntry, Customer, User
from billing import run_overview
from billing.models import BillRun, Invoice, UnbilledUsage
from billing.run_overview import RunRow
from metering.models import QuarantinedEvent, UsageBatch
from pricing import overviews
from pricing.models import Price, PriceBook, PriceBookVersion, Product
from pricing.price_texts import amount_text

ROWS_SHOWN = 6
LATELY = timedelta(days=30)
_NEEDS_A_PRICE = (UnbilledUsage.Reason.NO_PRODUCT, UnbilledUsage.Reason.NO_PRICE, UnbilledUsage.Reason.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Figure:
    """A key figure; without an address it leads nowhere."""

    label: str
    value: str
    note: str
    url: str = ""


def figures(actor: Actor, *, at: datetime) -> list[Figure]:
    """Return the key figures that this person may see and has a use for."""
    found: list[Figure] = []
    if actor.may(Permission.VIEW_INVOICES):
        found += [*_billed(), *_overdue(at)]
    if _works_on_prices(actor):
        found += [_live_prices(), _without_price(), _usage_without_price()]
    if actor.may(Permission.VIEW_AUDIT) and not actor.may(Permission.RUN_BILLING):
        found += [_acts(at), _decided(at)]
    if actor.may(Permission.EDIT_STAFF):
        found += [_staff(), _keys(at)]
    if actor.may(Permission.VIEW_CUSTOMERS):
        active = Customer.objects.filter(is_active=True).count()
        found.append(Figure("Customers", f"{active:,}", "active", reverse("admin:accounts_customer_changelist")))
    if actor.may(Permission.VIEW_USAGE):
        does = actor.may(Permission.RELEASE_QUARANTINE) or actor.may(Permission.EDIT_METERS)
        found += [_usage()] if does else [_quarantine(), _usage()]
    return found


def _works_on_prices(actor: Actor) -> bool:
    return actor.may(Permission.EDIT_PRICES) or actor.may(Permission.APPROVE_PRICES)


def _billed() -> list[Figure]:
    issued = Invoice.objects.filter(status=Invoice.Status.ISSUED)
    month: date | None = issued.aggregate(last=Max("bill_run__month"))["last"]
    if month is None:
        return [Figure("Invoiced", "–", "nothing issued yet", reverse("billing:invoices"))]
    url = f"{reverse('billing:invoices')}?tab=issued&month={month:%Y-%m}"
    return [
        Figure(f"Invoiced for {month:%B %Y}", amount, f"{_counted(count, 'invoice')}, tax included", url)
        for amount, count in _sums(issued.filter(bill_run__month=month))
    ]


def _overdue(at: datetime) -> list[Figure]:
    late = Invoice.objects.filter(status=Invoice.Status.ISSUED, due_on__lt=at.date())
    url = f"{reverse('billing:invoices')}?tab=overdue"
    return [Figure("Past their due date", amount, _counted(count, "invoice"), url) for amount, count in _sums(late)]


def _sums(found: QuerySet[Invoice]) -> list[tuple[str, int]]:
    rows = found.order_by().values_list("currency").annotate(total=Sum("total_amount"), n=Count("id"))
    return [(amount_text(total, currency), count) for currency, total, count in rows.order_by("currency")]


def _live_prices() -> Figure:
    live = PriceBookVersion.objects.filter(status=PriceBookVersion.Status.LIVE)
    prices = Price.objects.filter(version__in=live).count()
    note = f"in {_counted(live.count(), 'price book')}"
    return Figure("Prices in force", f"{prices:,}", note, reverse("pricing:books"))


def _without_price() -> Figure:
    priced = Price.objects.filter(product=OuterRef("pk"), version__status=PriceBookVersion.Status.LIVE)
    count = Product.objects.filter(~Exists(priced), is_active=True).count()
    note = "sold nowhere until priced" if count else "each is priced somewhere"
    return Figure("Products without a price", f"{count:,}", note, reverse("admin:pricing_product_changelist"))


def _usage_without_price() -> Figure:
    runs = BillRun.objects.exclude(status=BillRun.Status.CANCELLED)
    month: date | None = runs.aggregate(last=Max("month"))["last"]
    if month is None:
        return Figure("Usage without a price", "–", "no month billed yet")
    found = UnbilledUsage.objects.filter(run__in=runs.filter(month=month), reason__in=_NEEDS_A_PRICE)
    events = found.aggregate(events=Sum("event_count"))["events"] or 0
    note = f"events of {month:%B %Y} that no price bills" if events else f"every event of {month:%B %Y} has one"
    return Figure("Usage without a price", f"{events:,}", note)


def _acts(at: datetime) -> Figure:
    count = AuditEntry.objects.filter(at__gte=at - LATELY).count()
    return Figure("Acts on record", f"{count:,}", "in the last 30 days", reverse("accounts:audit"))


def _decided(at: datetime) -> Figure:
    count = ApprovalRequest.objects.filter(closed_at__gte=at - LATELY).count()
    url = f"{reverse('accounts:inbox')}?tab=closed"
    return Figure("Approvals decided", f"{count:,}", "in the last 30 days", url)


def _staff() -> Figure:
    active = User.objects.filter(is_active=True, is_staff=True).count()
    return Figure("Staff", f"{active:,}", "may sign in", reverse("admin:accounts_user_changelist"))


def _keys(at: datetime) -> Figure:
    usable = ApiKey.objects.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=at), revoked_at__isnull=True)
    ending = usable.filter(expires_at__lt=at + LATELY).count()
    note = f"{ending:,} of them ending within 30 days" if ending else "none of them ending within 30 days"
    return Figure("API keys", f"{usable.count():,}", note, reverse("admin:accounts_apikey_changelist"))


def _usage() -> Figure:
    sums = UsageBatch.objects.aggregate(events=Sum("accepted"), last=Max("received_at"))
    last: datetime | None = sums["last"]
    note = f"last load {last:%-d %b %Y, %H:%M} UTC" if last else "nothing loaded yet"
    return Figure("Events counted", f"{sums['events'] or 0:,}", note, reverse("metering:batches"))


def _quarantine() -> Figure:
    waiting = QuarantinedEvent.objects.filter(status=QuarantinedEvent.Status.OPEN).count()
    return Figure("Events in quarantine", f"{waiting:,}", "not counted until mended", reverse("metering:quarantine"))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of the home page; what a person has no use for is empty."""

    books: list[PriceBook]
    versions: list[PriceBookVersion]
    runs: list[RunRow]
    decided: list[inbox.Standing]


def tables(actor: Actor, *, at: datetime) -> Tables:
    """Return price books and coming versions for who works on prices, runs and decisions for who looks after money."""
    runs: list[Any] = list(run_overview.runs()[:ROWS_SHOWN]) if actor.may(Permission.VIEW_INVOICES) else []
    audits = actor.may(Permission.VIEW_AUDIT) and not actor.may(Permission.RUN_BILLING)
    closed = inbox.closed_for(actor).prefetch_related("decisions__decided_by")[:ROWS_SHOWN]
    return Tables(
        books=list(overviews.books(on=at.date())) if _works_on_prices(actor) else [],
        versions=overviews.coming_versions() if _works_on_prices(actor) else [],
        runs=run_overview.run_rows(runs),
        decided=[inbox.standing(request, actor) for request in closed]
        if audits or actor.may(Permission.APPROVE_PRICES)
        else [],
    )
